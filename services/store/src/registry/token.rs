//! Enrolment tokens.

use std::fmt;

use diesel::{prelude::*, upsert::excluded};

use super::schema::tokens;
use crate::{Conn, StoreError, connection::on};

/// A token, with the hash of its secret.
#[derive(Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = tokens, treat_none_as_default_value = false)]
pub struct TokenRow {
    pub id: String,
    /// 0: either kind.
    pub kind: i32,
    /// The id itself if `bound_revision` is set.
    pub id_pattern: String,
    pub city: String,
    pub bound_revision: Option<i64>,
    pub uses_left: i64,
    pub expires_at_ms: i64,
    pub created_at_ms: i64,
    pub created_by: String,
    pub revoked: bool,
    /// SHA-256, in hexadecimal.
    pub secret_hash: String,
}

impl TokenRow {
    pub fn find(conn: &mut Conn, id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| tokens::table.find(id).select(Self::as_select()).first(c).optional())?)
    }

    /// Inserts the token, or updates what may change: its uses and its revocation.
    pub fn save(&self, conn: &mut Conn) -> Result<(), StoreError> {
        on!(conn, |c| diesel::insert_into(tokens::table)
            .values(self)
            .on_conflict(tokens::id)
            .do_update()
            .set((tokens::uses_left.eq(excluded(tokens::uses_left)), tokens::revoked.eq(excluded(tokens::revoked)),))
            .execute(c))?;
        Ok(())
    }

    /// Revokes every usable token for this one identity and returns their ids.
    pub fn revoke_bound(conn: &mut Conn, kind: i32, id: &str) -> Result<Vec<String>, StoreError> {
        let bound = tokens::kind.eq(kind).and(tokens::id_pattern.eq(id)).and(tokens::bound_revision.is_not_null());
        let usable = tokens::revoked.eq(false).and(tokens::uses_left.gt(0));
        let ids: Vec<String> = on!(conn, |c| tokens::table.filter(bound.and(usable)).select(tokens::id).load(c))?;
        on!(conn, |c| diesel::update(tokens::table.filter(tokens::id.eq_any(&ids)))
            .set(tokens::revoked.eq(true))
            .execute(c))?;
        Ok(ids)
    }

    /// Newest first.
    pub fn list(conn: &mut Conn, limit: i64) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| tokens::table
            .order((tokens::created_at_ms.desc(), tokens::id.asc()))
            .limit(limit)
            .select(Self::as_select())
            .load(c))?)
    }

    /// Deletes tokens that expired before `before_ms` and returns their number.
    pub fn prune(conn: &mut Conn, before_ms: i64) -> Result<usize, StoreError> {
        Ok(on!(conn, |c| diesel::delete(tokens::table.filter(tokens::expires_at_ms.lt(before_ms))).execute(c))?)
    }
}

impl fmt::Debug for TokenRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenRow({:?}, {} uses left)", self.id, self.uses_left)
    }
}
