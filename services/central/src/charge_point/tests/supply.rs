//! From a start to a bill, and what a journal holds (SPEC 3.3 to 3.9, 9).

use super::*;
use crate::origin::{LinkNo, Origin};

#[test]
fn the_running_value_is_durable_every_ten_seconds_and_never_runs_backwards_spec_3_8() {
    let mut harness = PointHarness::supplying();
    harness.meter("s1", 1_400);
    assert!(harness.take_sent().is_empty() && harness.store.actions.contains(&AuditAction::MeterRanBackwards));
    let entry = harness.store.entries.iter().find(|entry| entry.action == AuditAction::MeterRanBackwards);
    assert_eq!(entry.map(|entry| entry.address.as_str()), Some("192.0.2.1:7"), "its link's");
    assert_eq!(harness.session("s1").meter_last.wh(), 1_000);
    harness.pass(9_000);
    harness.meter("s1", 1_600);
    assert_eq!(harness.session("s1").meter_last.wh(), 1_000);
    harness.pass(1_000);
    assert_eq!(harness.session("s1").meter_last.wh(), 1_600);
}

#[test]
fn a_final_value_that_comes_again_changes_nothing_and_gets_the_first_answer_spec_3_7() {
    let mut harness = PointHarness::supplying();
    harness.ended("s1", 1_000, 2_000, Reason::Unplugged);
    harness.take_sent();
    harness.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(harness.take_sent(), ["fetch s1", "engine: settled s1", "answer: done"]);
    assert_eq!((harness.store.tickets.len(), harness.session("s1").discrepancy), (1, 0));
}

#[test]
fn a_final_value_that_cannot_be_stored_is_not_answered_as_done_spec_9() {
    let mut harness = PointHarness::supplying();
    harness.store.fail = Some("gone".into());
    harness.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(harness.take_sent(), ["answer: UNAVAILABLE"]);
    harness.store.fail = None;
    harness.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(harness.ticket("s1").map(|t| t.energy_wh), Some(1_000));
}

#[test]
fn a_driver_stops_his_own_supply_and_no_other_spec_3_5() {
    let mut harness = PointHarness::supplying();
    let stop = |driver: &str| PointInput::StopByDriver {
        session: SessionId::new("s1"),
        driver: driver.parse().unwrap(),
        from: Origin::new("driver", ""),
        reply: Reply::Link { link: LinkNo(3), to: 7 },
    };
    harness.input(0, stop("D2"));
    assert_eq!(harness.take_sent(), ["answer: NOT_FOUND"]);
    harness.input(0, stop("D1"));
    assert_eq!(harness.take_sent(), ["engine: stop s1 STOPPED_BY_DRIVER", "answer: done"]);
    harness.ended("s1", 1_000, 1_700, Reason::StoppedByDriver);
    assert_eq!(harness.ticket("s1").map(|t| (t.energy_wh, t.reason())), Some((700, Reason::StoppedByDriver)));
}

#[test]
fn a_stop_unanswered_settles_spec_3_8() {
    let mut harness = PointHarness::supplying();
    harness.order(PointOrder::Stop);
    assert_eq!(harness.take_sent(), ["engine: stop s1 STOPPED_BY_OPERATOR", "answer: done"]);
    harness.pass(5_000);
    assert_eq!(harness.session("s1").state, SessionState::Settling);
    assert_eq!(harness.session("s1").meter_last.wh(), 1_500, "the last accepted value is shown");
}

#[test]
fn a_stop_that_a_restart_came_between_is_waited_for_anew_spec_3_8() {
    let mut harness = PointHarness::supplying();
    harness.order(PointOrder::EndSession(SessionId::new("s1")));
    let restarted = Record { claimed_by: None, owned: false, ..harness.record(0).clone() };
    harness.points[0] = ChargePoint::new(restarted, harness.now);
    harness.monitor_up(LinkNo(8), 1);
    harness.healthy(true);
    assert_eq!(harness.session("s1").state, SessionState::Supplying);
    harness.pass(6_000);
    assert_eq!(harness.session("s1").state, SessionState::Settling, "whether or not its engine is ever heard again");
}

