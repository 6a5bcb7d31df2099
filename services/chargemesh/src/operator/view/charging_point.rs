//! Everything about one charging point, a line each.

use proto::{Energy, Price};
use serde::Serialize;

use super::{ChargingPointView, at, money};
use crate::output::{Columns, escaped};

/// What `get` shows; as JSON the same as in a list.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct ChargingPointRecord(pub(crate) ChargingPointView);

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
        let cp = &self.0;
        let shown = |text: String| if cp.session.is_empty() { String::new() } else { text };
        vec![
            cp.id.clone(),
            cp.state_in_words(),
            at(cp.since_ms),
            cp.why(),
            escaped(&cp.city),
            escaped(&cp.place),
            format!("{} {} per kWh", Price::from_e4(cp.price_e4), cp.currency),
            if cp.rated_power_w == 0 { "not set".into() } else { format!("{} W", cp.rated_power_w) },
            cp.session.clone(),
            shown(cp.driver_in_words()),
            shown(Energy::from_wh(cp.energy_wh).to_string()),
            shown(money(cp.amount_minor, &cp.currency)),
            shown(format!("{} W", cp.power_w)),
            cp.key_state.clone(),
            if cp.key_no == 0 { String::new() } else { cp.key_no.to_string() },
            at(cp.key_expires_at_ms),
            format!("{} messages from it since its key", cp.unintelligible),
            cp.epoch.to_string(),
            cp.version.to_string(),
            self.readings(),
            self.last_reading(),
        ]
    }
}

impl ChargingPointRecord {
    fn readings(&self) -> String {
        let t = &self.0.telemetry;
        let (readings, duplicates, gaps, unreadable) = (t.readings, t.duplicates, t.gaps, t.unreadable);
        format!("{readings}, {duplicates} came twice, {gaps} are missing, {unreadable} could not be opened")
    }

    fn last_reading(&self) -> String {
        let Some(r) = &self.0.telemetry.last else { return String::new() };
        let session = if r.session.is_empty() { String::new() } else { format!(", session {}", r.session) };
        format!(
            "{} of {}: meter {}, {} W, {} A, {} V, charged to {} %, {} °C{session}",
            r.sequence,
            at(r.at_ms),
            Energy::from_wh(r.meter_wh),
            r.power_w,
            thousandths(r.current_ma),
            thousandths(r.voltage_mv),
            tenths(r.state_of_charge_permille.into()),
            tenths(r.temperature_dc.into()),
        )
    }
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
        central::v1::{ChargingPoint, Telemetry},
        link::v1::{Cause, Reading, State, View},
    };

    use super::*;

    fn charging_point() -> ChargingPoint {
        let mut view = View { price_e4: 3950, currency: "EUR".into(), ..View::default() };
        view.set_state(State::OutOfOrder);
        view.push_causes(Cause::OperatorStop);
        let last = Reading {
            sequence: 12,
            at_ms: 1_551_421_200_000,
            meter_wh: 7_500,
            current_ma: 16_050,
            temperature_dc: -5,
            ..Reading::default()
        };
        ChargingPoint {
            id: "CP-1".into(),
            view: Some(view),
            rated_power_w: 22_000,
            key_no: 4,
            unintelligible: 3,
            unread: true,
            epoch: 9,
            telemetry: Some(Telemetry { readings: 100, gaps: 2, last: Some(last), ..Telemetry::default() }),
            ..ChargingPoint::default()
        }
    }

    #[test]
    fn one_charging_point_is_shown_with_everything_that_is_known_of_it() {
        let record = ChargingPointRecord(charging_point().into());
        let cells = record.cells();
        assert_eq!(cells.len(), ChargingPointRecord::HEADERS.len());
        let of = |header: &str| {
            let place = ChargingPointRecord::HEADERS.iter().position(|h| *h == header).unwrap();
            cells[place].as_str()
        };
        assert_eq!(of("state"), "OUT OF ORDER");
        assert_eq!(of("price"), "0.3950 EUR per kWh");
        assert_eq!((of("rated power"), of("key number"), of("epoch")), ("22000 W", "4", "9"));
        assert_eq!(of("unintelligible"), "3 messages from it since its key");
        assert_eq!(of("readings"), "100, 0 came twice, 2 are missing, 0 could not be opened");
        assert_eq!(
            of("last reading"),
            "12 of 2019-03-01 06:20:00 UTC: meter 7.500 kWh, 0 W, 16.050 A, 0.000 V, charged to 0.0 %, -0.5 °C"
        );
        assert_eq!(of("driver"), "", "nobody is served");
        assert_eq!(of("why"), "operator-stop; unintelligible messages from CP-1 (3)");
    }
}
