//! How often the database was restored: the upper half of every epoch (SPEC 10.5).

use diesel::prelude::*;

use super::schema::generation;
use crate::{Conn, StoreError, connection::on};

/// The restore count, which orders before every epoch (SPEC 10.5).
pub(super) fn current_generation(conn: &mut Conn) -> Result<i64, StoreError> {
    Ok(on!(conn, |c| generation::table.find(1).select(generation::number).first(c))?)
}

/// After a restore: every epoch given from now on orders after every one given before. Answers the new generation.
pub fn raise_generation(conn: &mut Conn) -> Result<i64, StoreError> {
    on!(conn, |c| diesel::update(generation::table.find(1))
        .set(generation::number.eq(generation::number + 1))
        .execute(c))?;
    current_generation(conn)
}
