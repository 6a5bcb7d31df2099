//! Causes and the state shown (SPEC 2).

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
fn what_can_be_read_again_is_shown_and_noted_as_seldom_as_what_could_not_spec_4_8() {
    let mut world = World::ready();
    for _ in 0..3 {
        world.sense(0, Sign::Unintelligible { link: ENGINE, count: 1 });
        world.sense(0, Sign::Intelligible { link: MONITOR });
        assert!(world.points[0].is_unread(), "of another link");
        world.sense(0, Sign::Intelligible { link: ENGINE });
        assert!(!world.points[0].is_unread());
    }
    let noted = |wanted: Action| world.store.actions.iter().filter(|action| **action == wanted).count();
    assert_eq!((noted(Action::Unintelligible), noted(Action::Intelligible)), (1, 1));
}

#[test]
fn ending_one_cause_reveals_the_next_spec_2_1() {
    let mut world = World::ready();
    world.order(Order::Stop);
    world.healthy(false);
    assert_eq!(world.state(0), State::Broken);
    world.healthy(true);
    assert_eq!(world.state(0), State::OutOfOrder);
    world.order(Order::Maintenance { on: true });
    world.order(Order::Resume);
    assert_eq!(world.state(0), State::OutOfOrder, "maintenance is left");
    world.order(Order::Maintenance { on: false });
    assert_eq!(world.state(0), State::Available);
}

#[test]
fn an_idle_engine_that_does_not_reach_central_is_shown_as_broken_after_its_grace_spec_2_2() {
    let mut world = World::ready();
    world.link_down(ENGINE);
    assert_eq!(world.state(0), State::Available);
    world.pass(499);
    assert_eq!(world.state(0), State::Available);
    world.pass(1);
    assert_eq!(world.state(0), State::Broken);
}

#[test]
fn an_engines_lost_link_is_shown_within_two_seconds_of_its_last_sign_spec_2_4() {
    let found = wire::LinkSettings::default();
    let grace = crate::settings::Settings::default().engine_grace;
    assert!(found.life_sign * found.misses + grace <= std::time::Duration::from_secs(2));
}

#[test]
fn an_engine_that_comes_back_after_its_monitor_is_not_shown_as_broken_meanwhile_spec_9() {
    let mut world = World::ready();
    world.link_down(MONITOR);
    world.link_down(ENGINE);
    world.pass(10_000);
    world.monitor_up(LinkNo(8), 1);
    world.pass(2_000);
    assert_eq!(world.state(0), State::Disconnected, "until it reports");
    world.healthy(true);
    assert_eq!(world.state(0), State::Available);
    world.pass(3_499);
    assert_eq!(world.state(0), State::Available, "each tries again after waits of its own");
    world.pass(1);
    assert_eq!(world.state(0), State::Broken);
    world.engine_up(LinkNo(9), 1);
    assert_eq!(world.state(0), State::Available);
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
    world.order(Order::Stop);
    world.order(Order::Renew);
    assert_eq!(world.points[0].causes(&world.settings, world.now), [Cause::OperatorStop, Cause::NoKey]);
}
