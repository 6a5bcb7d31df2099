//! Operators and viewers that were added or removed.

use diesel::{prelude::*, upsert::excluded};

use super::schema::operators;
use crate::{Conn, StoreError, connection::on};

/// A person. The API defines the numbers of roles.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = operators)]
pub struct OperatorRow {
    pub name: String,
    pub role: i32,
    pub removed: bool,
    pub changed_at_ms: i64,
    pub changed_by: String,
    pub revision: i64,
}

impl OperatorRow {
    pub fn find(conn: &mut Conn, name: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| operators::table.find(name).select(Self::as_select()).first(c).optional())?)
    }

    /// Inserts the row, or replaces everything but the name.
    pub fn save(&self, conn: &mut Conn) -> Result<(), StoreError> {
        on!(conn, |c| diesel::insert_into(operators::table)
            .values(self)
            .on_conflict(operators::name)
            .do_update()
            .set((
                operators::role.eq(excluded(operators::role)),
                operators::removed.eq(excluded(operators::removed)),
                operators::changed_at_ms.eq(excluded(operators::changed_at_ms)),
                operators::changed_by.eq(excluded(operators::changed_by)),
                operators::revision.eq(excluded(operators::revision)),
            ))
            .execute(c))?;
        Ok(())
    }

    pub fn all(conn: &mut Conn) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| operators::table.order(operators::name.asc()).select(Self::as_select()).load(c))?)
    }
}
