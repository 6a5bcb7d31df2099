//! Messages of the public API as the command line prints them: for programs as the JSON that protobuf defines for them
//! (`--json`), for people as a table whose columns stand in `tables`.

pub(crate) use proto::ApiMessage;
use proto::{Energy, Money, Timestamp, millis};

/// Each of them, to be printed.
pub(crate) fn api_messages<M>(all: impl IntoIterator<Item = M>) -> Vec<ApiMessage<M>> {
    all.into_iter().map(ApiMessage).collect()
}

/// A value of an enumeration as people read it: `STATE_OUT_OF_ORDER` is `out-of-order`.
pub(crate) fn name(full: &str, prefix: &str) -> String {
    full.trim_start_matches(prefix).to_ascii_lowercase().replace('_', "-")
}

pub(crate) fn money(minor: i64, currency: &str) -> String {
    Money { minor, currency: currency.parse().unwrap_or_default() }.to_string()
}

pub(crate) fn wh(wh: u64) -> String {
    Energy::from_wh(wh).to_string()
}

pub(crate) fn at(time: Option<&Timestamp>) -> String {
    time.map(|time| driver::utc(millis(Some(time)))).unwrap_or_default()
}

/// Whose account it is.
pub(crate) fn payer(driver: &str) -> String {
    if driver.is_empty() { "(own account)".into() } else { driver.into() }
}

#[cfg(test)]
mod tests {
    use prost::{Message, Name};
    use proto::{
        central::v1::{AuditEntry, ChargingPoint, ChargingPointState, RecordVersion, Session},
        struct_of, timestamp,
    };
    use serde_json::{Value, json};

    use super::*;

    fn json_of<M: Message + Name>(message: M) -> Value {
        serde_json::to_value(ApiMessage(message)).unwrap()
    }

    #[test]
    fn json_is_that_of_protobuf_spec_7_2() {
        let point = ChargingPoint {
            id: "CP-1".into(),
            state: ChargingPointState::OutOfOrder.into(),
            state_time: timestamp(1_551_421_200_007),
            version: Some(RecordVersion { generation: 1, epoch: 2, version: u64::MAX }),
            ..ChargingPoint::default()
        };
        let said = json_of(point);
        assert_eq!(said["state"], json!("CHARGING_POINT_STATE_OUT_OF_ORDER"));
        assert_eq!(said["stateTime"], json!("2019-03-01T06:20:00.007Z"));
        assert_eq!(said["version"], json!({ "generation": 1, "epoch": 2, "version": "18446744073709551615" }));
        assert_eq!((&said["causes"], &said["priceE4"]), (&json!([]), &json!(0)), "a default value is a value");
        assert_eq!((said.get("ratedPowerW"), said.get("session")), (None, None), "what is absent is left out");
        assert_eq!(json_of(Session { requested_wh: Some(0), ..Session::default() })["requestedWh"], json!("0"));
    }

    #[test]
    fn parameters_of_the_audit_are_an_object() {
        let parameters = Some(struct_of(r#"{"energy_wh":7500,"note":"x"}"#));
        let said = json_of(AuditEntry { parameters, ..AuditEntry::default() });
        assert_eq!(said["parameters"], json!({ "energy_wh": 7500.0, "note": "x" }));
    }
}
