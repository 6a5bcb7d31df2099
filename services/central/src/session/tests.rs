//! What is accepted of an engine, and what it comes to on a bill (SPEC 3.8).

use std::time::Duration;

use super::*;
use crate::{
    settings::CentralSettings,
    testing::{at, session},
};

/// Of a charging point with this rated power; 0: none is set.
fn limit(rated_w: u32) -> EnergyLimit {
    EnergyLimit::new(rated_w, &CentralSettings::default())
}

/// Authorised at second 0, begun at second 4, and `last` at second 5.
fn supplying(start: u64, last: u64) -> Session {
    let mut session = session("s1").start(Energy::from_wh(start), 1_000, at(4));
    session.accept(Energy::from_wh(last), limit(0), at(5)).unwrap();
    session
}

fn wh(wh: u64) -> Energy {
    Energy::from_wh(wh)
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
    let (session, ticket) = supplying(1_000, 1_500).bill(&last(1_000, 2_000), limit(0), at(4_000));
    assert_eq!(session.state, SessionState::Billed);
    assert_eq!((ticket.energy_wh, ticket.amount_minor), (1_000, 40));
    assert_eq!((ticket.meter_start_wh, ticket.meter_end_wh), (1_000, 2_000));
    assert_eq!(ticket.reason(), Reason::Unplugged);
}

#[test]
fn a_final_value_below_an_accepted_one_is_billed_as_the_lower_and_the_difference_disputed_spec_3_8a() {
    let mut session = supplying(1_000, 1_500);
    assert_eq!(session.accept(wh(1_499), limit(0), at(6)), Err(NotAccepted::RanBackwards));
    let (session, ticket) = session.bill(&last(1_000, 1_400), limit(0), at(4_000));
    // What the meter says is what is billed, disputed and missing from the meter, together.
    assert_eq!((ticket.energy_wh, ticket.disputed_wh, session.discrepancy), (400, 100, -100));
    assert_eq!((ticket.meter_start_wh, ticket.meter_end_wh), (1_000, 1_500));
}

#[test]
fn one_absurd_value_is_not_accepted_shuts_out_none_that_follows_and_reaches_no_bill_spec_3_8a() {
    let mut session = Session { requested: wh(5_000), ..supplying(1_000, 1_200) };
    assert_eq!(session.accept(wh(1_000_000_000), limit(0), at(6)), Err(NotAccepted::Implausible));
    session.accept(wh(1_300), limit(0), at(7)).unwrap();
    assert_eq!((session.energy(), session.amount().minor), (wh(300), 12));
    let (_, ticket) = session.bill(&last(1_000, 6_000), limit(0), at(600));
    assert_eq!((ticket.energy_wh, ticket.disputed_wh, ticket.amount_minor), (5_000, 0, 198));
}

#[test]
fn a_running_value_counts_within_the_rated_power_since_the_value_before_spec_3_8a() {
    // 36 kW are 10 Wh a second.
    let mut session = session("s1").start(wh(0), 0, at(100));
    session.accept(wh(100), limit(36_000), at(100)).unwrap();
    assert_eq!(session.accept(wh(200), limit(36_000), at(104)), Err(NotAccepted::Implausible));
    assert_eq!(session.accept(wh(200), limit(36_000), at(105)), Ok(()), "5 s, and as many by which it may be late");
    assert_eq!(session.accept(wh(1_071), limit(36_000), at(106)), Err(NotAccepted::Implausible));
    assert_eq!(session.accept(wh(800), limit(0), at(106)), Ok(()), "where none is set, 400 kW");
}

#[test]
fn a_register_and_a_clock_that_cannot_be_are_not_believed_spec_3_8() {
    let mut session = supplying(1_000, 1_500);
    assert_eq!(session.accept(wh(u64::MAX), limit(0), at(6)), Err(NotAccepted::Implausible));
    let wild = Final { started_at: i64::MIN, ended_at: i64::MAX, ..last(1_000, u64::MAX) };
    let (billed, ticket) = session.bill(&wild, limit(0), at(4_000));
    assert_eq!((ticket.energy_wh, ticket.started_at_ms, ticket.ended_at_ms), (500, 1_000, 4_000_000));
    assert_eq!(billed.discrepancy, 999_999_998_500, "said, and not billed");
    let wild = self::session("s1").start(wh(u64::MAX), i64::MIN, at(4));
    let (billed, ticket) = wild.bill_without_report();
    assert_eq!((ticket.energy_wh, billed.started_at), (0, Some(0)));
}

#[test]
fn energy_past_the_rated_power_is_disputed_and_not_billed_spec_3_8a() {
    // 11 kW for one hour give at most 11 kWh, and for the second that is rounded 3 Wh more.
    let (session, ticket) = session("s1").bill(&last(0, 12_345), limit(11_000), at(3_600));
    assert_eq!((ticket.energy_wh, ticket.disputed_wh), (11_003, 1_342));
    assert_eq!(session.disputed.wh(), ticket.disputed_wh);
    let (_, ticket) = self::session("s1").bill(&last(0, 999_999_000), limit(0), at(3_600));
    assert_eq!(ticket.energy_wh + ticket.disputed_wh, 999_999_000, "400 kW where no rated power is set");
    assert_eq!(ticket.energy_wh, 400_111);
}

