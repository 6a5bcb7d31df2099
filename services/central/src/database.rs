//! The way to the disk: the store's committer, with the database's state reported to health (SPEC 9.1:
//! down is degraded, and it recovers by itself).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh::{
    health::Component,
    metrics::{self, Metrics},
    process::Context,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};
use store::{
    Database, Observer, StoreError, TransactionOutcome,
    central::{AuditRow, CommitRefusal, Committed, Committer, RENEW_LEASE_EVERY, RowWrite, Turn, TurnId},
};
use tokio::sync::{Notify, broadcast, oneshot};
use tokio_util::sync::CancellationToken;

use crate::turns;

/// Renews the lease on the database as long as this process may write, which is until all its tasks have ended, and then
/// gives it back. If another Central has taken it, which can only be while this process did not run or did not reach the
/// database for long, this process ends: two would end each other's supplies. Until then the committer refuses its turns.
pub(crate) fn hold_lease(ctx: &Context, database: Database, owner: String) {
    let (lost, was_lost) = oneshot::channel();
    let over = CancellationToken::new();
    // Not one of the process's tasks, which all end before it does.
    let renewal = tokio::spawn(renew_lease(database.clone(), owner.clone(), over.clone(), lost));
    ctx.finally("lease", async move {
        over.cancel();
        // A renewal under way would take the lease again.
        let _ = renewal.await;
        if let Err(error) = database.give_lease_back(&owner).await {
            tracing::warn!(%error, "the next Central waits until this one's lease on the database ends");
        }
        Ok(())
    });
    let stop = ctx.stop.clone();
    ctx.spawn("lease", async move {
        if let Some(Ok(other)) = stop.run_until_cancelled(was_lost).await {
            anyhow::bail!("another Central ({other}) has taken the database while this one did not answer");
        }
        Ok(())
    });
}

/// Tells `lost` the name of the Central that has taken the lease.
async fn renew_lease(database: Database, owner: String, over: CancellationToken, lost: oneshot::Sender<String>) {
    while over.run_until_cancelled(tokio::time::sleep(RENEW_LEASE_EVERY)).await.is_some() {
        // That the database is away is noticed by whoever uses it.
        if let Ok(Err(other)) = database.renew_lease(&owner).await {
            // After the stop nobody listens: the process ends anyway.
            let _ = lost.send(other);
            return;
        }
    }
}

/// Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    committer: Committer,
    pub database: Database,
    health: Arc<DatabaseHealth>,
    /// An event waits in the outbox.
    pub events_written: Arc<Notify>,
}

#[derive(Debug)]
struct DatabaseHealth {
    component: Component,
    /// Asked at every turn; what is said follows it.
    failing: AtomicBool,
    saying: Mutex<()>,
}

impl Store {
    pub(crate) fn new(committer: Committer, database: Database, ctx: &Context) -> Self {
        let component = ctx.health.component("database");
        let health = Arc::new(DatabaseHealth { component, failing: AtomicBool::new(false), saying: Mutex::new(()) });
        Self { committer, database, health, events_written: Arc::default() }
    }

    /// Returns when the turn is on disk, or is not and why.
    pub(crate) async fn submit(self, turn: Turn) -> Result<Committed, CommitRefusal> {
        let has_events = turn.writes.iter().any(|write| matches!(write, RowWrite::Event(_)));
        let result = self.committer.submit(turn).await;
        match &result {
            Ok(_) => {
                self.works();
                if has_events {
                    self.events_written.notify_one();
                }
            }
            Err(CommitRefusal::Unavailable(why)) => self.fails(why),
            Err(CommitRefusal::Rejected(why)) => {
                tracing::error!(error = %why, "the database rejects what Central wrote: a fault of this program");
            }
            Err(_) => {}
        }
        result
    }

    /// What belongs to no charging point.
    pub(crate) async fn write(&self, name: &'static str, writes: Vec<RowWrite>) -> Result<Committed, CommitRefusal> {
        self.clone().submit(Turn { id: TurnId::random(), name, guard: None, writes }).await
    }

    /// Runs queries, and reports to health whether the database answers.
    pub(crate) async fn read<T, F>(&self, name: &'static str, queries: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut store::Conn) -> Result<T, StoreError> + Send + 'static,
    {
        self.looked(self.database.read(name, queries).await)
    }

    /// As [`read`](Self::read), for what is short and waited for on a link: no operator's list holds it up.
    pub(crate) async fn look_up<T, F>(&self, name: &'static str, queries: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut store::Conn) -> Result<T, StoreError> + Send + 'static,
    {
        self.looked(self.database.look_up(name, queries).await)
    }

    fn looked<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Err(StoreError::Unavailable(why)) => self.fails(why),
            Ok(_) | Err(StoreError::Contended(_) | StoreError::Rejected(_)) => {}
        }
        result
    }

