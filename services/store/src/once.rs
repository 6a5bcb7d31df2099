//! The table `once`: the first answer to every call with a request id, in the transaction of what was done for it.
//!
//! A repeat of the call gets the stored answer. Another call under the same id is refused, decided by the digest of
//! the request in the same transaction. Both services have this table.

use std::fmt;

use diesel::prelude::*;

use crate::{Conn, StoreError, connection::on};

diesel::table! {
    once (caller, request_id) {
        caller -> Text,
        request_id -> Text,
        method -> Text,
        digest -> Text,
        answer -> Text,
        nonce -> Nullable<Text>,
        at_ms -> BigInt,
    }
}

/// The first call of a caller under a request id, and its answer.
#[derive(Clone, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = once, treat_none_as_default_value = false)]
pub struct OnceRow {
    /// Such as `operator/anna`, `driver/D1` or `charging-point/CP-1`. Request ids are unique per caller.
    pub caller: String,
    pub request_id: String,
    /// The gRPC method, or the message of a link.
    pub method: String,
    /// A digest of the whole request, in hexadecimal.
    pub digest: String,
    /// The answer as the service encodes it, in hexadecimal, without a secret.
    pub answer: String,
    /// What the secret of the answer is derived from, in hexadecimal; erased after some minutes.
    pub nonce: Option<String>,
    pub at_ms: i64,
}

/// A request id was used again for a different request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request_id {request_id:?} was used for {method}{}; choose another", if *.same_method { " with other content" } else { "" })]
pub struct RequestIdReused {
    request_id: String,
    /// Of the first request.
    method: String,
    same_method: bool,
}

impl OnceRow {
    pub fn find(conn: &mut Conn, caller: &str, request_id: &str) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| once::table.find((caller, request_id)).select(Self::as_select()).first(c).optional())?)
    }

    /// The text of an encoded answer.
    pub fn encoded(answer: &[u8]) -> String {
        hex::encode(answer)
    }

    /// The encoded answer; `None` if its text is broken.
    pub fn decoded(&self) -> Option<Vec<u8>> {
        hex::decode(&self.answer).ok()
    }

    /// # Errors
    /// If this is the answer to a different request.
    pub fn answers(&self, method: &str, digest: &str) -> Result<(), RequestIdReused> {
        let same_method = self.method == method;
        if same_method && self.digest == digest {
            return Ok(());
        }
        Err(RequestIdReused { request_id: self.request_id.clone(), method: self.method.clone(), same_method })
    }

    /// Inserts the row, or returns the first one under its request id.
    pub fn insert_first(&self, conn: &mut Conn) -> Result<Option<Self>, StoreError> {
        let inserted = on!(conn, |c| diesel::insert_into(once::table)
            .values(self)
            .on_conflict((once::caller, once::request_id))
            .do_nothing()
            .execute(c))?;
        if inserted == 1 { Ok(None) } else { Self::find(conn, &self.caller, &self.request_id) }
    }

    /// Erases the nonces of answers from before `before_ms` and returns their number.
    pub fn erase_nonces(conn: &mut Conn, before_ms: i64) -> Result<usize, StoreError> {
        let old = once::table.filter(once::at_ms.lt(before_ms)).filter(once::nonce.is_not_null());
        Ok(on!(conn, |c| diesel::update(old).set(once::nonce.eq(None::<String>)).execute(c))?)
    }

    /// Deletes answers from before `before_ms` and returns their number.
    pub fn prune(conn: &mut Conn, before_ms: i64) -> Result<usize, StoreError> {
        Ok(on!(conn, |c| diesel::delete(once::table.filter(once::at_ms.lt(before_ms))).execute(c))?)
    }
}

impl fmt::Debug for OnceRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnceRow({} {:?} of {:?})", self.method, self.request_id, self.caller)
    }
}
