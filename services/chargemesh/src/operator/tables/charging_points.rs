//! Charging points: a line each in a list, and everything about one.

use proto::{
    Price,
    central::v1::{ActiveSession, ChargingPoint, ChargingPointKey, KeyState},
};
use serde::Serialize;

use crate::{
    operator::api_message::{ApiMessage, at, money, name, payer, wh},
    output::{Columns, escaped},
};

fn state_in_words(cp: &ChargingPoint) -> String {
    cp.state().as_str_name().trim_start_matches("CHARGING_POINT_STATE_").replace('_', " ")
}

fn key_state(cp: &ChargingPoint) -> KeyState {
    cp.key.as_ref().map(ChargingPointKey::state).unwrap_or_default()
}

fn key_state_in_words(cp: &ChargingPoint) -> String {
    name(key_state(cp).as_str_name(), "KEY_STATE_")
}

fn key_number(cp: &ChargingPoint) -> String {
    let number = cp.key.as_ref().and_then(|key| key.number);
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// The phrases that a person needs (SPEC 2.2, 4.8).
fn why(cp: &ChargingPoint) -> String {
    let causes: Vec<_> = cp.causes().map(|cause| name(cause.as_str_name(), "CAUSE_")).collect();
    let why = if cp.detail.is_empty() { causes.join(", ") } else { escaped(&cp.detail) };
    // Those before it spoke plainly again are history, in the full record.
    let messages = cp.unintelligible_messages;
    let unread = cp.unintelligible.then(|| format!("unintelligible messages from {} ({messages})", cp.id));
    [Some(why), unread].into_iter().flatten().filter(|phrase| !phrase.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Of the current session; empty where there is none.
fn running(cp: &ChargingPoint) -> [String; 5] {
    let Some(ActiveSession { session_id, driver_id, energy_wh, amount_minor, power_w }) = &cp.session else {
        return Default::default();
    };
    let amount = money(*amount_minor, &cp.currency);
    [session_id.clone(), payer(driver_id), wh(*energy_wh), amount, format!("{power_w} W")]
}

impl Columns for ApiMessage<ChargingPoint> {
    const HEADERS: &'static [&'static str] =
        &["id", "state", "city", "place", "price", "driver", "energy", "amount", "power", "key", "why"];
    fn cells(&self) -> Vec<String> {
        let cp = &self.0;
        let [_, driver, energy, amount, power] = running(cp);
        vec![
            cp.id.clone(),
            state_in_words(cp),
            escaped(&cp.city),
            escaped(&cp.place),
            format!("{} {}", Price::from_e4(cp.price_e4), cp.currency),
            driver,
            energy,
            amount,
            power,
            if key_state(cp) == KeyState::Active { key_number(cp) } else { key_state_in_words(cp) },
            why(cp),
        ]
    }
}

/// What `get` shows; as JSON the same as in a list.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct ChargingPointRecord(pub(crate) ApiMessage<ChargingPoint>);

impl Columns for ChargingPointRecord {
    const HEADERS: &'static [&'static str] = &[
        "id",
        "state",
        "since",
        "why",
        "city",
        "place",
        "price",
        "rated power",
        "session",
        "driver",
        "energy",
        "amount",
        "power",
        "key",
        "key number",
        "key expires",
        "unintelligible",
        "epoch",
        "version",
        "readings",
        "last reading",
    ];
    fn cells(&self) -> Vec<String> {
        let cp = &self.0.0;
        let version = cp.version.unwrap_or_default();
        let [session, driver, energy, amount, power] = running(cp);
        vec![
            cp.id.clone(),
            state_in_words(cp),
            at(cp.state_time.as_ref()),
            why(cp),
            escaped(&cp.city),
            escaped(&cp.place),
            format!("{} {} per kWh", Price::from_e4(cp.price_e4), cp.currency),
            cp.rated_power_w.map_or("not set".into(), |watts| format!("{watts} W")),
            session,
            driver,
            energy,
            amount,
            power,
            key_state_in_words(cp),
            key_number(cp),
            at(cp.key.as_ref().and_then(|key| key.expire_time.as_ref())),
            format!("{} messages from it since its key", cp.unintelligible_messages),
            format!("{}.{}", version.generation, version.epoch),
            version.version.to_string(),
            readings(cp),
            last_reading(cp),
        ]
    }
}

fn readings(cp: &ChargingPoint) -> String {
    let counts = cp.telemetry.clone().unwrap_or_default();
    format!(
        "{}, {} came twice, {} are missing, {} could not be opened",
        counts.readings, counts.duplicates, counts.gaps, counts.unreadable
    )
}

fn last_reading(cp: &ChargingPoint) -> String {
    let Some(r) = cp.telemetry.as_ref().and_then(|counts| counts.last.as_ref()) else { return String::new() };
    let session = if r.session_id.is_empty() { String::new() } else { format!(", session {}", r.session_id) };
    format!(
        "{} of {}: meter {}, {} W, {} A, {} V, charged to {} %, {} °C{session}",
        r.sequence,
        at(r.time.as_ref()),
        wh(r.meter_wh),
        r.power_w,
        thousandths(r.current_ma),
        thousandths(r.voltage_mv),
        tenths(r.state_of_charge_permille.into()),
        tenths(r.temperature_dc.into()),
    )
}

fn thousandths(value: u32) -> String {
    format!("{}.{:03}", value / 1000, value % 1000)
}

fn tenths(value: i64) -> String {
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}.{}", value.abs() / 10, value.abs() % 10)
}

