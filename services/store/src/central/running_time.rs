//! How long Central has run in all (SPEC 4.6).

use diesel::prelude::*;

use super::schema::running_time;
use crate::{Conn, StoreError, connection::on};

/// In milliseconds, as it was last saved.
///
/// # Errors
/// Where the database cannot be read.
pub fn running_time(conn: &mut Conn) -> Result<i64, StoreError> {
    Ok(on!(conn, |c| running_time::table.find(1).select(running_time::total_ms).first(c))?)
}

/// It never falls.
pub(super) fn save(conn: &mut Conn, total_ms: i64) -> Result<(), StoreError> {
    on!(conn, |c| diesel::update(running_time::table.find(1).filter(running_time::total_ms.lt(total_ms)))
        .set(running_time::total_ms.eq(total_ms))
        .execute(c))?;
    Ok(())
}
