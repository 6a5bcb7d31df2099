//! Registry's database: identities, tokens, operators, first answers, pins, and its audit.
//!
//! A change is one transaction that first takes the next [`Revision`], then reads, decides and writes. Taking the
//! revision locks out every other change on both back ends. So a decision always sees the current state, and a
//! follower of [`changed_since`] misses nothing.

use diesel_migrations::{EmbeddedMigrations, embed_migrations};

mod changes;
mod forwarding;
mod identity;
mod operator;
mod pin;
mod schema;
mod secret;
mod token;

pub use changes::{Changed, Revision, changed_since, head, raise_revision};
pub use forwarding::ForwardingRow;
pub use identity::IdentityRow;
pub use operator::OperatorRow;
pub use pin::{pins, replace_pins};
pub use secret::claim_secret;
pub use token::TokenRow;

// The audit tables have the same form as Central's.
use crate::Schema;
pub use crate::audit::{AuditEntry, AuditRow, append as append_audit, last_number};

/// Registry's tables, for [`Database::open`](crate::Database::open).
pub const SCHEMA: Schema = Schema { name: "registry", version: 1, migrations: || MIGRATIONS };

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/registry");

#[cfg(test)]
mod tests;
