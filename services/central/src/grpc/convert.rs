//! Rows and nouns as the contract shows them.

use std::{collections::HashMap, hash::Hash};

use futures::{StreamExt as _, stream::BoxStream};

use proto::{
    central::v1 as contract,
    link::v1::{Correction, SessionState, Ticket},
};
use store::central::{AuditRow, CorrectionRow, SessionRow, StatisticRow, TicketRow};

use tonic::Status;

use crate::{
    charge_point, rows,
    session::Session,
    watch::{BoardChange, Watcher},
};

/// A session with its latest value.
pub(crate) fn session(session: &Session, power_w: u32) -> contract::Session {
    let running = session.state == SessionState::Supplying;
    contract::Session {
        id: session.id.to_string(),
        charging_point_id: session.charging_point.to_string(),
        driver_id: session.driver.as_ref().map(ToString::to_string).unwrap_or_default(),
        state: session.state.into(),
        price_e4: session.price.e4(),
        currency: session.currency.to_string(),
        requested_wh: session.requested.wh(),
        meter_start_wh: session.meter_start.wh(),
        meter_last_wh: session.meter_last.wh(),
        reserved_at_ms: session.reserved_at,
        started_at_ms: session.started_at.unwrap_or_default(),
        ended_at_ms: session.ended_at.unwrap_or_default(),
        reason: session.reason.into(),
        request_id: session.request_id.as_ref().to_owned(),
        discrepancy_wh: session.discrepancy,
        disputed_wh: session.disputed.wh(),
        power_w: if running { power_w } else { 0 },
        amount_minor: amount(session),
    }
}

/// What is billed, or would be by now.
fn amount(session: &Session) -> i64 {
    session.price.amount(session.energy().saturating_sub(session.disputed), session.currency).minor
}

pub(super) fn session_row(row: &SessionRow, shared: &crate::shared::SharedState) -> Option<contract::Session> {
    rows::session(row, &shared.settings, shared.clock.now()).ok().map(|s| session(&s, 0))
}

/// Tickets with their corrections, in the order of `rows`.
pub(crate) fn tickets(rows: &[TicketRow], corrections: &[CorrectionRow]) -> Vec<Ticket> {
    let mut of: HashMap<&str, Vec<Correction>> = HashMap::new();
    for row in corrections {
        of.entry(&row.session_id).or_default().push(Correction {
            number: u32::try_from(row.number).unwrap_or_default(),
            at_ms: row.at_ms,
            operator: row.operator.clone(),
            reason: row.reason.clone(),
            energy_delta_wh: row.energy_delta_wh,
            amount_delta_minor: row.amount_delta_minor,
            settled_wh: rows::unsigned(row.settled_wh),
        });
    }
    rows.iter()
        .map(|row| {
            let corrections = of.remove(row.session_id.as_str()).unwrap_or_default();
            Ticket { corrections, ..charge_point::ticket_message(&rows::ticket(row)) }
        })
        .collect()
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
        at_ms: row.at_ms,
        actor: row.actor.clone(),
        address: row.address.clone().unwrap_or_default(),
        action: row.action.clone(),
        object: row.object.clone(),
        parameters: row.parameters.clone(),
        outcome: row.outcome.clone(),
    }
}

/// A watcher's changes as a stream of the contract's events; those that `event` leaves out are not sent.
pub(super) fn stream<K, V, E>(
    watcher: Watcher<K, V>,
    event: impl FnMut(BoardChange<K, V>) -> Option<E> + Send + 'static,
) -> BoxStream<'static, Result<E, Status>>
where
    K: Clone + Eq + Hash + Ord + Send + Sync + 'static,
    V: Send + Sync + 'static,
    E: Send + 'static,
{
    let portions = futures::stream::unfold((watcher, event), |(mut watcher, mut event)| async {
        let changes = watcher.next().await?;
        let events: Vec<_> = changes.into_iter().filter_map(&mut event).map(Ok).collect();
        Some((futures::stream::iter(events), (watcher, event)))
    });
    Box::pin(portions.flatten())
}
