//! Operators' orders (SPEC 7.3): a plain row, and an item for each charging point with what the order did there.
//!
//! Of two orders with the same subject the later one counts: a charging point has at most one pending item of a
//! subject, so a later order settles the pending items of an earlier one as overtaken. How far an order has come is
//! counted from its items; nothing else is remembered about it.

use diesel::prelude::*;

use super::{
    AuditEntry,
    schema::{order_items, orders},
};
use crate::{Conn, Page, PageRequest, StoreError, connection::on, page::Cursor};

/// Bound values per statement; SQLite takes 32,766.
const CHUNK: usize = 4_000;

/// What an order did at one charging point, `OrderItemRow::outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ItemOutcome {
    Pending = 0,
    Done = 1,
    /// It was so already.
    Unchanged = 2,
    Failed = 3,
    /// A later order with the same subject took its place.
    Overtaken = 4,
    Cancelled = 5,
}

impl From<ItemOutcome> for i32 {
    fn from(outcome: ItemOutcome) -> Self {
        outcome as Self
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = orders)]
pub struct OrderRow {
    pub order_id: String,
    /// Such as `operator/anna`.
    pub operator: String,
    pub address: String,
    pub request_id: String,
    /// What was ordered, of whom and why: `chargemesh.central.v1.Order`, encoded, in hexadecimal.
    pub content: String,
    pub at_ms: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = order_items, treat_none_as_default_value = false)]
pub struct OrderItemRow {
    pub order_id: String,
    pub cp_id: String,
    /// What the order decides about the charging point. Empty: the id was unknown when the order was given.
    pub subject: String,
    /// [`ItemOutcome`].
    pub outcome: i32,
    /// `proto::link::v1::Reason`; 0 unless failed.
    pub reason: i32,
    /// Failed: why. Overtaken: the id of the later order.
    pub detail: String,
}

/// How many items of an order have which outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderCounts {
    pub pending: i64,
    pub done: i64,
    pub unchanged: i64,
    pub failed: i64,
    pub overtaken: i64,
    pub cancelled: i64,
    /// Of those that failed, the ids that were unknown when the order was given.
    pub unknown: i64,
}

impl OrderRow {
    pub fn find(conn: &mut Conn, order_id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| orders::table.find(order_id).select(Self::as_select()).first(c).optional())?)
    }

    /// The orders with pending items, oldest first, which a starting Central continues.
    pub fn unfinished(conn: &mut Conn) -> Result<Vec<Self>, StoreError> {
        let pending = order_items::table.filter(order_items::outcome.eq(i32::from(ItemOutcome::Pending)));
        Ok(on!(conn, |c| orders::table
            .filter(orders::order_id.eq_any(pending.select(order_items::order_id)))
            .order((orders::at_ms, orders::order_id))
            .select(Self::as_select())
            .load(c))?)
    }

    /// Newest first.
    pub fn list(conn: &mut Conn, page: &PageRequest) -> Result<Page<Self>, StoreError> {
        let cursor = page.cursor()?;
        let rows = on!(conn, |c| {
            let mut query = orders::table.select(Self::as_select()).into_boxed();
            if let Some(Cursor { number, text }) = &cursor {
                query =
                    query.filter(orders::at_ms.lt(number).or(orders::at_ms.eq(number).and(orders::order_id.lt(text))));
            }
            query.order((orders::at_ms.desc(), orders::order_id.desc())).limit(page.limit() + 1).load(c)
        })?;
        Ok(page.cut(rows, |row: &Self| Cursor { number: row.at_ms, text: row.order_id.clone() }))
    }

    /// Inserts the order with its items. Pending items of earlier orders with the same subject are settled as
    /// overtaken; returns an entry like `overtaken` about each of their charging points.
    pub(super) fn insert(
        &self,
        conn: &mut Conn,
        items: &[OrderItemRow],
        overtaken: &AuditEntry,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let mut entries = Vec::new();
        for some in items.chunks(CHUNK) {
            for cp_id in OrderItemRow::overtake(conn, &self.order_id, some)? {
                entries.push(AuditEntry { object: format!("charging-point/{cp_id}"), ..overtaken.clone() });
            }
        }
        on!(conn, |c| diesel::insert_into(orders::table).values(self).execute(c))?;
        for some in items.chunks(CHUNK) {
            let inserted = on!(conn, |c| diesel::insert_into(order_items::table)
                .values(some)
                .on_conflict_do_nothing()
                .execute(c))?;
            if inserted != some.len() {
                return Err(StoreError::Contended("another order for the same charging points came first".into()));
            }
        }
        Ok(entries)
    }

    /// Deletes orders from before `before_ms` without pending items, with their items; returns their number.
    pub fn prune(conn: &mut Conn, before_ms: i64) -> Result<usize, StoreError> {
        let pending = order_items::table.filter(order_items::outcome.eq(i32::from(ItemOutcome::Pending)));
        let old: Vec<String> = on!(conn, |c| orders::table
            .filter(orders::at_ms.lt(before_ms))
            .filter(orders::order_id.ne_all(pending.select(order_items::order_id)))
            .select(orders::order_id)
            .load(c))?;
        for some in old.chunks(CHUNK) {
            on!(conn, |c| diesel::delete(order_items::table.filter(order_items::order_id.eq_any(some))).execute(c))?;
            on!(conn, |c| diesel::delete(orders::table.filter(orders::order_id.eq_any(some))).execute(c))?;
        }
        Ok(old.len())
    }
}

