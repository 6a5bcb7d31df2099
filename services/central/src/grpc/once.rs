//! Calls with a request id: each is carried out once, and a repeat gets the first answer (SPEC 7.3).

use mesh::status::refuse;
use prost::Message;
use proto::link::v1::Reason;
use store::OnceRow;
use tonic::Status;

use super::unread;
use crate::{digest::digest, shared::SharedState};

/// One call as its row in `once` identifies it. The transaction that carries it out writes that row too.
#[derive(Debug)]
pub(super) struct OnceCall {
    caller: String,
    request_id: String,
    method: &'static str,
    digest: String,
}

impl OnceCall {
    /// `content` is all of the request but its id.
    pub(super) fn new(
        caller: &str,
        request_id: &str,
        method: &'static str,
        content: impl IntoIterator<Item = Vec<u8>>,
    ) -> Self {
        let (caller, request_id) = (caller.to_owned(), request_id.to_owned());
        Self { caller, request_id, method, digest: digest(content) }
    }

    pub(super) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The row of the first call under this request id.
    ///
    /// # Errors
    /// If that was another request, or the database cannot be read.
    pub(super) async fn first_answer(&self, shared: &SharedState) -> Result<Option<OnceRow>, Status> {
        let (caller, request_id) = (self.caller.clone(), self.request_id.clone());
        let read = move |conn: &mut store::Conn| OnceRow::find(conn, &caller, &request_id);
        let Some(first) = shared.store.read("once", read).await.map_err(unread)? else { return Ok(None) };
        first.answers(self.method, &self.digest).map_err(|reused| refuse(Reason::Invalid, reused))?;
        Ok(Some(first))
    }

    /// The row to write, with an answer from which a repeat can be answered.
    pub(super) fn row(&self, answer: &[u8], at_ms: i64) -> OnceRow {
        OnceRow {
            caller: self.caller.clone(),
            request_id: self.request_id.clone(),
            method: self.method.to_owned(),
            digest: self.digest.clone(),
            answer: hex::encode(answer),
            nonce: None,
            at_ms,
        }
    }
}

/// The stored answer.
pub(super) fn decoded<T: Message + Default>(first: &OnceRow) -> Result<T, Status> {
    let answer = hex::decode(&first.answer).ok().and_then(|bytes| T::decode(bytes.as_slice()).ok());
    answer.ok_or_else(|| refuse(Reason::Unavailable, "the first answer is not readable"))
}
