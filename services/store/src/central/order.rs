//! Operators' orders: idempotent by request id, and what a staggered one has still to do (SPEC 7.3).

use diesel::prelude::*;

use super::schema::orders;
use crate::{Conn, Page, PageRequest, StoreError, connection::on, page::Cursor};

/// `OrderRow::state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum OrderState {
    Running = 1,
    Done = 2,
    Cancelled = 3,
}

impl From<OrderState> for i32 {
    fn from(state: OrderState) -> Self {
        state as Self
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = orders, primary_key(order_id))]
pub struct OrderRow {
    pub order_id: String,
    pub operator: String,
    pub request_id: String,
    /// The gRPC method.
    pub method: String,
    pub at_ms: i64,
    /// [`OrderState`].
    pub state: i32,
    /// What was ordered, as Central writes it (JSON).
    pub body: String,
    /// What a staggered order has not reached yet (JSON).
    pub remaining: String,
    /// What is answered to it (JSON).
    pub answer: String,
}

impl OrderRow {
    pub fn find(conn: &mut Conn, order_id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| orders::table.find(order_id).select(Self::as_select()).first(c).optional())?)
    }

    pub fn of_request(conn: &mut Conn, operator: &str, request_id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| orders::table
            .filter(orders::operator.eq(operator))
            .filter(orders::request_id.eq(request_id))
            .select(Self::as_select())
            .first(c)
            .optional())?)
    }

    /// What a starting Central goes on with, oldest first.
    pub fn running(conn: &mut Conn) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| orders::table
            .filter(orders::state.eq(i32::from(OrderState::Running)))
            .order((orders::at_ms, orders::order_id))
            .select(Self::as_select())
            .load(c))?)
    }

    /// Those whose body names `order_id`.
    pub fn naming(conn: &mut Conn, order_id: &str) -> Result<Vec<Self>, StoreError> {
        let named = format!("%\"{order_id}\"%");
        Ok(on!(conn, |c| orders::table.filter(orders::body.like(&named)).select(Self::as_select()).load(c))?)
    }

    /// Those of these methods, newest first.
    pub fn list(conn: &mut Conn, methods: &[&str], page: &PageRequest) -> Result<Page<Self>, StoreError> {
        let cursor = page.cursor()?;
        let rows = on!(conn, |c| {
            let mut query = orders::table.select(Self::as_select()).into_boxed();
            query = query.filter(orders::method.eq_any(methods.iter().copied()));
            if let Some(Cursor { number, text }) = &cursor {
                query =
                    query.filter(orders::at_ms.lt(number).or(orders::at_ms.eq(number).and(orders::order_id.lt(text))));
            }
            query.order((orders::at_ms.desc(), orders::order_id.desc())).limit(page.limit() + 1).load(c)
        })?;
        Ok(page.cut(rows, |row: &Self| Cursor { number: row.at_ms, text: row.order_id.clone() }))
    }

    /// Inserts it, or answers the one that came first under its request id.
    pub(super) fn accept(&self, conn: &mut Conn) -> Result<Option<Self>, StoreError> {
        let inserted = on!(conn, |c| diesel::insert_into(orders::table)
            .values(self)
            .on_conflict((orders::operator, orders::request_id))
            .do_nothing()
            .execute(c))?;
        if inserted == 1 { Ok(None) } else { Self::of_request(conn, &self.operator, &self.request_id) }
    }

    pub(super) fn update(&self, conn: &mut Conn) -> Result<(), StoreError> {
        on!(conn, |c| diesel::update(orders::table.find(&self.order_id)).set(self).execute(c))?;
        Ok(())
    }

    /// Forgets orders that ended and were given before `before_ms`; says how many.
    pub fn prune(conn: &mut Conn, before_ms: i64) -> Result<usize, StoreError> {
        let running = i32::from(OrderState::Running);
        Ok(on!(conn, |c| diesel::delete(
            orders::table.filter(orders::at_ms.lt(before_ms)).filter(orders::state.ne(running))
        )
        .execute(c))?)
    }
}
