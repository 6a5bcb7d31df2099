//! Events for whoever listens downstream (SPEC 5.3), kept in the outbox in the transaction that makes them true. Their
//! data is JSON; type names are those of CloudEvents.

use mesh::clock::Now;
use serde_json::{Value, json};

use crate::session::{Session, Ticket};

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

    pub fn ticket(ticket: &Ticket, now: Now) -> Self {
        let data = json!({
            "session_id": ticket.session.as_str(),
            "charging_point_id": ticket.charging_point.as_str(),
            "driver_id": ticket.driver.as_ref().map(|d| d.as_str()),
            "energy_wh": ticket.energy.wh(),
            "amount_minor": ticket.amount.minor,
            "currency": ticket.amount.currency.code(),
            "price_e4": ticket.price.e4(),
            "reason": ticket.reason.code(),
            "disputed_wh": ticket.disputed.wh(),
            "started_at_ms": ticket.started_at,
            "ended_at_ms": ticket.ended_at,
        });
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
