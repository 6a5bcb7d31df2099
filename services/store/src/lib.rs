//! What must survive: the rows and queries of Central and Registry, on SQLite or PostgreSQL.
//!
//! * [`Database`] opens either back end from a URL, refuses a schema that it cannot serve, and runs named reads and
//!   transactions on blocking threads. `migrate` alone changes a schema.
//! * [`central`] and [`registry`] are two schemas; each service has its own database. Row structs own their
//!   queries, written once and expanded for each back end by the macro `on!`.
//! * [`audit`] chains entries and proves them, for every service alike.
//! * [`central::Committer`] makes turns durable: many in one transaction with one fsync, refusals dropped out, audit
//!   entries numbered and chained, answers only after the commit.
//!
//! Architecture invariant: the only crate that names diesel, and no type of diesel's is in its API. It depends on no
//! role, not on `mesh` and not on tonic.

mod address;
pub mod audit;
pub mod central;
mod connection;
mod database;
mod error;
mod observe;
mod page;
mod postgres;
pub mod registry;
mod schema_version;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use connection::Conn;
pub use database::{Abort, Database};
pub use error::{OpenDatabaseError, StoreError};
pub use observe::{Observer, TransactionOutcome};
pub use page::{Page, PageRequest};
pub use schema_version::Schema;