#[test]
fn a_stop_is_repeated_to_an_engine_that_comes_back_spec_3_5() {
    let mut harness = PointHarness::supplying();
    harness.order(PointOrder::EndSession(SessionId::new("s1")));
    harness.take_sent();
    harness.started("s1", 1_000);
    assert_eq!(harness.take_sent(), ["engine: stop s1 STOPPED_BY_OPERATOR", "answer: done"]);
}

#[test]
fn a_lost_engine_link_alone_ends_nothing_spec_3_8() {
    let mut harness = PointHarness::supplying();
    harness.link_down(ENGINE);
    harness.pass(3_600_000);
    assert_eq!((harness.session("s1").state, harness.state(0)), (SessionState::Supplying, State::Supplying));
}

#[test]
fn the_driver_is_told_at_once_that_a_link_is_lost_and_that_it_is_back_spec_2_4() {
    let mut harness = PointHarness::supplying();
    harness.store.fail = Some("gone".into());
    harness.link_down(ENGINE);
    assert_eq!(harness.take_sent(), ["D1: LINK_LOST"], "whatever the disk does");
    harness.link_down(MONITOR);
    assert_eq!(harness.take_sent(), ["D1: LINK_LOST"]);
    harness.store.fail = None;
    harness.engine_up(LinkNo(20), 1);
    assert_eq!(harness.take_sent(), ["D1: SUPPLYING"]);
    harness.monitor_up(LinkNo(21), 1);
    assert_eq!(harness.take_sent(), ["D1: SUPPLYING"]);
    harness.engine_up(LinkNo(22), 1);
    assert_eq!(harness.take_sent(), ["close link 20, taken over"], "one that takes over was never lost");
}

#[test]
fn the_driver_of_a_reservation_is_told_of_a_lost_link_too_spec_2_4() {
    let mut harness = PointHarness::reserved();
    harness.link_down(ENGINE);
    let Some((_, Effect::Driver(_, proto::link::v1::down::Body::Step(step)))) = harness.effects.last() else {
        panic!("the driver is told")
    };
    assert_eq!(step.detail, "Central does not hear its engine; the reservation stands");
}

#[test]
fn both_links_gone_for_sixty_seconds_settle_and_free_the_driver_spec_3_8() {
    let mut harness = PointHarness::supplying();
    harness.link_down(ENGINE);
    harness.link_down(MONITOR);
    harness.pass(59_999);
    assert_eq!(harness.session("s1").state, SessionState::Supplying);
    harness.pass(1);
    assert_eq!(harness.session("s1").state, SessionState::Settling);
    assert!(harness.record(0).open.is_none());
}

#[test]
fn an_engine_called_dead_settles_at_once_and_its_return_bills_once_spec_3_8() {
    let mut harness = PointHarness::supplying();
    harness.healthy(false);
    assert_eq!(harness.take_sent(), ["D1: FAULT FAULT", "D1: SETTLING FAULT", "engine: stop s1 FAULT"]);
    harness.ended("s1", 1_000, 1_800, Reason::Fault);
    assert_eq!(harness.take_sent(), ["D1: ticket 800 Wh FAULT", "engine: settled s1", "answer: done"]);
    harness.pass(900_000);
    assert_eq!(harness.store.tickets.len(), 1);
}

#[test]
fn a_settling_session_is_billed_at_the_last_accepted_value_and_a_late_one_is_a_discrepancy_spec_3_8() {
    let mut harness = PointHarness::supplying();
    harness.healthy(false);
    harness.pass(15 * 60_000 - 1);
    assert_eq!(harness.store.tickets.len(), 0);
    harness.pass(1);
    assert_eq!(harness.ticket("s1").map(|t| (t.energy_wh, t.reason())), Some((500, Reason::SettledWithoutReport)));
    harness.take_sent();
    harness.ended("s1", 1_000, 1_800, Reason::Fault);
    assert_eq!(harness.take_sent(), ["fetch s1", "engine: settled s1", "answer: done"]);
    assert_eq!(harness.session("s1").discrepancy, 300);
    assert_eq!(harness.ticket("s1").map(|t| t.energy_wh), Some(500), "a ticket is never changed");
    assert!(harness.store.actions.contains(&AuditAction::Discrepancy));
}

