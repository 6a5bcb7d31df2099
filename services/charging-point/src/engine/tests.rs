//! Traces of the engine's rules.

mod failures;
mod random_walk;
mod rig;

use bytes::Bytes;
use proto::link::v1::SignedDocument;
use wire::telemetry::Opener;

use rig::*;

// ---- Begin

#[test]
fn energy_flows_only_once_plugged_in_and_once_its_start_is_in_the_journal_spec_3_3() {
    let mut rig = EngineRig::ready(settings());
    assert_eq!(rig.ask(), (true, String::new()));
    rig.supply("s1", 0);
    rig.wait(S(20));
    assert_eq!((rig.state(), rig.engine.status().meter_wh), ("RESERVED", 0));
    rig.slow = Some(None);
    rig.act(EngineAction::Plug).unwrap();
    rig.wait(S(20));
    assert_eq!((rig.state(), rig.engine.status().meter_wh, rig.starts()), ("RESERVED", 0, 0));
    rig.disk_catches_up();
    assert_eq!((rig.state(), rig.starts()), ("SUPPLYING", 1));
    rig.wait(S(10));
    assert_eq!(rig.engine.status().meter_wh, 100, "36 kW for ten seconds");
}

#[test]
fn plugged_in_before_it_is_authorised_it_begins_at_once() {
    let mut rig = EngineRig::ready(settings());
    rig.act(EngineAction::Plug).unwrap();
    rig.supply("s1", 0);
    assert_eq!(rig.state(), "SUPPLYING");
    assert!(rig.act(EngineAction::Plug).is_err());
}

#[test]
fn the_same_authorisation_twice_is_one_supply_spec_3_7() {
    let mut rig = EngineRig::supplying(settings());
    rig.wait(S(5));
    rig.supply("s1", 0);
    rig.act(EngineAction::Unplug).unwrap();
    rig.supply("s1", 0);
    rig.act(EngineAction::Plug).unwrap();
    assert_eq!((rig.state(), rig.starts(), rig.ends().len()), ("-", 1, 1));
}

#[test]
fn a_second_session_is_refused_while_one_is_not_over() {
    let mut rig = EngineRig::supplying(settings());
    let ask = Ask { session_id: "s2".to_owned(), ..Ask::default() };
    rig.down(down::Body::Ask(ask));
    rig.supply("s3", 0);
    let refused = |body: up::Body| matches!(body, up::Body::AskAnswer(a) if !a.accepted).then_some(());
    assert_eq!(rig.sent().into_iter().filter_map(refused).count(), 2);
}

#[test]
fn a_reservation_ends_by_time_or_release_without_a_trace_spec_3_2() {
    let mut rig = EngineRig::ready(settings());
    rig.supply("s1", 0);
    rig.wait(S(61));
    assert_eq!(rig.state(), "-");
    rig.supply("s2", 0);
    let release = Release { session_id: "s2".to_owned(), reason: Reason::StoppedByOperator.into() };
    rig.down(down::Body::Release(release));
    rig.act(EngineAction::Plug).unwrap();
    assert_eq!((rig.state(), rig.ends().len(), rig.disk.len()), ("-", 0, 1), "only the epoch is in the journal");
}

// ---- Every end of 3.5

#[test]
fn unplugging_ends_a_supply_spec_3_5() {
    let mut rig = EngineRig::supplying(settings());
    rig.wait(S(100));
    rig.act(EngineAction::Unplug).unwrap();
    assert_eq!(the_end(&rig), (Reason::Unplugged, 1_000));
}

#[test]
fn central_ends_a_supply_for_its_reason_spec_3_5() {
    for reason in [Reason::StoppedByDriver, Reason::StoppedByOperator, Reason::Frost] {
        let mut rig = EngineRig::supplying(settings());
        rig.wait(S(50));
        rig.stop(reason);
        assert_eq!(the_end(&rig), (reason, 500));
    }
}

