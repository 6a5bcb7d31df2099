//! From a start to a bill, and what a journal holds (SPEC 3.3 to 3.9, 9).

use super::*;

#[test]
fn the_running_value_is_durable_every_ten_seconds_and_never_runs_backwards_spec_3_8() {
    let mut world = World::supplying();
    world.meter("s1", 1_400);
    assert!(world.take_told().is_empty() && world.store.actions.contains(&Action::MeterRanBackwards));
    let entry = world.store.entries.iter().find(|entry| entry.action == Action::MeterRanBackwards);
    assert_eq!(entry.map(|entry| entry.address.as_str()), Some("192.0.2.1:7"), "its link's");
    assert_eq!(world.session("s1").meter_last.wh(), 1_000);
    world.pass(9_000);
    world.meter("s1", 1_600);
    assert_eq!(world.session("s1").meter_last.wh(), 1_000);
    world.pass(1_000);
    assert_eq!(world.session("s1").meter_last.wh(), 1_600);
}

#[test]
fn a_final_value_that_comes_again_changes_nothing_and_gets_the_first_answer_spec_3_7() {
    let mut world = World::supplying();
    world.ended("s1", 1_000, 2_000, Reason::Unplugged);
    world.take_told();
    world.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(world.take_told(), ["fetch s1", "engine: settled s1", "answer: done"]);
    assert_eq!((world.store.tickets.len(), world.session("s1").discrepancy), (1, 0));
}

#[test]
fn a_final_value_that_cannot_be_stored_is_not_answered_as_done_spec_9() {
    let mut world = World::supplying();
    world.store.fail = Some("gone".into());
    world.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(world.take_told(), ["answer: UNAVAILABLE"]);
    world.store.fail = None;
    world.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(world.ticket("s1").map(|t| t.energy.wh()), Some(1_000));
}

#[test]
fn a_driver_stops_his_own_supply_and_no_other_spec_3_5() {
    let mut world = World::supplying();
    let stop = |driver: &str| Input::StopByDriver {
        session: SessionId::new("s1"),
        driver: driver.parse().unwrap(),
        from: Origin::new("driver", ""),
        reply: Reply::Link { link: LinkNo(3), to: 7 },
    };
    world.input(0, stop("D2"));
    assert_eq!(world.take_told(), ["answer: NOT_FOUND"]);
    world.input(0, stop("D1"));
    assert_eq!(world.take_told(), ["engine: stop s1 STOPPED_BY_DRIVER", "answer: done"]);
    world.ended("s1", 1_000, 1_700, Reason::StoppedByDriver);
    assert_eq!(world.ticket("s1").map(|t| (t.energy.wh(), t.reason)), Some((700, Reason::StoppedByDriver)));
}

#[test]
fn a_stop_unanswered_settles_spec_3_8() {
    let mut world = World::supplying();
    world.order(Order::Stop);
    assert_eq!(world.take_told(), ["engine: stop s1 STOPPED_BY_OPERATOR", "answer: done"]);
    world.pass(5_000);
    assert_eq!(world.session("s1").state, SessionState::Settling);
    assert_eq!(world.session("s1").meter_last.wh(), 1_500, "the last accepted value is shown");
}

#[test]
fn a_stop_that_a_restart_came_between_is_waited_for_anew_spec_3_8() {
    let mut world = World::supplying();
    world.order(Order::EndSession(SessionId::new("s1")));
    let restarted = Record { claim: None, owned: false, ..world.record(0).clone() };
    world.points[0] = ChargePoint::new(restarted, world.now);
    world.monitor_up(LinkNo(8), 1);
    world.healthy(true);
    assert_eq!(world.session("s1").state, SessionState::Supplying);
    world.pass(6_000);
    assert_eq!(world.session("s1").state, SessionState::Settling, "whether or not its engine is ever heard again");
}

#[test]
fn a_stop_is_repeated_to_an_engine_that_comes_back_spec_3_5() {
    let mut world = World::supplying();
    world.order(Order::EndSession(SessionId::new("s1")));
    world.take_told();
    world.started("s1", 1_000);
    assert_eq!(world.take_told(), ["engine: stop s1 STOPPED_BY_OPERATOR", "answer: done"]);
}

#[test]
fn a_lost_engine_link_alone_ends_nothing_spec_3_8() {
    let mut world = World::supplying();
    world.link_down(ENGINE);
    world.pass(3_600_000);
    assert_eq!((world.session("s1").state, world.state(0)), (SessionState::Supplying, State::Supplying));
}

