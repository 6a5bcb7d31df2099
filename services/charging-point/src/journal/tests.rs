use std::{
    io::BufRead as _,
    process::{Child, Command, Stdio},
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::{SigSet, Signal},
};
use proptest::prelude::*;
use proto::link::v1::Reason;

use super::*;
use crate::journal_state::{EndEntry, JournalEntry, RegisterEntry, SettledEntry, StartEntry};

const DAY_MS: i64 = 86_400_000;

fn started(id: &str, meter: u64, at: i64) -> JournalRecord {
    let started = StartEntry {
        session_id: id.to_owned(),
        charging_point_id: "CP-1".to_owned(),
        driver_id: "ann".to_owned(),
        meter_start_wh: meter,
        at_ms: at,
        authorisation: None,
    };
    JournalEntry::Started(started).into()
}

fn register(meter_wh: u64, at_ms: i64) -> JournalRecord {
    JournalEntry::Register(RegisterEntry { meter_wh, at_ms }).into()
}

fn ended(id: &str, meter: u64, at_ms: i64) -> JournalRecord {
    let reason = Reason::Unplugged.into();
    JournalEntry::Ended(EndEntry { session_id: id.to_owned(), meter_end_wh: meter, reason, at_ms }).into()
}

fn settled(id: &str) -> JournalRecord {
    JournalEntry::Settled(SettledEntry { session_id: id.to_owned(), ticket: None }).into()
}

fn story() -> Vec<JournalRecord> {
    vec![
        started("s1", 100, 1),
        register(150, 2),
        ended("s1", 175, 3),
        settled("s1"),
        JournalEntry::Epoch(1 << 32 | 7).into(),
        started("s2", 175, 4),
        register(180, 5),
    ]
}

fn fold(records: &[JournalRecord]) -> JournalState {
    let mut state = JournalState::default();
    records.iter().for_each(|r| state.apply(r));
    state
}

/// A child that another test starts has all descriptors of this process for a moment, and so the lock of a journal that
/// was closed here.
fn open(path: &Path) -> Journal {
    open_at(path, JournalSettings::default(), 10)
}

fn open_at(path: &Path, settings: JournalSettings, now_ms: i64) -> Journal {
    for _ in 0..10_000 {
        match Journal::open(path, settings, now_ms) {
            Err(JournalError::InUse { .. }) => std::thread::sleep(std::time::Duration::from_millis(1)),
            opened => return opened.unwrap(),
        }
    }
    panic!("{} stays in use", path.display());
}

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sub/journal");
    open(&path).append(&story(), true, 10).unwrap();
    let journal = open(&path);
    assert_eq!(*journal.state(), fold(&story()));
    let running = journal.state().running().unwrap();
    assert_eq!((running.started.session_id.as_str(), running.last.meter_wh), ("s2", 180));
}

#[test]
fn a_journal_cut_at_any_byte_keeps_the_records_before_it_and_takes_new_ones_spec_9() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut lengths = vec![MAGIC.len()];
    let mut bytes = MAGIC.to_vec();
    for record in story() {
        encode(&record, &mut bytes);
        lengths.push(bytes.len());
    }
    for cut in 0..=bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let whole = lengths.iter().filter(|l| **l <= cut).count().saturating_sub(1);
        let mut journal = open(&path);
        assert_eq!(*journal.state(), fold(&story()[..whole]), "cut at {cut}");
        journal.append(&[register(9_999, 9)], true, 10).unwrap();
        drop(journal);
        assert_eq!(open(&path).state().register.meter_wh, 9_999, "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn a_damaged_byte_never_makes_up_a_record(at in 8usize..300, mask in 1u8..) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut bytes = MAGIC.to_vec();
        story().iter().for_each(|record| encode(record, &mut bytes));
        let at = at % (bytes.len() - 8) + 8;
        bytes[at] ^= mask;
        fs::write(&path, &bytes).unwrap();
        let state = open(&path).state().clone();
        prop_assert!((0..story().len()).any(|n| state == fold(&story()[..n])));
    }

    #[test]
    fn a_rewritten_ledger_folds_to_the_same(picks in prop::collection::vec((0usize..6, 0u64..50), 0..40)) {
        let mut records = Vec::new();
        let mut meter = 0;
        let mut open: Option<String> = None;
        for (n, (pick, more)) in picks.into_iter().enumerate() {
            meter += more;
            let at = i64::try_from(n).unwrap();
            match (pick, open.take()) {
                (0 | 1, None) => {
                    let id = format!("s{n}");
                    records.push(started(&id, meter, at));
                    open = Some(id);
                }
                (2, Some(id)) => records.push(ended(&id, meter, at)),
                (3, running) => {
                    records.push(settled(&format!("s{}", n / 2)));
                    open = running;
                }
                (4, running) => {
                    records.push(JournalEntry::Epoch((1 << 32) + more).into());
                    open = running;
                }
                (_, running) => {
                    records.push(register(meter, at));
                    open = running;
                }
            }
        }
        let state = fold(&records);
        prop_assert_eq!(fold(&state.records()), state);
    }
}

