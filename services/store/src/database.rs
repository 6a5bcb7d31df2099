//! An open database: named reads and transactions on blocking threads, over a few pooled connections.
//!
//! A broken connection is dropped and the next use opens a new one, so the store recovers by itself when the database
//! comes back.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::OwnedSemaphorePermit;

use crate::{
    Conn, Observer, OpenDatabaseError, Schema, StoreError, TransactionOutcome,
    address::Address,
    connection::Use,
    observe::{Stopwatch, Unobserved},
    pool::ConnectionPool,
    private,
};

const READERS: usize = 4;
/// The maximum number of runs of a transaction that loses races.
const RUNS: u32 = 5;
/// How long the database may take for one statement that somebody waits for (SPEC 9.0).
pub(crate) const STATEMENT: Duration = Duration::from_secs(2);
/// How long the database may take for a probe.
const PROBE: Duration = Duration::from_millis(1_500);
/// How often a role asks whether its database answers, so that one that hangs is noticed while nobody uses it.
pub const PROBE_EVERY: Duration = Duration::from_millis(500);
/// As `STATEMENT`, for lists and statistics.
const LONG_STATEMENT: Duration = Duration::from_secs(10);
/// As `STATEMENT`, for what goes over a whole database: verifying, pruning and migrating.
const LONGEST_STATEMENT: Duration = Duration::from_secs(90);

/// Why the code of a transaction rolled it back.
#[derive(Debug)]
pub enum Abort<R> {
    /// A rule refused; the caller of the transaction gets this value.
    Refused(R),
    Store(StoreError),
}

impl<R> From<StoreError> for Abort<R> {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The right to use the connection for long reads; returned when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct ExclusiveReader {
    inner: Arc<OpenDatabase>,
    permit: Arc<OwnedSemaphorePermit>,
}

/// A clone is cheap and shares the connections.
#[derive(Clone)]
pub struct Database {
    pub(crate) inner: Arc<OpenDatabase>,
}

pub(crate) struct OpenDatabase {
    pub(crate) address: Address,
    pub(crate) schema: Schema,
    pub(crate) observer: Arc<dyn Observer>,
    readers: ConnectionPool,
    /// For short reads that a link waits for.
    lookups: ConnectionPool,
    /// For reads that take minutes; one at a time.
    exclusive: ConnectionPool,
    /// One connection for SQLite, which has one writer; as many as readers for PostgreSQL.
    writers: ConnectionPool,
    #[cfg(test)]
    pub(crate) faults: crate::central::InjectedFaults,
}

impl Database {
    /// Opens `sqlite:PATH` or `postgres://…`, which must contain the migrated `schema`.
    pub async fn open(url: &str, schema: Schema) -> Result<Self, OpenDatabaseError> {
        Self::open_observed(url, schema, Arc::new(Unobserved)).await
    }

    /// As [`open`](Self::open), and reports every transaction to `observer`.
    pub async fn open_observed(
        url: &str,
        schema: Schema,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, OpenDatabaseError> {
        let address = Address::parse(url)?;
        crate::postgres::check_files(&address)?;
        if address.sqlite_path().is_some_and(|path| !path.exists()) {
            let at = address.to_string();
            return Err(OpenDatabaseError::TooOld { at, schema: schema.name, found: 0, needed: schema.version });
        }
        keep_private(&address)?;
        let width = if address.sqlite_path().is_some() { 1 } else { READERS };
        let database = Self {
            inner: Arc::new(OpenDatabase {
                address,
                schema,
                observer,
                readers: ConnectionPool::new(Use::Read, READERS, LONG_STATEMENT),
                lookups: ConnectionPool::new(Use::Read, READERS, STATEMENT),
                exclusive: ConnectionPool::new(Use::Read, 1, LONGEST_STATEMENT),
                writers: ConnectionPool::new(Use::Write, width, STATEMENT),
                #[cfg(test)]
                faults: Default::default(),
            }),
        };
        let inner = Arc::clone(&database.inner);
        blocking(move || {
            let mut conn = inner
                .establish(Use::Read, LONG_STATEMENT)
                .map_err(|error| OpenDatabaseError::of(&error, &inner.address.to_string()))?;
            inner.schema.check(&mut conn, &inner.address)?;
            inner.readers.give(conn);
            Ok(())
        })
        .await?;
        Ok(database)
    }

    /// Creates or upgrades the schema, for SQLite also the file and its folder. Returns the names of the migrations
    /// that ran.
    pub async fn migrate(url: &str, schema: Schema) -> Result<Vec<String>, OpenDatabaseError> {
        let address = Address::parse(url)?;
        crate::postgres::check_files(&address)?;
        blocking(move || {
            let unusable = |why: String| OpenDatabaseError::Unusable { at: address.to_string(), why };
            if let Some(path) = address.sqlite_path() {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                folder
                    .map_or(Ok(()), private::make_folder)
                    .map_err(|error| unusable(format!("cannot make the folder of {}: {error}", path.display())))?;
                private::make_file(path)
                    .map_err(|error| unusable(format!("cannot make {}: {error}", path.display())))?;
            }
            keep_private(&address)?;
            let mut conn = Conn::establish(&address, Use::Write, LONGEST_STATEMENT)
                .map_err(|error| OpenDatabaseError::of(&error, &address.to_string()))?;
            schema.migrate(&mut conn, &address)
        })
        .await
    }

    /// Refuses a server that loses commits in a power failure. SQLite's files are always synced.
    pub async fn require_fsync(&self) -> Result<(), OpenDatabaseError> {
        let at = self.inner.address.to_string();
        match self.look_up("fsync", Conn::syncs).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(OpenDatabaseError::Unsafe { at }),
            Err(error) => Err(OpenDatabaseError::of(&error, &at)),
        }
    }

