//! Events for whoever listens downstream (SPEC 5.3), kept in the outbox in the transaction that makes them true. Their
//! data is JSON; type names are those of CloudEvents.

use mesh::clock::Now;
use proto::link::v1::Ticket;
use serde_json::{Value, json};

use crate::session::Session;

/// One event of a charging point.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainEvent {
    /// Such as `chargemesh.session.changed`.
    pub kind: &'static str,
    pub at: i64,
    pub data: Value,
}

impl DomainEvent {
    pub fn session(session: &Session, now: Now) -> Self {
        let data = json!({
            "session_id": session.id.as_str(),
            "charging_point_id": session.charging_point.as_str(),
            "driver_id": session.driver.as_ref().map(|d| d.as_str()),
            "state": session.state.as_str_name().trim_start_matches("SESSION_STATE_"),
            "reason": session.reason.code(),
            "energy_wh": session.energy().wh(),
            "discrepancy_wh": session.discrepancy,
            "disputed_wh": session.disputed.wh(),
        });
        Self { kind: "chargemesh.session.changed", at: now.wall_ms, data }
    }

    /// Its data is the ticket, in the JSON that drivers store as well.
    pub fn ticket(ticket: &Ticket, now: Now) -> Self {
        let data = serde_json::to_value(ticket).unwrap_or_default();
        Self { kind: "chargemesh.ticket.issued", at: now.wall_ms, data }
    }

    pub fn state(charging_point: &str, state: &str, causes: &[&str], now: Now) -> Self {
        let data = json!({ "charging_point_id": charging_point, "state": state, "causes": causes });
        Self { kind: "chargemesh.charging-point.state-changed", at: now.wall_ms, data }
    }

    pub fn key(holder: &str, key_no: u64, state: &str, now: Now) -> Self {
        let data = json!({ "holder": holder, "key_no": key_no, "state": state });
        Self { kind: "chargemesh.key.changed", at: now.wall_ms, data }
    }
}
