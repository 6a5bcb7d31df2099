//! The restore count, which is the upper half of every epoch (SPEC 10.5).

use diesel::prelude::*;

use super::schema::generation;
use crate::{Conn, StoreError, connection::on};

/// The current restore count, which orders before every epoch (SPEC 10.5).
pub(super) fn current_generation(conn: &mut Conn) -> Result<i64, StoreError> {
    Ok(on!(conn, |c| generation::table.find(1).select(generation::number).first(c))?)
}

/// Raises the restore count after a restore, so that every new epoch orders after all earlier ones. Returns it.
pub fn raise_generation(conn: &mut Conn) -> Result<i64, StoreError> {
    on!(conn, |c| diesel::update(generation::table.find(1))
        .set(generation::number.eq(generation::number + 1))
        .execute(c))?;
    current_generation(conn)
}
