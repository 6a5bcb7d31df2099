//! One connection to either back end, and the macro `on!`, which expands a query for both.

use std::fmt;

use diesel::{Connection as _, SqliteConnection, connection::SimpleConnection as _};

use crate::{
    StoreError,
    address::{Address, chain},
    postgres::PgConnection,
};

/// The connection that reads and transactions get. The row structs have the queries.
pub struct Conn(pub(crate) Backend);

pub(crate) enum Backend {
    Sqlite(SqliteConnection),
    Postgres(Box<PgConnection>),
}

/// Expands the same diesel expression once for each back end, so that the compiler checks both.
macro_rules! on {
    ($conn:expr, |$c:ident| $body:expr) => {
        match &mut $conn.0 {
            $crate::connection::Backend::Sqlite($c) => $body,
            $crate::connection::Backend::Postgres($c) => {
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
    /// Blocks, so it must not be called on an async worker.
    pub(crate) fn establish(address: &Address, purpose: Use) -> Result<Self, StoreError> {
        match address {
            Address::Sqlite(path) => {
                let unavailable = |why: String| StoreError::Unavailable(format!("{}: {why}", path.display()));
                let text = path.to_str().ok_or_else(|| unavailable("the path is not UTF-8".into()))?;
                let mut conn = SqliteConnection::establish(text).map_err(|error| unavailable(chain(&error)))?;
                // The timeout comes first: the statements after it may meet a lock.
                conn.batch_execute("PRAGMA busy_timeout=5000; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")?;
                // `secure_delete` overwrites deleted content, so that an erased key also leaves the file.
                conn.batch_execute("PRAGMA foreign_keys=ON; PRAGMA secure_delete=ON; PRAGMA cache_size=-4000;")?;
                if purpose == Use::Read {
                    // Each reader has its own cache, and the operating system caches the file's pages for all of them.
                    conn.batch_execute("PRAGMA query_only=ON; PRAGMA cache_size=-1000;")?;
                }
                Ok(Self(Backend::Sqlite(conn)))
            }
            Address::Postgres(address) => {
                crate::postgres::connect(address).map(|conn| Self(Backend::Postgres(Box::new(conn))))
            }
        }
    }

    /// Begins a transaction that writes. SQLite takes its write lock now, so that no later statement can fail for it.
    pub(crate) fn begin_write(&mut self) -> Result<(), StoreError> {
        match &mut self.0 {
            Backend::Sqlite(c) => Ok(c.batch_execute("BEGIN IMMEDIATE")?),
            Backend::Postgres(c) => Ok(c.batch_execute("BEGIN")?),
        }
    }

    /// Begins a transaction that reads one snapshot.
    pub(crate) fn begin_read(&mut self) -> Result<(), StoreError> {
        match &mut self.0 {
            Backend::Sqlite(c) => Ok(c.batch_execute("BEGIN")?),
            Backend::Postgres(c) => Ok(c.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?),
        }
    }

    pub(crate) fn execute(&mut self, sql: &str) -> Result<(), StoreError> {
        Ok(on!(self, |c| c.batch_execute(sql))?)
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Backend::Sqlite(_) => "Conn(sqlite)",
            Backend::Postgres(_) => "Conn(postgres)",
        })
    }
}
