//! Central's mirror of Registry's identities and operators, with the revision up to which it is complete.

use diesel::{prelude::*, upsert::excluded};

use super::schema::{identities, mirrors, operators};
use crate::{Conn, StoreError, connection::on};

const REGISTRY: &str = "registry";

#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = identities)]
pub struct MirroredIdentityRow {
    /// `proto::registry::v1::Kind`.
    pub kind: i32,
    pub id: String,
    /// `proto::registry::v1::IdentityState`.
    pub state: i32,
    pub city: String,
    pub place: String,
    pub price_e4: i64,
    pub enrolled_at_ms: i64,
    pub incarnation: i64,
    pub revision: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = operators)]
pub struct MirroredOperatorRow {
    pub name: String,
    /// `proto::registry::v1::OperatorRole`.
    pub role: i32,
    pub removed: bool,
    pub revision: i64,
}

impl MirroredIdentityRow {
    pub fn all(conn: &mut Conn) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| identities::table
            .order((identities::kind, identities::id))
            .select(Self::as_select())
            .load(c))?)
    }

    pub fn find(conn: &mut Conn, kind: i32, id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| identities::table.find((kind, id)).select(Self::as_select()).first(c).optional())?)
    }

    /// The revision up to which the mirror is complete; 0: nothing was received yet.
    pub fn revision(conn: &mut Conn) -> Result<i64, StoreError> {
        Ok(on!(conn, |c| mirrors::table.find(REGISTRY).select(mirrors::revision).first(c).optional())?.unwrap_or(0))
    }

    /// Whether `known` is newer. An answer that did not come by the stream has no revision of its own and carries the
    /// revision known at that time. Of two rows with the same revision, the one further along is newer: an enrolment
    /// goes from enrolled to void to removed, and after that only a new incarnation follows (SPEC 7.4).
    pub fn is_behind(&self, known: &Self) -> bool {
        (known.revision, known.incarnation, known.state) > (self.revision, self.incarnation, self.state)
    }

    /// Inserts or updates the row, unless the stored one is newer.
    pub(super) fn upsert_newer(&self, conn: &mut Conn) -> Result<(), StoreError> {
        use identities as t;
        if Self::find(conn, self.kind, &self.id)?.is_some_and(|known| self.is_behind(&known)) {
            return Ok(());
        }
        on!(conn, |c| diesel::insert_into(t::table)
            .values(self)
            .on_conflict((t::kind, t::id))
            .do_update()
            .set((
                t::state.eq(excluded(t::state)),
                t::city.eq(excluded(t::city)),
                t::place.eq(excluded(t::place)),
                t::price_e4.eq(excluded(t::price_e4)),
                t::enrolled_at_ms.eq(excluded(t::enrolled_at_ms)),
                t::incarnation.eq(excluded(t::incarnation)),
                t::revision.eq(excluded(t::revision)),
            ))
            .execute(c))?;
        Ok(())
    }
}

impl MirroredOperatorRow {
    pub fn all(conn: &mut Conn) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| operators::table.order(operators::name).select(Self::as_select()).load(c))?)
    }

    pub(super) fn upsert_newer(&self, conn: &mut Conn) -> Result<(), StoreError> {
        use operators as t;
        let known: Option<i64> = on!(conn, |c| t::table.find(&self.name).select(t::revision).first(c).optional())?;
        if known.is_some_and(|known| known > self.revision) {
            return Ok(());
        }
        on!(conn, |c| diesel::insert_into(t::table)
            .values(self)
            .on_conflict(t::name)
            .do_update()
            .set((
                t::role.eq(excluded(t::role)),
                t::removed.eq(excluded(t::removed)),
                t::revision.eq(excluded(t::revision)),
            ))
            .execute(c))?;
        Ok(())
    }
}

/// The mirror is complete up to `revision`. The mark never goes back.
pub(super) fn set_revision(conn: &mut Conn, revision: i64) -> Result<(), StoreError> {
    use mirrors as t;
    on!(conn, |c| diesel::insert_into(t::table)
        .values((t::source.eq(REGISTRY), t::revision.eq(0)))
        .on_conflict_do_nothing()
        .execute(c))?;
    on!(conn, |c| diesel::update(t::table.filter(t::source.eq(REGISTRY)).filter(t::revision.lt(revision)))
        .set(t::revision.eq(revision))
        .execute(c))?;
    Ok(())
}
