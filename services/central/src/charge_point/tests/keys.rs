//! Keys and orders (SPEC 4.6, 4.7, 7.3).

use super::*;
use crate::origin::{LinkNo, Origin};

#[test]
fn a_rotation_is_told_on_the_old_link_and_shows_no_gap_spec_4_6() {
    let mut harness = PointHarness::ready();
    harness.order(PointOrder::Rotate { material: material() });
    assert_eq!(harness.take_sent(), ["monitor: key 2", "answer: done"]);
    assert_eq!(harness.record(0).keys.state(), KeyState::Rotating);
    harness.monitor_up(LinkNo(8), 2);
    assert_eq!((harness.state(0), harness.record(0).keys.state()), (State::Available, KeyState::Active));
    harness.engine_up(LinkNo(9), 2);
    // What is under way on the old links is still heard: their parts close them.
    assert_eq!(harness.take_sent(), ["close link 1 later", "close link 2 later"]);
    assert_eq!(harness.record(0).keys.usable().map(|(no, _)| no).collect::<Vec<_>>(), [2]);
    assert_eq!(harness.state(0), State::Available);
}

#[test]
fn a_monitor_that_missed_a_rotation_is_told_again_spec_4_6() {
    let mut harness = PointHarness::ready();
    harness.order(PointOrder::Rotate { material: material() });
    harness.link_down(MONITOR);
    harness.take_sent();
    harness.monitor_up(LinkNo(8), 1);
    assert_eq!(harness.take_sent(), ["link 8: key 2"]);
}

#[test]
fn a_renewal_deletes_the_key_and_settles_the_running_supply_spec_4_7() {
    let mut harness = PointHarness::supplying();
    harness.order(PointOrder::Renew);
    assert_eq!(
        harness.take_sent(),
        [
            "D1: SETTLING KEY_RENEWED",
            "engine: stop s1 KEY_RENEWED",
            "monitor: auth status DELETED",
            "engine: auth status DELETED",
            "close link 2",
            "answer: done"
        ]
    );
    assert_eq!(harness.state(0), State::OutOfOrder, "and not DISCONNECTED: the monitor's link stays");
    let entries = harness.store.entries.len();
    harness.healthy(false);
    assert_eq!(harness.store.entries.len(), entries, "and carries signs of life alone");
    harness.input(0, PointInput::Grant { link: LinkNo(30), material: material(), from: Origin::central() });
    assert_eq!(harness.take_sent(), ["link 30: key 2"]);
    harness.link_down(ENGINE);
    harness.monitor_up(LinkNo(31), 2);
    harness.engine_up(LinkNo(32), 2);
    assert_eq!(harness.state(0), State::Disconnected, "what was said under the void key is forgotten");
    harness.healthy(true);
    assert_eq!(harness.state(0), State::Available);
}

#[test]
fn a_revocation_lasts_until_the_id_is_enrolled_anew_spec_4_7() {
    let mut harness = PointHarness::ready();
    harness.order(PointOrder::Revoke);
    assert_eq!(harness.state(0), State::OutOfOrder);
    harness.input(0, PointInput::Grant { link: LinkNo(30), material: material(), from: Origin::central() });
    assert!(harness.take_sent().contains(&"link 30: auth status REVOKED".to_owned()));
    harness.order(PointOrder::Renew);
    harness.order(PointOrder::Resume);
    assert_eq!(harness.record(0).keys.state(), KeyState::Revoked);
    harness.input(0, PointInput::Identity(EnrolmentChange::Void { incarnation: 0 }));
    assert_eq!(harness.record(0).keys.state(), KeyState::Revoked);
    harness.input(0, PointInput::Identity(EnrolmentChange::Enrolled { incarnation: 1 }));
    assert_eq!(harness.record(0).keys.state(), KeyState::Deleted);
    harness.input(0, PointInput::Grant { link: LinkNo(31), material: material(), from: Origin::central() });
    assert!(harness.take_sent().contains(&"link 31: key 2".to_owned()));
}

#[test]
fn who_enrols_anew_before_registry_knows_of_a_revocation_gets_no_key_spec_4_7() {
    let mut harness = PointHarness::ready();
    harness.order(PointOrder::Revoke);
    let detail = |harness: &PointHarness| harness.points[0].view(&harness.settings, harness.now).detail;
    assert!(detail(&harness).contains("not void yet"), "{}", detail(&harness));
    harness.input(0, PointInput::Identity(EnrolmentChange::Enrolled { incarnation: 1 }));
    harness.input(0, PointInput::Grant { link: LinkNo(30), material: material(), from: Origin::central() });
    assert!(harness.take_sent().contains(&"link 30: auth status REVOKED".to_owned()));
    assert_eq!(harness.record(0).keys.to_be_void(), Some(0));
    harness.input(0, PointInput::Identity(EnrolmentChange::Void { incarnation: 1 }));
    assert!(!detail(&harness).contains("not void yet"), "{}", detail(&harness));
    harness.input(0, PointInput::Identity(EnrolmentChange::Enrolled { incarnation: 1 }));
    assert_eq!(harness.record(0).keys.state(), KeyState::Revoked, "late");
    harness.input(0, PointInput::Identity(EnrolmentChange::Enrolled { incarnation: 2 }));
    assert_eq!(harness.record(0).keys.state(), KeyState::Deleted, "restored");
}

