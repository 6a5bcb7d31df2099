//! First answers: the same request id of the same caller gets the first answer, and a changed request under an old id
//! is refused.
//!
//! An answer with a secret is kept without it. For ten minutes the nonce beside it gives the secret again; after that
//! a repeat is told that the secret was shown once, and changes nothing.

use prost::Message;
use proto::link::v1::Reason;
use store::{
    Abort, Conn, StoreError,
    registry::{RequestRow, Revision},
};

use super::{Authority, to_the_end, unavailable};
use crate::{
    audit::{Actor, Entry},
    credential::{Nonce, same},
    refusal::{Refusal, refuse},
};

const MAX_REQUEST_ID: usize = 128;

/// Who asks for what, once.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) actor: Actor,
    pub(crate) request_id: String,
    /// The method's name.
    pub(crate) order: &'static str,
    /// What it is about, for the audit.
    pub(crate) object: String,
    /// Of all that is asked, hexadecimal.
    digest: String,
}

/// A decision, ready to be kept.
#[derive(Debug)]
pub(crate) struct Decided<A> {
    /// Without its secret.
    pub(crate) answer: A,
    pub(crate) nonce: Option<Nonce>,
    pub(crate) entries: Vec<Entry>,
}

impl<A> Decided<A> {
    pub(crate) fn new(answer: A, entry: Option<Entry>) -> Self {
        Self { answer, nonce: None, entries: entry.into_iter().collect() }
    }
}

/// A kept answer.
#[derive(Debug)]
pub(crate) struct Answered<A> {
    pub(crate) answer: A,
    pub(crate) nonce: Option<Nonce>,
    pub(crate) at_ms: i64,
}

impl Authority {
    /// # Errors
    /// Where the request id is missing or too long.
    pub(crate) fn asked(
        &self,
        actor: Actor,
        order: &'static str,
        object: String,
        request_id: &str,
        request: &impl Message,
    ) -> Result<Asked, Refusal> {
        if request_id.is_empty() {
            return Err(refuse(
                Reason::RequestIdMissing,
                "give the request an id of your own, and keep it when you repeat it",
            ));
        }
        if request_id.len() > MAX_REQUEST_ID {
            return Err(refuse(Reason::Invalid, format!("a request id has at most {MAX_REQUEST_ID} bytes")));
        }
        let digest = hex::encode(self.mint().digest(&[order.as_bytes(), &request.encode_to_vec()]));
        Ok(Asked { actor, request_id: request_id.to_owned(), order, object, digest })
    }

    /// The first answer, where there is one.
    pub(super) async fn answered<A>(&self, asked: &Asked) -> Result<Option<Answered<A>>, Refusal>
    where
        A: Message + Default + 'static,
    {
        let asked = asked.clone();
        self.read("answered", move |conn| first_answer(conn, &asked)).await
    }

    /// Decides and makes durable, or repeats the first answer; whoever asked may go meanwhile. `decide` may run more
    /// than once.
    pub(super) async fn order<A, F>(&self, asked: Asked, decide: F) -> Result<Answered<A>, Refusal>
    where
        A: Message + Default + 'static,
        F: FnMut(&mut Conn, i64) -> Result<Decided<A>, Abort<Refusal>> + Send + 'static,
    {
        let authority = self.clone();
        let work = async move {
            let result = authority.decide(asked.clone(), decide).await;
            authority.metrics().decided(asked.order, result.as_ref().err());
            if let Err(why) = &result
                && why.reason != Reason::Unavailable
            {
                authority.refused(&asked, why).await;
            }
            result
        };
        to_the_end(work).await
    }

    async fn decide<A, F>(&self, asked: Asked, mut decide: F) -> Result<Answered<A>, Refusal>
    where
        A: Message + Default + 'static,
        F: FnMut(&mut Conn, i64) -> Result<Decided<A>, Abort<Refusal>> + Send + 'static,
    {
        let at_ms = self.now().wall_ms;
        let order = asked.order;
        let work = move |conn: &mut Conn| {
            let Revision(revision) = Revision::take(conn)?;
            if let Some(first) = first_answer(conn, &asked)? {
                return Ok((first, revision));
            }
            let Decided { answer, nonce, entries } = decide(conn, revision)?;
            RequestRow {
                scope: asked.actor.name.clone(),
                request_id: asked.request_id.clone(),
                digest: asked.digest.clone(),
                at_ms,
                nonce: nonce.map(hex::encode),
                answer: hex::encode(answer.encode_to_vec()),
            }
            .insert(conn)?;
            crate::chain::append(conn, &entries)?;
            Ok((Answered { answer, nonce, at_ms }, revision))
        };
        let (answered, revision) = self.database().transaction(order, work).await.map_err(unavailable)??;
        self.changed(revision);
        Ok(answered)
    }

    /// Tells those who follow.
    pub(crate) fn changed(&self, revision: i64) {
        self.0.appended.notify_one();
        self.0.head.send_if_modified(|head| {
            let newer = revision > *head;
            *head = revision.max(*head);
            newer
        });
    }
}

fn first_answer<A: Message + Default>(conn: &mut Conn, asked: &Asked) -> Result<Option<Answered<A>>, Abort<Refusal>> {
    let Some(row) = RequestRow::find(conn, &asked.actor.name, &asked.request_id)? else { return Ok(None) };
    if !same(row.digest.as_bytes(), asked.digest.as_bytes()) {
        let detail = "another request was made under this request id; take a new one for a new request";
        return Err(Abort::Refused(refuse(Reason::Invalid, detail)));
    }
    let broken = || StoreError::Rejected(format!("cannot understand {row:?}"));
    let answer = hex::decode(&row.answer).ok().and_then(|bytes| A::decode(bytes.as_slice()).ok()).ok_or_else(broken)?;
    let nonce = match &row.nonce {
        None => None,
        Some(text) => Some(hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(broken)?),
    };
    Ok(Some(Answered { answer, nonce, at_ms: row.at_ms }))
}
