//! One connection to either back end, and `on!`, which expands a query for both.

use std::fmt;

use diesel::{Connection as _, SqliteConnection, connection::SimpleConnection as _};

use crate::{
    StoreError,
    address::{Address, chain},
    postgres::PgConnection,
};

/// A connection that reads and transactions are given. Row structs have the queries that take it.
pub struct Conn(pub(crate) Backend);

pub(crate) enum Backend {
    Sqlite(SqliteConnection),
    Postgres(Box<PgConnection>),
}

/// Expands the same diesel expression once for each back end, so that both are type-checked.
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

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
}

impl Conn {
    /// Blocks; never call it on an async worker.
    pub(crate) fn establish(address: &Address, purpose: Use) -> Result<Self, StoreError> {
        match address {
            Address::Sqlite(path) => {
                let unavailable = |why: String| StoreError::Unavailable(format!("{}: {why}", path.display()));
                let text = path.to_str().ok_or_else(|| unavailable("the path is not UTF-8".into()))?;
                let mut conn = SqliteConnection::establish(text).map_err(|error| unavailable(chain(&error)))?;
                // An order that matters: no statement may meet a lock before there is a time to wait for it.
                conn.batch_execute("PRAGMA busy_timeout=5000; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")?;
                // Overwritten when deleted, so that an erased key leaves the file too.
                conn.batch_execute("PRAGMA foreign_keys=ON; PRAGMA secure_delete=ON; PRAGMA cache_size=-4000;")?;
                if purpose == Use::Read {
                    // Each reader has a cache of its own, and the system keeps the file's pages for all of them.
                    conn.batch_execute("PRAGMA query_only=ON; PRAGMA cache_size=-1000;")?;
                }
                Ok(Self(Backend::Sqlite(conn)))
            }
            Address::Postgres(address) => {
                crate::postgres::connect(address).map(|conn| Self(Backend::Postgres(Box::new(conn))))
            }
        }
    }

    /// A transaction that writes. SQLite takes its lock now, so that it cannot fail for it later.
    pub(crate) fn begin_write(&mut self) -> Result<(), StoreError> {
        match &mut self.0 {
            Backend::Sqlite(c) => Ok(c.batch_execute("BEGIN IMMEDIATE")?),
            Backend::Postgres(c) => Ok(c.batch_execute("BEGIN")?),
        }
    }

    /// A transaction that sees one moment.
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
