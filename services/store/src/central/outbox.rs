//! The outbox: events that wait to be published, written in the turn that they report. They are ordered per charging
//! point by (epoch, sequence); consumers drop repeated ids and stale epochs.

use diesel::{
    dsl::{count_star, exists, min, not},
    prelude::*,
};

use super::schema::{charging_points, outbox};
use crate::{Conn, StoreError, connection::on};

/// An event as a turn writes it. Its epoch will be that of its charging point's record.
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

/// What waits to be published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxLag {
    pub events: i64,
    /// When the oldest of them happened.
    pub oldest_at_ms: Option<i64>,
}

impl OutboxRow {
    /// The next `limit` unpublished events that `owner` is to publish, in order: of its own charging points, of those
    /// without an owner and of none. What an earlier owner left comes first, since its epochs are lower. Events of the
    /// charging points `held` are left out.
    pub fn batch(conn: &mut Conn, owner: &str, held: &[String], limit: i64) -> Result<Vec<Self>, StoreError> {
        let owned = charging_points::table
            .filter(charging_points::cp_id.eq(outbox::cp_id))
            .filter(charging_points::owner.eq(owner));
        let left = on!(conn, |c| outbox::table
            .filter(outbox::published_at_ms.is_null())
            .filter(outbox::writer.ne(owner))
            .filter(outbox::cp_id.ne_all(held))
            .filter(exists(owned))
            .order((outbox::epoch, outbox::sequence))
            .limit(limit)
            .select(Self::as_select())
            .load(c))?;
        if !left.is_empty() {
            return Ok(left);
        }
        let foreign = charging_points::table
            .filter(charging_points::cp_id.eq(outbox::cp_id))
            .filter(charging_points::owner.ne_all(vec![owner, ""]));
        Ok(on!(conn, |c| outbox::table
            .filter(outbox::published_at_ms.is_null())
            .filter(outbox::writer.eq(owner))
            .filter(outbox::cp_id.ne_all(held))
            .filter(not(exists(foreign)))
            .order(outbox::sequence)
            .limit(limit)
            .select(Self::as_select())
            .load(c))?)
    }

    /// What is not published yet, of all writers.
    pub fn lag(conn: &mut Conn) -> Result<OutboxLag, StoreError> {
        let (events, oldest_at_ms) = on!(conn, |c| outbox::table
            .filter(outbox::published_at_ms.is_null())
            .select((count_star(), min(outbox::at_ms)))
            .first(c))?;
        Ok(OutboxLag { events, oldest_at_ms })
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

/// Marks the events of `writer` from `first` to `last`, both included.
pub(super) fn mark_published(
    conn: &mut Conn,
    writer: &str,
    (first, last): (i64, i64),
    at_ms: i64,
) -> Result<(), StoreError> {
    on!(conn, |c| diesel::update(outbox::table)
        .filter(outbox::writer.eq(writer))
        .filter(outbox::sequence.between(first, last))
        .filter(outbox::published_at_ms.is_null())
        .set(outbox::published_at_ms.eq(at_ms))
        .execute(c))?;
    Ok(())
}
