//! What one peer can make of much: many rows, many entries, much work, or somebody else's link that overflows.

use super::*;

fn switched(world: &mut World, on: bool) {
    let by = Origin::new("charging-point/CP1", "192.0.2.1:7");
    world.input(0, Input::Order { order: Order::Maintenance { on }, by, reply: engine_reply() });
}

#[test]
fn a_charging_point_switches_its_maintenance_once_a_second_and_an_operator_at_will() {
    let mut world = World::ready();
    for n in 0..1_000 {
        switched(&mut world, n % 2 == 0);
        world.pass(5);
    }
    let switches = world.store.actions.iter().filter(|a| matches!(a, Action::MaintenanceOn | Action::MaintenanceOff));
    assert_eq!(switches.count(), 5);
    assert!(world.take_told().contains(&"answer: TOO_MANY_ATTEMPTS".to_owned()));
    let on = world.record(0).maintenance.is_some();
    world.order(Order::Maintenance { on: !on });
    world.order(Order::Maintenance { on });
    assert_eq!(world.take_told(), ["answer: done", "answer: done"]);
    switched(&mut world, on);
    assert_eq!(world.take_told(), ["answer: unchanged"]);
}

#[test]
fn verdicts_that_flip_without_end_are_counted_and_not_repeated_spec_8_2() {
    let mut world = World::ready();
    world.healthy(false);
    world.healthy(true);
    let noted =
        |world: &World| world.store.actions.iter().filter(|a| matches!(a, Action::Fault | Action::Recovery)).count();
    assert_eq!(noted(&world), 2, "a fault and its end are entries at once");
    for _ in 0..5_000 {
        world.healthy(false);
        world.healthy(true);
        world.pass(1);
    }
    assert!(noted(&world) <= 61, "{}", noted(&world));
    let counted = world.points[0].flush_repeats(world.now);
    let times: u64 = counted
        .iter()
        .filter_map(|change| {
            let Change::Audit(entry) = change else { return None };
            entry.parameters.iter().find(|(name, _)| *name == "times")
        })
        .map(|(_, times)| times.parse::<u64>().unwrap())
        .sum();
    assert_eq!((counted.len(), noted(&world) + usize::try_from(times).unwrap()), (2, 10_002), "none is forgotten");
    world.healthy(false);
    assert!(world.points[0].flush_repeats(world.now).is_empty(), "once a minute");
}

#[test]
fn a_driver_is_told_of_a_fault_once_however_often_it_is_said() {
    let mut world = World::supplying();
    world.store.fail = Some("gone".into());
    for _ in 0..300 {
        world.healthy(false);
        world.healthy(true);
    }
    assert_eq!(world.take_told().iter().filter(|told| told.starts_with("D1")).count(), 1);
}

#[test]
fn a_charging_point_that_owes_eight_final_values_gets_no_further_supply() {
    let mut world = World::ready();
    let manual = |world: &mut World, n: usize| {
        let (session, id) = (format!("s{n}"), format!("r{n}"));
        let request = Request { driver: None, manual: true, ..request("D1", &session, &id) };
        world.input(0, Input::Request(request));
        world.started(&session, 1_000);
        world.input(0, Input::Held { sessions: Vec::new(), reply: Reply::None });
    };
    (0..8).for_each(|n| manual(&mut world, n));
    assert_eq!(world.record(0).settling.len(), 8);
    world.take_told();
    manual(&mut world, 8);
    assert_eq!(world.take_told()[0], "answer: OUT_OF_ORDER");
    let refusal = world.store.requests.values().find(|answered| answered.reason == Reason::OutOfOrder).unwrap();
    assert_eq!(refusal.detail, "8 of its supplies wait for their final value");
    world.ended("s3", 1_000, 1_001, Reason::Unplugged);
    manual(&mut world, 9);
    assert!(world.store.sessions.contains_key(&SessionId::new("s9")), "one is settled, and another may begin");
}

#[test]
fn what_is_left_of_settling_is_written_once_a_minute_and_a_running_value_alone() {
    let mut world = World::supplying();
    world.healthy(false);
    world.healthy(true);
    world.request("s2", "r2");
    world.accept("s2");
    world.started("s2", 1_500);
    let mut written = (0, 0);
    for second in 1..=60 {
        world.now = crate::testing::at(second);
        let (link, session) = (ENGINE, SessionId::new("s2"));
        let sign = Sign::Meter { link, session, meter: Energy::from_wh(1_500 + second), power_w: 1 };
        world.points[0].sense(sign, &world.settings, world.now);
        let due = world.points[0].decide(&Input::Due, &world.settings, world.now);
        for change in &due.changes {
            let Change::UpdateSession(session) = change else { panic!("{change:?}") };
            *(if session.id.as_str() == "s2" { &mut written.0 } else { &mut written.1 }) += 1;
        }
        let hold = Hold { epoch: world.record(0).epoch, version: world.record(0).version + 1 };
        world.points[0].apply(due.next, due.pending, Some(hold));
    }
    assert_eq!(written, (6, 1));
}

#[test]
fn running_values_in_bulk_reach_the_driver_twice_a_second_and_the_last_one_always_spec_3_4() {
    let mut world = World::supplying();
    for n in 1..=10_000 {
        world.meter("s1", 1_500 + n);
        if n % 10 == 0 {
            world.pass(1);
        }
    }
    world.pass(500);
    let told = world.take_told();
    assert!(told.len() <= 3, "{told:?}");
    assert_eq!(told.last().map(String::as_str), Some("D1: running 10500 Wh 415 EUR"));
    world.pass(5_000);
    assert!(world.take_told().is_empty());
}
