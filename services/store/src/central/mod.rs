//! Central's database: what is owed, who owns which charging point, which keys are valid, what happened.

use diesel_migrations::{EmbeddedMigrations, embed_migrations};

mod schema;

use crate::Schema;

/// Central's tables, for [`Database::open`](crate::Database::open).
pub const SCHEMA: Schema = Schema { name: "central", version: 1, migrations: || MIGRATIONS };

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/central");