#[test]
fn the_file_does_not_grow_for_ever_and_settled_sessions_are_kept_35_days_spec_10_5() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = open_at(&path, JournalSettings { rewrite_at: 4_096, ..JournalSettings::default() }, 0);
    for n in 0..1_000u64 {
        let (id, at) = (format!("s{n}"), i64::try_from(n).unwrap() * DAY_MS / 10);
        journal.append(&[started(&id, n, at), ended(&id, n + 1, at), settled(&id)], true, at).unwrap();
    }
    assert!(fs::metadata(&path).unwrap().len() < 120_000, "ten sessions a day for a hundred days");
    drop(journal);
    let journal = open_at(&path, JournalSettings::default(), 100 * DAY_MS);
    let state = journal.state();
    assert!(state.session("s700").is_some(), "30 days ago");
    assert!(state.session("s600").is_none(), "40 days ago");
    assert_eq!(state.register.meter_wh, 1_000);
}

#[test]
fn a_session_that_is_not_settled_is_never_forgotten() {
    let mut state = fold(&[started("s1", 0, 0), ended("s1", 5, 1)]);
    state.forget(400 * DAY_MS, Duration::from_secs(35 * 86_400));
    assert_eq!(state.unsettled("CP-1").count(), 1);
    assert_eq!(state.unsettled("CP-2").count(), 0, "another charging point's");
}

#[test]
fn a_new_generation_unsettles_what_the_old_one_settled_spec_10_5() {
    let mut state =
        fold(&[JournalEntry::Epoch(1 << 32 | 3).into(), started("s1", 0, 0), ended("s1", 5, 1), settled("s1")]);
    state.apply(&JournalEntry::Epoch(1 << 32 | 4).into());
    assert_eq!(state.unsettled("CP-1").count(), 0);
    state.apply(&JournalEntry::Epoch(2 << 32).into());
    assert_eq!(state.unsettled("CP-1").count(), 1);
}

#[test]
fn two_engines_never_share_a_journal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let _first = open(&path);
    let error = Journal::open(&path, JournalSettings::default(), 0).unwrap_err();
    assert!(error.to_string().contains("in use by another engine"), "{error}");
}

#[test]
fn a_foreign_file_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    for text in ["hello", "hello, this is a letter"] {
        fs::write(&path, text).unwrap();
        assert!(matches!(Journal::open(&path, JournalSettings::default(), 0), Err(JournalError::Foreign { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_write_that_failed_half_way_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = open(&path);
    journal.append(&story()[..3], true, 10).unwrap();
    // As a full disk leaves it: some bytes of the record came through, the write did not succeed.
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"half a record").unwrap();
    journal.dirty = true;
    journal.append(&story()[3..], true, 10).unwrap();
    drop(journal);
    assert_eq!(*open(&path).state(), fold(&story()));
    assert!(!beside(&path, "torn").exists());
}

// ---- In a process of its own

const IN_CHILD: &str = "CHARGEMESH_TEST_JOURNAL";

fn child(test: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(IN_CHILD, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Numbers that the child printed behind `# `.
fn numbers(child: &mut Child) -> impl Iterator<Item = u64> + use<> {
    let lines = io::BufReader::new(child.stdout.take().unwrap()).lines();
    lines.filter_map(|line| line.unwrap().strip_prefix("# ").and_then(|n| n.parse().ok()))
}

#[test]
fn after_kill_9_everything_that_was_durable_is_there_spec_9_engine() {
    if let Some(path) = std::env::var_os(IN_CHILD) {
        let mut journal = open(Path::new(&path));
        let first = journal.state().register.meter_wh + 1;
        for n in first.. {
            journal.append(&[register(n, 0)], true, 0).unwrap();
            println!("# {n}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut least = 0;
    for lines in [1, 3, 40, 200] {
        let mut process =
            child("journal::tests::after_kill_9_everything_that_was_durable_is_there_spec_9_engine", &path);
        let told = numbers(&mut process).take(lines).last().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        least = told.max(least);
        let register = open(&path).state().register.meter_wh;
        assert!(register >= least, "{register} was on disk, {least} had been told");
        least = register;
    }
}

#[test]
fn a_full_disk_is_reported_and_leaves_no_half_written_state_spec_9_disk_full() {
    if let Some(path) = std::env::var_os(IN_CHILD) {
        // A limit on the file's length fails a write in the middle, as a full disk does.
        let mut quiet = SigSet::empty();
        quiet.add(Signal::SIGXFSZ);
        quiet.thread_block().unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, 1_000, hard).unwrap();
        let mut journal = open(Path::new(&path));
        let refused = (1..).find(|n| journal.append(&[register(*n, 0)], true, 0).is_err()).unwrap();
        assert!(journal.append(&[register(refused, 0)], true, 0).is_err(), "still full");
        let before = journal.state().register.meter_wh;
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
        journal.append(&[register(refused, 0)], true, 0).unwrap();
        println!("# {before}");
        println!("# {refused}");
        std::process::exit(0);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut process =
        child("journal::tests::a_full_disk_is_reported_and_leaves_no_half_written_state_spec_9_disk_full", &path);
    let told: Vec<u64> = numbers(&mut process).collect();
    assert!(process.wait().unwrap().success());
    assert_eq!(told[1], told[0] + 1, "what was refused did not count, and was taken later");
    assert_eq!(open(&path).state().register.meter_wh, told[1]);
    assert!(!beside(&path, "torn").exists());
}