#[cfg(test)]
mod tests {
    use proto::{
        central::v1::{Cause, ChargingPointState, Reading, RecordVersion, TelemetryCounts},
        timestamp,
    };

    use super::*;

    fn charging_point() -> ChargingPoint {
        let last = Reading {
            sequence: 12,
            time: timestamp(1_551_421_200_000),
            meter_wh: 7_500,
            current_ma: 16_050,
            temperature_dc: -5,
            ..Reading::default()
        };
        ChargingPoint {
            id: "CP-1".into(),
            state: ChargingPointState::OutOfOrder.into(),
            causes: vec![Cause::OperatorStop.into()],
            price_e4: 3950,
            currency: "EUR".into(),
            rated_power_w: Some(22_000),
            key: Some(ChargingPointKey { number: Some(4), ..ChargingPointKey::default() }),
            unintelligible_messages: 3,
            unintelligible: true,
            version: Some(RecordVersion { generation: 2, epoch: 9, version: 1 }),
            telemetry: Some(TelemetryCounts { readings: 100, gaps: 2, last: Some(last), ..TelemetryCounts::default() }),
            ..ChargingPoint::default()
        }
    }

    #[test]
    fn one_charging_point_is_shown_with_everything_that_is_known_of_it() {
        let record = ChargingPointRecord(ApiMessage(charging_point()));
        let cells = record.cells();
        assert_eq!(cells.len(), ChargingPointRecord::HEADERS.len());
        let of = |header: &str| {
            let place = ChargingPointRecord::HEADERS.iter().position(|h| *h == header).unwrap();
            cells[place].as_str()
        };
        assert_eq!(of("state"), "OUT OF ORDER");
        assert_eq!(of("price"), "0.3950 EUR per kWh");
        assert_eq!((of("rated power"), of("key number"), of("epoch")), ("22000 W", "4", "2.9"));
        assert_eq!(of("unintelligible"), "3 messages from it since its key");
        assert_eq!(of("readings"), "100, 0 came twice, 2 are missing, 0 could not be opened");
        assert_eq!(
            of("last reading"),
            "12 of 2019-03-01 06:20:00 UTC: meter 7.500 kWh, 0 W, 16.050 A, 0.000 V, charged to 0.0 %, -0.5 °C"
        );
        assert_eq!(of("driver"), "", "nobody is served");
        assert_eq!(of("why"), "operator-stop; unintelligible messages from CP-1 (3)");
        let cells = ApiMessage(charging_point()).cells();
        assert_eq!(cells.len(), ApiMessage::<ChargingPoint>::HEADERS.len());
    }
}
