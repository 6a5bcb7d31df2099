//! The arguments of a command that a person types at a screen or sends to the control socket.

use proto::Energy;
use serde_json::Value;

/// The arguments of a command: an object with names, a list in order, one single value, or nothing.
#[derive(Debug)]
pub(crate) struct Args<'a>(pub(crate) &'a Value);

impl Args<'_> {
    /// The argument with this name, or the one at this place of a list.
    pub(crate) fn get(&self, name: &str, place: usize) -> Option<String> {
        let value = match self.0 {
            Value::Object(map) => map.get(name),
            Value::Array(list) => list.get(place),
            one @ (Value::String(_) | Value::Number(_) | Value::Bool(_)) => (place == 0).then_some(one),
            Value::Null => None,
        };
        value.and_then(text).filter(|text| !text.is_empty())
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(on) => Some(if *on { "on" } else { "off" }.to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Parses kilowatt-hours, such as `7.5`: a decimal number with at most three places.
pub(crate) fn kwh(text: &str) -> Result<Energy, String> {
    let wrong = || format!("{text:?} is not an energy: kilowatt-hours with at most three places, such as 7.5");
    let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.len() <= 9 && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(places) || places.len() > 3 {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let places: u64 = format!("{places:0<3}").parse().map_err(|_| wrong())?;
    Ok(Energy::from_wh(whole * 1000 + places))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn energies_are_kilowatt_hours_with_at_most_three_places() {
        for (text, wh) in [("7.5", 7_500), ("0.001", 1), ("12", 12_000), ("0", 0)] {
            assert_eq!(kwh(text), Ok(Energy::from_wh(wh)));
        }
        for bad in ["", "-1", "1.2345", "1e3", "x", "1.", "9999999999"] {
            assert!(kwh(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn arguments_come_by_name_or_in_order_spec_1_9() {
        let by_name = json!({"driver": "ann", "kwh": 5});
        assert_eq!(
            (Args(&by_name).get("driver", 0), Args(&by_name).get("kwh", 1)),
            (Some("ann".into()), Some("5".into()))
        );
        let in_order = json!(["ann", "7.5"]);
        assert_eq!(Args(&in_order).get("kwh", 1).as_deref(), Some("7.5"));
        assert_eq!(Args(&json!(null)).get("kwh", 0), None);
        assert_eq!(Args(&json!(true)).get("on", 0).as_deref(), Some("on"));
    }
}
