//! Checks which schema a database contains, and whether this program can serve it (SPEC 10.6).
//!
//! Every migration sets the only row of `schema_version`: the schema's name, its version, and the oldest program
//! version that can serve it. So the schema itself says when it is too new, and an upgrade can be rolled back.

use diesel::prelude::*;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _};

use crate::{
    Conn, OpenDatabaseError, StoreError,
    address::Address,
    connection::{Backend, on},
};

diesel::table! {
    schema_version (name) {
        name -> Text,
        version -> Integer,
        serves_from -> Integer,
    }
}

/// The tables of one service.
#[derive(Clone, Copy)]
pub struct Schema {
    /// The name of the service.
    pub name: &'static str,
    /// The number of migrations that this program knows.
    pub(crate) version: i32,
    pub(crate) migrations: fn() -> EmbeddedMigrations,
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Schema({} {})", self.name, self.version)
    }
}

#[derive(Debug, PartialEq, Queryable, Selectable)]
#[diesel(table_name = schema_version)]
struct Found {
    name: String,
    version: i32,
    serves_from: i32,
}

#[derive(QueryableByName)]
struct CountRow {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    count: i64,
}

impl Schema {
    /// Refuses a database that this program cannot serve.
    pub(crate) fn check(&self, conn: &mut Conn, address: &Address) -> Result<(), OpenDatabaseError> {
        let at = address.to_string();
        let found = found(conn).map_err(|error| OpenDatabaseError::of(&error, &at))?;
        match found {
            None => Err(OpenDatabaseError::TooOld { at, schema: self.name, found: 0, needed: self.version }),
            Some(found) if found.name != self.name => {
                Err(OpenDatabaseError::Foreign { at, found: found.name, wanted: self.name })
            }
            Some(found) if found.serves_from > self.version => Err(OpenDatabaseError::TooNew {
                at,
                schema: self.name,
                serves_from: found.serves_from,
                known: self.version,
            }),
            Some(found) if found.version < self.version => {
                Err(OpenDatabaseError::TooOld { at, schema: self.name, found: found.version, needed: self.version })
            }
            Some(_) => Ok(()),
        }
    }

    /// Runs the pending migrations and returns their names. A schema that is too new or belongs to another service is
    /// not changed.
    pub(crate) fn migrate(&self, conn: &mut Conn, address: &Address) -> Result<Vec<String>, OpenDatabaseError> {
        match self.check(conn, address) {
            Ok(()) | Err(OpenDatabaseError::TooOld { .. }) => {}
            Err(error) => return Err(error),
        }
        let failed = |why: String| OpenDatabaseError::Migration { at: address.to_string(), why };
        // Two processes that migrate at the same time take turns; the lock ends with the connection.
        if let Backend::Postgres(..) = conn.0 {
            conn.execute("SET lock_timeout = '60s'; SELECT pg_advisory_lock(4877261)")
                .map_err(|error| failed(error.to_string()))?;
        }
        let ran = on!(conn, |c| c
            .run_pending_migrations((self.migrations)())
            .map(|ran| ran.iter().map(ToString::to_string).collect()))
        .map_err(|error| failed(error.to_string()))?;
        if let Backend::Postgres(..) = conn.0 {
            conn.execute("SELECT pg_advisory_unlock(4877261)").map_err(|error| failed(error.to_string()))?;
        }
        Ok(ran)
    }
}

fn found(conn: &mut Conn) -> Result<Option<Found>, StoreError> {
    let exists = match &mut conn.0 {
        Backend::Sqlite(c) => {
            diesel::sql_query("SELECT count(*) AS count FROM sqlite_master WHERE name = 'schema_version'")
                .get_result::<CountRow>(c)?
        }
        Backend::Postgres(c, _) => diesel::sql_query(
            "SELECT count(*) AS count FROM information_schema.tables
             WHERE table_name = 'schema_version' AND table_schema = current_schema()",
        )
        .get_result::<CountRow>(&mut **c)?,
    };
    if exists.count == 0 {
        return Ok(None);
    }
    Ok(on!(conn, |c| schema_version::table.select(Found::as_select()).first(c).optional())?)
}
