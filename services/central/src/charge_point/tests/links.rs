//! Which link speaks for its part (SPEC 4.9).

use super::*;

#[test]
fn the_newest_proven_monitor_link_owns_the_charging_point_and_epochs_rise_spec_4_9() {
    let mut harness = PointHarness::ready();
    let before = harness.record(0).epoch;
    harness.monitor_up(LinkNo(8), 1);
    assert_eq!(harness.take_sent(), ["close link 1, taken over"]);
    assert_eq!(harness.record(0).epoch, before + 1);
    harness.link_down(MONITOR);
    assert_eq!(harness.state(0), State::Available, "a late close of the old link does nothing");
}

#[test]
fn a_charging_point_that_has_obeyed_a_higher_epoch_raises_an_alarm_spec_10_5() {
    for (highest_epoch, alarms) in [(1, false), ((7 << 32) + 3, true), (u64::MAX, false)] {
        let mut harness = PointHarness::new(1);
        let (part, from) = (Part::Monitor, "".into());
        harness.observe(0, Observation::LinkUp { link: MONITOR, part, key_no: 1, from, highest_epoch });
        let sent = harness.take_sent();
        assert_eq!(sent.contains(&"alarm".to_owned()), alarms, "{highest_epoch:#x}, which may be a lie: {sent:?}");
    }
}

#[test]
fn the_first_write_of_a_process_claims_the_row_spec_4_9() {
    let mut harness = PointHarness::new(1);
    let before = harness.record(0).epoch;
    harness.order(PointOrder::SetRatedPower(1));
    assert_eq!(harness.record(0).epoch, before + 1, "so that a zombie of before can write no more");
    harness.order(PointOrder::SetRatedPower(2));
    assert_eq!(harness.record(0).epoch, before + 1);
}

#[test]
fn three_takeovers_of_a_live_link_hold_the_charging_point_until_released_spec_4_9() {
    let mut harness = PointHarness::ready();
    let takes_over = |harness: &mut PointHarness, link| {
        let old = harness.points[0].live.monitor.clone().unwrap().link;
        harness.monitor_up(LinkNo(link), 1);
        harness.link_closed(old);
    };
    for link in 10..12 {
        takes_over(&mut harness, link);
        assert_eq!(harness.state(0), State::Available);
    }
    takes_over(&mut harness, 12);
    assert_eq!(harness.state(0), State::OutOfOrder);
    assert!(harness.take_sent().contains(&"alarm".to_owned()));
    harness.order(PointOrder::Release);
    harness.input(0, PointInput::Due);
    assert_eq!(harness.state(0), State::Available, "what is due finds no reason to hold it again");
    (13..16).for_each(|link| takes_over(&mut harness, link));
    assert_eq!(harness.state(0), State::OutOfOrder, "three more do");
}

#[test]
fn a_line_that_fails_again_and_again_is_no_cloned_key_spec_4_9() {
    let mut harness = PointHarness::ready();
    for link in 10..100 {
        let live = harness.points[0].live.clone();
        harness.monitor_up(LinkNo(link), 1);
        harness.engine_up(LinkNo(link + 1_000), 1);
        harness.pass(1_500);
        harness.link_down(live.monitor.unwrap().link);
        harness.link_down(live.engine.unwrap().link);
    }
    assert_eq!(harness.state(0), State::Available, "what it left behind was dead");
    assert!(harness.store.actions.contains(&AuditAction::LinkTakenOver));
}

#[test]
fn rotations_and_reconnects_are_no_takeovers_spec_4_9() {
    let mut harness = PointHarness::ready();
    for no in 2..8 {
        harness.order(PointOrder::Rotate { material: material() });
        harness.monitor_up(LinkNo(10 * no), no);
        harness.engine_up(LinkNo(10 * no + 1), no);
    }
    for link in 200..210 {
        let old = harness.points[0].live.monitor.clone().unwrap().link;
        harness.link_down(old);
        harness.monitor_up(LinkNo(link), 7);
    }
    harness.healthy(true);
    assert_eq!(harness.state(0), State::Available);
}

#[test]
fn messages_of_an_old_engine_link_are_not_heard_spec_4_9() {
    let mut harness = PointHarness::supplying();
    harness.engine_up(LinkNo(20), 1);
    harness.meter("s1", 9_999);
    assert_eq!(harness.points[0].running().map(|s| s.meter_last.wh()), Some(1_500));
}

#[test]
fn links_up_and_down_faults_and_recoveries_are_audited_spec_8_1() {
    let mut harness = PointHarness::ready();
    harness.healthy(false);
    harness.healthy(true);
    harness.link_down(MONITOR);
    for action in [AuditAction::LinkUp, AuditAction::Fault, AuditAction::Recovery, AuditAction::LinkDown] {
        assert!(harness.store.actions.contains(&action), "{action:?}");
    }
}
