//! Central's database: sessions and tickets, the owner of each charging point, keys, orders, events and the audit.
//!
//! Read with `database.read("name", |conn| SessionRow::find(conn, id))`. Write only through the [`Committer`], as
//! [`Turn`]s.

use diesel_migrations::{EmbeddedMigrations, embed_migrations};

mod apply;
mod charging_point;
mod committer;
#[cfg(test)]
mod faults;
mod generation;
mod group;
mod identity;
mod key;
mod lease;
mod order;
mod outbox;
mod refusal;
mod running_time;
mod schema;
mod session;
mod statistics;
#[cfg(test)]
mod tests;
mod ticket;
mod turn;

pub use crate::{
    OnceRow, RequestIdReused,
    audit::{self, AuditEntry, AuditFilter, AuditOrder, AuditRow},
    page::{Page, PageRequest},
};
pub use charging_point::ChargingPointRow;
pub use committer::{Committer, CommitterSettings};
#[cfg(test)]
pub(crate) use faults::InjectedFaults;
pub use generation::{GenerationRow, raise_generation};
pub use identity::{MirroredIdentityRow, MirroredOperatorRow};
pub use key::{KeyEncryption, KeyError, KeyRow, KeyState};
pub use lease::RENEW_LEASE_EVERY;
pub use order::{ItemOutcome, OrderCounts, OrderItemRow, OrderRow};
pub use outbox::{OutboxEvent, OutboxLag, OutboxRow};
pub use refusal::CommitRefusal;
pub use running_time::running_time;
pub use session::{SessionFilter, SessionRow};
pub use statistics::{StatisticRow, StatisticsBy};
pub use ticket::{CorrectionRow, DiscrepancyRow, TicketFilter, TicketRow, TicketTotals};
pub use turn::{Committed, Guard, RowWrite, Turn, TurnId};

use crate::Schema;

/// Central's tables, for [`Database::open`](crate::Database::open).
pub const SCHEMA: Schema = Schema { name: "central", version: 1, migrations: || MIGRATIONS };

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/central");
