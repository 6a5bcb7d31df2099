//! Identities: those that are enrolled, were removed, or may be enrolled again.

use std::fmt;

use diesel::{prelude::*, upsert::excluded};

use super::schema::identities;
use crate::{Conn, StoreError, connection::on};

/// An identity. Registry defines the numbers of kinds and states.
#[derive(Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = identities, treat_none_as_default_value = false)]
pub struct IdentityRow {
    pub kind: i32,
    pub id: String,
    pub state: i32,
    pub city: String,
    pub place: String,
    pub price_e4: i64,
    pub enrolled_at_ms: i64,
    pub incarnation: i64,
    pub revision: i64,
    /// Argon2id in PHC form.
    pub credential_hash: Option<String>,
}

impl IdentityRow {
    pub fn find(conn: &mut Conn, kind: i32, id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| identities::table.find((kind, id)).select(Self::as_select()).first(c).optional())?)
    }

    /// Inserts the row, or replaces everything but its key.
    pub fn save(&self, conn: &mut Conn) -> Result<(), StoreError> {
        on!(conn, |c| diesel::insert_into(identities::table)
            .values(self)
            .on_conflict((identities::kind, identities::id))
            .do_update()
            .set((
                identities::state.eq(excluded(identities::state)),
                identities::city.eq(excluded(identities::city)),
                identities::place.eq(excluded(identities::place)),
                identities::price_e4.eq(excluded(identities::price_e4)),
                identities::enrolled_at_ms.eq(excluded(identities::enrolled_at_ms)),
                identities::incarnation.eq(excluded(identities::incarnation)),
                identities::revision.eq(excluded(identities::revision)),
                identities::credential_hash.eq(excluded(identities::credential_hash)),
            ))
            .execute(c))?;
        Ok(())
    }

    /// Identities of a kind (0: both, charging points first) in order of kind and id, after `(kind, id)`.
    pub fn page(conn: &mut Conn, kind: i32, after: (i32, &str), limit: i64) -> Result<Vec<Self>, StoreError> {
        let (after_kind, after_id) = after;
        Ok(on!(conn, |c| {
            let mut query = identities::table.select(Self::as_select()).into_boxed();
            if kind != 0 {
                query = query.filter(identities::kind.eq(kind));
            }
            query
                .filter(
                    identities::kind
                        .gt(after_kind)
                        .or(identities::kind.eq(after_kind).and(identities::id.gt(after_id))),
                )
                .order((identities::kind.asc(), identities::id.asc()))
                .limit(limit)
                .load(c)
        })?)
    }

    /// The number of identities of each kind and state.
    pub fn count(conn: &mut Conn) -> Result<Vec<(i32, i32, i64)>, StoreError> {
        Ok(on!(conn, |c| identities::table
            .group_by((identities::kind, identities::state))
            .select((identities::kind, identities::state, diesel::dsl::count_star()))
            .load(c))?)
    }
}

impl fmt::Debug for IdentityRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityRow({} {:?}, state {}, revision {})", self.kind, self.id, self.state, self.revision)
    }
}
