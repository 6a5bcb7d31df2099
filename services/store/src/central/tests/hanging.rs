//! A database that hangs: nothing answers, and nothing closes a connection.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{OpenDatabaseError, StoreError, testing::Postgres};
use diesel::prelude::*;

/// The deadline of a statement, and room for a busy machine.
const NOTICED: Duration = Duration::from_millis(3_500);

async fn on_own_server() -> (Arc<Postgres>, TestStore) {
    let start = || {
        let server = Postgres::start().unwrap();
        let url = server.create_database();
        (Arc::new(server), url)
    };
    let (server, url) = tokio::task::spawn_blocking(start).await.unwrap();
    (server, TestStore::on(url, tempfile::tempdir().unwrap()).await)
}

async fn over(server: Arc<Postgres>, store: TestStore) {
    drop(store);
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_is_noticed_at_each_turn_and_each_read_and_goes_on_by_itself_spec_9_0() {
    let (server, store) = on_own_server().await;
    let mut point = store.owned("CP-1").await;
    store.database.look_up("test", ChargingPointRow::all).await.unwrap();

    let frozen = server.freeze();
    let began = tokio::time::Instant::now();
    let looking = store.database.look_up("test", ChargingPointRow::all);
    let (refused, unread) = tokio::join!(store.unguarded([RowWrite::Audit(entry("X", "CP-1"))]), looking);
    let took = began.elapsed();
    assert!(matches!(&refused, Err(CommitRefusal::Unavailable(why)) if why.contains("not answered")), "{refused:?}");
    assert!(matches!(&unread, Err(StoreError::Unavailable(why)) if why.contains("not answered")), "{unread:?}");
    assert!(took < NOTICED, "{took:?}");
    // Nor does a new connection get an answer.
    let began = tokio::time::Instant::now();
    assert!(store.database.probe().await.is_err());
    assert!(began.elapsed() < NOTICED);

    drop(frozen);
    store.database.probe().await.unwrap();
    store.submit(&mut point, []).await.unwrap();
    over(server, store).await;
}

/// Each commit of an audit entry about SLOW takes longer than the deadline.
const SLOW_COMMITS: &str = "
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(8); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON audit DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.object = 'SLOW') EXECUTE FUNCTION slow()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_hangs_is_given_up_and_then_asked_for_before_anything_is_reported_spec_9_0() {
    let store = TestStore::postgres().await;
    let mut point = store.owned("CP-1").await;
    store.sql(SLOW_COMMITS).await;
    let before = point.version;
    let slow = {
        let (committer, guard) = (store.committer.clone(), point.guard());
        tokio::spawn(async move { committer.submit(turn(Some(guard), [RowWrite::Audit(entry("X", "SLOW"))])).await })
    };
    // Nobody waits behind a commit whose end is unknown: it is unknown on what the next turn would build.
    let waiting = async {
        loop {
            // One that came into the group of the slow commit is as unknown as that, so others are tried.
            let tried = store.unguarded([RowWrite::Audit(entry("X", "CP-1"))]);
            if let Ok(Err(refusal)) = tokio::time::timeout(Duration::from_secs(1), tried).await {
                return refusal;
            }
        }
    };
    let refusal = tokio::time::timeout(Duration::from_secs(6), waiting).await.expect("refused in time");
    assert!(matches!(&refusal, CommitRefusal::Unavailable(why) if why.contains("not answered")), "{refusal:?}");
    let done = slow.await.unwrap().expect("it arrived, if late");
    assert_eq!(done.version, before + 1);
    assert_eq!(store.read(|c| ChargingPointRow::find(c, "CP-1")).await.unwrap().version, done.version);
    let only = AuditFilter { object: "SLOW".into(), ..Default::default() };
    let kept = store.read(move |c| AuditRow::list(c, &only, AuditOrder::OldestFirst, &PageRequest::default())).await;
    assert_eq!(kept.rows.len(), 1);
    point.version = done.version;
    store.submit(&mut point, []).await.expect("and it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_another_transaction_holds_stalls_no_other_turn_spec_9_0() {
    let store = TestStore::postgres().await;
    let (mut held, mut free) = (store.owned("CP-1").await, store.owned("CP-2").await);
    let inner = Arc::clone(&store.database.inner);
    let hold = move || {
        let mut conn = inner.establish(crate::connection::Use::Write, Duration::from_secs(10)).unwrap();
        conn.execute("BEGIN; SELECT 1 FROM charging_points WHERE cp_id = 'CP-1' FOR UPDATE").unwrap();
        conn
    };
    let mut holder = tokio::task::spawn_blocking(hold).await.unwrap();
    for _ in 0..3 {
        let began = tokio::time::Instant::now();
        // The first is a group alone; the others, which came meanwhile, are one group.
        let audit = || store.unguarded([RowWrite::Audit(entry("X", "CP-3"))]);
        let turn_of = |point: &OwnedPoint| store.committer.submit(turn(Some(point.guard()), []));
        let (first, stuck, done, last) = tokio::join!(audit(), turn_of(&held), turn_of(&free), audit());
        assert!(matches!(&stuck, Err(CommitRefusal::Unavailable(why)) if why.contains("lock timeout")), "{stuck:?}");
        free.version = done.expect("it needs no row of the other").version;
        first.and(last).unwrap();
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    tokio::task::spawn_blocking(move || holder.execute("ROLLBACK")).await.unwrap().unwrap();
    store.submit(&mut held, []).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_lose_commits_is_refused_in_words_spec_9_0() {
    let (server, store) = on_own_server().await;
    store.database.require_fsync().await.unwrap();
    over(server, store).await;
    let start = || {
        let server = Postgres::start_without_fsync().unwrap();
        let url = server.create_database();
        (Arc::new(server), url)
    };
    let (server, url) = tokio::task::spawn_blocking(start).await.unwrap();
    let store = TestStore::on(url, tempfile::tempdir().unwrap()).await;
    let refused = store.database.require_fsync().await.unwrap_err();
    assert!(matches!(refused, OpenDatabaseError::Unsafe { .. }) && refused.is_transient(), "{refused}");
    assert!(
        refused.to_string().contains("fsync off") && refused.to_string().contains("--allow-fsync-off"),
        "{refused}"
    );
    over(server, store).await;
}

/// Holds the rows of these charging points until the connection is dropped.
async fn held(store: &TestStore, cp_ids: &'static str) -> crate::Conn {
    let inner = Arc::clone(&store.database.inner);
    let hold = move || {
        let mut conn = inner.establish(crate::connection::Use::Write, Duration::from_secs(10)).unwrap();
        conn.execute(&format!("BEGIN; SELECT 1 FROM charging_points WHERE cp_id IN ({cp_ids}) FOR UPDATE")).unwrap();
        conn
    };
    tokio::task::spawn_blocking(hold).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_turns_wait_for_a_held_row_the_others_of_their_group_do_not_spec_9_0() {
    let store = TestStore::postgres().await;
    let (stuck, free) = (store.owned("CP-1").await, store.owned("CP-2").await);
    let holder = held(&store, "'CP-1'").await;
    let began = tokio::time::Instant::now();
    let turn_of = |point: &OwnedPoint| store.committer.submit(turn(Some(point.guard()), []));
    // The first is a group alone; the others, which came meanwhile, are one group.
    let first = store.unguarded([RowWrite::Audit(entry("X", "CP-3"))]);
    let many = futures::future::join_all((0..10).map(|_| turn_of(&stuck)));
    let (first, refused, done) = tokio::join!(first, many, turn_of(&free));
    first.and(done).unwrap();
    for refused in refused {
        assert!(
            matches!(&refused, Err(CommitRefusal::Unavailable(why)) if why.contains("lock timeout")),
            "{refused:?}"
        );
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    tokio::task::spawn_blocking(move || drop(holder)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_in_which_many_rows_are_held_is_answered_within_its_time_spec_9_0() {
    let store = TestStore::postgres().await;
    let mut points = Vec::new();
    for n in 1..=12 {
        points.push(store.owned(&format!("CP-{n}")).await);
    }
    let holder = held(&store, "SELECT cp_id FROM charging_points").await;
    let began = tokio::time::Instant::now();
    let turns = points.iter().map(|point| store.committer.submit(turn(Some(point.guard()), [])));
    let refused = futures::future::join_all(turns).await;
    let late = |refused: &&Result<Committed, CommitRefusal>| matches!(refused, Err(CommitRefusal::Unavailable(why)) if why.contains("turns before this one"));
    assert!(refused.iter().filter(late).count() > 3, "{refused:?}");
    let took = began.elapsed();
    assert!(took < NOTICED, "{took:?}");
    tokio::task::spawn_blocking(move || drop(holder)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_its_deadline_closed_is_not_kept_even_where_its_statement_was_answered_spec_9_0() {
    let store = TestStore::postgres().await;
    let inner = Arc::clone(&store.database.inner);
    let purpose = crate::connection::Use::Read;
    let kept = move || {
        let lane = crate::pool::ConnectionPool::new(purpose, 1, Duration::from_millis(100));
        let mut conn = inner.establish(purpose, Duration::from_millis(100)).unwrap();
        let in_time = conn.execute("SELECT 1").is_ok();
        assert!(conn.execute("SELECT pg_sleep(1)").is_err() && conn.is_expired());
        lane.give(conn);
        (in_time, lane.take().is_some())
    };
    assert_eq!(tokio::task::spawn_blocking(kept).await.unwrap(), (true, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_takes_too_long_costs_only_the_connections_of_its_own_kind_spec_9_0() {
    let store = TestStore::postgres().await;
    store.read(ChargingPointRow::all).await;
    let process = "SELECT pg_backend_pid()::bigint AS pid";
    let pid = move |conn: &mut crate::Conn| -> Result<i64, StoreError> {
        let found: Vec<ServerProcess> = crate::connection::on!(conn, |c| diesel::sql_query(process).load(c))?;
        Ok(found[0].pid)
    };
    let before = store.read(pid).await;
    store.database.look_up("slow", |conn| conn.execute("SELECT pg_sleep(4)")).await.unwrap_err();
    assert_eq!(store.read(pid).await, before, "the same connection");
}

#[derive(diesel::QueryableByName)]
struct ServerProcess {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    pid: i64,
}
