//! One connection to either back end, and the macro `on!`, which expands a query for both.

use std::{fmt, sync::Arc, time::Duration};

use diesel::{Connection as _, RunQueryDsl as _, SqliteConnection, connection::SimpleConnection as _, sql_types::Bool};

use crate::{
    StoreError,
    address::{Address, chain},
    postgres::{PgConnection, StatementDeadline},
};

/// The connection that reads and transactions get. The row structs have the queries.
pub struct Conn(pub(crate) Backend);

pub(crate) enum Backend {
    Sqlite(SqliteConnection),
    Postgres(Box<PgConnection>, Arc<StatementDeadline>),
}

/// Expands the same diesel expression once for each back end, so that the compiler checks both.
macro_rules! on {
    ($conn:expr, |$c:ident| $body:expr) => {
        match &mut $conn.0 {
            $crate::connection::Backend::Sqlite($c) => $body,
            $crate::connection::Backend::Postgres($c, _) => {
                let $c = &mut **$c;
                $body
            }
        }
    };
}
pub(crate) use on;

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
}

impl Conn {
    /// Blocks, so it must not be called on an async worker. A statement that takes longer than `within` fails, and closes
    /// the connection; SQLite waits so long for a lock of another process.
    pub(crate) fn establish(address: &Address, purpose: Use, within: Duration) -> Result<Self, StoreError> {
        match address {
            Address::Sqlite(path) => {
                let unavailable = |why: String| StoreError::Unavailable(format!("{}: {why}", path.display()));
                let text = path.to_str().ok_or_else(|| unavailable("the path is not UTF-8".into()))?;
                let mut conn = SqliteConnection::establish(text).map_err(|error| unavailable(chain(&error)))?;
                // The timeout comes first: the statements after it may meet a lock.
                let wait_ms = within.as_millis();
                conn.batch_execute(&format!(
                    "PRAGMA busy_timeout={wait_ms}; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                ))?;
                // `secure_delete` overwrites deleted content, so that an erased key also leaves the file.
                conn.batch_execute("PRAGMA foreign_keys=ON; PRAGMA secure_delete=ON; PRAGMA cache_size=-4000;")?;
                if purpose == Use::Read {
                    // Each reader has its own cache, and the operating system caches the file's pages for all of them.
                    conn.batch_execute("PRAGMA query_only=ON; PRAGMA cache_size=-1000;")?;
                }
                Ok(Self(Backend::Sqlite(conn)))
            }
            Address::Postgres(address) => {
                let (conn, deadline) = crate::postgres::connect(address, within)?;
                Ok(Self(Backend::Postgres(Box::new(conn), deadline)))
            }
        }
    }

    /// Begins a transaction that writes. SQLite takes its write lock now, so that no later statement can fail for it.
    pub(crate) fn begin_write(&mut self) -> Result<(), StoreError> {
        match &mut self.0 {
            Backend::Sqlite(c) => Ok(c.batch_execute("BEGIN IMMEDIATE")?),
            Backend::Postgres(c, _) => Ok(c.batch_execute("BEGIN")?),
        }
    }

    /// Begins a transaction that reads one snapshot.
    pub(crate) fn begin_read(&mut self) -> Result<(), StoreError> {
        match &mut self.0 {
            Backend::Sqlite(c) => Ok(c.batch_execute("BEGIN")?),
            Backend::Postgres(c, _) => Ok(c.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?),
        }
    }

    pub(crate) fn execute(&mut self, sql: &str) -> Result<(), StoreError> {
        on!(self, |c| c.batch_execute(sql)).map_err(|error| self.cause(error.into()))
    }

    /// Whether the server makes a commit durable before it answers.
    pub(crate) fn syncs(&mut self) -> Result<bool, StoreError> {
        match &mut self.0 {
            Backend::Sqlite(_) => Ok(true),
            Backend::Postgres(c, _) => {
                Ok(diesel::select(diesel::dsl::sql::<Bool>("current_setting('fsync') = 'on'")).get_result(&mut **c)?)
            }
        }
    }

    /// Whether the server took too long for a statement, so that this connection was closed.
    pub(crate) fn is_expired(&self) -> bool {
        self.deadline_passed().is_some()
    }

    /// The cause of an error of this connection: that it was closed by its deadline, where that is so.
    pub(crate) fn cause(&self, error: StoreError) -> StoreError {
        self.deadline_passed().map_or(error, StoreError::Unavailable)
    }

    fn deadline_passed(&self) -> Option<String> {
        match &self.0 {
            Backend::Sqlite(_) => None,
            Backend::Postgres(_, deadline) => deadline.passed(),
        }
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Backend::Sqlite(_) => "Conn(sqlite)",
            Backend::Postgres(..) => "Conn(postgres)",
        })
    }
}
