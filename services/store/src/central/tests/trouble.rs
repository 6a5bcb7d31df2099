use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::testing::Postgres;

on_both! {
    async fn a_commit_whose_answer_was_lost_is_asked_for_before_anything_is_reported(store: TestStore) {
        let mut point = store.owned("CP-1").await;
        store.database.inner.faults.lose_answer.store(true, SeqCst);
        let done = store.submit(&mut point, [RowWrite::Audit(entry("START", "CP-1"))]).await.expect("it arrived");
        assert_eq!(store.read(|c| ChargingPointRow::find(c, "CP-1")).await.unwrap().version, done.version);
        store.submit(&mut point, [RowWrite::Audit(entry("END", "CP-1"))]).await.expect("and the chain goes on");
        assert_eq!(store.read(|c| AuditRow::list(c, &AuditFilter::default(), AuditOrder::OldestFirst, &PageRequest::default())).await.rows.len(), 2);
    }

    async fn a_connection_that_died_unnoticed_is_replaced(store: TestStore) {
        let mut point = store.owned("CP-1").await;
        if store.url.starts_with("postgres") {
            let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
            store.sql(others).await;
        }
        store.submit(&mut point, []).await.unwrap();
        store.read(ChargingPointRow::all).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_unavailable_leaves_nothing_half_written_and_recovers_by_itself_spec_9() {
    let store = TestStore::sqlite().await;
    let mut point = store.owned("CP-1").await;
    // As full as it is now.
    store.database.inner.faults.page_limit.store(1, SeqCst);
    let committer = Committer::start(&store.database, "central-2", CommitterSettings::default()).unwrap();
    let large = || RowWrite::Audit(AuditEntry { parameters: "x".repeat(200_000), ..entry("LARGE", "CP-1") });
    let refused = committer.submit(turn(Some(point.guard()), [large()])).await;
    assert!(matches!(&refused, Err(CommitRefusal::Unavailable(why)) if why.contains("full")), "{refused:?}");
    let (cp, page) = store
        .read(|c| {
            let page = AuditRow::list(c, &AuditFilter::default(), AuditOrder::OldestFirst, &PageRequest::default())?;
            Ok((ChargingPointRow::find(c, "CP-1")?.unwrap(), page))
        })
        .await;
    assert_eq!((cp.version, page.rows.len()), (point.version, 0));
    store.database.inner.faults.page_limit.store(0, SeqCst);
    committer.submit(turn(Some(point.guard()), [large()])).await.expect("there is room again");
    point.version += 1;
    store.submit(&mut point, []).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone_is_unavailable_and_comes_back_by_itself_spec_9() {
    let (mut server, url) = tokio::task::spawn_blocking(|| {
        let server = Postgres::start().unwrap();
        let url = server.create_database();
        (server, url)
    })
    .await
    .unwrap();
    let store = TestStore::on(url, tempfile::tempdir().unwrap()).await;
    let mut point = store.owned("CP-1").await;
    let (writer, mut answered) = (store.committer.clone(), point.clone());
    let crashed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let over = crashed.clone();
    let steady = tokio::spawn(async move {
        while !over.load(SeqCst) {
            let Ok(done) = writer.submit(turn(Some(answered.guard()), [])).await else { break };
            answered.version = done.version;
        }
        answered.version
    });
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let mut server = tokio::task::spawn_blocking(move || {
        server.crash();
        server
    })
    .await
    .unwrap();
    crashed.store(true, SeqCst);
    // The crash came in the middle of a stream of commits; one whose end is unknown is not answered before it is known.
    let refused = store.unguarded([RowWrite::Audit(entry("X", "CP-1"))]).await;
    assert!(matches!(refused, Err(CommitRefusal::Unavailable(_))), "{refused:?}");
    assert!(store.database.read("test", ChargingPointRow::all).await.is_err());
    let server = tokio::task::spawn_blocking(move || server.restart().map(|()| server)).await.unwrap().unwrap();
    point.version = steady.await.unwrap();
    let stored = store.read(|c| ChargingPointRow::find(c, "CP-1")).await.unwrap().version;
    assert_eq!(stored, point.version, "what was answered is there, and nothing that was refused");
    store.submit(&mut point, []).await.unwrap();
    drop(store);
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

#[derive(Default)]
struct Watched(std::sync::Mutex<Vec<(&'static str, crate::TransactionOutcome)>>);

impl crate::Observer for Watched {
    fn transaction(&self, name: &'static str, outcome: crate::TransactionOutcome, _: std::time::Duration) {
        self.0.lock().unwrap().push((name, outcome));
    }

    fn group(&self, turns: usize, _: std::time::Duration) {
        assert!(turns > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transaction_is_told_by_its_name_and_its_end() {
    use crate::TransactionOutcome::{Committed, Failed, Refused};
    let store = TestStore::sqlite().await;
    let watched = std::sync::Arc::new(Watched::default());
    let database = Database::open_observed(&store.url, SCHEMA, watched.clone()).await.unwrap();
    let committer = Committer::start(&database, "central-2", CommitterSettings::default()).unwrap();
    let named = |name, guard: Option<Guard>, writes: Vec<RowWrite>| {
        committer.submit(Turn { id: TurnId::random(), name, guard, writes })
    };
    named("audit", None, vec![RowWrite::Audit(entry("X", "CP-1"))]).await.unwrap();
    let nobody = Guard::Owned { cp_id: "CP-1".into(), epoch: 0, version: 0 };
    named("fenced", Some(nobody), vec![]).await.unwrap_err();
    named("broken", None, vec![RowWrite::UpdateSession(session("s", "CP-1", None, 1))]).await.unwrap_err();
    database.read("list", ChargingPointRow::all).await.unwrap();
    let refused: Result<(), _> = database.transaction("rule", |_| Err(crate::Abort::Refused("no"))).await.unwrap();
    assert_eq!(refused, Err("no"));
    let told = watched.0.lock().unwrap().clone();
    assert_eq!(
        told,
        [("audit", Committed), ("fenced", Refused), ("broken", Failed), ("list", Committed), ("rule", Refused)]
    );
}
