//! The values of the public packages in protobuf's own types, and back: times, JSON objects, codes of reasons.
//!
//! Times are milliseconds since 1970 inside the programs and 0 where there is none; in public they are timestamps, and
//! absent where there is none.

use std::collections::BTreeMap;

use prost_types::{ListValue, Struct, Timestamp, Value, value};

use crate::link::v1::Reason;

const NANOS_PER_MS: i32 = 1_000_000;

/// Milliseconds since 1970; 0: there is no such time.
pub fn timestamp(ms: i64) -> Option<Timestamp> {
    let nanos = i32::try_from(ms.rem_euclid(1_000)).unwrap_or_default() * NANOS_PER_MS;
    (ms != 0).then(|| Timestamp { seconds: ms.div_euclid(1_000), nanos })
}

/// In milliseconds since 1970; 0: there is no such time. What is finer than a millisecond is cut off.
pub fn millis(time: Option<&Timestamp>) -> i64 {
    time.map_or(0, |time| time.seconds.saturating_mul(1_000).saturating_add(i64::from(time.nanos / NANOS_PER_MS)))
}

/// A JSON object; an object without fields where the text is none.
pub fn struct_of(json: &str) -> Struct {
    let fields: BTreeMap<String, serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    Struct { fields: fields.into_iter().map(|(name, value)| (name, value_of(value))).collect() }
}

fn value_of(json: serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => value::Kind::NullValue(0),
        serde_json::Value::Bool(flag) => value::Kind::BoolValue(flag),
        serde_json::Value::Number(number) => value::Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => value::Kind::StringValue(text),
        serde_json::Value::Array(all) => {
            value::Kind::ListValue(ListValue { values: all.into_iter().map(value_of).collect() })
        }
        serde_json::Value::Object(map) => value::Kind::StructValue(Struct {
            fields: map.into_iter().map(|(name, value)| (name, value_of(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

/// The JSON object of a structure, its fields in the order of their names. Whole numbers are written as such.
pub fn json_of(object: &Struct) -> serde_json::Value {
    object.fields.iter().map(|(name, value)| (name.clone(), json_value(value))).collect()
}

fn json_value(value: &Value) -> serde_json::Value {
    match &value.kind {
        None | Some(value::Kind::NullValue(_)) => serde_json::Value::Null,
        Some(value::Kind::BoolValue(flag)) => (*flag).into(),
        Some(value::Kind::NumberValue(number)) => number_of(*number),
        Some(value::Kind::StringValue(text)) => text.clone().into(),
        Some(value::Kind::ListValue(all)) => all.values.iter().map(json_value).collect(),
        Some(value::Kind::StructValue(object)) => json_of(object),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "within what a double counts exactly")]
fn number_of(number: f64) -> serde_json::Value {
    let is_whole = number.fract() == 0.0 && number.abs() < (1_i64 << 53) as f64;
    if is_whole { (number as i64).into() } else { number.into() }
}

impl Reason {
    /// Its code in a public message: empty where there is no reason.
    pub fn public_code(self) -> String {
        if self == Self::Unspecified { String::new() } else { self.code().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_to_the_millisecond_and_none_is_absent() {
        for ms in [1, 999, 1_551_421_200_007, -1, -1_001] {
            assert_eq!(millis(timestamp(ms).as_ref()), ms);
        }
        assert_eq!((timestamp(0), millis(None)), (None, 0));
        assert!(timestamp(-1).is_some_and(|time| (time.seconds, time.nanos) == (-1, 999_000_000)));
        let latest = Timestamp { seconds: i64::MAX, nanos: 0 };
        assert_eq!(millis(Some(&latest)), i64::MAX);
    }

    #[test]
    fn a_json_object_survives_and_its_whole_numbers_stay_whole() {
        let text = r#"{"a":7500,"b":"x","c":[true,null,-1.5],"d":{"e":[]}}"#;
        assert_eq!(json_of(&struct_of(text)).to_string(), text);
        assert_eq!(struct_of("no object"), Struct::default());
    }

    #[test]
    fn every_reason_is_found_by_its_code() {
        for reason in (1..200).filter_map(|number| Reason::try_from(number).ok()) {
            assert_eq!(Reason::of_code(&reason.public_code()), Some(reason));
        }
        assert_eq!((Reason::Unspecified.public_code(), Reason::of_code("")), (String::new(), None));
    }
}
