//! Kill -9 in the middle of group commits: whatever was answered is there.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
};

use super::*;

const URL: &str = "STORE_TEST_WRITER_URL";
const WRITERS: usize = 8;

/// The process that is killed: this test binary again, told by the environment to write until its end. Each line it
/// prints is an answer it got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_writes_until_it_is_killed() {
    let Ok(url) = std::env::var(URL) else { return };
    let database = Database::open(&url, SCHEMA).await.unwrap();
    let committer = Committer::start(&database, "central-1", CommitterSettings::default()).unwrap();
    let writers = (0..WRITERS).map(|n| {
        let committer = committer.clone();
        tokio::spawn(async move {
            let cp_id = format!("CP-{n}");
            let guard = Guard::Takeover { cp_id: cp_id.clone(), owner: "central-1".into(), expected_owner: None };
            let done = committer.submit(turn(Some(guard), [])).await.unwrap();
            let mut point = OwnedPoint { cp_id, epoch: done.epoch, version: done.version };
            loop {
                let id = format!("{}-{}", point.cp_id, point.version);
                let row = session(&id, &point.cp_id, None, 4);
                let writes =
                    [RowWrite::Ticket(ticket(&row, 1)), RowWrite::Audit(entry("END", &id)), RowWrite::OpenSession(row)];
                // A ticket needs its session, so they are two turns.
                let [bill, audit, open] = writes;
                let done = committer.submit(turn(Some(point.guard()), [open])).await.unwrap();
                point.version = done.version;
                let done = committer.submit(turn(Some(point.guard()), [bill, audit])).await.unwrap();
                point.version = done.version;
                let mut out = std::io::stdout().lock();
                writeln!(out, "answered {} {id} {}", point.cp_id, point.version).unwrap();
                out.flush().unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;
}

/// Runs the writer, kills it after so many answers, and answers what it had been told: session and version.
fn run_and_kill(url: &str, answers: usize) -> Vec<(String, String, i64)> {
    let name = concat!(module_path!(), "::a_process_that_writes_until_it_is_killed");
    let name = name.split_once("::").unwrap().1;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(URL, url)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = Vec::new();
    for line in lines {
        // A line that the kill cut short was not told.
        let Ok(line) = line else { break };
        let Some((_, rest)) = line.split_once("answered ") else { continue };
        let words: Vec<_> = rest.split(' ').collect();
        if let [cp, session, version] = words[..] {
            told.push((cp.to_owned(), session.to_owned(), version.parse().unwrap()));
        }
        if told.len() == answers {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(told.len() >= answers, "the writer ended by itself after {} answers", told.len());
    told
}

on_both! {
    async fn what_was_answered_survives_a_kill_spec_3_7(store: TestStore) {
        for n in 0..WRITERS {
            store.owned(&format!("CP-{n}")).await;
        }
        for round in 0..6 {
            let url = store.url.clone();
            let told = tokio::task::spawn_blocking(move || run_and_kill(&url, 40 + 37 * round)).await.unwrap();
            let (cps, tickets) = store.read(move |c| {
                let tickets = TicketRow::list(c, &TicketFilter::default(), &PageRequest { size: 10_000, ..Default::default() })?;
                Ok((ChargingPointRow::all(c)?, tickets.rows))
            }).await;
            for (cp, session, version) in told {
                assert!(tickets.iter().any(|ticket| ticket.session_id == session), "lost the bill of {session}");
                assert!(cps.iter().any(|row| row.cp_id == cp && row.version >= version), "lost a turn of {cp}");
            }
            let audited = store.read(|c| AuditRow::list(c, &AuditFilter { action: "END".into(), ..Default::default() }, AuditOrder::OldestFirst, &PageRequest { size: 10_000, ..Default::default() })).await;
            assert_eq!(audited.rows.len(), tickets.len(), "each bill with its entry, or neither");
        }
        let checkpoints = store.folder.path().join("checkpoints");
        std::fs::write(&checkpoints, "").unwrap();
        let found = audit::verify(&store.database, &checkpoints, &[]).await.unwrap();
        assert_eq!(found.first_bad, None);
    }
}