    /// Whether the database answers soon enough that whoever asks every [`PROBE_EVERY`] knows within 2 s that it hangs
    /// (SPEC 9.0).
    pub async fn probe(&self) -> Result<(), StoreError> {
        let probe = self.look_up("probe", |conn| conn.execute("SELECT 1"));
        let late = |_| StoreError::Unavailable(format!("it has not answered within {PROBE:?}"));
        tokio::time::timeout(PROBE, probe).await.map_err(late)?
    }

    /// Runs queries in one snapshot of the database, off the async workers.
    pub async fn read<T, F>(&self, name: &'static str, queries: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T, StoreError> + Send + 'static,
    {
        self.read_on(|inner| &inner.readers, name, queries).await
    }

    /// As [`read`](Self::read), for short queries that a link waits for: long lists never hold them up.
    pub async fn look_up<T, F>(&self, name: &'static str, queries: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T, StoreError> + Send + 'static,
    {
        self.read_on(|inner| &inner.lookups, name, queries).await
    }

    async fn read_on<T, F>(
        &self,
        lane: fn(&OpenDatabase) -> &ConnectionPool,
        name: &'static str,
        queries: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T, StoreError> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let permit = Arc::clone(&lane(&inner).permits).acquire_owned().await.map_err(closed)?;
        blocking(move || {
            // Held to the end of the queries, even if the caller has gone.
            let _permit = permit;
            inner.read_observed(lane(&inner), name, queries)
        })
        .await
    }

    #[cfg(test)]
    pub(crate) fn idle_readers(&self) -> usize {
        self.inner.readers.permits.available_permits()
    }

    /// The connection for reads that take minutes; `None` while it is in use.
    pub(crate) fn exclusive_reader(&self) -> Option<ExclusiveReader> {
        let permit = Arc::clone(&self.inner.exclusive.permits).try_acquire_owned().ok()?;
        Some(ExclusiveReader { inner: Arc::clone(&self.inner), permit: Arc::new(permit) })
    }

    /// Runs `work` in one transaction, which is committed if `work` returns `Ok` and rolled back otherwise. A
    /// transaction that lost a race runs again, so `work` must only query.
    pub async fn transaction<T, R, F>(&self, name: &'static str, mut work: F) -> Result<Result<T, R>, StoreError>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: FnMut(&mut Conn) -> Result<T, Abort<R>> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let permit = Arc::clone(&inner.writers.permits).acquire_owned().await.map_err(closed)?;
        blocking(move || {
            let _permit = permit;
            let mut run = 1;
            loop {
                let watch = Stopwatch::start();
                let result = inner.run_once(&mut work);
                let again = matches!(result, Err(StoreError::Contended(_))) && run < RUNS;
                let outcome = match &result {
                    Ok(Ok(_)) => TransactionOutcome::Committed,
                    Ok(Err(_)) => TransactionOutcome::Refused,
                    Err(_) if again => TransactionOutcome::Retried,
                    Err(_) => TransactionOutcome::Failed,
                };
                inner.observer.transaction(name, outcome, watch.took());
                if !again {
                    return result;
                }
                run += 1;
            }
        })
        .await
    }
}

impl ExclusiveReader {
    pub(crate) async fn read<T, F>(&self, name: &'static str, queries: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T, StoreError> + Send + 'static,
    {
        let (inner, permit) = (Arc::clone(&self.inner), Arc::clone(&self.permit));
        blocking(move || {
            let _permit = permit;
            inner.read_observed(&inner.exclusive, name, queries)
        })
        .await
    }
}

impl OpenDatabase {
    pub(crate) fn establish(&self, purpose: Use, within: Duration) -> Result<Conn, StoreError> {
        #[cfg_attr(not(test), expect(unused_mut, reason = "a test limits its pages"))]
        let mut conn = Conn::establish(&self.address, purpose, within)?;
        #[cfg(test)]
        self.faults.limit_pages(&mut conn)?;
        Ok(conn)
    }

    /// The pooled connections are as old as one that did not answer, and the server or the way to it is the same.
    pub(crate) fn forget_pooled(&self) {
        for lane in [&self.readers, &self.lookups, &self.exclusive, &self.writers] {
            lane.forget();
        }
    }

    /// A connection in a new transaction: a pooled one, or a new one if that is broken. One that did not answer in time is
    /// not replaced here, since the caller has waited long enough (SPEC 9.0); the next caller gets a new one.
    fn begun(&self, lane: &ConnectionPool) -> Result<Conn, StoreError> {
        let begin = |conn: &mut Conn| match lane.purpose {
            Use::Read => conn.begin_read(),
            Use::Write => conn.begin_write(),
        };
        if let Some(mut kept) = lane.take() {
            match begin(&mut kept) {
                Ok(()) => return Ok(kept),
                Err(error) if kept.is_expired() => return Err(given_up(lane, kept, error)),
                // The other pooled connections are as old and therefore broken too.
                Err(error) if error.spoils_connection() => lane.forget(),
                Err(error) => {
                    lane.give(kept);
                    return Err(error);
                }
            }
        }
        let mut fresh = self.establish(lane.purpose, lane.within)?;
        begin(&mut fresh)?;
        Ok(fresh)
    }

    fn read_observed<T>(
        &self,
        lane: &ConnectionPool,
        name: &'static str,
        queries: impl FnOnce(&mut Conn) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let watch = Stopwatch::start();
        let result = self.read_once(lane, queries);
        let outcome = if result.is_ok() { TransactionOutcome::Committed } else { TransactionOutcome::Failed };
        self.observer.transaction(name, outcome, watch.took());
        result
    }

    fn read_once<T>(
        &self,
        lane: &ConnectionPool,
        queries: impl FnOnce(&mut Conn) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut conn = self.begun(lane)?;
        let result = queries(&mut conn);
        // A read leaves nothing behind, so it always ends with a rollback.
        let over = conn.execute("ROLLBACK");
        match result {
            Err(error) if over.is_err() || error.spoils_connection() => Err(given_up(lane, conn, error)),
            result => {
                if over.is_ok() {
                    lane.give(conn);
                }
                result
            }
        }
    }

    fn run_once<T, R>(
        &self,
        work: &mut impl FnMut(&mut Conn) -> Result<T, Abort<R>>,
    ) -> Result<Result<T, R>, StoreError> {
        let mut conn = self.begun(&self.writers)?;
        let result = match work(&mut conn) {
            Ok(value) => conn.execute("COMMIT").map(|()| Ok(value)),
            Err(Abort::Refused(refusal)) => conn.execute("ROLLBACK").map(|()| Err(refusal)),
            Err(Abort::Store(error)) => Err(error),
        };
        match result {
            Ok(answer) => {
                self.writers.give(conn);
                Ok(answer)
            }
            Err(error) => {
                if !error.spoils_connection() && conn.execute("ROLLBACK").is_ok() {
                    self.writers.give(conn);
                    return Err(error);
                }
                Err(given_up(&self.writers, conn, error))
            }
        }
    }
}

/// Drops a connection after an error. If the server did not answer on it, says so, and drops the others of its lane too; a
/// slow list costs short reads and writes nothing.
fn given_up(lane: &ConnectionPool, conn: Conn, error: StoreError) -> StoreError {
    if conn.is_expired() {
        lane.forget();
    }
    conn.cause(error)
}

/// Shuts others out of the files of a SQLite database (SPEC 10.8).
fn keep_private(address: &Address) -> Result<(), OpenDatabaseError> {
    for file in address.sqlite_path().into_iter().flat_map(private::sqlite_files) {
        private::shut_out_others(&file).map_err(|error| OpenDatabaseError::Unusable {
            at: address.to_string(),
            why: format!("others may read {}, and that cannot be changed: {error}", file.display()),
        })?;
    }
    Ok(())
}

fn closed(_: tokio::sync::AcquireError) -> StoreError {
    StoreError::Unavailable("it is closed".into())
}

/// Runs blocking diesel code on a thread for blocking work. A panic continues in the caller.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is only cancelled while the runtime shuts down, when nobody waits for the answer.
            Err(_) => std::future::pending().await,
        },
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({}, {:?})", self.inner.address, self.inner.schema)
    }
}
