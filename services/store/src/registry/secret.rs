//! The secret that this database belongs to.

use diesel::prelude::*;

use super::schema::secrets;
use crate::{Conn, StoreError, connection::on};

/// Stores the fingerprint if there is none yet, and returns the stored one.
pub fn claim_secret(conn: &mut Conn, fresh: &str) -> Result<String, StoreError> {
    on!(conn, |c| diesel::insert_into(secrets::table)
        .values((secrets::id.eq(1), secrets::fingerprint.eq(fresh)))
        .on_conflict_do_nothing()
        .execute(c))?;
    Ok(on!(conn, |c| secrets::table.select(secrets::fingerprint).first(c))?)
}