#[test]
fn the_driver_is_told_at_once_that_a_link_is_lost_and_that_it_is_back_spec_2_4() {
    let mut world = World::supplying();
    world.store.fail = Some("gone".into());
    world.link_down(ENGINE);
    assert_eq!(world.take_told(), ["D1: LINK_LOST"], "whatever the disk does");
    world.link_down(MONITOR);
    assert_eq!(world.take_told(), ["D1: LINK_LOST"]);
    world.store.fail = None;
    world.engine_up(LinkNo(20), 1);
    assert_eq!(world.take_told(), ["D1: SUPPLYING"]);
    world.monitor_up(LinkNo(21), 1);
    assert_eq!(world.take_told(), ["D1: SUPPLYING"]);
    world.engine_up(LinkNo(22), 1);
    assert_eq!(world.take_told(), ["close link 20, taken over"], "one that takes over was never lost");
}

#[test]
fn the_driver_of_a_reservation_is_told_of_a_lost_link_too_spec_2_4() {
    let mut world = World::reserved();
    world.link_down(ENGINE);
    let Some((_, Tell::Driver(_, proto::link::v1::down::Body::Step(step)))) = world.tells.last() else {
        panic!("the driver is told")
    };
    assert_eq!(step.detail, "Central does not hear its engine; the reservation stands");
}

#[test]
fn both_links_gone_for_sixty_seconds_settle_and_free_the_driver_spec_3_8() {
    let mut world = World::supplying();
    world.link_down(ENGINE);
    world.link_down(MONITOR);
    world.pass(59_999);
    assert_eq!(world.session("s1").state, SessionState::Supplying);
    world.pass(1);
    assert_eq!(world.session("s1").state, SessionState::Settling);
    assert!(world.record(0).open.is_none());
}

#[test]
fn an_engine_called_dead_settles_at_once_and_its_return_bills_once_spec_3_8() {
    let mut world = World::supplying();
    world.healthy(false);
    assert_eq!(world.take_told(), ["D1: FAULT FAULT", "D1: SETTLING FAULT", "engine: stop s1 FAULT"]);
    world.ended("s1", 1_000, 1_800, Reason::Fault);
    assert_eq!(world.take_told(), ["D1: ticket 800 Wh FAULT", "engine: settled s1", "answer: done"]);
    world.pass(900_000);
    assert_eq!(world.store.tickets.len(), 1);
}

#[test]
fn a_settling_session_is_billed_at_the_last_accepted_value_and_a_late_one_is_a_discrepancy_spec_3_8() {
    let mut world = World::supplying();
    world.healthy(false);
    world.pass(15 * 60_000 - 1);
    assert_eq!(world.store.tickets.len(), 0);
    world.pass(1);
    assert_eq!(world.ticket("s1").map(|t| (t.energy.wh(), t.reason)), Some((500, Reason::SettledWithoutReport)));
    world.take_told();
    world.ended("s1", 1_000, 1_800, Reason::Fault);
    assert_eq!(world.take_told(), ["fetch s1", "engine: settled s1", "answer: done"]);
    assert_eq!(world.session("s1").discrepancy, 300);
    assert_eq!(world.ticket("s1").map(|t| t.energy.wh()), Some(500), "a ticket is never changed");
    assert!(world.store.actions.contains(&Action::Discrepancy));
}

#[test]
fn an_engine_that_returns_to_a_settling_session_is_told_to_stop_spec_3_8() {
    let mut world = World::supplying();
    world.healthy(false);
    world.take_told();
    world.started("s1", 1_000);
    assert_eq!(world.take_told(), ["engine: stop s1 FAULT", "answer: done"]);
}

#[test]
fn a_charging_point_can_supply_again_while_an_old_session_settles_spec_3_8() {
    let mut world = World::supplying();
    world.healthy(false);
    world.healthy(true);
    world.request("s2", "r2");
    world.accept("s2");
    assert_eq!((world.state(0), world.record(0).settling.len()), (State::Reserved, 1));
}

#[test]
fn maintenance_waits_for_the_end_of_a_supply_spec_3_5() {
    let mut world = World::supplying();
    world.order(Order::Maintenance { on: true });
    assert_eq!(world.state(0), State::Supplying);
    world.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(world.state(0), State::OutOfOrder);
}

