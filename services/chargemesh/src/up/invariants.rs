//! The invariants of a settled network, whatever faults it has been through (SPEC 9.2): one ticket for each billed session
//! and none for a released one; Σ tickets + discrepancies + disputed = Σ meters; no state without a cause; and every
//! charging point has reconnected by itself (SPEC 9).
//!
//! Pure: a snapshot goes in, and each violation comes out as a sentence.

use std::collections::BTreeMap;

use proto::central::v1::{ActiveSession, Cause, ChargingPoint, ChargingPointState, Session, SessionState, Ticket};
use serde::Serialize;

/// A settled network as its operator sees it, with the meter registers of its engines.
#[derive(Debug, Default)]
pub(crate) struct NetworkSnapshot {
    pub(crate) sessions: Vec<Session>,
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) charging_points: Vec<ChargingPoint>,
    /// Lifetime registers in Wh by charging point, read at the engines themselves.
    pub(crate) meters_wh: BTreeMap<String, u64>,
    pub(crate) audit_intact: bool,
}

/// The sums that were compared, and each violation.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Findings {
    pub(crate) sessions: usize,
    pub(crate) tickets: usize,
    pub(crate) billed_wh: i128,
    pub(crate) disputed_wh: i128,
    pub(crate) discrepancy_wh: i128,
    pub(crate) meters_wh: i128,
    pub(crate) violations: Vec<String>,
}

/// Whether every session is billed or released, so that the invariants can be checked.
pub(crate) fn is_settled(sessions: &[Session]) -> bool {
    sessions.iter().all(|s| matches!(s.state(), SessionState::Billed | SessionState::Released))
}

pub(crate) fn check(seen: &NetworkSnapshot) -> Findings {
    let mut findings = Findings { sessions: seen.sessions.len(), tickets: seen.tickets.len(), ..Findings::default() };
    tickets(seen, &mut findings);
    energy(seen, &mut findings);
    for point in &seen.charging_points {
        if let Some(violation) = state(point) {
            findings.violations.push(violation);
        }
    }
    if !seen.audit_intact {
        findings.violations.push("the audit chain is not intact".to_owned());
    }
    findings
}

fn tickets(seen: &NetworkSnapshot, findings: &mut Findings) {
    let mut of_session: BTreeMap<&str, usize> = BTreeMap::new();
    for ticket in &seen.tickets {
        *of_session.entry(&ticket.session_id).or_default() += 1;
    }
    for session in &seen.sessions {
        let tickets = of_session.remove(session.id.as_str()).unwrap_or(0);
        let expected = usize::from(session.state() == SessionState::Billed);
        if tickets != expected {
            let state = session.state().as_str_name().trim_start_matches("SESSION_STATE_").to_ascii_lowercase();
            findings.violations.push(format!("session {} is {state} and has {tickets} tickets", session.id));
        }
    }
    findings.violations.extend(of_session.keys().map(|id| format!("a ticket for a session {id} that does not exist")));
}

fn energy(seen: &NetworkSnapshot, findings: &mut Findings) {
    findings.billed_wh = seen.tickets.iter().map(|t| i128::from(t.energy_wh)).sum();
    findings.disputed_wh = seen.tickets.iter().map(|t| i128::from(t.disputed_wh)).sum();
    findings.discrepancy_wh = seen.sessions.iter().map(|s| i128::from(s.discrepancy_wh)).sum();
    findings.meters_wh = seen.meters_wh.values().map(|wh| i128::from(*wh)).sum();
    let billed = findings.billed_wh + findings.disputed_wh + findings.discrepancy_wh;
    if billed != findings.meters_wh {
        findings.violations.push(format!(
            "tickets {} + disputed {} + discrepancies {} = {billed} Wh, but the meters show {} Wh",
            findings.billed_wh, findings.disputed_wh, findings.discrepancy_wh, findings.meters_wh
        ));
    }
    // Two errors could cancel each other out in the sum, so each charging point is checked by itself.
    for (id, meter) in &seen.meters_wh {
        let tickets = seen.tickets.iter().filter(|t| t.charging_point_id == *id);
        let sessions = seen.sessions.iter().filter(|s| s.charging_point_id == *id);
        let sum = tickets.map(|t| i128::from(t.energy_wh) + i128::from(t.disputed_wh)).sum::<i128>()
            + sessions.map(|s| i128::from(s.discrepancy_wh)).sum::<i128>();
        if sum != i128::from(*meter) {
            findings.violations.push(format!("{id}: {sum} Wh in the books, {meter} Wh on its meter"));
        }
    }
}