#[test]
fn the_requested_energy_ends_a_supply_exactly_spec_3_5() {
    let mut rig = EngineRig::ready(settings());
    rig.supply("s1", 777);
    rig.act(EngineAction::Plug).unwrap();
    rig.wait(S(200));
    assert_eq!(the_end(&rig), (Reason::EnergyReached, 777));
}

#[test]
fn a_fault_ends_a_supply_and_is_told_first_spec_3_5() {
    let mut rig = EngineRig::supplying(settings());
    rig.wait(S(50));
    rig.act(EngineAction::Break).unwrap();
    assert_eq!(the_end(&rig), (Reason::Fault, 500));
    assert!(!rig.healthy());
    assert!(!rig.ask().0);
    rig.act(EngineAction::Repair).unwrap();
    assert!(rig.healthy());
    assert!(rig.act(EngineAction::Repair).is_err());
}

#[test]
fn renewal_and_revocation_stop_a_supply_which_settles_later_spec_4_7() {
    for (state, reason) in [(KeyState::Deleted, Reason::KeyRenewed), (KeyState::Revoked, Reason::KeyRevoked)] {
        let mut rig = EngineRig::supplying(settings());
        rig.wait(S(50));
        rig.withdraw(state, reason);
        assert_eq!((rig.state(), rig.ends().len(), rig.closed.len()), ("-", 0, 1));
        assert!(rig.engine.status().warnings[0].contains("key"), "{:?}", rig.engine.status().warnings);
        rig.assign(2);
        rig.reconnect_now();
        let held = rig.held();
        assert_eq!((held[0].state(), held[0].reason(), held[0].meter_wh), (SessionState::Settling, reason, 500));
        assert_eq!(the_end(&rig), (reason, 500));
    }
}

#[test]
fn unattended_it_plugs_in_and_out_by_itself_spec_1_9() {
    let mut rig = EngineRig::ready(unattended());
    rig.supply("s1", 0);
    rig.wait(S(1));
    assert_eq!(rig.state(), "RESERVED");
    rig.wait(S(1));
    assert_eq!(rig.state(), "SUPPLYING");
    rig.wait(S(20));
    assert_eq!(the_end(&rig), (Reason::TimeReached, 100));
    assert!(!rig.engine.status().plugged);
    rig.down(down::Body::Settled(Settled { session_id: "s1".to_owned(), ticket: None }));
    rig.ups.clear();
    rig.supply("s2", 300);
    rig.wait(S(40));
    assert_eq!(the_end(&rig), (Reason::EnergyReached, 300));
}

#[test]
fn a_recorded_session_delivers_exactly_its_energy_in_its_time_at_any_speed() {
    for (limit, reason) in [(4_216, Reason::EnergyReached), (0, Reason::Unplugged)] {
        let settings = EngineSettings { speed: "600".parse().unwrap(), ..unattended() };
        let mut rig = EngineRig::ready(settings);
        rig.act(EngineAction::Next(Profile::Even { energy: Energy::from_wh(4_216), over: S(4_800) })).unwrap();
        rig.supply("s1", limit);
        rig.wait(S(7));
        assert_eq!(rig.state(), "SUPPLYING");
        rig.wait(S(2));
        assert_eq!(the_end(&rig), (reason, 4_216));
        let ended = &rig.ends()[0].1;
        assert!((8_000..8_300).contains(&(ended.ended_at_ms - ended.started_at_ms)));
    }
}

// ---- The final value

#[test]
fn a_final_value_is_on_disk_before_it_is_sent_and_repeated_until_answered_spec_4_2() {
    let mut rig = EngineRig::supplying(settings());
    rig.wait(S(50));
    rig.slow = Some(None);
    rig.act(EngineAction::Unplug).unwrap();
    rig.wait(S(20));
    assert_eq!(rig.ends().len(), 0);
    rig.disk_catches_up();
    rig.wait(S(11));
    let ends = rig.ends();
    assert_eq!(ends.len(), 3, "at once, after five seconds, after ten");
    assert!(ends.iter().all(|end| *end == ends[0]), "word for word");
    rig.answer(ends[0].0, Reason::Unavailable);
    rig.wait(S(5));
    assert_eq!(rig.ends().len(), 4, "a Central that cannot store it gets it again");
    rig.answer(ends[0].0, Reason::Unspecified);
    rig.wait(S(60));
    assert_eq!(rig.ends().len(), 4);
}

