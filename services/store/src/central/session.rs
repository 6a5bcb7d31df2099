//! Sessions (SPEC 3.8). Two partial unique indexes over reserved and supplying sessions ensure that each driver and
//! each charging point has at most one open session.

use diesel::prelude::*;

use super::{CommitRefusal, schema::sessions};
use crate::{Conn, Page, PageRequest, StoreError, connection::on, page::Cursor};

/// The numbers of `proto::link::v1::SessionState` that the indexes name.
const OPEN: [i32; 2] = [1, 2];
const UNSETTLED: [i32; 3] = [1, 2, 3];

#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = sessions, primary_key(session_id), treat_none_as_default_value = false, treat_none_as_null = true)]
pub struct SessionRow {
    pub session_id: String,
    pub cp_id: String,
    /// `None`: the charging point's own account.
    pub driver_id: Option<String>,
    /// `proto::link::v1::SessionState`.
    pub state: i32,
    pub request_id: String,
    /// Requested at the charging point itself.
    pub manual: bool,
    pub place: String,
    pub price_e4: i64,
    pub currency: String,
    /// 0: until unplugged.
    pub requested_wh: i64,
    pub meter_start_wh: Option<i64>,
    /// The last accepted value of the lifetime register.
    pub meter_last_wh: Option<i64>,
    pub reserved_at_ms: i64,
    pub started_at_ms: Option<i64>,
    pub ended_at_ms: Option<i64>,
    /// `proto::link::v1::Reason`.
    pub reason: i32,
    /// What is left of the deadline of this state, counted down only while Central runs.
    pub deadline_left_ms: Option<i64>,
    pub disputed_wh: i64,
    pub discrepancy_wh: i64,
    pub changed_at_ms: i64,
}

/// A filter; an empty field matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    pub cp_id: String,
    pub driver_id: String,
    /// `proto::link::v1::SessionState`; 0: any.
    pub state: i32,
}

impl SessionRow {
    pub fn find(conn: &mut Conn, session_id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| sessions::table.find(session_id).select(Self::as_select()).first(c).optional())?)
    }

    /// All sessions that are neither billed nor released, oldest first, which Central loads at its start.
    pub fn unsettled(conn: &mut Conn) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| sessions::table
            .filter(sessions::state.eq_any(UNSETTLED))
            .order((sessions::reserved_at_ms, sessions::session_id))
            .select(Self::as_select())
            .load(c))?)
    }

    /// Newest first.
    pub fn list(conn: &mut Conn, filter: &SessionFilter, page: &PageRequest) -> Result<Page<Self>, StoreError> {
        let cursor = page.cursor()?;
        let rows = on!(conn, |c| {
            let mut query = sessions::table.select(Self::as_select()).into_boxed();
            if !filter.cp_id.is_empty() {
                query = query.filter(sessions::cp_id.eq(&filter.cp_id));
            }
            if !filter.driver_id.is_empty() {
                query = query.filter(sessions::driver_id.eq(&filter.driver_id));
            }
            if filter.state != 0 {
                query = query.filter(sessions::state.eq(filter.state));
            }
            if let Some(Cursor { number, text }) = &cursor {
                query = query.filter(
                    sessions::reserved_at_ms
                        .lt(number)
                        .or(sessions::reserved_at_ms.eq(number).and(sessions::session_id.lt(text))),
                );
            }
            query.order((sessions::reserved_at_ms.desc(), sessions::session_id.desc())).limit(page.limit() + 1).load(c)
        })?;
        Ok(page.cut(rows, |row: &Self| Cursor { number: row.reserved_at_ms, text: row.session_id.clone() }))
    }

    /// Inserts the session unless its driver or its charging point has an open one.
    pub(super) fn open(&self, conn: &mut Conn) -> Result<Result<(), CommitRefusal>, StoreError> {
        let inserted =
            on!(conn, |c| diesel::insert_into(sessions::table).values(self).on_conflict_do_nothing().execute(c))?;
        if inserted == 1 {
            return Ok(Ok(()));
        }
        let busy: i64 = on!(conn, |c| sessions::table
            .filter(sessions::state.eq_any(OPEN))
            .filter(sessions::cp_id.eq(&self.cp_id))
            .count()
            .get_result(c))?;
        if busy > 0 {
            return Ok(Err(CommitRefusal::ChargingPointBusy));
        }
        let known: i64 =
            on!(conn, |c| sessions::table.filter(sessions::session_id.eq(&self.session_id)).count().get_result(c))?;
        if known > 0 {
            return Err(StoreError::Rejected(format!("the session {:?} exists already", self.session_id)));
        }
        Ok(Err(CommitRefusal::DriverBusy))
    }

    pub(super) fn update(&self, conn: &mut Conn) -> Result<(), StoreError> {
        let changed = on!(conn, |c| diesel::update(sessions::table.find(&self.session_id)).set(self).execute(c))?;
        if changed == 1 {
            Ok(())
        } else {
            Err(StoreError::Rejected(format!("there is no session {:?} to change", self.session_id)))
        }
    }
}
