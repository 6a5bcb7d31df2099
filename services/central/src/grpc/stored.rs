//! Rows of the store as the public contract shows them.

use mesh::clock::Now;
use proto::{central::v1 as contract, struct_of, timestamp};
use store::central::{AuditRow, SessionRow, StatisticRow};

use super::convert::session;
use crate::{rows, settings::CentralSettings};

pub(super) fn session_row(row: &SessionRow, settings: &CentralSettings, now: Now) -> Option<contract::Session> {
    rows::session(row, settings, now).ok().map(|s| session(&s, 0))
}

pub(super) fn statistic(row: StatisticRow) -> contract::Statistic {
    contract::Statistic {
        id: row.id,
        sessions: rows::unsigned(row.sessions),
        energy_wh: rows::unsigned(row.energy_wh),
        amount_minor: row.amount_minor,
        currency: row.currency,
        disputed_wh: rows::unsigned(row.disputed_wh),
        discrepancy_wh: row.discrepancy_wh,
    }
}

pub(super) fn audit_entry(row: &AuditRow) -> contract::AuditEntry {
    contract::AuditEntry {
        writer: row.writer.clone(),
        number: rows::unsigned(row.number),
        time: timestamp(row.at_ms),
        actor: row.actor.clone(),
        address: row.address.clone().unwrap_or_default(),
        action: row.action.clone(),
        object: row.object.clone(),
        parameters: Some(struct_of(&row.parameters)),
        outcome: row.outcome.clone(),
    }
}