#[test]
fn a_meter_value_is_told_once_its_register_is_in_the_journal_so_that_a_kill_takes_nothing_back_spec_9() {
    let mut rig = EngineRig::supplying(settings());
    rig.wait(S(20));
    rig.ups.clear();
    let values = |rig: &EngineRig| {
        let value = |body| if let up::Body::MeterValue(value) = body { Some(value.meter_wh) } else { None };
        rig.sent().into_iter().filter_map(value).collect::<Vec<_>>()
    };
    rig.slow = Some(None);
    rig.wait(S(5));
    assert!(values(&rig).is_empty(), "nothing that a killed engine would not know of");
    // Each write takes longer than the meter's second, and still each says something.
    for n in 1..=3 {
        let (records, upto) = rig.slow.replace(None).flatten().expect("something to write");
        rig.disk.extend(records);
        rig.input(EngineInput::Written(upto));
        assert_eq!(values(&rig).len(), n, "what it kept, and of that the newest");
        rig.wait(S(3));
    }
    let told = values(&rig);
    let killed = EngineRig::restarted(settings(), rig.disk.clone(), rig.now).up();
    assert!(
        killed.engine.status().meter_wh >= told[told.len() - 1],
        "{} after {told:?}",
        killed.engine.status().meter_wh
    );
    rig.disk_catches_up();
    rig.act(EngineAction::Unplug).unwrap();
    rig.ups.clear();
    rig.wait(S(5));
    assert!(values(&rig).is_empty(), "the final value is the last");
}

#[test]
fn an_end_that_is_not_on_disk_yet_is_not_reported_as_final() {
    let mut rig = EngineRig::supplying(settings());
    rig.wait(S(50));
    rig.slow = Some(None);
    rig.act(EngineAction::Unplug).unwrap();
    rig.cut();
    rig.ups.clear();
    rig.reconnect();
    assert_eq!(rig.held()[0].state(), SessionState::Supplying);
    rig.disk_catches_up();
    assert_eq!(rig.ends().len(), 1);
}

#[test]
fn settled_ends_the_reports_and_is_remembered_spec_3_8() {
    let mut rig = EngineRig::supplying(settings());
    rig.wait(S(50));
    rig.act(EngineAction::Unplug).unwrap();
    assert_eq!(rig.engine.status().unsettled, 1);
    rig.down(down::Body::Settled(Settled { session_id: "s1".to_owned(), ticket: None }));
    rig.ups.clear();
    rig.wait(S(60));
    assert_eq!((rig.ends().len(), rig.engine.status().unsettled), (0, 0));
    let mut back = EngineRig::restarted(settings(), rig.disk.clone(), rig.now).up();
    back.cut();
    back.reconnect();
    assert_eq!(back.held(), []);
}

#[test]
fn a_new_generation_of_central_hears_of_settled_sessions_again_spec_10_5() {
    let mut rig = EngineRig::supplying(settings());
    rig.act(EngineAction::Unplug).unwrap();
    let ticket = SignedDocument { document: vec![1], key_id: "k".to_owned(), signature: vec![2] };
    rig.down(down::Body::Settled(Settled { session_id: "s1".to_owned(), ticket: Some(ticket.clone()) }));
    rig.ups.clear();
    rig.down_at(2 << 32, down::Body::View(View::default()));
    assert_eq!((rig.held()[0].session_id.as_str(), &rig.held()[0].ticket), ("s1", &Some(ticket)));
}

// ---- By hand

