//! The rules of SPEC 2 to 4 and 9 as traces: what comes in, and exactly what is told.

use std::sync::Arc;

use proto::{
    Energy, Price,
    link::v1::{Cause, KeyState, Part, Reason, SessionState, State},
};
use wire::LinkKey;

use super::{world::*, *};
use crate::audit::Action;

fn material() -> Arc<LinkKey> {
    Arc::new(LinkKey::from_bytes([9; 32]))
}

mod state {
    use super::*;

    #[test]
    fn a_known_charging_point_is_disconnected_until_it_reports_spec_2_2() {
        let mut world = World::new(1);
        assert_eq!(world.state(0), State::Disconnected);
        world.monitor_up(MONITOR, 1);
        world.engine_up(ENGINE, 1);
        assert_eq!(world.state(0), State::Disconnected, "its monitor has not said how the engine is");
        world.healthy(true);
        assert_eq!(world.state(0), State::Available);
    }

    #[test]
    fn the_truth_table_of_monitor_and_engine_spec_2_3() {
        let mut world = World::ready();
        assert_eq!(world.state(0), State::Available);
        world.healthy(false);
        assert_eq!(world.state(0), State::Broken);
        world.link_down(MONITOR);
        assert_eq!(world.state(0), State::Disconnected, "whatever the engine does");
    }

    #[test]
    fn ending_one_cause_reveals_the_next_spec_2_1() {
        let mut world = World::ready();
        world.order(Order::Stop { reason: "works".into() });
        world.healthy(false);
        assert_eq!(world.state(0), State::Broken);
        world.healthy(true);
        assert_eq!(world.state(0), State::OutOfOrder);
        world.order(Order::Maintenance { on: true, reason: "".into() });
        world.order(Order::Resume);
        assert_eq!(world.state(0), State::OutOfOrder, "maintenance is left");
        world.order(Order::Maintenance { on: false, reason: "".into() });
        assert_eq!(world.state(0), State::Available);
    }

    #[test]
    fn an_idle_engine_that_does_not_reach_central_is_shown_as_broken_after_its_grace_spec_2_2() {
        let mut world = World::ready();
        world.link_down(ENGINE);
        assert_eq!(world.state(0), State::Available);
        world.pass(2_000);
        assert_eq!(world.state(0), State::Broken);
    }

    #[test]
    fn a_supply_without_its_monitor_is_grey_and_still_shows_its_energy_spec_2_2() {
        let mut world = World::supplying();
        world.link_down(MONITOR);
        let view = world.points[0].view(&world.settings, world.now);
        assert_eq!((view.state(), view.energy_wh, view.amount_minor), (State::Disconnected, 500, 20));
        assert_eq!(view.driver_id, "D1");
    }

    #[test]
    fn several_causes_are_all_listed_spec_2_1() {
        let mut world = World::ready();
        world.order(Order::Stop { reason: "".into() });
        world.order(Order::Renew);
        assert_eq!(world.points[0].causes(&world.settings, world.now), [Cause::OperatorStop, Cause::NoKey]);
    }
}

mod request {
    use super::*;

    #[test]
    fn a_supply_goes_from_request_to_ticket_spec_3() {
        let mut world = World::ready();
        world.request("s1", "r1");
        assert_eq!(world.take_told(), ["D1: RECEIVED", "D1: ASKING", "engine: ask s1"]);
        world.accept("s1");
        assert_eq!(world.take_told(), ["engine: supply s1", "D1: AUTHORISED", "answer: done"]);
        assert_eq!(world.state(0), State::Reserved);
        world.started("s1", 1_000);
        assert_eq!(world.take_told(), ["D1: SUPPLYING", "answer: done"]);
        world.meter("s1", 2_000);
        assert_eq!(world.take_told(), ["D1: running 1000 Wh 40 EUR"]);
        assert_eq!(world.state(0), State::Supplying);
        world.ended("s1", 1_000, 2_000, Reason::Unplugged);
        assert_eq!(world.take_told(), ["D1: ticket 1000 Wh UNPLUGGED", "engine: settled s1", "answer: done"]);
        assert_eq!((world.state(0), world.session("s1").state), (State::Available, SessionState::Billed));
    }

    #[test]
    fn the_charging_point_itself_may_refuse_spec_3_2() {
        let mut world = World::ready();
        world.request("s1", "r1");
        world.take_told();
        world.input(0, Input::AskAnswer { session: SessionId::new("s1"), accepted: false, detail: "no".into() });
        assert_eq!(world.take_told(), ["D1: REFUSED REFUSED_BY_CHARGING_POINT", "answer: REFUSED_BY_CHARGING_POINT"]);
        assert!(world.store.sessions.is_empty());
    }

