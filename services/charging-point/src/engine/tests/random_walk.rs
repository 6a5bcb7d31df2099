//! A random walk that must never lose or invent a watt-hour.

use proptest::prelude::*;

use super::rig::*;

#[derive(Clone, Debug)]
enum WalkStep {
    Supply(u64),
    Plug,
    Unplug,
    Break,
    Repair,
    StopIt,
    Cut,
    Back,
    Unpair,
    Pair,
    Settle,
    DiskBreaks,
    DiskWorks,
    Kill,
    Wait(u64),
}

fn step() -> impl Strategy<Value = WalkStep> {
    prop_oneof![
        3 => (0u64..400).prop_map(WalkStep::Supply),
        3 => Just(WalkStep::Plug),
        1 => Just(WalkStep::Unplug),
        1 => Just(WalkStep::Break),
        2 => Just(WalkStep::Repair),
        1 => Just(WalkStep::StopIt),
        1 => Just(WalkStep::Cut),
        2 => Just(WalkStep::Back),
        1 => Just(WalkStep::Unpair),
        2 => Just(WalkStep::Pair),
        1 => Just(WalkStep::Settle),
        1 => Just(WalkStep::DiskBreaks),
        2 => Just(WalkStep::DiskWorks),
        1 => Just(WalkStep::Kill),
        5 => (1u64..40_000).prop_map(WalkStep::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens: a register never runs backwards, a session has one final value however often it is told, and
    /// what all sessions drew is what the register says.
    #[test]
    fn no_watt_hour_is_lost_or_invented_spec_3_7(steps in prop::collection::vec(step(), 1..60)) {
        let mut rig = EngineRig::ready(settings());
        let mut finals = std::collections::BTreeMap::new();
        let (mut sessions, mut register) = (0, 0);
        for step in steps {
            match step {
                WalkStep::Supply(wh) if rig.engine.uplink.is_reachable() => {
                    sessions += 1;
                    rig.supply(&format!("s{sessions}"), wh);
                }
                WalkStep::Plug => drop(rig.act(EngineAction::Plug)),
                WalkStep::Unplug => drop(rig.act(EngineAction::Unplug)),
                WalkStep::Break => drop(rig.act(EngineAction::Break)),
                WalkStep::Repair => drop(rig.act(EngineAction::Repair)),
                WalkStep::StopIt if rig.engine.uplink.is_reachable() => {
                    let stop = Stop { session_id: format!("s{sessions}"), reason: Reason::StoppedByDriver.into() };
                    rig.down(down::Body::Stop(stop));
                }
                WalkStep::Cut if rig.engine.uplink.is_reachable() => rig.cut(),
                WalkStep::Back if !rig.engine.uplink.is_reachable() => rig.reconnect(),
                WalkStep::Unpair => rig.input(EngineInput::Unpaired("gone".to_owned())),
                WalkStep::Pair => rig.input(EngineInput::Paired),
                WalkStep::Settle if rig.engine.uplink.is_reachable() => {
                    rig.down(down::Body::Settled(Settled { session_id: format!("s{sessions}"), ticket: None }));
                }
                WalkStep::DiskBreaks => rig.disk_works = false,
                WalkStep::DiskWorks => rig.disk_works = true,
                WalkStep::Kill => {
                    let (disk, now, works) = (rig.disk.clone(), rig.now, rig.disk_works);
                    rig = EngineRig::restarted(settings(), disk, now).up();
                    rig.disk_works = works;
                    // What was in memory only is gone; what was told stays true.
                    register = rig.engine.status().meter_wh;
                }
                WalkStep::Wait(ms) => rig.wait(Duration::from_millis(ms)),
                WalkStep::Supply(_) | WalkStep::StopIt | WalkStep::Cut | WalkStep::Back | WalkStep::Settle => {}
            }
            let now = rig.engine.status().meter_wh;
            prop_assert!(now >= register, "from {register} to {now}");
            register = now;
            for (_, ended) in rig.ends() {
                let first = finals.entry(ended.session_id.clone()).or_insert_with(|| ended.clone());
                prop_assert_eq!(&*first, &ended);
            }
        }
        // To rest: the disk works, everything ends, and the journal is asked.
        rig.disk_works = true;
        drop(rig.act(EngineAction::Break));
        rig.wait(S(5));
        let mut journal_state = JournalState::default();
        rig.disk.iter().for_each(|record| journal_state.apply(record));
        let mut drawn = 0;
        for n in 0..=sessions {
            let Some(session) = journal_state.session(&format!("s{n}")) else { continue };
            prop_assert!(session.ended.is_some());
            drawn += session.last.meter_wh - session.started.meter_start_wh;
            if let Some(ended) = finals.get(&session.started.session_id) {
                prop_assert_eq!(ended.meter_end_wh, session.last.meter_wh);
            }
        }
        prop_assert_eq!(drawn, rig.engine.status().meter_wh);
    }
}