#[test]
fn a_price_that_changes_during_a_supply_counts_from_the_next_spec_3_6() {
    let mut world = World::supplying();
    world.order(Order::SetPrice(Price::from_e4(9_999)));
    world.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(world.ticket("s1").map(|t| (t.price.e4(), t.amount.minor)), Some((3_950, 40)));
    assert_eq!(world.record(0).price.e4(), 9_999);
}

#[test]
fn a_supply_that_a_released_session_gave_is_stopped_and_counted_as_a_discrepancy() {
    let mut world = World::reserved();
    world.pass(60_000);
    world.take_told();
    world.started("s1", 100);
    assert_eq!(world.take_told(), ["engine: stop s1 RESERVATION_EXPIRED", "answer: done"]);
    world.ended("s1", 100, 103, Reason::Unplugged);
    assert_eq!((world.session("s1").discrepancy, world.store.tickets.len()), (3, 0));
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

fn reports(world: &mut World, held: &[proto::link::v1::JournalSession]) {
    reconcile(held, Reply::None).into_iter().for_each(|input| world.input(0, input));
}

#[test]
fn a_supply_that_began_while_the_database_was_away_does_not_expire_spec_9() {
    let mut world = World::reserved();
    world.pass(40_000);
    world.store.fail = Some("gone".into());
    world.pass(5_000);
    world.started("s1", 1_000);
    assert_eq!(world.take_told(), ["answer: UNAVAILABLE"]);
    assert_eq!(world.state(0), State::Reserved, "what is not durable is not told");
    world.pass(100_000);
    assert!(world.take_told().is_empty());
    world.store.fail = None;
    world.pass(1_000);
    assert_eq!(world.take_told(), ["D1: SUPPLYING"], "before its engine says it again");
    world.started("s1", 1_000);
    assert_eq!(world.take_told(), ["answer: done"]);
    world.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(world.ticket("s1").map(|t| t.energy.wh()), Some(1_000));
    let started = world.store.actions.iter().filter(|action| **action == Action::SupplyStarted);
    assert_eq!(started.count(), 1);
}

#[test]
fn a_supply_that_began_and_ended_while_the_database_was_away_is_billed_spec_9() {
    let mut world = World::reserved();
    world.store.fail = Some("gone".into());
    world.ended("s1", 1_000, 1_900, Reason::Unplugged);
    world.pass(100_000);
    world.store.fail = None;
    world.pass(1_000);
    world.ended("s1", 1_000, 1_900, Reason::Unplugged);
    assert_eq!(world.ticket("s1").map(|t| (t.energy.wh(), t.reason)), Some((900, Reason::Unplugged)));
}

#[test]
fn a_report_of_which_a_part_could_not_be_kept_is_to_be_said_again_spec_9() {
    let mut world = World::supplying();
    let whole = [held("s1", SessionState::Settling, 1_900)];
    let report = |world: &mut World| {
        world.take_told();
        reconcile(&whole, engine_reply()).into_iter().for_each(|input| world.input(0, input));
        world.take_told().last().cloned()
    };
    world.store.fail = Some("gone".into());
    assert_eq!(report(&mut world).as_deref(), Some("answer: UNAVAILABLE"));
    world.store.fail = None;
    assert_eq!(report(&mut world).as_deref(), Some("answer: done"));
    assert_eq!(world.ticket("s1").map(|t| t.energy.wh()), Some(900));
    assert_eq!(report(&mut world).as_deref(), Some("answer: done"));
}

#[test]
fn a_report_from_before_a_supply_began_ends_it_not_spec_3_8() {
    let mut world = World::reserved();
    let (session, reply) = (SessionId::new("s1"), engine_reply());
    let started = Input::Started { session, meter: Energy::from_wh(1_000), at: 1, reply };
    world.points[0].hear(&started, world.now);
    world.input(0, Input::Held { sessions: Vec::new(), reply });
    world.input(0, started);
    assert_eq!(world.state(0), State::Supplying);
}

#[test]
fn an_engine_that_comes_back_without_what_it_had_begun_is_not_still_supplying_spec_3_8() {
    let mut world = World::reserved();
    world.store.fail = Some("gone".into());
    world.started("s1", 1_000);
    world.store.fail = None;
    world.link_down(ENGINE);
    world.engine_up(LinkNo(40), 1);
    reports(&mut world, &[]);
    assert_eq!(world.session("s1").state, SessionState::Settling);
}

#[test]
fn what_follows_a_start_that_could_not_be_stored_is_billed_from_it_spec_3_7() {
    type Then = fn(&mut World);
    let dies: Then = |world| world.healthy(false);
    let ends: Then = |world| world.ended("s1", 1_000, 1_900, Reason::Unplugged);
    let is_stopped: Then = |world| world.order(Order::EndSession(SessionId::new("s1")));
    for then in [dies, ends, is_stopped] {
        let mut world = World::reserved();
        world.store.fail = Some("gone".into());
        world.started("s1", 1_000);
        world.store.fail = None;
        then(&mut world);
        world.ended("s1", 1_000, 1_900, Reason::Fault);
        assert_eq!(world.ticket("s1").map(|t| (t.meter_start.wh(), t.energy.wh())), Some((1_000, 900)));
    }
}

#[test]
fn a_reservation_does_not_expire_while_its_engine_cannot_say_that_it_has_begun_spec_3_8() {
    let back_with = |held: &[proto::link::v1::JournalSession]| {
        let mut world = World::reserved();
        world.link_down(ENGINE);
        world.pass(75_000);
        assert_eq!(world.session("s1").state, SessionState::Reserved);
        world.engine_up(LinkNo(20), 1);
        world.pass(10_000);
        assert_eq!(world.session("s1").state, SessionState::Reserved, "it is here, and has not said it yet");
        reports(&mut world, held);
        world.pass(600_000);
        world.session("s1").state
    };
    assert_eq!(back_with(&[held("s1", SessionState::Supplying, 1_200)]), SessionState::Supplying);
    assert_eq!(back_with(&[]), SessionState::Released);
}

#[test]
fn a_reservation_whose_engine_stays_away_settles_and_is_billed_only_if_it_began_spec_3_8() {
    let lost = || {
        let mut world = World::reserved();
        world.link_down(ENGINE);
        world.pass(119_999);
        assert_eq!(world.session("s1").state, SessionState::Reserved);
        world.pass(1);
        assert_eq!((world.session("s1").state, world.record(0).open.is_none()), (SessionState::Settling, true));
        world.take_told();
        world
    };
    let mut began = lost();
    began.engine_up(LinkNo(20), 1);
    reports(&mut began, &[held("s1", SessionState::Supplying, 1_700)]);
    assert_eq!(began.take_told(), ["engine: stop s1 FAULT"]);
    began.ended("s1", 1_000, 1_700, Reason::StoppedByOperator);
    assert_eq!(began.ticket("s1").map(|t| t.energy.wh()), Some(700));
    let mut waits = lost();
    waits.engine_up(LinkNo(20), 1);
    reports(&mut waits, &[held("s1", SessionState::Reserved, 0)]);
    assert_eq!(waits.take_told(), ["D1: RELEASED RESERVATION_EXPIRED", "engine: release s1 RESERVATION_EXPIRED"]);
    let mut forgot = lost();
    forgot.engine_up(LinkNo(20), 1);
    reports(&mut forgot, &[]);
    let mut silent = lost();
    silent.pass(15 * 60_000);
    for world in [waits, forgot, silent] {
        assert_eq!((world.session("s1").state, world.store.tickets.len()), (SessionState::Released, 0));
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
    };
    let after = |world: fn() -> World, held: &[JournalSession]| {
        let mut world = world();
        reconcile(held, Reply::None).into_iter().for_each(|input| world.input(0, input));
        let told = world.take_told();
        (world.store.sessions.get(&SessionId::new("s1")).map(|s| s.state), told)
    };
    let (state, _) = after(World::reserved, &[held(SessionState::Supplying, 1_200)]);
    assert_eq!(state, Some(SessionState::Supplying), "plugged in while Central was away");
    let (state, told) = after(World::reserved, &[held(SessionState::Settling, 1_200)]);
    assert_eq!(state, Some(SessionState::Billed));
    assert_eq!(told, ["D1: ticket 200 Wh ENERGY_REACHED", "engine: settled s1"]);
    let (state, told) = after(World::reserved, &[]);
    assert_eq!((state, told), (Some(SessionState::Reserved), vec!["engine: supply s1".to_owned()]));
    let (state, _) = after(World::supplying, &[]);
    assert_eq!(state, Some(SessionState::Settling), "the engine has lost it");
    let (state, told) = after(World::ready, &[held(SessionState::Reserved, 0)]);
    assert_eq!((state, told), (None, vec!["engine: release s1 RESERVATION_EXPIRED".to_owned()]));
}
