//! The database access of Central and Registry: rows, queries and migrations, on SQLite or PostgreSQL.
//!
//! * [`Database`] opens either back end by its address, refuses a schema that this program cannot serve, and runs
//!   named reads and transactions on blocking threads. Only `migrate` changes a schema.
//! * [`central`] and [`registry`] are two schemas; each service has its own database. Row structs have their queries,
//!   written once and expanded for both back ends by the macro `on!`.
//! * [`audit`] chains and verifies audit entries, for both services.
//! * [`central::Committer`] makes turns durable: it commits many in one transaction with one fsync, leaves out those
//!   that a rule refuses, numbers and chains the audit entries, and answers only after the commit.
//!
//! Architecture invariant: this is the only crate that names diesel, and its API contains no type of diesel. It
//! depends on no role, not on `mesh` and not on tonic.

mod address;
pub mod audit;
pub mod central;
mod connection;
mod copy;
mod database;
mod error;
mod observe;
mod once;
mod page;
mod pool;
mod postgres;
mod private;
pub mod registry;
mod schema_version;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use connection::Conn;
pub use database::{Abort, Database, PROBE_EVERY};
pub use error::{OpenDatabaseError, StoreError};
pub use observe::{Observer, TransactionOutcome};
pub use once::{OnceRow, RequestIdReused};
pub use page::{Page, PageRequest};
pub use schema_version::Schema;
