//! A random walk that must never lose or invent a watt-hour.

use proptest::prelude::*;

use super::rig::*;

#[derive(Clone, Debug)]
enum Step {
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

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u64..400).prop_map(Step::Supply),
        3 => Just(Step::Plug),
        1 => Just(Step::Unplug),
        1 => Just(Step::Break),
        2 => Just(Step::Repair),
        1 => Just(Step::StopIt),
        1 => Just(Step::Cut),
        2 => Just(Step::Back),
        1 => Just(Step::Unpair),
        2 => Just(Step::Pair),
        1 => Just(Step::Settle),
        1 => Just(Step::DiskBreaks),
        2 => Just(Step::DiskWorks),
        1 => Just(Step::Kill),
        5 => (1u64..40_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens: a register never runs backwards, a session has one final value however often it is told, and
    /// what all sessions drew is what the register says.
    #[test]
    fn no_watt_hour_is_lost_or_invented_spec_3_7(steps in prop::collection::vec(step(), 1..60)) {
        let mut rig = Rig::ready(settings());
        let mut finals = std::collections::BTreeMap::new();
        let (mut sessions, mut register) = (0, 0);
        for step in steps {
            match step {
                Step::Supply(wh) if rig.engine.way.reachable() => {
                    sessions += 1;
                    rig.supply(&format!("s{sessions}"), wh);
                }
                Step::Plug => drop(rig.act(Action::Plug)),
                Step::Unplug => drop(rig.act(Action::Unplug)),
                Step::Break => drop(rig.act(Action::Break)),
                Step::Repair => drop(rig.act(Action::Repair)),
                Step::StopIt if rig.engine.way.reachable() => {
                    let stop = Stop { session_id: format!("s{sessions}"), reason: Reason::StoppedByDriver.into() };
                    rig.down(down::Body::Stop(stop));
                }
                Step::Cut if rig.engine.way.reachable() => rig.cut(),
                Step::Back if !rig.engine.way.reachable() => rig.reconnect(),
                Step::Unpair => rig.input(Input::Unpaired("gone".to_owned())),
                Step::Pair => rig.input(Input::Paired),
                Step::Settle if rig.engine.way.reachable() => {
                    rig.down(down::Body::Settled(Settled { session_id: format!("s{sessions}") }));
                }
                Step::DiskBreaks => rig.disk_works = false,
                Step::DiskWorks => rig.disk_works = true,
                Step::Kill => {
                    let (disk, now, works) = (rig.disk.clone(), rig.now, rig.disk_works);
                    rig = Rig::restarted(settings(), disk, now).up();
                    rig.disk_works = works;
                    // What was in memory only is gone; what was told stays true.
                    register = rig.engine.status().meter_wh;
                }
                Step::Wait(ms) => rig.wait(Duration::from_millis(ms)),
                Step::Supply(_) | Step::StopIt | Step::Cut | Step::Back | Step::Settle => {}
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
        drop(rig.act(Action::Break));
        rig.wait(S(5));
        let mut ledger = Ledger::default();
        rig.disk.iter().for_each(|record| ledger.apply(record));
        let mut drawn = 0;
        for n in 0..=sessions {
            let Some(session) = ledger.session(&format!("s{n}")) else { continue };
            prop_assert!(session.ended.is_some());
            drawn += session.last.meter_wh - session.started.meter_start_wh;
            if let Some(ended) = finals.get(&session.started.session_id) {
                prop_assert_eq!(ended.meter_end_wh, session.last.meter_wh);
            }
        }
        prop_assert_eq!(drawn, rig.engine.status().meter_wh);
    }
}
