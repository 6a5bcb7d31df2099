//! What one peer can make of much: many rows, many entries, much work, or somebody else's link that overflows.

use super::*;
use crate::{origin::Origin, turns::Core as _};

fn switched(harness: &mut PointHarness, on: bool) {
    let by = Origin::new("charging-point/CP1", "192.0.2.1:7");
    harness.input(0, PointInput::Order { order: PointOrder::Maintenance { on }, by, reply: engine_reply() });
}

#[test]
fn a_charging_point_switches_its_maintenance_once_a_second_and_an_operator_at_will() {
    let mut harness = PointHarness::ready();
    for n in 0..1_000 {
        switched(&mut harness, n % 2 == 0);
        harness.pass(5);
    }
    let switches =
        harness.store.actions.iter().filter(|a| matches!(a, AuditAction::MaintenanceOn | AuditAction::MaintenanceOff));
    assert_eq!(switches.count(), 5);
    assert!(harness.take_sent().contains(&"answer: TOO_MANY_ATTEMPTS".to_owned()));
    let on = harness.record(0).maintenance.is_some();
    harness.order(PointOrder::Maintenance { on: !on });
    harness.order(PointOrder::Maintenance { on });
    assert_eq!(harness.take_sent(), ["answer: done", "answer: done"]);
    switched(&mut harness, on);
    assert_eq!(harness.take_sent(), ["answer: unchanged"]);
}

#[test]
fn verdicts_that_flip_without_end_are_counted_and_not_repeated_spec_8_2() {
    let mut harness = PointHarness::ready();
    harness.healthy(false);
    harness.healthy(true);
    let noted = |harness: &PointHarness| {
        harness.store.actions.iter().filter(|a| matches!(a, AuditAction::Fault | AuditAction::Recovery)).count()
    };
    assert_eq!(noted(&harness), 2, "a fault and its end are entries at once");
    for _ in 0..5_000 {
        harness.healthy(false);
        harness.healthy(true);
        harness.pass(1);
    }
    assert!(noted(&harness) <= 61, "{}", noted(&harness));
    let counted = harness.points[0].flush_repeats(harness.now);
    let times: u64 = counted
        .iter()
        .filter_map(|change| {
            let PointChange::Audit(entry) = change else { return None };
            entry.parameters.iter().find(|(name, _)| *name == "times")
        })
        .map(|(_, times)| times.parse::<u64>().unwrap())
        .sum();
    assert_eq!((counted.len(), noted(&harness) + usize::try_from(times).unwrap()), (2, 10_002), "none is forgotten");
    harness.healthy(false);
    assert!(harness.points[0].flush_repeats(harness.now).is_empty(), "once a minute");
}

#[test]
fn a_driver_is_told_of_a_fault_once_however_often_it_is_said() {
    let mut harness = PointHarness::supplying();
    harness.store.fail = Some("gone".into());
    for _ in 0..300 {
        harness.healthy(false);
        harness.healthy(true);
    }
    assert_eq!(harness.take_sent().iter().filter(|told| told.starts_with("D1")).count(), 1);
}

#[test]
fn a_charging_point_that_owes_eight_final_values_gets_no_further_supply() {
    let mut harness = PointHarness::ready();
    let manual = |harness: &mut PointHarness, n: usize| {
        let (session, id) = (format!("s{n}"), format!("r{n}"));
        let request = SupplyRequest { driver: None, manual: true, ..request("D1", &session, &id) };
        harness.input(0, PointInput::Request(request));
        harness.started(&session, 1_000);
        harness.input(0, PointInput::JournalReport { sessions: Vec::new(), reply: Reply::None });
    };
    (0..8).for_each(|n| manual(&mut harness, n));
    assert_eq!(harness.record(0).settling.len(), 8);
    harness.take_sent();
    manual(&mut harness, 8);
    assert_eq!(harness.take_sent()[0], "answer: OUT_OF_ORDER");
    let refusal = harness.store.requests.values().find(|answered| answered.reason == Reason::OutOfOrder).unwrap();
    assert_eq!(refusal.detail, "8 of its supplies wait for their final value");
    harness.ended("s3", 1_000, 1_001, Reason::Unplugged);
    manual(&mut harness, 9);
    assert!(harness.store.sessions.contains_key(&SessionId::new("s9")), "one is settled, and another may begin");
}

#[test]
fn what_is_left_of_settling_is_written_once_a_minute_and_a_running_value_alone() {
    let mut harness = PointHarness::supplying();
    harness.healthy(false);
    harness.healthy(true);
    harness.request("s2", "r2");
    harness.accept("s2");
    harness.started("s2", 1_500);
    let mut written = (0, 0);
    for second in 1..=60 {
        harness.now = crate::testing::at(second);
        let (link, session) = (ENGINE, SessionId::new("s2"));
        let observation = Observation::Meter { link, session, meter: Energy::from_wh(1_500 + second), power_w: 1 };
        harness.points[0].observe(observation, &harness.settings, harness.now);
        let due = harness.points[0].decide(&PointInput::Due, &harness.settings, harness.now);
        for change in &due.changes {
            let PointChange::UpdateSession(session) = change else { panic!("{change:?}") };
            *(if session.id.as_str() == "s2" { &mut written.0 } else { &mut written.1 }) += 1;
        }
        let hold = PointVersion { epoch: harness.record(0).epoch, version: harness.record(0).version + 1 };
        harness.points[0].apply(due.next, due.pending, Some(hold));
    }
    assert_eq!(written, (6, 1));
}

#[test]
fn running_values_in_bulk_reach_the_driver_twice_a_second_and_the_last_one_always_spec_3_4() {
    let mut harness = PointHarness::supplying();
    for n in 1..=10_000 {
        harness.meter("s1", 1_500 + n);
        if n % 10 == 0 {
            harness.pass(1);
        }
    }
    harness.pass(500);
    let told = harness.take_sent();
    assert!(told.len() <= 3, "{told:?}");
    assert_eq!(told.last().map(String::as_str), Some("D1: running 10500 Wh 415 EUR"));
    harness.pass(5_000);
    assert!(harness.take_sent().is_empty());
}