    #[test]
    fn each_cause_refuses_with_its_reason_spec_3_2() {
        let refusal = |prepare: &dyn Fn(&mut World)| {
            let mut world = World::ready();
            prepare(&mut world);
            world.take_told();
            world.input(0, Input::Request(super::world::request("D2", "s9", "r9")));
            world.take_told().pop().unwrap()
        };
        assert_eq!(refusal(&|w| w.link_down(MONITOR)), "answer: DISCONNECTED");
        assert_eq!(refusal(&|w| w.healthy(false)), "answer: BROKEN");
        assert_eq!(refusal(&|w| w.order(Order::Stop { reason: "".into() })), "answer: OUT_OF_ORDER");
        assert_eq!(refusal(&|w| w.order(Order::Renew)), "answer: OUT_OF_ORDER");
        assert_eq!(refusal(&|w| w.request("s1", "r1")), "answer: RESERVED");
        assert_eq!(
            refusal(&|w| {
                w.request("s1", "r1");
                w.accept("s1");
            }),
            "answer: RESERVED"
        );
        assert_eq!(
            refusal(&|w| {
                w.request("s1", "r1");
                w.accept("s1");
                w.started("s1", 0);
            }),
            "answer: OCCUPIED"
        );
    }

    #[test]
    fn an_unknown_or_busy_driver_is_refused_spec_3_2() {
        let mut world = World::ready();
        world.input(0, Input::Request(Request { known: false, ..super::world::request("X", "s1", "r1") }));
        assert_eq!(world.take_told(), ["answer: UNKNOWN_DRIVER"]);
        world.input(0, Input::Request(Request { busy: true, ..super::world::request("D1", "s2", "r2") }));
        assert_eq!(world.take_told(), ["D1: REFUSED DRIVER_BUSY", "answer: DRIVER_BUSY"]);
    }

    #[test]
    fn a_driver_in_a_session_elsewhere_is_refused_by_the_store_and_the_engine_released_spec_3_2() {
        let mut world = World::ready();
        let elsewhere = Session { charging_point: "CP9".parse().unwrap(), ..crate::testing::session("s0") };
        world.store.sessions.insert(elsewhere.id.clone(), elsewhere);
        world.request("s1", "r1");
        world.take_told();
        world.accept("s1");
        assert_eq!(
            world.take_told(),
            ["engine: release s1 DRIVER_BUSY", "D1: REFUSED DRIVER_BUSY", "answer: DRIVER_BUSY"]
        );
        assert_eq!(world.state(0), State::Available);
    }

    #[test]
    fn a_request_sent_again_gets_the_first_answer_spec_3_2() {
        let mut world = World::ready();
        world.request("s1", "r1");
        world.request("s2", "r1");
        world.take_told();
        world.accept("s1");
        world.take_told();
        world.request("s3", "r1");
        assert_eq!(world.take_told(), ["engine: supply s1", "D1: AUTHORISED", "answer: done"], "while it is open");
        world.started("s1", 0);
        world.ended("s1", 0, 10, Reason::Unplugged);
        world.take_told();
        world.request("s4", "r1");
        world.accept("s4");
        assert_eq!(
            world.take_told()[3..],
            ["engine: release s4 NONE", "D1: AUTHORISED", "answer: done"],
            "the first answer, and no second session"
        );
        assert_eq!(world.store.sessions.len(), 1);
    }

    #[test]
    fn an_engine_that_does_not_answer_is_given_up_spec_3_2() {
        let mut world = World::ready();
        world.request("s1", "r1");
        world.take_told();
        world.pass(5_000);
        assert_eq!(world.take_told(), ["engine: release s1 NO_ANSWER", "D1: REFUSED NO_ANSWER", "answer: NO_ANSWER"]);
    }

    #[test]
    fn an_engine_that_comes_back_meanwhile_is_asked_again() {
        let mut world = World::ready();
        world.link_down(ENGINE);
        world.request("s1", "r1");
        world.take_told();
        world.engine_up(LinkNo(7), 1);
        assert_eq!(world.take_told(), ["engine: ask s1"]);
    }

    #[test]
    fn a_reservation_expires_after_sixty_seconds_with_no_ticket_spec_2_2() {
        let mut world = World::reserved();
        world.pass(59_999);
        assert_eq!(world.state(0), State::Reserved);
        world.pass(1);
        assert_eq!(world.take_told(), ["D1: RELEASED RESERVATION_EXPIRED", "engine: release s1 RESERVATION_EXPIRED"]);
        assert_eq!((world.session("s1").state, world.store.tickets.len()), (SessionState::Released, 0));
    }

