//! What is accepted of an engine, and what it comes to on a bill (SPEC 3.8).

use super::*;
use crate::testing::{at, session};

const GRACE: Duration = Duration::from_secs(5);

fn supplying(start: u64, last: u64) -> Session {
    let mut session = session("s1").start(Energy::from_wh(start), 1_000, at(4));
    session.accept(Energy::from_wh(last)).unwrap();
    session
}

fn last(start: u64, end: u64) -> Final {
    Final {
        start: Energy::from_wh(start),
        end: Energy::from_wh(end),
        reason: Reason::Unplugged,
        started_at: 1_000,
        ended_at: 3_601_000,
    }
}

#[test]
fn a_bill_is_end_minus_start_of_the_lifetime_register_spec_3_8() {
    let (session, ticket) = supplying(1_000, 1_500).bill(&last(1_000, 2_000), 0, GRACE, at(4_000));
    assert_eq!(session.state, SessionState::Billed);
    assert_eq!((ticket.energy_wh, ticket.amount_minor), (1_000, 40));
    assert_eq!((ticket.meter_start_wh, ticket.meter_end_wh), (1_000, 2_000));
    assert_eq!(ticket.reason(), Reason::Unplugged);
}

#[test]
fn a_register_that_runs_backwards_is_not_accepted_and_the_rest_is_a_discrepancy_spec_3_8() {
    let mut session = supplying(1_000, 1_500);
    assert_eq!(session.accept(Energy::from_wh(1_499)), Err(NotAccepted::RanBackwards));
    let (session, ticket) = session.bill(&last(1_000, 1_400), 0, GRACE, at(4_000));
    assert_eq!((ticket.energy_wh, session.discrepancy), (500, -100));
}

#[test]
fn a_register_and_a_clock_that_cannot_be_are_not_believed_spec_3_8() {
    let mut session = supplying(1_000, 1_500);
    assert_eq!(session.accept(Energy::from_wh(u64::MAX)), Err(NotAccepted::Implausible));
    let wild = Final { started_at: i64::MIN, ended_at: i64::MAX, ..last(1_000, u64::MAX) };
    let (billed, ticket) = session.bill(&wild, 0, GRACE, at(4_000));
    assert_eq!((ticket.energy_wh, ticket.started_at_ms, ticket.ended_at_ms), (500, 1_000, 4_000_000));
    assert_eq!(billed.discrepancy, 999_999_998_500, "said, and not billed");
    let wild = self::session("s1").start(Energy::from_wh(u64::MAX), i64::MIN, at(4));
    let (billed, ticket) = wild.bill_without_report(11_000);
    assert_eq!((ticket.energy_wh, billed.started_at), (0, Some(0)));
}

#[test]
fn energy_past_the_rated_power_is_disputed_and_not_billed_spec_3_8() {
    // 11 kW for one hour give at most 11 kWh.
    let (session, ticket) = supplying(0, 0).bill(&last(0, 12_345), 11_000, GRACE, at(4_000));
    assert_eq!((ticket.energy_wh, ticket.disputed_wh), (11_000, 1_345));
    assert_eq!(session.disputed.wh(), ticket.disputed_wh);
}

#[test]
fn after_a_stop_that_the_engine_ignores_nothing_more_is_billed_within_a_rated_power_spec_3_5_3_8() {
    // 36 kW are 10 Wh a second; stopped after 100 s, and reported half an hour later.
    let settling = |reason| supplying(0, 0).settle(reason, at(101), at(101).mono);
    let late = Final { ended_at: 1_801_000, ..last(0, 18_000) };
    let (billed, ticket) = settling(Reason::StoppedByDriver).bill(&late, 36_000, GRACE, at(1_801));
    assert_eq!((ticket.energy_wh, ticket.disputed_wh), (1_050, 16_950));
    assert_eq!(billed.ended_at, Some(1_801_000), "as the engine says");
    for ordered in [Reason::StoppedByOperator, Reason::KeyRevoked, Reason::KeyRenewed, Reason::Removed] {
        assert_eq!(settling(ordered).bill(&late, 36_000, GRACE, at(1_801)).1.energy_wh, 1_050, "{ordered:?}");
    }
    // Nobody ordered an end: the driver's car was charged.
    assert_eq!(settling(Reason::Fault).bill(&late, 36_000, GRACE, at(1_801)).1.energy_wh, 18_000);
    assert_eq!(settling(Reason::StoppedByDriver).bill(&late, 0, GRACE, at(1_801)).1.energy_wh, 18_000);
}

#[test]
fn a_start_that_central_never_heard_of_is_taken_from_the_final_value() {
    let (_, ticket) = session("s1").bill(&last(700, 900), 0, GRACE, at(4_000));
    assert_eq!((ticket.meter_start_wh, ticket.energy_wh), (700, 200));
}

#[test]
fn a_session_that_is_never_reported_is_billed_at_the_last_accepted_value_spec_3_8() {
    let now = at(100);
    let settling = supplying(10, 60).settle(Reason::Fault, now, now.mono + Duration::from_secs(900));
    let (billed, ticket) = settling.bill_without_report(0);
    assert_eq!((ticket.energy_wh, ticket.reason()), (50, Reason::SettledWithoutReport));
    let late = billed.late(&last(10, 75)).unwrap();
    assert_eq!((late.discrepancy, late.state), (15, SessionState::Billed));
    assert_eq!(late.late(&last(10, 75)), None, "a repeated report changes nothing");
}

#[test]
fn an_end_that_was_ordered_is_the_tickets_reason_even_without_a_report_spec_3_5() {
    let now = at(100);
    let settling = supplying(10, 60).settle(Reason::KeyRevoked, now, now.mono);
    assert_eq!(settling.bill_without_report(0).1.reason(), Reason::KeyRevoked);
}

#[test]
fn energy_of_a_released_session_is_a_discrepancy_and_no_ticket() {
    let released = session("s1").release(Reason::ReservationExpired, at(5));
    assert_eq!(released.late(&last(10, 12)).map(|s| (s.state, s.discrepancy)), Some((SessionState::Released, 2)));
    assert_eq!(released.late(&last(10, 10)), None);
}

#[test]
fn a_ticket_always_bears_a_reason_that_ends_a_supply_spec_3_9() {
    let odd = Final { reason: Reason::Unavailable, ..last(0, 1) };
    assert_eq!(supplying(0, 0).bill(&odd, 0, GRACE, at(4_000)).1.reason(), Reason::Fault);
}

#[test]
fn an_end_that_central_did_not_order_is_a_fault_whatever_the_charging_point_calls_it_spec_3_5() {
    let reason = |session: &Session, said| session.bill(&Final { reason: said, ..last(0, 1) }, 0, GRACE, at(4_000)).1;
    for said in [Reason::StoppedByOperator, Reason::Frost, Reason::Removed, Reason::SettledWithoutReport] {
        assert_eq!(reason(&supplying(0, 0), said).reason(), Reason::Fault, "{said:?}");
        let ordered = Session { reason: Reason::StoppedByDriver, ..supplying(0, 0) };
        assert_eq!(reason(&ordered, said).reason(), Reason::StoppedByDriver, "as it was ordered, not {said:?}");
    }
    for said in [Reason::Unplugged, Reason::EnergyReached, Reason::TimeReached, Reason::Fault] {
        assert_eq!(reason(&supplying(0, 0), said).reason(), said);
    }
}
