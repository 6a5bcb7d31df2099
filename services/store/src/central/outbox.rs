//! Events that wait for the rest of the world, written by the turn that made them true.
//! Order per charging point is (epoch, sequence); consumers drop repeats by id and stale epochs.

use diesel::prelude::*;

use super::schema::outbox;
use crate::{Conn, StoreError, connection::on};

/// As a turn writes it; the epoch is that of the turn's guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxEvent {
    /// Unique; consumers drop repeats by it.
    pub event_id: String,
    /// Empty: of no charging point.
    pub cp_id: String,
    /// CloudEvents type, such as `chargemesh.session.billed`.
    pub kind: String,
    pub at_ms: i64,
    /// A JSON object.
    pub body: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = outbox, treat_none_as_default_value = false)]
pub struct OutboxRow {
    pub writer: String,
    pub sequence: i64,
    pub event_id: String,
    pub cp_id: String,
    pub epoch: i64,
    pub kind: String,
    pub at_ms: i64,
    pub body: String,
    /// `None`: waits.
    pub published_at_ms: Option<i64>,
}

impl OutboxRow {
    /// The first `limit` events of a charging point that wait, in order.
    pub fn waiting(conn: &mut Conn, cp_id: &str, limit: i64) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| outbox::table
            .filter(outbox::cp_id.eq(cp_id))
            .filter(outbox::published_at_ms.is_null())
            .order((outbox::epoch, outbox::sequence))
            .limit(limit)
            .select(Self::as_select())
            .load(c))?)
    }

    /// How many wait in all.
    pub fn lag(conn: &mut Conn) -> Result<i64, StoreError> {
        Ok(on!(conn, |c| outbox::table.filter(outbox::published_at_ms.is_null()).count().get_result(c))?)
    }

    /// Forgets events before `before_ms`: published ones, or with `waiting_too` (no broker is set) all. Says how many.
    pub fn prune(conn: &mut Conn, before_ms: i64, waiting_too: bool) -> Result<usize, StoreError> {
        let old = outbox::at_ms.lt(before_ms);
        Ok(if waiting_too {
            on!(conn, |c| diesel::delete(outbox::table.filter(old)).execute(c))?
        } else {
            on!(conn, |c| diesel::delete(outbox::table.filter(old).filter(outbox::published_at_ms.is_not_null()))
                .execute(c))?
        })
    }

    pub(super) fn insert(conn: &mut Conn, rows: &[Self]) -> Result<(), StoreError> {
        for some in rows.chunks(200) {
            on!(conn, |c| diesel::insert_into(outbox::table).values(some).execute(c))?;
        }
        Ok(())
    }
}

pub(super) fn published(conn: &mut Conn, writer: &str, sequence: i64, at_ms: i64) -> Result<(), StoreError> {
    on!(conn, |c| diesel::update(outbox::table.find((writer, sequence)))
        .set(outbox::published_at_ms.eq(at_ms))
        .execute(c))?;
    Ok(())
}