    #[test]
    fn a_stop_or_a_fault_while_reserved_releases_it_with_no_ticket_spec_3_2() {
        let mut stopped = World::reserved();
        stopped.order(Order::Stop { reason: "".into() });
        assert_eq!(stopped.session("s1").reason, Reason::StoppedByOperator);
        let mut broken = World::reserved();
        broken.healthy(false);
        assert_eq!(broken.session("s1").reason, Reason::Fault);
        for world in [stopped, broken] {
            assert_eq!((world.session("s1").state, world.store.tickets.len()), (SessionState::Released, 0));
        }
    }

    #[test]
    fn a_manual_supply_on_its_own_account_needs_nobodys_word_spec_3_1() {
        let mut world = World::ready();
        let own = Request { driver: None, manual: true, ..super::world::request("D1", "s1", "m1") };
        world.input(0, Input::Request(own));
        assert_eq!(world.take_told(), ["engine: supply s1", "answer: done"]);
        assert_eq!(world.session("s1").driver, None);
    }

    #[test]
    fn a_manual_supply_for_a_named_driver_waits_for_his_word_spec_3_1() {
        let mut world = World::ready();
        let named = Request { manual: true, ..super::world::request("D1", "s1", "m1") };
        world.input(0, Input::Request(named.clone()));
        assert_eq!(world.take_told(), ["D1: confirm s1?"]);
        assert_eq!(world.state(0), State::Available, "nothing is reserved yet");
        let word = |session: &str, driver: &str, accepted| Input::Confirmed {
            session: SessionId::new(session),
            driver: driver.parse().unwrap(),
            accepted,
            reply: Reply::Link { link: LinkNo(3), to: 6 },
        };
        world.input(0, word("s1", "D2", true));
        assert_eq!(world.take_told(), ["answer: NOT_FOUND"], "nobody spends another's money");
        world.input(0, word("s1", "D1", true));
        assert_eq!(world.take_told(), ["answer: done", "engine: supply s1", "D1: AUTHORISED", "answer: done"]);

        let mut refused = World::ready();
        refused.input(0, Input::Request(named.clone()));
        refused.input(0, word("s1", "D1", false));
        assert_eq!(refused.take_told()[1..], ["answer: done", "D1: REFUSED NOT_CONFIRMED", "answer: NOT_CONFIRMED"]);

        let mut silent = World::ready();
        silent.input(0, Input::Request(named));
        silent.pass(60_000);
        assert_eq!(silent.take_told()[1..], ["D1: REFUSED NOT_CONFIRMED", "answer: NOT_CONFIRMED"]);
    }

    #[test]
    fn what_cannot_be_made_durable_is_refused_in_words_spec_9() {
        let mut world = World::ready();
        world.request("s1", "r1");
        world.take_told();
        world.store.fail = Some("disk full".into());
        world.accept("s1");
        assert_eq!(
            world.take_told(),
            ["engine: release s1 UNAVAILABLE", "D1: REFUSED UNAVAILABLE", "answer: UNAVAILABLE"]
        );
        world.store.fail = None;
        world.request("s2", "r1");
        world.accept("s2");
        assert_eq!(world.state(0), State::Reserved, "it was no durable answer, so the request may come again");
    }
}

mod supply {
    use super::*;

