//! Central's static public keys.

use diesel::prelude::*;

use super::schema::pins;
use crate::{Conn, StoreError, connection::on};

/// The keys in hexadecimal, in Central's order.
pub fn pins(conn: &mut Conn) -> Result<Vec<String>, StoreError> {
    Ok(on!(conn, |c| pins::table.order(pins::position.asc()).select(pins::pin).load(c))?)
}

/// Replaces all keys.
pub fn replace_pins(conn: &mut Conn, all: &[String]) -> Result<(), StoreError> {
    on!(conn, |c| diesel::delete(pins::table).execute(c))?;
    for (position, pin) in (0i32..).zip(all) {
        on!(conn, |c| diesel::insert_into(pins::table)
            .values((pins::position.eq(position), pins::pin.eq(pin)))
            .execute(c))?;
    }
    Ok(())
}
