//! Tickets, and what may be said about one later: corrections and discrepancies (SPEC 3.7 to 3.9).
//! A ticket's primary key is its session, so there is never a second one.

use diesel::prelude::*;

use super::schema::{corrections, discrepancies, tickets};
use crate::{Conn, Page, PageRequest, StoreError, connection::on, page::Cursor};

#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = tickets, treat_none_as_default_value = false)]
pub struct TicketRow {
    pub session_id: String,
    /// `None`: the charging point's own account.
    pub driver_id: Option<String>,
    pub cp_id: String,
    pub place: String,
    pub started_at_ms: i64,
    pub ended_at_ms: i64,
    pub energy_wh: i64,
    pub price_e4: i64,
    pub amount_minor: i64,
    pub currency: String,
    /// `proto::link::v1::Reason`.
    pub reason: i32,
    pub disputed_wh: i64,
    pub meter_start_wh: i64,
    pub meter_end_wh: i64,
    pub billed_at_ms: i64,
    /// `None`: still due to the driver.
    pub acknowledged_at_ms: Option<i64>,
}

/// A later entry that names a ticket, numbered from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = corrections)]
pub struct CorrectionRow {
    pub session_id: String,
    pub number: i32,
    pub at_ms: i64,
    pub operator: String,
    pub reason: String,
    pub energy_delta_wh: i64,
    pub amount_delta_minor: i64,
    /// Disputed energy that this entry decided, owed or waived.
    pub settled_wh: i64,
}

/// A final value that came after billing; the first one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = discrepancies)]
pub struct DiscrepancyRow {
    pub session_id: String,
    pub cp_id: String,
    pub at_ms: i64,
    pub billed_end_wh: i64,
    pub reported_end_wh: i64,
    pub energy_delta_wh: i64,
}

/// What to list; empty fields match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TicketFilter {
    pub cp_id: String,
    pub driver_id: String,
    /// Billed at or after, and before; 0: no bound.
    pub from_ms: i64,
    pub until_ms: i64,
}

/// A driver's totals over all his tickets, corrections included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TicketTotals {
    pub sessions: i64,
    pub energy_wh: i64,
    pub amount_minor: i64,
}

impl TicketRow {
    pub fn find(conn: &mut Conn, session_id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| tickets::table.find(session_id).select(Self::as_select()).first(c).optional())?)
    }

    /// What a driver has not acknowledged, oldest first, at most `limit`.
    pub fn due(conn: &mut Conn, driver_id: &str, limit: i64) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| tickets::table
            .filter(tickets::driver_id.eq(driver_id))
            .filter(tickets::acknowledged_at_ms.is_null())
            .order((tickets::billed_at_ms, tickets::session_id))
            .limit(limit)
            .select(Self::as_select())
            .load(c))?)
    }

    /// Newest first.
    pub fn list(conn: &mut Conn, filter: &TicketFilter, page: &PageRequest) -> Result<Page<Self>, StoreError> {
        let cursor = page.cursor()?;
        let rows = on!(conn, |c| {
            let mut query = tickets::table.select(Self::as_select()).into_boxed();
            if !filter.cp_id.is_empty() {
                query = query.filter(tickets::cp_id.eq(&filter.cp_id));
            }
            if !filter.driver_id.is_empty() {
                query = query.filter(tickets::driver_id.eq(&filter.driver_id));
            }
            if filter.from_ms != 0 {
                query = query.filter(tickets::billed_at_ms.ge(filter.from_ms));
            }
            if filter.until_ms != 0 {
                query = query.filter(tickets::billed_at_ms.lt(filter.until_ms));
            }
            if let Some(Cursor { number, text }) = &cursor {
                query = query.filter(
                    tickets::billed_at_ms
                        .lt(number)
                        .or(tickets::billed_at_ms.eq(number).and(tickets::session_id.lt(text))),
                );
            }
            query.order((tickets::billed_at_ms.desc(), tickets::session_id.desc())).limit(page.limit() + 1).load(c)
        })?;
        Ok(page.cut(rows, |row: &Self| Cursor { number: row.billed_at_ms, text: row.session_id.clone() }))
    }

    /// Inserts it; false: the session has been billed before.
    pub(super) fn bill(&self, conn: &mut Conn) -> Result<bool, StoreError> {
        let inserted = on!(conn, |c| diesel::insert_into(tickets::table)
            .values(self)
            .on_conflict(tickets::session_id)
            .do_nothing()
            .execute(c))?;
        Ok(inserted == 1)
    }
}

/// Only the driver whose ticket it is can acknowledge it, and only the first time counts.
pub(super) fn acknowledge(conn: &mut Conn, session_id: &str, driver_id: &str, at_ms: i64) -> Result<(), StoreError> {
    on!(conn, |c| diesel::update(
        tickets::table
            .filter(tickets::session_id.eq(session_id))
            .filter(tickets::driver_id.eq(driver_id))
            .filter(tickets::acknowledged_at_ms.is_null())
    )
    .set(tickets::acknowledged_at_ms.eq(at_ms))
    .execute(c))?;
    Ok(())
}

impl CorrectionRow {
    /// Of these sessions, by session and number.
    pub fn of(conn: &mut Conn, session_ids: &[&str]) -> Result<Vec<Self>, StoreError> {
        let mut found = Vec::new();
        // SQLite takes 32,766 values at most.
        for some in session_ids.chunks(10_000) {
            found.extend(on!(conn, |c| corrections::table
                .filter(corrections::session_id.eq_any(some.iter().copied()))
                .order((corrections::session_id, corrections::number))
                .select(Self::as_select())
                .load(c))?);
        }
        Ok(found)
    }

    /// The number of the next one, after all of this ticket's.
    pub fn next_number(before: &[Self]) -> i32 {
        before.iter().map(|row| row.number).max().unwrap_or(0).saturating_add(1)
    }

    /// Appends it under its number; false: another has taken that, and what it was decided upon has changed.
    pub(super) fn append(&self, conn: &mut Conn) -> Result<bool, StoreError> {
        let inserted = on!(conn, |c| diesel::insert_into(corrections::table)
            .values(self)
            .on_conflict((corrections::session_id, corrections::number))
            .do_nothing()
            .execute(c))?;
        Ok(inserted == 1)
    }
}

impl DiscrepancyRow {
    pub fn find(conn: &mut Conn, session_id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| discrepancies::table.find(session_id).select(Self::as_select()).first(c).optional())?)
    }

    pub fn all(conn: &mut Conn) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| discrepancies::table.order(discrepancies::session_id).select(Self::as_select()).load(c))?)
    }

    pub(super) fn note(&self, conn: &mut Conn) -> Result<(), StoreError> {
        on!(conn, |c| diesel::insert_into(discrepancies::table).values(self).on_conflict_do_nothing().execute(c))?;
        Ok(())
    }
}
