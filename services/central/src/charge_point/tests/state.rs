//! Causes and the state shown (SPEC 2).

use super::*;

#[test]
fn a_known_charging_point_is_disconnected_until_it_reports_spec_2_2() {
    let mut harness = PointHarness::new(1);
    assert_eq!(harness.state(0), State::Disconnected);
    harness.monitor_up(MONITOR, 1);
    harness.engine_up(ENGINE, 1);
    assert_eq!(harness.state(0), State::Disconnected, "its monitor has not said how the engine is");
    harness.healthy(true);
    assert_eq!(harness.state(0), State::Available);
}

#[test]
fn the_truth_table_of_monitor_and_engine_spec_2_3() {
    let mut harness = PointHarness::ready();
    assert_eq!(harness.state(0), State::Available);
    harness.healthy(false);
    assert_eq!(harness.state(0), State::Broken);
    harness.link_down(MONITOR);
    assert_eq!(harness.state(0), State::Disconnected, "whatever the engine does");
}

#[test]
fn what_can_be_read_again_is_shown_and_noted_as_seldom_as_what_could_not_spec_4_8() {
    let mut harness = PointHarness::ready();
    for _ in 0..3 {
        harness.observe(0, Observation::Unintelligible { link: ENGINE, count: 1 });
        harness.observe(0, Observation::Intelligible { link: MONITOR });
        assert!(harness.points[0].is_unread(), "of another link");
        harness.observe(0, Observation::Intelligible { link: ENGINE });
        assert!(!harness.points[0].is_unread());
    }
    let noted = |wanted: AuditAction| harness.store.actions.iter().filter(|action| **action == wanted).count();
    assert_eq!((noted(AuditAction::Unintelligible), noted(AuditAction::Intelligible)), (1, 1));
}

#[test]
fn ending_one_cause_reveals_the_next_spec_2_1() {
    let mut harness = PointHarness::ready();
    harness.order(PointOrder::Stop);
    harness.healthy(false);
    assert_eq!(harness.state(0), State::Broken);
    harness.healthy(true);
    assert_eq!(harness.state(0), State::OutOfOrder);
    harness.order(PointOrder::Maintenance { on: true });
    harness.order(PointOrder::Resume);
    assert_eq!(harness.state(0), State::OutOfOrder, "maintenance is left");
    harness.order(PointOrder::Maintenance { on: false });
    assert_eq!(harness.state(0), State::Available);
}

#[test]
fn an_idle_engine_that_does_not_reach_central_is_shown_as_broken_after_its_grace_spec_2_2() {
    let mut harness = PointHarness::ready();
    harness.link_down(ENGINE);
    assert_eq!(harness.state(0), State::Available);
    harness.pass(499);
    assert_eq!(harness.state(0), State::Available);
    harness.pass(1);
    assert_eq!(harness.state(0), State::Broken);
}

#[test]
fn an_engines_lost_link_is_shown_within_two_seconds_of_its_last_sign_spec_2_4() {
    let found = wire::LinkSettings::default();
    let grace = crate::settings::CentralSettings::default().engine_grace;
    assert!(found.life_sign * found.misses + grace <= std::time::Duration::from_secs(2));
}

#[test]
fn an_engine_that_comes_back_after_its_monitor_is_not_shown_as_broken_meanwhile_spec_9() {
    let mut harness = PointHarness::ready();
    harness.link_down(MONITOR);
    harness.link_down(ENGINE);
    harness.pass(10_000);
    harness.monitor_up(LinkNo(8), 1);
    harness.pass(2_000);
    assert_eq!(harness.state(0), State::Disconnected, "until it reports");
    harness.healthy(true);
    assert_eq!(harness.state(0), State::Available);
    harness.pass(3_499);
    assert_eq!(harness.state(0), State::Available, "each tries again after waits of its own");
    harness.pass(1);
    assert_eq!(harness.state(0), State::Broken);
    harness.engine_up(LinkNo(9), 1);
    assert_eq!(harness.state(0), State::Available);
}

#[test]
fn a_supply_without_its_monitor_is_grey_and_still_shows_its_energy_spec_2_2() {
    let mut harness = PointHarness::supplying();
    harness.link_down(MONITOR);
    let view = harness.points[0].view(&harness.settings, harness.now);
    assert_eq!((view.state(), view.energy_wh, view.amount_minor), (State::Disconnected, 500, 20));
    assert_eq!(view.driver_id, "D1");
}

#[test]
fn several_causes_are_all_listed_spec_2_1() {
    let mut harness = PointHarness::ready();
    harness.order(PointOrder::Stop);
    harness.order(PointOrder::Renew);
    assert_eq!(harness.points[0].causes(&harness.settings, harness.now), [Cause::OperatorStop, Cause::NoKey]);
}