#[test]
fn an_engine_that_returns_to_a_settling_session_is_told_to_stop_spec_3_8() {
    let mut harness = PointHarness::supplying();
    harness.healthy(false);
    harness.take_sent();
    harness.started("s1", 1_000);
    assert_eq!(harness.take_sent(), ["engine: stop s1 FAULT", "answer: done"]);
}

#[test]
fn a_charging_point_can_supply_again_while_an_old_session_settles_spec_3_8() {
    let mut harness = PointHarness::supplying();
    harness.healthy(false);
    harness.healthy(true);
    harness.request("s2", "r2");
    harness.accept("s2");
    assert_eq!((harness.state(0), harness.record(0).settling.len()), (State::Reserved, 1));
}

#[test]
fn maintenance_waits_for_the_end_of_a_supply_spec_3_5() {
    let mut harness = PointHarness::supplying();
    harness.order(PointOrder::Maintenance { on: true });
    assert_eq!(harness.state(0), State::Supplying);
    harness.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(harness.state(0), State::OutOfOrder);
}

#[test]
fn a_price_that_changes_during_a_supply_counts_from_the_next_spec_3_6() {
    let mut harness = PointHarness::supplying();
    harness.order(PointOrder::SetPrice(Price::from_e4(9_999)));
    harness.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(harness.ticket("s1").map(|t| (t.price_e4, t.amount_minor)), Some((3_950, 40)));
    assert_eq!(harness.record(0).price.e4(), 9_999);
}

#[test]
fn a_supply_that_a_released_session_gave_is_stopped_and_counted_as_a_discrepancy() {
    let mut harness = PointHarness::reserved();
    harness.pass(60_000);
    harness.take_sent();
    harness.started("s1", 100);
    assert_eq!(harness.take_sent(), ["engine: stop s1 RESERVATION_EXPIRED", "answer: done"]);
    harness.ended("s1", 100, 103, Reason::Unplugged);
    assert_eq!((harness.session("s1").discrepancy, harness.store.tickets.len()), (3, 0));
}

fn held(session: &str, state: SessionState, meter: u64) -> proto::link::v1::JournalSession {
    proto::link::v1::JournalSession {
        session_id: session.into(),
        state: state.into(),
        meter_start_wh: 1_000,
        meter_wh: meter,
        started_at_ms: 1,
        ..Default::default()
    }
}

fn reports(harness: &mut PointHarness, held: &[proto::link::v1::JournalSession]) {
    reconcile(held, |_| None, Reply::None).into_iter().for_each(|input| harness.input(0, input));
}

#[test]
fn a_supply_that_began_while_the_database_was_away_does_not_expire_spec_9() {
    let mut harness = PointHarness::reserved();
    harness.pass(40_000);
    harness.store.fail = Some("gone".into());
    harness.pass(5_000);
    harness.started("s1", 1_000);
    assert_eq!(harness.take_sent(), ["answer: UNAVAILABLE"]);
    assert_eq!(harness.state(0), State::Reserved, "what is not durable is not told");
    harness.pass(100_000);
    assert!(harness.take_sent().is_empty());
    harness.store.fail = None;
    harness.pass(1_000);
    assert_eq!(harness.take_sent(), ["D1: SUPPLYING"], "before its engine says it again");
    harness.started("s1", 1_000);
    assert_eq!(harness.take_sent(), ["answer: done"]);
    harness.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(harness.ticket("s1").map(|t| t.energy_wh), Some(1_000));
    let started = harness.store.actions.iter().filter(|action| **action == AuditAction::SupplyStarted);
    assert_eq!(started.count(), 1);
}

#[test]
fn a_supply_that_began_and_ended_while_the_database_was_away_is_billed_spec_9() {
    let mut harness = PointHarness::reserved();
    harness.store.fail = Some("gone".into());
    harness.ended("s1", 1_000, 1_900, Reason::Unplugged);
    harness.pass(100_000);
    harness.store.fail = None;
    harness.pass(1_000);
    harness.ended("s1", 1_000, 1_900, Reason::Unplugged);
    assert_eq!(harness.ticket("s1").map(|t| (t.energy_wh, t.reason())), Some((900, Reason::Unplugged)));
}

