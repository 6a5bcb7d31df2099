//! First answers, so that a request that comes again gets the same.

use std::fmt;

use diesel::prelude::*;

use super::schema::requests;
use crate::{Conn, StoreError, connection::on};

/// One answered request.
#[derive(Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = requests, treat_none_as_default_value = false)]
pub struct RequestRow {
    /// Who asked; ids are unique for him alone.
    pub scope: String,
    pub request_id: String,
    /// Of all that was asked.
    pub digest: String,
    pub at_ms: i64,
    /// What the secret in the answer is made of, hexadecimal; erased after some minutes.
    pub nonce: Option<String>,
    /// The answer without its secret.
    pub answer: String,
}

impl RequestRow {
    pub fn find(conn: &mut Conn, scope: &str, request_id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| requests::table.find((scope, request_id)).select(Self::as_select()).first(c).optional())?)
    }

    /// Rejected where the id is taken.
    pub fn insert(&self, conn: &mut Conn) -> Result<(), StoreError> {
        on!(conn, |c| diesel::insert_into(requests::table).values(self).execute(c))?;
        Ok(())
    }

    /// Erases the nonces of what was answered before `before_ms`; answers how many.
    pub fn erase_nonces(conn: &mut Conn, before_ms: i64) -> Result<usize, StoreError> {
        let none: Option<String> = None;
        Ok(on!(conn, |c| diesel::update(
            requests::table.filter(requests::at_ms.lt(before_ms)).filter(requests::nonce.is_not_null())
        )
        .set(requests::nonce.eq(&none))
        .execute(c))?)
    }

    /// Forgets what was answered before `before_ms`; answers how many.
    pub fn prune(conn: &mut Conn, before_ms: i64) -> Result<usize, StoreError> {
        Ok(on!(conn, |c| diesel::delete(requests::table.filter(requests::at_ms.lt(before_ms))).execute(c))?)
    }
}

impl fmt::Debug for RequestRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestRow({:?} of {:?})", self.request_id, self.scope)
    }
}
