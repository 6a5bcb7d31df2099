//! Weather's metrics. Cities are a bounded list, so that they may be labels.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use proto::{central::v1::Frost, weather::v1::WeatherState};

type PerCity<N, A> = Family<[(&'static str, String); 1], Gauge<N, A>>;

#[derive(Clone, Debug)]
pub(crate) struct WeatherMetrics {
    temperature: PerCity<f64, AtomicU64>,
    frost: PerCity<i64, std::sync::atomic::AtomicI64>,
    stale: Gauge,
    requests: Family<[(&'static str, &'static str); 1], Counter>,
}

impl WeatherMetrics {
    pub(crate) fn new(metrics: &mesh::metrics::Metrics) -> Self {
        Self {
            temperature: metrics.register(
                "weather_temperature_celsius",
                "Temperature of a city that counts now",
                Family::default(),
            ),
            frost: metrics.register("weather_frost", "1 where there is frost in the city", Family::default()),
            stale: metrics.register(
                "weather_stale_cities",
                "Cities whose temperature is older than two of their intervals",
                Gauge::default(),
            ),
            requests: metrics.register("weather_requests", "Requests to the provider by outcome", Family::default()),
        }
    }

    pub(crate) fn asked(&self, went_well: bool) {
        let outcome = if went_well { "ok" } else { "failed" };
        self.requests.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(crate) fn show(&self, state: &Arc<WeatherState>) {
        self.temperature.clear();
        self.frost.clear();
        let conditions = || state.cities.iter().filter_map(|city| city.condition.as_ref());
        for condition in conditions() {
            let label = [("city", condition.city.clone())];
            if let Some(celsius) = condition.temperature_celsius {
                self.temperature.get_or_create(&label).set(celsius);
            }
            self.frost.get_or_create(&label).set(i64::from(condition.frost() == Frost::Present));
        }
        let stale = conditions().filter(|condition| condition.stale).count();
        self.stale.set(i64::try_from(stale).unwrap_or(i64::MAX));
    }
}