#[test]
fn no_more_is_billed_than_was_asked_for_and_a_tolerance_spec_3_8a() {
    let billed = |requested, reported| {
        let session = Session { requested: wh(requested), ..supplying(0, 0) };
        let (_, ticket) = session.bill(&last(0, reported), limit(0), at(3_600));
        (ticket.energy_wh, ticket.disputed_wh)
    };
    assert_eq!(billed(50, 8_000), (150, 7_850));
    assert_eq!(billed(10_000, 10_200), (10_200, 0));
    assert_eq!(billed(10_000, 10_201), (10_200, 1));
    assert_eq!(billed(0, 80_000), (80_000, 0), "until unplugged");
    let unreported = Session { requested: wh(50), ..supplying(0, 400) };
    let (_, ticket) = unreported.bill_without_report();
    assert_eq!((ticket.energy_wh, ticket.disputed_wh, unreported.billable()), (150, 250, wh(150)));
}

#[test]
fn no_clock_of_an_engine_changes_what_is_billed_spec_3_8a() {
    let two_hours = 7_200_000;
    for (started_at, ended_at) in [(1_000, 21_000), (two_hours, two_hours + 20_000), (-two_hours, 5), (two_hours, 9)] {
        let session = session("s1").start(wh(0), started_at, at(1));
        let said = Final { started_at, ended_at, ..last(0, 110) };
        let (_, ticket) = session.bill(&said, limit(22_000), at(21));
        assert_eq!((ticket.energy_wh, ticket.disputed_wh), (110, 0), "{started_at} to {ended_at}");
        assert!(ticket.started_at_ms <= ticket.ended_at_ms && ticket.ended_at_ms <= 21_000);
    }
}

#[test]
fn after_a_stop_that_the_engine_ignores_nothing_more_is_billed_than_could_flow_until_it_spec_3_5_3_8() {
    // 36 kW are 10 Wh a second; stopped after 101 s, and reported half an hour later. A stop may take 5 s.
    let begun = || session("s1").start(wh(0), 1_000, at(4));
    let settling = |reason| begun().settle(reason, at(101), at(101).mono);
    let late = Final { ended_at: 1_801_000, ..last(0, 18_000) };
    let (billed, ticket) = settling(Reason::StoppedByDriver).bill(&late, limit(36_000), at(1_801));
    assert_eq!((ticket.energy_wh, ticket.disputed_wh), (1_070, 16_930));
    assert_eq!(billed.ended_at, Some(1_801_000), "as the engine says");
    for ordered in [Reason::StoppedByOperator, Reason::KeyRevoked, Reason::KeyRenewed, Reason::Removed] {
        assert_eq!(settling(ordered).bill(&late, limit(36_000), at(1_801)).1.energy_wh, 1_070, "{ordered:?}");
    }
    // Nobody ordered an end: the driver's car was charged.
    assert_eq!(settling(Reason::Fault).bill(&late, limit(36_000), at(1_801)).1.energy_wh, 18_000);
}

#[test]
fn a_start_that_central_never_heard_of_is_taken_from_the_final_value() {
    let (_, ticket) = session("s1").bill(&last(700, 900), limit(0), at(4_000));
    assert_eq!((ticket.meter_start_wh, ticket.energy_wh), (700, 200));
}

#[test]
fn a_session_that_is_never_reported_is_billed_at_the_last_accepted_value_spec_3_8() {
    let now = at(100);
    let settling = supplying(10, 60).settle(Reason::Fault, now, now.mono + Duration::from_secs(900));
    let (billed, ticket) = settling.bill_without_report();
    assert_eq!((ticket.energy_wh, ticket.reason()), (50, Reason::SettledWithoutReport));
    let late = billed.late(&last(10, 75)).unwrap();
    assert_eq!((late.discrepancy, late.state), (15, SessionState::Billed));
    assert_eq!(late.late(&last(10, 75)), None, "a repeated report changes nothing");
}

#[test]
fn an_end_that_was_ordered_is_the_tickets_reason_even_without_a_report_spec_3_5() {
    let now = at(100);
    let settling = supplying(10, 60).settle(Reason::KeyRevoked, now, now.mono);
    assert_eq!(settling.bill_without_report().1.reason(), Reason::KeyRevoked);
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
    assert_eq!(supplying(0, 0).bill(&odd, limit(0), at(4_000)).1.reason(), Reason::Fault);
}

#[test]
fn an_end_that_central_did_not_order_is_a_fault_whatever_the_charging_point_calls_it_spec_3_5() {
    let reason = |session: &Session, said| session.bill(&Final { reason: said, ..last(0, 1) }, limit(0), at(4_000)).1;
    for said in [Reason::StoppedByOperator, Reason::Frost, Reason::Removed, Reason::SettledWithoutReport] {
        assert_eq!(reason(&supplying(0, 0), said).reason(), Reason::Fault, "{said:?}");
        let ordered = Session { reason: Reason::StoppedByDriver, ..supplying(0, 0) };
        assert_eq!(reason(&ordered, said).reason(), Reason::StoppedByDriver, "as it was ordered, not {said:?}");
    }
    for said in [Reason::Unplugged, Reason::EnergyReached, Reason::TimeReached, Reason::Fault] {
        assert_eq!(reason(&supplying(0, 0), said).reason(), said);
    }
}
