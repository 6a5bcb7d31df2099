//! Keys and orders (SPEC 4.6, 4.7, 7.3).

use super::*;

#[test]
fn a_rotation_is_told_on_the_old_link_and_shows_no_gap_spec_4_6() {
    let mut world = World::ready();
    world.order(Order::Rotate { material: material() });
    assert_eq!(world.take_told(), ["monitor: key 2", "answer: done"]);
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
            "monitor: auth status DELETED",
            "engine: auth status DELETED",
            "close link 2",
            "answer: done"
        ]
    );
    assert_eq!(world.state(0), State::OutOfOrder, "and not DISCONNECTED: the monitor's link stays");
    let entries = world.store.entries.len();
    world.healthy(false);
    assert_eq!(world.store.entries.len(), entries, "and carries signs of life alone");
    world.input(0, Input::Grant { link: LinkNo(30), material: material(), from: Origin::central() });
    assert_eq!(world.take_told(), ["link 30: key 2"]);
    world.link_down(ENGINE);
    world.monitor_up(LinkNo(31), 2);
    world.engine_up(LinkNo(32), 2);
    assert_eq!(world.state(0), State::Disconnected, "what was said under the void key is forgotten");
    world.healthy(true);
    assert_eq!(world.state(0), State::Available);
}

#[test]
fn a_revocation_lasts_until_the_id_is_enrolled_anew_spec_4_7() {
    let mut world = World::ready();
    world.order(Order::Revoke);
    assert_eq!(world.state(0), State::OutOfOrder);
    world.input(0, Input::Grant { link: LinkNo(30), material: material(), from: Origin::central() });
    assert!(world.take_told().contains(&"link 30: auth status REVOKED".to_owned()));
    world.order(Order::Renew);
    world.order(Order::Resume);
    assert_eq!(world.record(0).keys.state(), KeyState::Revoked);
    world.input(0, Input::Identity(Identity::Void { incarnation: 0 }));
    assert_eq!(world.record(0).keys.state(), KeyState::Revoked);
    world.input(0, Input::Identity(Identity::Enrolled { incarnation: 1 }));
    assert_eq!(world.record(0).keys.state(), KeyState::Deleted);
    world.input(0, Input::Grant { link: LinkNo(31), material: material(), from: Origin::central() });
    assert!(world.take_told().contains(&"link 31: key 2".to_owned()));
}

#[test]
fn who_enrols_anew_before_registry_knows_of_a_revocation_gets_no_key_spec_4_7() {
    let mut world = World::ready();
    world.order(Order::Revoke);
    let detail = |world: &World| world.points[0].view(&world.settings, world.now).detail;
    assert!(detail(&world).contains("not void yet"), "{}", detail(&world));
    world.input(0, Input::Identity(Identity::Enrolled { incarnation: 1 }));
    world.input(0, Input::Grant { link: LinkNo(30), material: material(), from: Origin::central() });
    assert!(world.take_told().contains(&"link 30: auth status REVOKED".to_owned()));
    assert_eq!(world.record(0).keys.to_be_void(), Some(0));
    world.input(0, Input::Identity(Identity::Void { incarnation: 1 }));
    assert!(!detail(&world).contains("not void yet"), "{}", detail(&world));
    world.input(0, Input::Identity(Identity::Enrolled { incarnation: 1 }));
    assert_eq!(world.record(0).keys.state(), KeyState::Revoked, "late");
    world.input(0, Input::Identity(Identity::Enrolled { incarnation: 2 }));
    assert_eq!(world.record(0).keys.state(), KeyState::Deleted, "restored");
}

#[test]
fn who_was_verified_before_a_removal_gets_no_key_after_it_spec_7_4() {
    let mut world = World::ready();
    world.input(0, Input::Identity(Identity::Removed { incarnation: 3 }));
    world.take_told();
    world.input(0, Input::Identity(Identity::Enrolled { incarnation: 3 }));
    world.input(0, Input::Identity(Identity::Void { incarnation: 3 }));
    world.input(0, Input::Grant { link: LinkNo(30), material: material(), from: Origin::central() });
    assert_eq!(world.take_told(), ["link 30: auth status UNSPECIFIED", "close link 30"]);
    assert!(world.record(0).removed && world.record(0).keys.staged().is_none());
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
    world.input(0, Input::Identity(Identity::Removed { incarnation: 0 }));
    assert_eq!(world.take_told(), ["D1: SETTLING REMOVED", "engine: stop s1 REMOVED", "close link 2", "close link 1"]);
    assert!(world.record(0).removed && world.record(0).keys.usable().next().is_none());
}

#[test]
fn orders_are_idempotent_spec_7_3() {
    let orders: [fn() -> Order; 7] = [
        || Order::Stop,
        || Order::Maintenance { on: true },
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

#[test]
fn every_entry_of_an_order_says_why_it_was_given_spec_8_1() {
    let orders: [(Order, Action); 9] = [
        (Order::Stop, Action::Stopped),
        (Order::Resume, Action::Resumed),
        (Order::Maintenance { on: true }, Action::MaintenanceOn),
        (Order::Maintenance { on: false }, Action::MaintenanceOff),
        (Order::SetPrice(Price::from_e4(1)), Action::PriceSet),
        (Order::Move { city: "Elche".into(), place: None }, Action::Moved),
        (Order::Rotate { material: material() }, Action::KeyRotationOrdered),
        (Order::Renew, Action::KeyRenewed),
        (Order::Revoke, Action::KeyRevoked),
    ];
    let mut world = World::ready();
    for (order, action) in orders {
        world.order(order);
        let entry = world.store.entries.iter().rfind(|entry| entry.action == action);
        let parameters = entry.map(|entry| entry.parameters.clone()).unwrap_or_default();
        assert_eq!(parameters.last(), Some(&("reason", "works".to_owned())), "{action:?}");
    }
    world.points[0].record.quarantined = true;
    world.order(Order::Release);
    let released = world.store.entries.iter().find(|entry| entry.action == Action::Released).unwrap();
    assert_eq!(released.parameters, [("reason", "works".to_owned())]);
}
