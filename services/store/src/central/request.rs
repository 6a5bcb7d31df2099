//! The first answer to every request, refusals included: one sent again gets it (SPEC 3.2, 3.7).

use diesel::prelude::*;

use super::schema::requests;
use crate::{Conn, StoreError, connection::on};

#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = requests, treat_none_as_default_value = false)]
pub struct RequestRow {
    /// `proto::PeerId` as text: `driver/ID`, or `charging-point/ID` for a manual supply.
    pub requester: String,
    pub request_id: String,
    pub cp_id: String,
    /// The session it opened.
    pub session_id: Option<String>,
    pub at_ms: i64,
    /// `proto::link::v1::Reason`; 0: authorised.
    pub reason: i32,
    pub detail: String,
}

impl RequestRow {
    pub fn find(conn: &mut Conn, requester: &str, request_id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| requests::table.find((requester, request_id)).select(Self::as_select()).first(c).optional())?)
    }

    /// Inserts it, or answers the one that came first.
    pub(super) fn answer(&self, conn: &mut Conn) -> Result<Option<Self>, StoreError> {
        let inserted = on!(conn, |c| diesel::insert_into(requests::table)
            .values(self)
            .on_conflict((requests::requester, requests::request_id))
            .do_nothing()
            .execute(c))?;
        if inserted == 1 { Ok(None) } else { Self::find(conn, &self.requester, &self.request_id) }
    }

    /// Forgets answers given before `before_ms`; says how many.
    pub fn prune(conn: &mut Conn, before_ms: i64) -> Result<usize, StoreError> {
        Ok(on!(conn, |c| diesel::delete(requests::table.filter(requests::at_ms.lt(before_ms))).execute(c))?)
    }
}
