//! The rows of SPEC 9 as the engine lives them.

use mesh::clock::Clock;
use prost::Message as _;

use super::rig::*;
use crate::journal_state;

#[test]
fn central_gone_the_supply_goes_on_to_its_end_and_then_nothing_is_offered_spec_9() {
    let mut rig = EngineRig::ready(settings());
    rig.supply("s1", 1_000);
    rig.act(EngineAction::Plug).unwrap();
    rig.wait(S(10));
    rig.cut();
    rig.wait(S(300));
    assert_eq!((rig.state(), rig.engine.status().meter_wh), ("-", 1_000));
    assert!(rig.engine.status().warnings[0].starts_with("cannot reach Central"));
    let refused = rig.act(EngineAction::Supply { driver: String::new(), energy: Energy::ZERO }).unwrap_err();
    assert_eq!(refused, "cannot reach Central");
    rig.ups.clear();
    rig.reconnect();
    rig.wait(S(1));
    let held = &rig.held()[0];
    assert_eq!((held.state(), held.meter_wh, held.reason()), (SessionState::Settling, 1_000, Reason::EnergyReached));
    assert_eq!(rig.ends().len(), 1);
}

#[test]
fn central_back_during_a_supply_learns_of_it_first_spec_9() {
    let mut rig = EngineRig::supplying(settings());
    rig.wait(S(10));
    rig.cut();
    rig.wait(S(10));
    rig.ups.clear();
    rig.reconnect();
    let sent = rig.sent();
    assert!(matches!(&sent[0], up::Body::Opened(opened) if opened.meter_wh >= 200), "{sent:?}");
    assert!(matches!(&sent[1], up::Body::JournalReport(held) if held.sessions[0].state() == SessionState::Supplying));
    rig.wait(S(2));
    assert!(rig.sent().iter().any(|body| matches!(body, up::Body::MeterValue(_))));
}

#[test]
fn what_is_held_is_said_again_as_it_is_then_spec_3_8() {
    let mut rig = EngineRig::ready(settings());
    rig.act(EngineAction::Plug).unwrap();
    rig.supply("s1", 0);
    rig.ups.clear();
    rig.wait(S(5));
    let held = rig.held();
    assert_eq!((held.len(), held[0].state()), (1, SessionState::Supplying), "at its opening there was nothing");
}

#[test]
fn a_supply_that_begins_between_two_links_is_not_missing_in_what_is_said_on_the_new_one_spec_4_6() {
    let mut rig = EngineRig::ready(settings());
    let old = rig.dials.last().unwrap().0;
    rig.act(EngineAction::Plug).unwrap();
    rig.assign(2);
    let new = rig.dials.last().unwrap().0;
    rig.link(new, LinkEvent::Open);
    assert!(matches!(rig.sent()[..], [up::Body::Opened(_)]), "{:?}", rig.sent());
    let supply = Supply { session_id: "s1".to_owned(), hold_ms: 60_000, ..Supply::default() };
    let bytes = Down { epoch: 1 << 32 | 1, body: Some(down::Body::Supply(supply)) }.encode_to_vec();
    rig.link(old, LinkEvent::Message(bytes.into()));
    assert_eq!((rig.state(), rig.starts()), ("SUPPLYING", 1));
    rig.ups.clear();
    rig.view();
    assert_eq!(rig.held()[0].state(), SessionState::Supplying);
    assert!(rig.ups.iter().all(|(link, _)| *link == new));
}

#[test]
fn a_reservation_does_not_begin_without_central_and_begins_when_it_is_back() {
    let mut rig = EngineRig::ready(settings());
    rig.supply("s1", 0);
    rig.cut();
    assert!(rig.act(EngineAction::Plug).unwrap_err().contains("cannot reach Central"));
    assert_eq!(rig.state(), "RESERVED");
    rig.reconnect();
    assert_eq!(rig.held()[0].state(), SessionState::Reserved);
    assert_eq!(rig.state(), "SUPPLYING");
}

#[test]
fn a_reservation_that_was_plugged_in_while_the_monitor_was_away_begins_when_it_is_back_spec_9() {
    let mut rig = EngineRig::ready(settings());
    rig.supply("s1", 0);
    rig.input(EngineInput::Unpaired("no sign of life".to_owned()));
    assert!(rig.act(EngineAction::Plug).unwrap_err().contains("the monitor is gone"));
    assert_eq!(rig.state(), "RESERVED");
    rig.input(EngineInput::Paired);
    assert_eq!(rig.state(), "SUPPLYING");
}

#[test]
fn the_monitor_gone_the_supply_goes_on_and_nothing_new_is_accepted_spec_9() {
    let mut rig = EngineRig::supplying(settings());
    rig.input(EngineInput::Unpaired("no sign of life".to_owned()));
    rig.wait(S(50));
    assert_eq!(rig.state(), "SUPPLYING");
    rig.act(EngineAction::Unplug).unwrap();
    assert_eq!(the_end(&rig), (Reason::Unplugged, 500));
    let manual = EngineAction::Supply { driver: String::new(), energy: Energy::ZERO };
    assert!(rig.act(manual.clone()).unwrap_err().contains("the monitor is gone"));
    assert!(!rig.ask().0);
    rig.input(EngineInput::Paired);
    assert_eq!(rig.act(manual), Ok(()));
}

