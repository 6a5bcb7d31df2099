//! Which link speaks for its part (SPEC 4.9).

use super::*;

#[test]
fn the_newest_proven_monitor_link_owns_the_charging_point_and_epochs_rise_spec_4_9() {
    let mut world = World::ready();
    let before = world.record(0).epoch;
    world.monitor_up(LinkNo(8), 1);
    assert_eq!(world.take_told(), ["close link 1, taken over"]);
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
    let takes_over = |world: &mut World, link| {
        let old = world.points[0].signs.monitor.clone().unwrap().link;
        world.monitor_up(LinkNo(link), 1);
        world.link_closed(old);
    };
    for link in 10..12 {
        takes_over(&mut world, link);
        assert_eq!(world.state(0), State::Available);
    }
    takes_over(&mut world, 12);
    assert_eq!(world.state(0), State::OutOfOrder);
    assert!(world.take_told().contains(&"alarm".to_owned()));
    world.order(Order::Release);
    world.input(0, Input::Due);
    assert_eq!(world.state(0), State::Available, "what is due finds no reason to quarantine it again");
    (13..16).for_each(|link| takes_over(&mut world, link));
    assert_eq!(world.state(0), State::OutOfOrder, "three more do");
}

#[test]
fn a_line_that_fails_again_and_again_is_no_cloned_key_spec_4_9() {
    let mut world = World::ready();
    for link in 10..100 {
        let signs = world.points[0].signs.clone();
        world.monitor_up(LinkNo(link), 1);
        world.engine_up(LinkNo(link + 1_000), 1);
        world.pass(1_500);
        world.link_down(signs.monitor.unwrap().link);
        world.link_down(signs.engine.unwrap().link);
    }
    assert_eq!(world.state(0), State::Available, "what it left behind was dead");
    assert!(world.store.actions.contains(&Action::LinkTakenOver));
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
