//! Tickets, and their later corrections and discrepancies (SPEC 3.7 to 3.9). The primary key of a ticket is its
//! session, so a session never has two.

use std::collections::HashMap;

use diesel::prelude::*;
use proto::link::v1::{Correction, SignedDocument, Ticket};

use super::schema::{corrections, discrepancies, tickets};
use crate::{Conn, Page, PageRequest, StoreError, connection::on, page::Cursor};

/// A ticket as Central stores it: the document, and the columns that queries filter and sum by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = tickets, treat_none_as_default_value = false)]
pub struct TicketRow {
    pub session_id: String,
    /// `None`: the charging point's own account.
    pub driver_id: Option<String>,
    pub cp_id: String,
    pub currency: String,
    pub energy_wh: i64,
    pub amount_minor: i64,
    pub disputed_wh: i64,
    pub billed_at_ms: i64,
    /// The encoded `proto::link::v1::Ticket` without corrections, in hexadecimal.
    pub document: String,
    pub key_id: String,
    /// In hexadecimal.
    pub signature: String,
    /// `None`: the driver has not acknowledged it yet.
    pub acknowledged_at_ms: Option<i64>,
}

/// A later entry about a ticket, numbered from 1.
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
    /// Disputed energy that this entry settled, whether owed or waived.
    pub settled_wh: i64,
}

/// A final meter value that arrived after billing; only the first one is stored.
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

/// A filter; an empty field matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TicketFilter {
    pub cp_id: String,
    pub driver_id: String,
    /// Billed at or after `from_ms` and before `until_ms`; 0: no bound.
    pub from_ms: i64,
    pub until_ms: i64,
}

/// The totals of all tickets of a driver, including corrections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TicketTotals {
    pub sessions: i64,
    pub energy_wh: i64,
    pub amount_minor: i64,
}

impl TicketRow {
    /// The row of a new ticket, which has no corrections yet.
    pub fn new(ticket: &Ticket, billed_at_ms: i64) -> Self {
        let signed = |wh: u64| i64::try_from(wh).unwrap_or(i64::MAX);
        let SignedDocument { document, key_id, signature } = ticket
            .signed
            .clone()
            .unwrap_or_else(|| SignedDocument { document: ticket.document(), ..SignedDocument::default() });
        Self {
            session_id: ticket.session_id.clone(),
            driver_id: Some(ticket.driver_id.clone()).filter(|id| !id.is_empty()),
            cp_id: ticket.charging_point_id.clone(),
            currency: ticket.currency.clone(),
            energy_wh: signed(ticket.energy_wh),
            amount_minor: ticket.amount_minor,
            disputed_wh: signed(ticket.disputed_wh),
            billed_at_ms,
            document: hex::encode(document),
            key_id,
            signature: hex::encode(signature),
            acknowledged_at_ms: None,
        }
    }

    /// The document without its corrections.
    ///
    /// # Errors
    /// Where it is not a ticket.
    pub fn ticket(&self) -> Result<Ticket, StoreError> {
        let ticket = Ticket::of_document(self.signed()).filter(|ticket| ticket.session_id == self.session_id);
        let is_signed = !self.key_id.is_empty();
        ticket
            .map(|ticket| Ticket { signed: ticket.signed.filter(|_| is_signed), ..ticket })
            .ok_or_else(|| StoreError::Rejected(format!("the ticket of session {} is damaged", self.session_id)))
    }

    /// The document as it was signed.
    pub fn signed(&self) -> SignedDocument {
        let bytes = |text: &str| hex::decode(text).unwrap_or_default();
        let (document, signature) = (bytes(&self.document), bytes(&self.signature));
        SignedDocument { document, key_id: self.key_id.clone(), signature }
    }

    /// The tickets of these rows, in their order, with all their corrections.
    pub fn tickets(conn: &mut Conn, rows: &[Self]) -> Result<Vec<Ticket>, StoreError> {
        let ids: Vec<_> = rows.iter().map(|row| row.session_id.as_str()).collect();
        let mut corrections: HashMap<String, Vec<Correction>> = HashMap::new();
        for row in CorrectionRow::of(conn, &ids)? {
            corrections.entry(row.session_id.clone()).or_default().push(row.into());
        }
        rows.iter()
            .map(|row| {
                let corrections = corrections.remove(&row.session_id).unwrap_or_default();
                Ok(Ticket { corrections, ..row.ticket()? })
            })
            .collect()
    }

    pub fn find(conn: &mut Conn, session_id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| tickets::table.find(session_id).select(Self::as_select()).first(c).optional())?)
    }

    /// The tickets that a driver has not acknowledged, oldest first, at most `limit`.
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

    /// Inserts the ticket; false: the session was billed before.
    pub(super) fn insert(&self, conn: &mut Conn) -> Result<bool, StoreError> {
        let inserted = on!(conn, |c| diesel::insert_into(tickets::table)
            .values(self)
            .on_conflict(tickets::session_id)
            .do_nothing()
            .execute(c))?;
        Ok(inserted == 1)
    }
}

/// Marks a ticket as acknowledged. Only its own driver can do that, and only the first time counts.
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

impl From<CorrectionRow> for Correction {
    fn from(row: CorrectionRow) -> Self {
        Self {
            number: u32::try_from(row.number).unwrap_or_default(),
            at_ms: row.at_ms,
            operator: row.operator,
            reason: row.reason,
            energy_delta_wh: row.energy_delta_wh,
            amount_delta_minor: row.amount_delta_minor,
            settled_wh: u64::try_from(row.settled_wh).unwrap_or(0),
        }
    }
}

impl CorrectionRow {
    /// The corrections of these sessions, by session and number.
    pub fn of(conn: &mut Conn, session_ids: &[&str]) -> Result<Vec<Self>, StoreError> {
        let mut found = Vec::new();
        // SQLite accepts at most 32,766 bound values.
        for some in session_ids.chunks(10_000) {
            found.extend(on!(conn, |c| corrections::table
                .filter(corrections::session_id.eq_any(some.iter().copied()))
                .order((corrections::session_id, corrections::number))
                .select(Self::as_select())
                .load(c))?);
        }
        Ok(found)
    }

    /// The number of the ticket's next correction.
    pub fn next_number(before: &[Correction]) -> i32 {
        let last = before.iter().map(|correction| correction.number).max().unwrap_or(0);
        i32::try_from(last).unwrap_or(i32::MAX).saturating_add(1)
    }

    /// Inserts it under its number; false: another correction took the number, so the basis of this one has changed.
    pub(super) fn insert(&self, conn: &mut Conn) -> Result<bool, StoreError> {
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

    pub(super) fn insert_first(&self, conn: &mut Conn) -> Result<(), StoreError> {
        on!(conn, |c| diesel::insert_into(discrepancies::table).values(self).on_conflict_do_nothing().execute(c))?;
        Ok(())
    }
}