#[test]
fn killed_during_a_supply_and_linked_before_the_disk_has_its_end_it_reports_that_later_spec_9_engine() {
    let mut rig = EngineRig::supplying(settings());
    rig.wait(S(50));
    let mut back = EngineRig::restarted_on(settings(), rig.disk.clone(), Some(None), rig.now);
    back.input(EngineInput::Paired);
    back.assign(1);
    back.link(1, LinkEvent::Open);
    assert_eq!(back.held()[0].state(), SessionState::Supplying, "not told before it is kept");
    back.view();
    back.ups.clear();
    back.disk_catches_up();
    let held = back.held();
    assert_eq!((held.len(), held[0].state(), held[0].reason()), (1, SessionState::Settling, Reason::Fault));
}

#[test]
fn killed_during_a_supply_the_energy_is_kept_and_reported_once_spec_9_engine() {
    let mut rig = EngineRig::supplying(settings());
    rig.wait(Duration::from_millis(50_900));
    let mut back = EngineRig::restarted(settings(), rig.disk.clone(), rig.now).up();
    back.cut();
    back.reconnect();
    let held = back.held();
    assert_eq!((held.len(), held[0].state(), held[0].reason()), (1, SessionState::Settling, Reason::Fault));
    assert_eq!((held[0].meter_start_wh, held[0].meter_wh), (0, 500), "at most a second is lost");
    assert_eq!(held[0].ended_at_ms - held[0].started_at_ms, 50_000);
    // Told to stop what is over, it says so again.
    back.ups.clear();
    back.stop(Reason::StoppedByOperator);
    assert_eq!(back.held(), held);
    back.down(down::Body::Settled(Settled { session_id: "s1".to_owned(), ticket: None }));
    assert_eq!(back.engine.status().unsettled, 0);
    back.supply("s2", 0);
    back.act(EngineAction::Plug).unwrap();
    back.act(EngineAction::Unplug).unwrap();
    assert_eq!(back.ends()[0].1.meter_start_wh, 500, "the register goes on");
}

#[test]
fn a_full_disk_is_reported_and_nothing_new_is_accepted_until_it_is_mended_spec_9_disk_full() {
    let mut rig = EngineRig::supplying(settings());
    rig.disk_works = false;
    rig.wait(S(50));
    assert_eq!((rig.state(), rig.healthy()), ("SUPPLYING", true), "what runs goes on");
    rig.act(EngineAction::Unplug).unwrap();
    rig.wait(S(10));
    assert_eq!(rig.ends().len(), 0, "no final value before it is on disk");
    assert!(!rig.healthy());
    assert!(rig.ask().1.contains("no space left on device"));
    rig.disk_works = true;
    rig.wait(S(2));
    assert_eq!(the_end(&rig), (Reason::Unplugged, 500));
    assert!(rig.healthy() && rig.ask().0);
}

#[test]
fn nothing_is_due_for_a_write_that_is_under_way_again_spec_9_disk_full() {
    let mut rig = EngineRig::ready(settings());
    rig.slow = Some(None);
    rig.act(EngineAction::Plug).unwrap();
    rig.supply("s1", 0);
    rig.slow = Some(None);
    rig.input(EngineInput::WriteFailed("no space left on device".to_owned()));
    rig.pass(S(2));
    rig.input(EngineInput::Timeout);
    assert!(matches!(rig.slow, Some(Some(_))), "tried again");
    assert!(rig.engine.poll_timeout().is_none_or(|at| at > rig.now.mono));
}

#[test]
fn an_orderly_stop_ends_the_supply_with_its_final_value() {
    let mut rig = EngineRig::supplying(settings());
    rig.wait(S(50));
    rig.engine.stop(rig.now);
    rig.carry_out();
    assert_eq!(the_end(&rig), (Reason::Fault, 500));
    assert!(rig.engine.is_persisted());
}

#[test]
fn a_journal_that_holds_six_hundred_is_reported_in_portions_with_the_live_one_in_each_spec_3_8() {
    let of = |n: u32| {
        let session_id = format!("a{n:03}");
        let started = journal_state::StartEntry {
            session_id: session_id.clone(),
            charging_point_id: "CP-1".to_owned(),
            ..journal_state::StartEntry::default()
        };
        [
            journal_state::JournalEntry::Started(started).into(),
            journal_state::JournalEntry::Ended(journal_state::EndEntry {
                session_id,
                ..journal_state::EndEntry::default()
            })
            .into(),
        ]
    };
    let disk = (0..600).flat_map(of).collect();
    let mut rig = EngineRig::restarted(settings(), disk, Clock::system().now()).up();
    rig.supply("s1", 0);
    rig.act(EngineAction::Plug).unwrap();
    rig.cut();
    rig.ups.clear();
    rig.reconnect();
    let mut portions = Vec::new();
    loop {
        let report = |(_, up): &(u64, Up)| matches!(up.body, Some(up::Body::JournalReport(_))).then_some(up.id);
        let Some(to) = rig.ups.iter().rev().find_map(report) else { break };
        let held = rig.held();
        assert!(held.iter().any(|session| session.session_id == "s1"), "or it would be taken for lost");
        portions.push(held.len());
        rig.ups.clear();
        rig.answer(to, Reason::Unspecified);
    }
    assert_eq!(portions, [256, 256, 91]);
}
