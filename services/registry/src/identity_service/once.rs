//! First answers: a request id that the same caller uses again gets the first answer, and a different request under
//! that id is refused.
//!
//! An answer with a secret is stored without it. For ten minutes the nonce beside it yields the secret again; after
//! that a repeat is told that the secret was shown once.

use prost::Message;
use proto::link::v1::Reason;
use store::{Abort, Conn, OnceRow, StoreError, registry::Revision};

use super::{IdentityService, to_the_end, unavailable};
use crate::{
    audit::{Actor, RegistryEntry},
    credential::Nonce,
    error::{Error, refuse},
};

const MAX_REQUEST_ID: usize = 128;

/// A call with a request id, which is carried out at most once.
#[derive(Clone, Debug)]
pub(crate) struct IdempotentCall {
    pub(crate) actor: Actor,
    pub(crate) request_id: String,
    /// The name of the gRPC method.
    pub(crate) method: &'static str,
    /// The object of the audit entry.
    pub(crate) object: String,
    /// The digest of the whole request, in hexadecimal.
    digest: String,
}

impl IdempotentCall {
    fn once_row(&self, answer: &impl Message, nonce: Option<Nonce>, at_ms: i64) -> OnceRow {
        OnceRow {
            caller: self.actor.name.clone(),
            request_id: self.request_id.clone(),
            method: self.method.to_owned(),
            digest: self.digest.clone(),
            answer: OnceRow::encoded(&answer.encode_to_vec()),
            nonce: nonce.map(hex::encode),
            at_ms,
        }
    }
}

/// A decision before it is stored.
#[derive(Debug)]
pub(crate) struct DecidedAnswer<A> {
    /// The answer without its secret.
    pub(crate) answer: A,
    pub(crate) nonce: Option<Nonce>,
    pub(crate) entries: Vec<RegistryEntry>,
}

impl<A> DecidedAnswer<A> {
    pub(crate) fn new(answer: A, entry: Option<RegistryEntry>) -> Self {
        Self { answer, nonce: None, entries: entry.into_iter().collect() }
    }
}

/// The stored answer to the first call with a request id.
#[derive(Debug)]
pub(crate) struct StoredAnswer<A> {
    pub(crate) answer: A,
    pub(crate) nonce: Option<Nonce>,
    pub(crate) at_ms: i64,
}

impl IdentityService {
    /// # Errors
    /// If the request id is missing or too long.
    pub(crate) fn idempotent_call(
        &self,
        actor: Actor,
        method: &'static str,
        object: String,
        request_id: &str,
        request: &impl Message,
    ) -> Result<IdempotentCall, Error> {
        if request_id.is_empty() {
            return Err(refuse(
                Reason::RequestIdMissing,
                "the request needs a request_id; choose one, and use it again when you repeat the request",
            ));
        }
        if request_id.len() > MAX_REQUEST_ID {
            return Err(refuse(Reason::Invalid, format!("a request id has at most {MAX_REQUEST_ID} bytes")));
        }
        let digest = hex::encode(self.secret_issuer().digest(&[&request.encode_to_vec()]));
        Ok(IdempotentCall { actor, request_id: request_id.to_owned(), method, object, digest })
    }

    /// The stored answer to this call, if it was carried out before.
    pub(super) async fn first_answer<A>(&self, call: &IdempotentCall) -> Result<Option<StoredAnswer<A>>, Error>
    where
        A: Message + Default + 'static,
    {
        let call = call.clone();
        self.read("first_answer", move |conn| first_answer(conn, &call)).await
    }

    /// Decides and stores, or returns the first answer. It completes even if the caller stops waiting. `decide` may
    /// run more than once.
    pub(super) async fn decide_once<A, F>(&self, call: IdempotentCall, decide: F) -> Result<StoredAnswer<A>, Error>
    where
        A: Message + Default + 'static,
        F: FnMut(&mut Conn, i64) -> Result<DecidedAnswer<A>, Abort<Error>> + Send + 'static,
    {
        let service = self.clone();
        let work = async move {
            let result = service.decide_in_transaction(call.clone(), decide).await;
            service.metrics().decided(call.method, result.as_ref().err());
            if let Err(why) = &result
                && why.reason != Reason::Unavailable
            {
                service.refused(&call, why).await;
            }
            result
        };
        to_the_end(work).await
    }

    async fn decide_in_transaction<A, F>(&self, call: IdempotentCall, mut decide: F) -> Result<StoredAnswer<A>, Error>
    where
        A: Message + Default + 'static,
        F: FnMut(&mut Conn, i64) -> Result<DecidedAnswer<A>, Abort<Error>> + Send + 'static,
    {
        let at_ms = self.now().wall_ms;
        let method = call.method;
        let work = move |conn: &mut Conn| {
            let Revision(revision) = Revision::take(conn)?;
            if let Some(first) = first_answer(conn, &call)? {
                return Ok((first, revision));
            }
            let DecidedAnswer { answer, nonce, entries } = decide(conn, revision)?;
            let first = call.once_row(&answer, nonce, at_ms).insert_first(conn)?;
            debug_assert_eq!(first, None, "the revision locks out every other change");
            crate::chain::append(conn, &entries)?;
            Ok((StoredAnswer { answer, nonce, at_ms }, revision))
        };
        let (answered, revision) = self.database().transaction(method, work).await.map_err(unavailable)??;
        self.changed(revision);
        Ok(answered)
    }

    /// Announces a new revision to the streams that follow the changes.
    pub(crate) fn changed(&self, revision: i64) {
        self.0.appended.notify_one();
        self.0.head.send_if_modified(|head| {
            let newer = revision > *head;
            *head = revision.max(*head);
            newer
        });
    }
}

fn first_answer<A: Message + Default>(
    conn: &mut Conn,
    call: &IdempotentCall,
) -> Result<Option<StoredAnswer<A>>, Abort<Error>> {
    let Some(row) = OnceRow::find(conn, &call.actor.name, &call.request_id)? else { return Ok(None) };
    row.answers(call.method, &call.digest)
        .map_err(|reused| Abort::Refused(refuse(Reason::Invalid, reused.to_string())))?;
    let broken = || StoreError::Rejected(format!("{row:?} is not readable"));
    let answer = row.decoded().and_then(|bytes| A::decode(bytes.as_slice()).ok()).ok_or_else(broken)?;
    let nonce = match &row.nonce {
        None => None,
        Some(text) => Some(hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(broken)?),
    };
    Ok(Some(StoredAnswer { answer, nonce, at_ms: row.at_ms }))
}
