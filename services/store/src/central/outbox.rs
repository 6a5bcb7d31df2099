//! The outbox: events that wait to be published, written in the turn that they report. They are ordered per charging
//! point by (epoch, sequence); consumers drop repeated ids and stale epochs.

use diesel::prelude::*;

use super::schema::outbox;
use crate::{Conn, StoreError, connection::on};

/// An event as a turn writes it. Its epoch will be that of the turn's guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxEvent {
    /// Unique, so that consumers can drop repeats.
    pub event_id: String,
    /// Empty: the event concerns no charging point.
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
    /// `None`: not published yet.
    pub published_at_ms: Option<i64>,
}

impl OutboxRow {
    /// The first `limit` unpublished events of a charging point, in order.
    pub fn waiting(conn: &mut Conn, cp_id: &str, limit: i64) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| outbox::table
            .filter(outbox::cp_id.eq(cp_id))
            .filter(outbox::published_at_ms.is_null())
            .order((outbox::epoch, outbox::sequence))
            .limit(limit)
            .select(Self::as_select())
            .load(c))?)
    }

    /// The number of unpublished events.
    pub fn lag(conn: &mut Conn) -> Result<i64, StoreError> {
        Ok(on!(conn, |c| outbox::table.filter(outbox::published_at_ms.is_null()).count().get_result(c))?)
    }

    /// Deletes events from before `before_ms` and returns their number: published ones, or all with `waiting_too` (if
    /// no broker is set).
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

pub(super) fn mark_published(conn: &mut Conn, writer: &str, sequence: i64, at_ms: i64) -> Result<(), StoreError> {
    on!(conn, |c| diesel::update(outbox::table.find((writer, sequence)))
        .set(outbox::published_at_ms.eq(at_ms))
        .execute(c))?;
    Ok(())
}