/// How the state of this charging point breaks the rule that each state has a cause.
fn state(point: &ChargingPoint) -> Option<String> {
    let caused = point.causes().any(|cause| cause != Cause::Unspecified);
    let session = point.session.as_ref().map(|session: &ActiveSession| session.session_id.as_str());
    let holds = match point.state() {
        ChargingPointState::Available => !caused && session.is_none(),
        ChargingPointState::Supplying | ChargingPointState::Reserved => session.is_some(),
        ChargingPointState::OutOfOrder => caused,
        ChargingPointState::Disconnected | ChargingPointState::Broken | ChargingPointState::Unspecified => false,
    };
    let name = point.state().as_str_name().trim_start_matches("CHARGING_POINT_STATE_");
    let causes: Vec<_> = point.causes().map(|cause| cause.as_str_name()).collect();
    if matches!(point.state(), ChargingPointState::Disconnected | ChargingPointState::Broken) {
        return Some(format!("{} has not reconnected: it is {name} (causes {causes:?})", point.id));
    }
    (!holds).then(|| format!("{} is {name} without a cause (causes {causes:?}, session {session:?})", point.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str, state: SessionState, discrepancy_wh: i64) -> Session {
        Session {
            id: id.into(),
            charging_point_id: "CP-1".into(),
            state: state.into(),
            discrepancy_wh,
            ..Session::default()
        }
    }

    fn ticket(id: &str, energy_wh: u64, disputed_wh: u64) -> Ticket {
        let charging_point_id = "CP-1".into();
        Ticket { session_id: id.into(), charging_point_id, energy_wh, disputed_wh, ..Ticket::default() }
    }

    fn good() -> NetworkSnapshot {
        NetworkSnapshot {
            sessions: vec![session("a", SessionState::Billed, 5), session("b", SessionState::Released, 0)],
            tickets: vec![ticket("a", 100, 10)],
            charging_points: Vec::new(),
            meters_wh: BTreeMap::from([("CP-1".to_owned(), 115)]),
            audit_intact: true,
        }
    }

    #[test]
    fn tickets_discrepancies_and_disputed_energy_are_what_the_meters_say_spec_9_2() {
        assert_eq!(check(&good()).violations, Vec::<String>::new());
        let lost = NetworkSnapshot { meters_wh: BTreeMap::from([("CP-1".to_owned(), 120)]), ..good() };
        assert_eq!(check(&lost).violations.len(), 2);
    }

    #[test]
    fn a_billed_session_has_one_ticket_and_a_released_one_none_spec_9_2() {
        let mut seen = good();
        seen.tickets.push(ticket("b", 0, 0));
        seen.tickets.push(ticket("a", 0, 0));
        seen.tickets.push(ticket("ghost", 0, 0));
        let violations = check(&seen).violations.join("\n");
        for says in ["session a is billed and has 2", "session b is released and has 1", "ghost"] {
            assert!(violations.contains(says), "{violations}");
        }
        assert!(!is_settled(&[session("c", SessionState::Supplying, 0)]));
    }

    #[test]
    fn a_state_without_its_cause_is_found_spec_9_2() {
        let point = |state: ChargingPointState, causes: Vec<Cause>, session: &str| ChargingPoint {
            state: state.into(),
            causes: causes.into_iter().map(Into::into).collect(),
            session: (!session.is_empty())
                .then(|| ActiveSession { session_id: session.into(), ..ActiveSession::default() }),
            ..ChargingPoint::default()
        };
        for (good, point) in [
            (true, point(ChargingPointState::Available, vec![], "")),
            (false, point(ChargingPointState::Available, vec![Cause::OperatorStop], "")),
            (false, point(ChargingPointState::OutOfOrder, vec![], "")),
            (true, point(ChargingPointState::OutOfOrder, vec![Cause::NoKey], "")),
            (false, point(ChargingPointState::Supplying, vec![], "")),
            (true, point(ChargingPointState::Reserved, vec![], "s")),
            // In a settled network every process runs and every connection is open.
            (false, point(ChargingPointState::Disconnected, vec![Cause::MonitorLost], "")),
            (false, point(ChargingPointState::Broken, vec![Cause::EngineBroken], "")),
        ] {
            assert_eq!(state(&point).is_none(), good, "{point:?}");
        }
    }
}
