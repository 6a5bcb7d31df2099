//! The invariants of a settled network, whatever faults it has been through (SPEC 9.2).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use proto::central::v1::{Cause, ChargingPoint, ChargingPointState, SessionState};

use crate::{network::PATIENCE, operator::Operator, wait::until};

/// The sums of a settled network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkTotals {
    pub sessions: usize,
    pub tickets: usize,
    pub released: usize,
    pub billed_wh: u64,
    pub disputed_wh: u64,
    pub discrepancy_wh: i64,
}

/// Waits until every session is billed or released. Drivers must not request new ones any more.
pub async fn until_settled(operator: &Operator) -> anyhow::Result<()> {
    until("every session to be billed or released", PATIENCE * 3, async || {
        let sessions = operator.all_sessions().await.map_err(|error| format!("{error:#}"))?;
        let open: Vec<_> = sessions
            .iter()
            .filter(|session| !matches!(session.state(), SessionState::Billed | SessionState::Released))
            .collect();
        if open.is_empty() { Ok(()) } else { Err(format!("{} open, such as {:?}", open.len(), open.first())) }
    })
    .await
}

/// Checks that each billed session has one ticket and each released one none; that Σ tickets + discrepancies + disputed =
/// Σ meters for each charging point; that no state is without a cause. `meters` are the lifetime registers in Wh, which
/// began at 0.
///
/// # Errors
/// Names the first rule that does not hold, with what was found.
pub async fn check(operator: &Operator, meters: &BTreeMap<String, u64>) -> anyhow::Result<NetworkTotals> {
    let (sessions, tickets) = (operator.all_sessions().await?, operator.all_tickets().await?);
    let mut named = BTreeSet::new();
    for ticket in &tickets {
        ensure!(named.insert(ticket.session_id.as_str()), "two tickets for one session: {ticket:?}");
    }
    let mut totals = NetworkTotals { sessions: sessions.len(), tickets: tickets.len(), ..NetworkTotals::default() };
    let mut accounted: BTreeMap<&str, i128> = BTreeMap::new();
    for session in &sessions {
        let has_ticket = named.remove(session.id.as_str());
        match session.state() {
            SessionState::Billed => ensure!(has_ticket, "billed without a ticket: {session:?}"),
            SessionState::Released => {
                totals.released += 1;
                ensure!(!has_ticket, "released, and yet a ticket: {session:?}");
            }
            SessionState::Unspecified | SessionState::Reserved | SessionState::Supplying | SessionState::Settling => {
                anyhow::bail!("not quiet: {session:?}")
            }
        }
        totals.discrepancy_wh += session.discrepancy_wh;
        *accounted.entry(&session.charging_point_id).or_default() += i128::from(session.discrepancy_wh);
    }
    ensure!(named.is_empty(), "tickets of sessions that do not exist: {named:?}");
    for ticket in &tickets {
        totals.billed_wh += ticket.energy_wh;
        totals.disputed_wh += ticket.disputed_wh;
        *accounted.entry(&ticket.charging_point_id).or_default() +=
            i128::from(ticket.energy_wh) + i128::from(ticket.disputed_wh);
    }
    for (id, &meter_wh) in meters {
        let found = accounted.get(id.as_str()).copied().unwrap_or_default();
        ensure!(
            found == i128::from(meter_wh),
            "{id}: tickets + discrepancies + disputed = {found} Wh, its meter says {meter_wh} Wh; its tickets: {:?}",
            tickets.iter().filter(|ticket| &ticket.charging_point_id == id).collect::<Vec<_>>(),
        );
    }
    for cp in operator.all_charging_points().await? {
        ensure!(has_its_cause(&cp), "a state without its cause, or a cause without its state: {cp:?}");
    }
    Ok(totals)
}

/// Whether the shown state has a cause or needs none (SPEC 2.1, 2.2).
pub fn has_its_cause(cp: &ChargingPoint) -> bool {
    let causes: Vec<Cause> = cp.causes().collect();
    let out_of_order = causes.iter().any(|cause| {
        matches!(
            cause,
            Cause::LedgerBehind
                | Cause::OperatorStop
                | Cause::Maintenance
                | Cause::Weather
                | Cause::NoKey
                | Cause::KeyRevoked
                | Cause::Quarantined
        )
    });
    match cp.state() {
        ChargingPointState::Unspecified => false,
        ChargingPointState::Disconnected => causes.contains(&Cause::MonitorLost),
        ChargingPointState::Broken => causes.contains(&Cause::EngineBroken),
        ChargingPointState::OutOfOrder => out_of_order,
        ChargingPointState::Supplying | ChargingPointState::Reserved => cp.session.is_some(),
        ChargingPointState::Available => causes.is_empty() && cp.session.is_none(),
    }
}
