//! The cities that Weather watches.

use proto::weather::v1::City;

use crate::{
    operator::api_message::{ApiMessage, at, name},
    output::{Columns, escaped},
};

impl Columns for ApiMessage<City> {
    const HEADERS: &'static [&'static str] =
        &["city", "temperature", "measured", "frost", "policy", "drill until", "added", "why"];
    fn cells(&self) -> Vec<String> {
        let city = &self.0;
        let condition = city.condition.clone().unwrap_or_default();
        let celsius = condition.temperature_celsius.map(|celsius| format!("{celsius:.1} °C")).unwrap_or_default();
        let stale = if condition.stale { " (stale)" } else { "" };
        vec![
            escaped(&condition.city),
            celsius + stale,
            at(condition.measured_time.as_ref()),
            name(condition.frost().as_str_name(), "FROST_").replace("unspecified", "unknown"),
            name(condition.policy().as_str_name(), "FROST_POLICY_"),
            at(city.drill_end_time.as_ref()),
            if city.added { "added".into() } else { String::new() },
            escaped(&condition.detail),
        ]
    }
}