    /// Asks the database again and again until the process stops, so that one that hangs is noticed while nobody uses it
    /// (SPEC 9.0).
    pub(crate) async fn watch(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(store::PROBE_EVERY)).await.is_some() {
            let _reported = self.looked(self.database.probe().await);
        }
    }

    /// Audit entries from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<AuditRow>> {
        self.committer.follow()
    }

    /// A turn has not been answered within its deadline (SPEC 9.0).
    pub(crate) fn hangs(&self) {
        self.fails(&turns::no_answer());
    }

    fn works(&self) {
        if !self.health.failing.load(Ordering::Relaxed) {
            return;
        }
        let _one_at_a_time = self.health.saying.lock().unwrap_or_else(PoisonError::into_inner);
        if self.health.failing.swap(false, Ordering::Relaxed) {
            self.health.component.ready();
        }
    }

    fn fails(&self, why: &str) {
        let _one_at_a_time = self.health.saying.lock().unwrap_or_else(PoisonError::into_inner);
        self.health.failing.store(true, Ordering::Relaxed);
        self.health.component.degraded(format!("nothing can be made durable, so control is refused: {why}"));
    }
}

/// Transactions as metrics.
#[derive(Debug)]
pub(crate) struct StoreMetrics {
    transactions: Family<TransactionLabels, Counter>,
    groups: Histogram,
    turns: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransactionLabels {
    name: &'static str,
    outcome: &'static str,
}

impl StoreMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            transactions: metrics.register(
                "transactions",
                "Transactions and turns by name and outcome",
                Family::default(),
            ),
            groups: metrics.register("commit_seconds", "Duration of a group commit", metrics::seconds()),
            turns: metrics.register("committed_turns", "Turns in group commits", Counter::default()),
        }
    }
}

impl Observer for StoreMetrics {
    fn transaction(&self, name: &'static str, outcome: TransactionOutcome, _took: Duration) {
        let outcome = match outcome {
            TransactionOutcome::Committed => "committed",
            TransactionOutcome::Refused => "refused",
            TransactionOutcome::Retried => "retried",
            TransactionOutcome::Failed => "failed",
        };
        self.transactions.get_or_create(&TransactionLabels { name, outcome }).inc();
    }

    fn group(&self, turns: usize, took: Duration) {
        self.groups.observe(took.as_secs_f64());
        self.turns.inc_by(turns as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::health::Readiness;
    use store::{central::CommitterSettings, testing::Postgres};

    #[derive(Default)]
    struct Renewals(tokio::sync::watch::Sender<usize>);

    impl Observer for Renewals {
        fn transaction(&self, name: &'static str, _: TransactionOutcome, _: Duration) {
            if name == "lease" {
                self.0.send_modify(|count| *count += 1);
            }
        }

        fn group(&self, _: usize, _: Duration) {}
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_lease_is_renewed_until_the_last_task_has_ended_and_then_given_back_spec_10_8() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("central.db").display());
        Database::migrate(&url, store::central::SCHEMA).await.unwrap();
        let renewals = Arc::new(Renewals::default());
        let database = Database::open_observed(&url, store::central::SCHEMA, renewals.clone()).await.unwrap();
        database.take_lease("central-1").await.unwrap();
        let (ctx, drained) = (Context::detached("central"), CancellationToken::new());
        hold_lease(&ctx, database.clone(), "central-1".into());
        let draining = drained.clone();
        ctx.spawn("draining", async move {
            draining.cancelled().await;
            Ok(())
        });
        ctx.stop.cancel();
        let before = *renewals.0.borrow();
        let mut counted = renewals.0.subscribe();
        let renewed = counted.wait_for(|count| *count >= before + 2);
        tokio::time::timeout(Duration::from_secs(20), renewed).await.expect("still renewed").unwrap();
        database.take_lease("central-2").await.unwrap_err();

        drained.cancel();
        ctx.ended().await.unwrap();
        database.take_lease("central-2").await.expect("given back");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_database_that_hangs_is_noticed_while_nobody_uses_it_spec_9_0() {
        let start = || {
            let server = Postgres::start().unwrap();
            let url = server.create_database();
            (server, url)
        };
        let (server, url) = tokio::task::spawn_blocking(start).await.unwrap();
        Database::migrate(&url, store::central::SCHEMA).await.unwrap();
        let database = Database::open(&url, store::central::SCHEMA).await.unwrap();
        let committer = Committer::start(&database, "central-1", CommitterSettings::default()).unwrap();
        let ctx = Context::detached("central");
        let store = Store::new(committer, database, &ctx);
        store.write("test", Vec::new()).await.unwrap();
        store.health.component.ready();
        tokio::spawn(store.clone().watch(ctx.stop.clone()));
        let mut readiness = ctx.health.subscribe();

        let frozen = server.freeze();
        let noticed = readiness.wait_for(|readiness| *readiness == Readiness::Degraded);
        // 2 s, and room for a busy machine.
        tokio::time::timeout(Duration::from_millis(3_500), noticed).await.expect("noticed").unwrap();

        drop(frozen);
        let committed = async { while store.write("test", Vec::new()).await.is_err() {} };
        tokio::time::timeout(Duration::from_secs(20), committed).await.expect("it takes turns again");
        assert_eq!(ctx.health.readiness(), Readiness::Ready);
        ctx.stop.cancel();
        tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
    }
}