#[test]
fn a_report_of_which_a_part_could_not_be_kept_is_to_be_said_again_spec_9() {
    let mut harness = PointHarness::supplying();
    let whole = [held("s1", SessionState::Settling, 1_900)];
    let report = |harness: &mut PointHarness| {
        harness.take_sent();
        reconcile(&whole, |_| None, engine_reply()).into_iter().for_each(|input| harness.input(0, input));
        harness.take_sent().last().cloned()
    };
    harness.store.fail = Some("gone".into());
    assert_eq!(report(&mut harness).as_deref(), Some("answer: UNAVAILABLE"));
    harness.store.fail = None;
    assert_eq!(report(&mut harness).as_deref(), Some("answer: done"));
    assert_eq!(harness.ticket("s1").map(|t| t.energy_wh), Some(900));
    assert_eq!(report(&mut harness).as_deref(), Some("answer: done"));
}

#[test]
fn a_report_from_before_a_supply_began_ends_it_not_spec_3_8() {
    let mut harness = PointHarness::reserved();
    let (session, reply) = (SessionId::new("s1"), engine_reply());
    let started = PointInput::Started { session, meter: Energy::from_wh(1_000), at: 1, reply };
    harness.points[0].observe_early(&started, harness.now);
    harness.input(0, PointInput::JournalReport { sessions: Vec::new(), reply });
    harness.input(0, started);
    assert_eq!(harness.state(0), State::Supplying);
}

#[test]
fn an_engine_that_comes_back_without_what_it_had_begun_is_not_still_supplying_spec_3_8() {
    let mut harness = PointHarness::reserved();
    harness.store.fail = Some("gone".into());
    harness.started("s1", 1_000);
    harness.store.fail = None;
    harness.link_down(ENGINE);
    harness.engine_up(LinkNo(40), 1);
    reports(&mut harness, &[]);
    assert_eq!(harness.session("s1").state, SessionState::Settling);
}

#[test]
fn what_follows_a_start_that_could_not_be_stored_is_billed_from_it_spec_3_7() {
    type Then = fn(&mut PointHarness);
    let dies: Then = |harness| harness.healthy(false);
    let ends: Then = |harness| harness.ended("s1", 1_000, 1_900, Reason::Unplugged);
    let is_stopped: Then = |harness| harness.order(PointOrder::EndSession(SessionId::new("s1")));
    for then in [dies, ends, is_stopped] {
        let mut harness = PointHarness::reserved();
        harness.store.fail = Some("gone".into());
        harness.started("s1", 1_000);
        harness.store.fail = None;
        then(&mut harness);
        harness.ended("s1", 1_000, 1_900, Reason::Fault);
        assert_eq!(harness.ticket("s1").map(|t| (t.meter_start_wh, t.energy_wh)), Some((1_000, 900)));
    }
}

#[test]
fn a_reservation_does_not_expire_while_its_engine_cannot_say_that_it_has_begun_spec_3_8() {
    let back_with = |held: &[proto::link::v1::JournalSession]| {
        let mut harness = PointHarness::reserved();
        harness.link_down(ENGINE);
        harness.pass(75_000);
        assert_eq!(harness.session("s1").state, SessionState::Reserved);
        harness.engine_up(LinkNo(20), 1);
        harness.pass(10_000);
        assert_eq!(harness.session("s1").state, SessionState::Reserved, "it is here, and has not said it yet");
        reports(&mut harness, held);
        harness.pass(600_000);
        harness.session("s1").state
    };
    assert_eq!(back_with(&[held("s1", SessionState::Supplying, 1_200)]), SessionState::Supplying);
    assert_eq!(back_with(&[]), SessionState::Released);
}