impl OrderItemRow {
    /// How many charging points an order has still to reach.
    pub fn count_pending(conn: &mut Conn, order_id: &str) -> Result<i64, StoreError> {
        Ok(on!(conn, |c| order_items::table
            .filter(order_items::order_id.eq(order_id))
            .filter(order_items::outcome.eq(i32::from(ItemOutcome::Pending)))
            .count()
            .get_result(c))?)
    }

    /// The charging points that an order has still to reach, by id.
    pub fn pending(conn: &mut Conn, order_id: &str) -> Result<Vec<String>, StoreError> {
        Ok(on!(conn, |c| order_items::table
            .filter(order_items::order_id.eq(order_id))
            .filter(order_items::outcome.eq(i32::from(ItemOutcome::Pending)))
            .order(order_items::cp_id)
            .select(order_items::cp_id)
            .load(c))?)
    }

    /// The first `limit` items of an order that failed, by id.
    pub fn failed(conn: &mut Conn, order_id: &str, limit: i64) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| order_items::table
            .filter(order_items::order_id.eq(order_id))
            .filter(order_items::outcome.eq(i32::from(ItemOutcome::Failed)))
            .order(order_items::cp_id)
            .limit(limit)
            .select(Self::as_select())
            .load(c))?)
    }

    /// Settles a pending item; false: it was settled before.
    pub(super) fn settle(&self, conn: &mut Conn) -> Result<bool, StoreError> {
        use order_items as t;
        let settled = on!(conn, |c| diesel::update(
            t::table.find((&self.order_id, &self.cp_id)).filter(t::outcome.eq(i32::from(ItemOutcome::Pending)))
        )
        .set((t::outcome.eq(self.outcome), t::reason.eq(self.reason), t::detail.eq(&self.detail)))
        .execute(c))?;
        Ok(settled == 1)
    }

    /// Settles all pending items of an order as cancelled and returns their number.
    pub(super) fn cancel(conn: &mut Conn, order_id: &str) -> Result<usize, StoreError> {
        use order_items as t;
        Ok(on!(conn, |c| diesel::update(
            t::table.filter(t::order_id.eq(order_id)).filter(t::outcome.eq(i32::from(ItemOutcome::Pending)))
        )
        .set(t::outcome.eq(i32::from(ItemOutcome::Cancelled)))
        .execute(c))?)
    }

    /// Settles the pending items in whose place `items` will come; returns their charging points.
    fn overtake(conn: &mut Conn, later: &str, items: &[Self]) -> Result<Vec<String>, StoreError> {
        use order_items as t;
        let Some(first) = items.iter().find(|item| item.outcome == i32::from(ItemOutcome::Pending)) else {
            return Ok(Vec::new());
        };
        let ids: Vec<&str> = items.iter().map(|item| item.cp_id.as_str()).collect();
        Ok(on!(conn, |c| diesel::update(
            t::table
                .filter(t::cp_id.eq_any(&ids))
                .filter(t::subject.eq(&first.subject))
                .filter(t::outcome.eq(i32::from(ItemOutcome::Pending)))
        )
        .set((t::outcome.eq(i32::from(ItemOutcome::Overtaken)), t::detail.eq(later)))
        .returning(t::cp_id)
        .get_results(c))?)
    }
}

impl OrderCounts {
    pub fn of(conn: &mut Conn, order_id: &str) -> Result<Self, StoreError> {
        use order_items as t;
        let counted: Vec<(i32, String, i64)> = on!(conn, |c| t::table
            .filter(t::order_id.eq(order_id))
            .group_by((t::outcome, t::subject))
            .select((t::outcome, t::subject, diesel::dsl::count_star()))
            .load(c))?;
        let mut counts = Self::default();
        for (outcome, subject, count) in counted {
            counts.add(outcome, subject.is_empty(), count);
        }
        Ok(counts)
    }

    /// The charging points that the order was about.
    pub fn matched(&self) -> i64 {
        let Self { pending, done, unchanged, failed, overtaken, cancelled, unknown } = self;
        pending + done + unchanged + failed + overtaken + cancelled - unknown
    }

    /// The charging points that the order has not reached: still pending, cancelled, or left to a later order.
    pub fn left(&self) -> i64 {
        self.pending + self.overtaken + self.cancelled
    }

    fn add(&mut self, outcome: i32, unknown: bool, count: i64) {
        let all = [
            (ItemOutcome::Pending, &mut self.pending),
            (ItemOutcome::Done, &mut self.done),
            (ItemOutcome::Unchanged, &mut self.unchanged),
            (ItemOutcome::Failed, &mut self.failed),
            (ItemOutcome::Overtaken, &mut self.overtaken),
            (ItemOutcome::Cancelled, &mut self.cancelled),
        ];
        all.into_iter().filter(|(of, _)| i32::from(*of) == outcome).for_each(|(_, sum)| *sum += count);
        self.unknown += if unknown { count } else { 0 };
    }
}