#[test]
fn who_was_verified_before_a_removal_gets_no_key_after_it_spec_7_4() {
    let mut harness = PointHarness::ready();
    harness.input(0, PointInput::Identity(EnrolmentChange::Removed { incarnation: 3 }));
    harness.take_sent();
    harness.input(0, PointInput::Identity(EnrolmentChange::Enrolled { incarnation: 3 }));
    harness.input(0, PointInput::Identity(EnrolmentChange::Void { incarnation: 3 }));
    harness.input(0, PointInput::Grant { link: LinkNo(30), material: material(), from: Origin::central() });
    assert_eq!(harness.take_sent(), ["link 30: auth status UNSPECIFIED", "close link 30"]);
    assert!(harness.record(0).removed && harness.record(0).keys.staged().is_none());
}

#[test]
fn a_revoked_charging_point_with_a_status_link_is_out_of_order_and_not_disconnected_spec_4_7() {
    let mut harness = PointHarness::ready();
    harness.order(PointOrder::Revoke);
    harness.link_down(MONITOR);
    assert_eq!(harness.state(0), State::Disconnected);
    harness.observe(0, Observation::StatusLinkUp { link: LinkNo(40), from: "".into() });
    assert_eq!(harness.state(0), State::OutOfOrder);
    harness.observe(0, Observation::Health { link: LinkNo(40), healthy: false, detail: "".into() });
    assert_eq!(harness.state(0), State::OutOfOrder, "a status link says nothing but that it lives");
}

#[test]
fn a_removal_ends_links_and_supply_at_once_spec_7_4() {
    let mut harness = PointHarness::supplying();
    harness.input(0, PointInput::Identity(EnrolmentChange::Removed { incarnation: 0 }));
    assert_eq!(
        harness.take_sent(),
        ["D1: SETTLING REMOVED", "engine: stop s1 REMOVED", "close link 2", "close link 1"]
    );
    assert!(harness.record(0).removed && harness.record(0).keys.usable().next().is_none());
}

#[test]
fn orders_are_idempotent_spec_7_3() {
    let orders: [fn() -> PointOrder; 7] = [
        || PointOrder::Stop,
        || PointOrder::Maintenance { on: true },
        || PointOrder::Rotate { material: material() },
        || PointOrder::SetPrice(Price::from_e4(1)),
        || PointOrder::SetRatedPower(22_000),
        || PointOrder::Move { city: "Elche".into(), place: None },
        || PointOrder::Revoke,
    ];
    for order in orders {
        let mut harness = PointHarness::ready();
        harness.order(order());
        assert_eq!(harness.take_sent().pop().as_deref(), Some("answer: done"), "{:?}", order());
        harness.order(order());
        assert_eq!(harness.take_sent(), ["answer: unchanged"], "{:?}", order());
    }
}

#[test]
fn energy_past_a_rated_power_that_an_operator_set_is_disputed_spec_3_8() {
    let mut harness = PointHarness::supplying();
    harness.order(PointOrder::SetRatedPower(3_600));
    harness.pass(1_000_000);
    harness.ended("s1", 1_000, 3_500, Reason::Unplugged);
    let ticket = harness.ticket("s1").unwrap();
    assert_eq!((ticket.energy_wh + ticket.disputed_wh, ticket.disputed_wh > 0), (2_500, true));
}

#[test]
fn every_entry_of_an_order_says_why_it_was_given_spec_8_1() {
    let orders: [(PointOrder, AuditAction); 9] = [
        (PointOrder::Stop, AuditAction::Stopped),
        (PointOrder::Resume, AuditAction::Resumed),
        (PointOrder::Maintenance { on: true }, AuditAction::MaintenanceOn),
        (PointOrder::Maintenance { on: false }, AuditAction::MaintenanceOff),
        (PointOrder::SetPrice(Price::from_e4(1)), AuditAction::PriceSet),
        (PointOrder::Move { city: "Elche".into(), place: None }, AuditAction::Moved),
        (PointOrder::Rotate { material: material() }, AuditAction::KeyRotationOrdered),
        (PointOrder::Renew, AuditAction::KeyRenewed),
        (PointOrder::Revoke, AuditAction::KeyRevoked),
    ];
    let mut harness = PointHarness::ready();
    for (order, action) in orders {
        harness.order(order);
        let entry = harness.store.entries.iter().rfind(|entry| entry.action == action);
        let parameters = entry.map(|entry| entry.parameters.clone()).unwrap_or_default();
        assert_eq!(parameters.last(), Some(&("reason", "works".to_owned())), "{action:?}");
    }
    harness.points[0].record.quarantined = true;
    harness.order(PointOrder::Release);
    let released = harness.store.entries.iter().find(|entry| entry.action == AuditAction::Released).unwrap();
    assert_eq!(released.parameters, [("reason", "works".to_owned())]);
}

#[test]
fn no_key_is_renewed_by_its_age_under_a_running_supply_and_by_no_wall_clock_spec_4_6() {
    use crate::key::KeyDue;
    let mut harness = PointHarness::supplying();
    let due = |harness: &PointHarness, now| harness.points[0].key_due(&harness.settings, 0, now);
    let month = 31 * 24 * 3_600_000;
    let jumped = mesh::clock::Now { wall_ms: i64::try_from(month).unwrap(), ..harness.now };
    assert_eq!(due(&harness, jumped), None, "only Central's own running time counts");
    let old = crate::testing::at_ms(month);
    assert_eq!(due(&harness, old), Some(KeyDue::Rotation));
    harness.order(PointOrder::Rotate { material: material() });
    assert_eq!(due(&harness, old), None, "the new key is granted, and the supply goes on");
    harness.ended("s1", 1_000, 2_000, Reason::Unplugged);
    assert_eq!(due(&harness, old), Some(KeyDue::Expired));
}