#[test]
fn a_reservation_whose_engine_stays_away_settles_and_is_billed_only_if_it_began_spec_3_8() {
    let lost = || {
        let mut harness = PointHarness::reserved();
        harness.link_down(ENGINE);
        harness.pass(119_999);
        assert_eq!(harness.session("s1").state, SessionState::Reserved);
        harness.pass(1);
        assert_eq!((harness.session("s1").state, harness.record(0).open.is_none()), (SessionState::Settling, true));
        harness.take_sent();
        harness
    };
    let mut began = lost();
    began.engine_up(LinkNo(20), 1);
    reports(&mut began, &[held("s1", SessionState::Supplying, 1_700)]);
    assert_eq!(began.take_sent(), ["engine: stop s1 FAULT"]);
    began.ended("s1", 1_000, 1_700, Reason::StoppedByOperator);
    assert_eq!(began.ticket("s1").map(|t| t.energy_wh), Some(700));
    let mut waits = lost();
    waits.engine_up(LinkNo(20), 1);
    reports(&mut waits, &[held("s1", SessionState::Reserved, 0)]);
    assert_eq!(waits.take_sent(), ["D1: RELEASED RESERVATION_EXPIRED", "engine: release s1 RESERVATION_EXPIRED"]);
    let mut forgot = lost();
    forgot.engine_up(LinkNo(20), 1);
    reports(&mut forgot, &[]);
    let mut silent = lost();
    silent.pass(15 * 60_000);
    for harness in [waits, forgot, silent] {
        assert_eq!((harness.session("s1").state, harness.store.tickets.len()), (SessionState::Released, 0));
    }
}

#[test]
fn what_the_journal_holds_is_reconciled_after_a_restart_spec_9() {
    use proto::link::v1::JournalSession;
    let held = |state: SessionState, end| JournalSession {
        session_id: "s1".into(),
        state: state.into(),
        meter_start_wh: 1_000,
        meter_wh: end,
        reason: Reason::EnergyReached.into(),
        started_at_ms: 1,
        ended_at_ms: 2,
        ..JournalSession::default()
    };
    let after = |harness: fn() -> PointHarness, held: &[JournalSession]| {
        let mut harness = harness();
        reconcile(held, |_| None, Reply::None).into_iter().for_each(|input| harness.input(0, input));
        let told = harness.take_sent();
        (harness.store.sessions.get(&SessionId::new("s1")).map(|s| s.state), told)
    };
    let (state, _) = after(PointHarness::reserved, &[held(SessionState::Supplying, 1_200)]);
    assert_eq!(state, Some(SessionState::Supplying), "plugged in while Central was away");
    let (state, told) = after(PointHarness::reserved, &[held(SessionState::Settling, 1_200)]);
    assert_eq!(state, Some(SessionState::Billed));
    assert_eq!(told, ["D1: ticket 200 Wh ENERGY_REACHED", "engine: settled s1"]);
    let (state, told) = after(PointHarness::reserved, &[]);
    assert_eq!((state, told), (Some(SessionState::Reserved), vec!["engine: supply s1".to_owned()]));
    let (state, _) = after(PointHarness::supplying, &[]);
    assert_eq!(state, Some(SessionState::Settling), "the engine has lost it");
    let (state, told) = after(PointHarness::ready, &[held(SessionState::Reserved, 0)]);
    assert_eq!((state, told), (None, vec!["engine: release s1 RESERVATION_EXPIRED".to_owned()]));
}

#[test]
fn an_end_that_nobody_ordered_is_audited_as_the_charging_point_calls_it_spec_3_5() {
    let mut harness = PointHarness::supplying();
    harness.ended("s1", 1_000, 1_700, Reason::Frost);
    assert_eq!(harness.ticket("s1").map(|t| t.reason()), Some(Reason::Fault));
    let entry = harness.store.entries.iter().find(|entry| entry.action == AuditAction::EndNotOrdered).unwrap();
    assert!(entry.parameters.contains(&("said_by_charging_point", "FROST".to_owned())), "{entry:?}");
    let mut ordered = PointHarness::supplying();
    ordered.order(PointOrder::EndSession(SessionId::new("s1")));
    ordered.ended("s1", 1_000, 1_700, Reason::StoppedByOperator);
    assert_eq!(ordered.ticket("s1").map(|t| t.reason()), Some(Reason::StoppedByOperator));
    assert!(!ordered.store.actions.contains(&AuditAction::EndNotOrdered));
}