#[test]
fn a_manual_supply_waits_for_centrals_word_spec_3_1() {
    let mut rig = EngineRig::ready(settings());
    rig.act(EngineAction::Supply { driver: "ann".to_owned(), energy: Energy::from_wh(500) }).unwrap();
    rig.wait(S(6));
    let asked: Vec<(u64, up::Body)> = rig.ups.iter().filter_map(|(_, up)| Some((up.id, up.body.clone()?))).collect();
    let manual: Vec<_> = asked.iter().filter(|(_, b)| matches!(b, up::Body::ManualSupply(_))).collect();
    assert_eq!(manual.len(), 2, "said again with the same ids");
    assert_eq!(manual[0], manual[1]);
    assert!(rig.act(EngineAction::Supply { driver: String::new(), energy: Energy::ZERO }).is_err());
    rig.answer(manual[0].0, Reason::NotConfirmed);
    assert_eq!(rig.engine.status().notice.as_deref(), Some("manual supply refused: the driver did not confirm"));
    assert_eq!(rig.act(EngineAction::Supply { driver: String::new(), energy: Energy::ZERO }), Ok(()));
    rig.supply("s1", 500);
    assert!(!rig.engine.status().manual_pending);
}

#[test]
fn a_manual_supply_for_nobody_that_can_be_is_refused_here() {
    let mut rig = EngineRig::ready(settings());
    let refused = rig.act(EngineAction::Supply { driver: "not an id".to_owned(), energy: Energy::ZERO }).unwrap_err();
    assert!(refused.contains("is not a driver's id"));
}

// ---- Keys

#[test]
fn a_rotation_during_a_supply_loses_no_reading_spec_4_6() {
    let mut rig = EngineRig::supplying(settings());
    rig.wait(S(10));
    rig.assign(2);
    assert!(rig.reports.iter().any(|r| r.body == Some(from_engine::Body::KeyStored(KeyStored { key_no: 2 }))));
    let link = rig.dials.last().unwrap().0;
    rig.wait(S(3));
    rig.link(link, LinkEvent::Open);
    rig.wait(S(3));
    assert!(rig.closed.is_empty(), "the old link serves until the new one is proven");
    rig.view();
    assert_eq!(rig.closed, [1]);
    rig.wait(S(10));
    let mut opener = Opener::new("CP-1");
    let mut links = Vec::new();
    for (link, up) in &rig.ups {
        if let Some(up::Body::Reading(sealed)) = &up.body {
            opener.open(sealed, &LinkKey::from_bytes(KEY), 0).unwrap();
            links.push(*link);
        }
    }
    let counts = opener.counts();
    assert_eq!((counts.opened, counts.missing, counts.duplicates), (26, 0, 0));
    assert!(links.contains(&1) && links.contains(&link));
}

#[test]
fn a_key_number_that_a_restored_central_grants_again_seals_readings_under_its_new_key_spec_10_5() {
    let mut rig = EngineRig::supplying(settings());
    rig.wait(S(3));
    rig.cut();
    rig.assign_key(1, [4; 32]);
    rig.ups.clear();
    rig.reconnect_now();
    rig.wait(S(3));
    let sealed = |body| if let up::Body::Reading(sealed) = body { Some(sealed) } else { None };
    let sealed: Vec<_> = rig.sent().into_iter().filter_map(sealed).collect();
    assert!(!sealed.is_empty());
    let mut opener = Opener::new("CP-1");
    for reading in &sealed {
        opener.open(reading, &LinkKey::from_bytes([4; 32]), 0).unwrap();
    }
}

#[test]
fn readings_of_an_outage_are_kept_within_bounds_and_sent_under_the_key_of_the_day_spec_5_2() {
    let mut rig = EngineRig::supplying(EngineSettings { readings_kept: 20, ..settings() });
    rig.cut();
    rig.wait(S(100));
    assert_eq!(rig.engine.status().readings_waiting, 20);
    rig.assign(2);
    rig.ups.clear();
    rig.reconnect_now();
    rig.wait(S(10));
    assert_eq!(rig.engine.status().readings_waiting, 0);
    let sealed = |body| if let up::Body::Reading(sealed) = body { Some(sealed) } else { None };
    let sealed: Vec<_> = rig.sent().into_iter().filter_map(sealed).collect();
    assert!(sealed.iter().all(|reading| reading.key_no == 2));
    assert_eq!(sealed.len(), 30);
}

