//! How far the audit was forwarded to Central.

use diesel::prelude::*;

use super::schema::forwarding;
use crate::{Conn, StoreError, connection::on};

/// Two numbers of entries in this Registry's chain. The entries between them were sent but not acknowledged; they are
/// sent again as the same batch under the same request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = forwarding)]
pub struct ForwardingRow {
    pub sent: i64,
    pub acknowledged: i64,
}

impl ForwardingRow {
    pub fn get(conn: &mut Conn) -> Result<Self, StoreError> {
        Ok(on!(conn, |c| forwarding::table.select(Self::as_select()).first(c))?)
    }

    pub fn save(self, conn: &mut Conn) -> Result<(), StoreError> {
        on!(conn, |c| diesel::update(forwarding::table)
            .set((forwarding::sent.eq(self.sent), forwarding::acknowledged.eq(self.acknowledged)))
            .execute(c))?;
        Ok(())
    }
}