    #[test]
    fn the_running_value_is_durable_every_ten_seconds_and_never_runs_backwards_spec_3_8() {
        let mut world = World::supplying();
        world.meter("s1", 1_400);
        assert!(world.take_told().is_empty() && world.store.actions.contains(&Action::MeterRanBackwards));
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
        world.order(Order::Stop { reason: "".into() });
        assert_eq!(world.take_told(), ["engine: stop s1 STOPPED_BY_OPERATOR", "answer: done"]);
        world.pass(5_000);
        assert_eq!(world.session("s1").state, SessionState::Settling);
        assert_eq!(world.session("s1").meter_last.wh(), 1_500, "the last accepted value is shown");
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
        world.order(Order::Maintenance { on: true, reason: "".into() });
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

    #[test]
    fn what_the_journal_holds_is_reconciled_after_a_restart_spec_9() {
        use proto::link::v1::HeldSession;
        let held = |state: SessionState, end| HeldSession {
            session_id: "s1".into(),
            state: state.into(),
            meter_start_wh: 1_000,
            meter_wh: end,
            reason: Reason::EnergyReached.into(),
            started_at_ms: 1,
            ended_at_ms: 2,
        };
        let after = |world: fn() -> World, held: &[HeldSession]| {
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
}

mod links {
    use super::*;

    #[test]
    fn the_newest_proven_monitor_link_owns_the_charging_point_and_epochs_rise_spec_4_9() {
        let mut world = World::ready();
        let before = world.record(0).epoch;
        world.monitor_up(LinkNo(8), 1);
        assert_eq!(world.take_told(), ["close link 1"]);
        assert_eq!(world.record(0).epoch, before + 1);
        world.link_down(MONITOR);
        assert_eq!(world.state(0), State::Available, "a late close of the old link does nothing");
    }

    #[test]
    fn a_charging_point_that_has_obeyed_a_higher_epoch_raises_an_alarm_spec_10_5() {
        let mut world = World::new(1);
        let (part, from, highest_epoch) = (Part::Monitor, "".into(), u64::MAX);
        world.sense(0, Sign::LinkUp { link: MONITOR, part, key_no: 1, from, highest_epoch });
        assert!(world.take_told().contains(&"alarm".to_owned()));
    }

    #[test]
    fn the_first_write_of_a_process_claims_the_row_spec_4_9() {
        let mut world = World::new(1);
        let before = world.record(0).epoch;
        world.order(Order::SetRatedPower(1));
        assert_eq!(world.record(0).epoch, before + 1, "so that a zombie of before can write no more");
        world.order(Order::SetRatedPower(2));
        assert_eq!(world.record(0).epoch, before + 1);
    }

    #[test]
    fn three_takeovers_of_a_live_link_hold_the_charging_point_until_released_spec_4_9() {
        let mut world = World::ready();
        for link in 10..12 {
            world.monitor_up(LinkNo(link), 1);
            assert_eq!(world.state(0), State::Available);
        }
        world.monitor_up(LinkNo(12), 1);
        assert_eq!(world.state(0), State::OutOfOrder);
        assert!(world.take_told().contains(&"alarm".to_owned()));
        world.order(Order::Release);
        assert_eq!(world.state(0), State::Available);
    }

    #[test]
    fn rotations_and_reconnects_are_no_takeovers_spec_4_9() {
        let mut world = World::ready();
        for no in 2..8 {
            world.order(Order::Rotate { material: material() });
            world.monitor_up(LinkNo(10 * no), no);
            world.engine_up(LinkNo(10 * no + 1), no);
        }
        for link in 200..210 {
            let old = world.points[0].signs.monitor.clone().unwrap().link;
            world.link_down(old);
            world.monitor_up(LinkNo(link), 7);
        }
        world.healthy(true);
        assert_eq!(world.state(0), State::Available);
    }

    #[test]
    fn messages_of_an_old_engine_link_are_not_heard_spec_4_9() {
        let mut world = World::supplying();
        world.engine_up(LinkNo(20), 1);
        world.meter("s1", 9_999);
        assert_eq!(world.points[0].running().map(|s| s.meter_last.wh()), Some(1_500));
    }

    #[test]
    fn links_up_and_down_faults_and_recoveries_are_audited_spec_8_1() {
        let mut world = World::ready();
        world.healthy(false);
        world.healthy(true);
        world.link_down(MONITOR);
        for action in [Action::LinkUp, Action::Fault, Action::Recovery, Action::LinkDown] {
            assert!(world.store.actions.contains(&action), "{action:?}");
        }
    }
}

mod keys {
    use super::*;

    #[test]
    fn a_rotation_is_told_on_the_old_link_and_shows_no_gap_spec_4_6() {
        let mut world = World::ready();
        world.order(Order::Rotate { material: material() });
        assert_eq!(world.take_told(), ["link 1: key 2", "answer: done"]);
        assert_eq!(world.record(0).keys.state(), KeyState::Rotating);
        world.monitor_up(LinkNo(8), 2);
        assert_eq!((world.state(0), world.record(0).keys.state()), (State::Available, KeyState::Active));
        world.engine_up(LinkNo(9), 2);
        // What is under way on the old links is still heard: their parts close them.
        assert_eq!(world.take_told(), ["close link 1 later", "close link 2 later"]);
        assert_eq!(world.record(0).keys.usable().map(|(no, _)| no).collect::<Vec<_>>(), [2]);
        assert_eq!(world.state(0), State::Available);
    }

    #[test]
    fn a_monitor_that_missed_a_rotation_is_told_again_spec_4_6() {
        let mut world = World::ready();
        world.order(Order::Rotate { material: material() });
        world.link_down(MONITOR);
        world.take_told();
        world.monitor_up(LinkNo(8), 1);
        assert_eq!(world.take_told(), ["link 8: key 2"]);
    }

    #[test]
    fn a_renewal_deletes_the_key_and_settles_the_running_supply_spec_4_7() {
        let mut world = World::supplying();
        world.order(Order::Renew);
        assert_eq!(
            world.take_told(),
            [
                "D1: SETTLING KEY_RENEWED",
                "engine: stop s1 KEY_RENEWED",
                "monitor: standing DELETED",
                "engine: standing DELETED",
                "close link 2",
                "answer: done"
            ]
        );
        assert_eq!(world.state(0), State::OutOfOrder, "and not DISCONNECTED: the monitor's link stays");
        world.input(0, Input::Grant { link: LinkNo(30), material: material(), from: Origin::central() });
        assert_eq!(world.take_told(), ["link 30: key 2"]);
        world.link_down(ENGINE);
        world.monitor_up(LinkNo(31), 2);
        world.engine_up(LinkNo(32), 2);
        world.healthy(true);
        assert_eq!(world.state(0), State::Available);
    }

    #[test]
    fn a_revocation_lasts_until_the_id_is_enrolled_anew_spec_4_7() {
        let mut world = World::ready();
        world.order(Order::Revoke);
        assert_eq!(world.state(0), State::OutOfOrder);
        world.input(0, Input::Grant { link: LinkNo(30), material: material(), from: Origin::central() });
        assert!(world.take_told().contains(&"link 30: standing REVOKED".to_owned()));
        world.order(Order::Renew);
        world.order(Order::Resume);
        assert_eq!(world.record(0).keys.state(), KeyState::Revoked);
        world.input(0, Input::Identity(Identity::Enrolled { incarnation: 1 }));
        assert_eq!(world.record(0).keys.state(), KeyState::Deleted);
        world.input(0, Input::Grant { link: LinkNo(31), material: material(), from: Origin::central() });
        assert!(world.take_told().contains(&"link 31: key 2".to_owned()));
    }

    #[test]
    fn a_revoked_charging_point_with_a_status_link_is_out_of_order_and_not_disconnected_spec_4_7() {
        let mut world = World::ready();
        world.order(Order::Revoke);
        world.link_down(MONITOR);
        assert_eq!(world.state(0), State::Disconnected);
        world.sense(0, Sign::StatusLinkUp { link: LinkNo(40), from: "".into() });
        assert_eq!(world.state(0), State::OutOfOrder);
        world.sense(0, Sign::Health { link: LinkNo(40), healthy: false, detail: "".into() });
        assert_eq!(world.state(0), State::OutOfOrder, "a status link says nothing but that it lives");
    }

    #[test]
    fn a_removal_ends_links_and_supply_at_once_spec_7_4() {
        let mut world = World::supplying();
        world.input(0, Input::Identity(Identity::Removed));
        assert_eq!(
            world.take_told(),
            ["D1: SETTLING REMOVED", "engine: stop s1 REMOVED", "close link 2", "close link 1"]
        );
        assert!(world.record(0).removed && world.record(0).keys.usable().next().is_none());
    }

    #[test]
    fn orders_are_idempotent_spec_7_3() {
        let orders: [fn() -> Order; 7] = [
            || Order::Stop { reason: "x".into() },
            || Order::Maintenance { on: true, reason: "x".into() },
            || Order::Rotate { material: material() },
            || Order::SetPrice(Price::from_e4(1)),
            || Order::SetRatedPower(22_000),
            || Order::Move { city: "Elche".into(), place: None },
            || Order::Revoke,
        ];
        for order in orders {
            let mut world = World::ready();
            world.order(order());
            assert_eq!(world.take_told().pop().as_deref(), Some("answer: done"), "{:?}", order());
            world.order(order());
            assert_eq!(world.take_told(), ["answer: unchanged"], "{:?}", order());
        }
    }

    #[test]
    fn energy_past_a_rated_power_that_an_operator_set_is_disputed_spec_3_8() {
        let mut world = World::supplying();
        world.order(Order::SetRatedPower(3_600));
        world.pass(1_000_000);
        world.ended("s1", 1_000, 3_500, Reason::Unplugged);
        let ticket = world.ticket("s1").unwrap();
        assert_eq!((ticket.energy + ticket.disputed, ticket.disputed > Energy::ZERO), (Energy::from_wh(2_500), true));
    }
}