#[test]
fn readings_of_a_supply_that_ended_during_the_outage_all_go_when_central_is_back_spec_5_4() {
    let mut rig = EngineRig::supplying(settings());
    rig.cut();
    rig.wait(S(30));
    rig.act(EngineAction::Unplug).unwrap();
    let waiting = rig.engine.status().readings_waiting;
    assert!(waiting > 24, "{waiting}");
    rig.ups.clear();
    rig.reconnect_now();
    let sent = |rig: &EngineRig| rig.sent().iter().filter(|body| matches!(body, up::Body::Reading(_))).count();
    assert_eq!(sent(&rig), 8, "a portion at a time");
    rig.wait(S(60));
    assert_eq!((sent(&rig), rig.engine.status().readings_waiting), (waiting, 0));
    assert!(rig.engine.poll_timeout().is_none_or(|at| at > rig.now.mono), "and then nothing is due for them");
}

#[test]
fn spoiled_keys_make_both_ends_unreadable_until_repaired_spec_4_8() {
    let mut rig = EngineRig::ready(settings());
    rig.act(EngineAction::SpoilKey).unwrap();
    assert!(rig.act(EngineAction::SpoilKey).is_err());
    rig.link(1, LinkEvent::Unintelligible(wire::Unintelligible::DoesNotOpen));
    assert!(rig.engine.status().warnings[0].starts_with("unintelligible messages from Central"));
    rig.cut();
    rig.reconnect();
    rig.act(EngineAction::RepairKey).unwrap();
    assert_eq!(rig.spoils, [true, true, false], "a link that opens meanwhile is spoiled too");
    rig.view();
    assert_eq!(rig.engine.status().warnings, [""; 0]);
    let mut strict = EngineRig::ready(EngineSettings { drills: false, ..settings() });
    assert!(strict.act(EngineAction::SpoilKey).unwrap_err().contains("--drills"));
}

#[test]
fn an_older_epoch_commands_nothing_even_after_a_restart_spec_4_9() {
    let mut rig = EngineRig::ready(settings());
    rig.down_at(9 << 32, down::Body::View(View::default()));
    let mut back = EngineRig::restarted(settings(), rig.disk.clone(), rig.now);
    back.input(EngineInput::Paired);
    back.assign(1);
    back.link(1, LinkEvent::Open);
    assert!(matches!(&back.sent()[0], up::Body::Opened(opened) if opened.highest_epoch == 9 << 32));
    back.supply("s1", 0);
    assert_eq!(back.state(), "-");
}

#[test]
fn a_message_that_is_none_is_counted_and_changes_nothing() {
    let mut rig = EngineRig::ready(settings());
    rig.link(1, LinkEvent::Message(Bytes::from_static(b"\xff\xff")));
    assert_eq!(rig.engine.status().unintelligible, 1);
}

#[test]
fn an_engine_whose_monitor_is_not_enrolled_is_not_said_to_work_again_spec_9_1() {
    let (ctx, mut rig) = (mesh::process::Context::detached("engine"), EngineRig::new(settings()));
    let mut shown = super::event_loop::EngineDisplay::new(&ctx);
    for why in ["no monitor", "the monitor is not enrolled"] {
        shown.update(&rig.engine);
        let report = serde_json::to_string(&ctx.health.report()).unwrap();
        assert!(report.contains("degraded") && report.contains(why), "{report}");
        rig.input(EngineInput::Paired);
    }
    let mut rig = rig.up();
    rig.wait(S(1));
    shown.update(&rig.engine);
    assert_eq!(ctx.health.readiness(), mesh::health::Readiness::Ready);
}
