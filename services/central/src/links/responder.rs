//! Speaks on one link: from its handler, or from beside it, which is where the database is waited for. A handler that
//! waits acknowledges nothing, and its peer takes Central for dead after three life signs (SPEC 2.4).

use std::{future::Future, net::IpAddr, sync::Arc};

use mesh::link::SendQueue;
use prost::Message as _;
use proto::{
    ChargingPointId, PeerId,
    link::v1::{Answer, Down, Reason, Unsupported, down},
};
use store::OnceRow;
use tokio::sync::Semaphore;

use super::Links;
use crate::{
    charge_point::{FirstAnswer, SupplyRequest},
    event_loop::Message,
    origin::LinkNo,
    rows, secrets,
    session::SessionId,
    shared::Epoch,
};

/// Questions of one link that may wait for the database: as much as a driver of ours keeps unanswered.
const WAITING: usize = 64;

/// Longest id of a request or a session that is looked at, in bytes.
pub(super) const LONGEST_ID: usize = 128;

/// A new session id: unique for all time, and unpredictable.
pub(super) fn fresh_session() -> SessionId {
    let random = secrets::random();
    let (unique, _) = random.split_at(13);
    SessionId::new(&format!("s-{}", hex::encode(unique)))
}

#[derive(Clone)]
pub(super) struct Responder {
    pub(super) links: Arc<Links>,
    pub(super) link: LinkNo,
    pub(super) address: IpAddr,
    pub(super) from: Arc<str>,
    pub(super) send_queue: SendQueue,
    /// Every message to a proven charging point carries it (SPEC 4.9); nobody else has one.
    pub(super) epoch: Option<Epoch>,
}

impl Responder {
    pub(super) fn say(&self, body: down::Body) {
        let epoch = self.epoch.as_ref().map(Epoch::get).unwrap_or_default();
        // Full or closed: a peer that reconnects is sent the present state.
        let _told = self.send_queue.try_send(Down { epoch, body: Some(body) }.encode_to_vec().into());
    }

    pub(super) fn answer(&self, to: u64, reason: Reason, detail: &str) {
        if to != 0 {
            let (reason, detail) = (reason.into(), detail.to_owned());
            self.say(down::Body::Answer(Answer { to, reason, detail, ..Answer::default() }));
        }
    }

    /// The peer sent a message of a kind that it may not send, or that this program does not know.
    pub(super) fn unsupported(&self, to: u64) {
        self.say(down::Body::Unsupported(Unsupported { to }));
    }

    /// Hands a message to the event loop, and waits for room there.
    pub(super) async fn hand_in(&self, message: Message) {
        // Where Central stops, what it has not decided is asked for again.
        let _taken = self.links.event_loop.send(message).await;
    }

    /// Whether the peer may ask for something that costs a row or much work; otherwise it is answered so.
    pub(super) fn may_ask(&self, peer: &PeerId, to: u64) -> bool {
        let may = self.links.may_ask(peer, self.address);
        if let (Err(wait), true) = (may, to != 0) {
            let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
            let reason = Reason::TooManyAttempts.into();
            self.say(down::Body::Answer(Answer { to, reason, retry_after_ms, ..Answer::default() }));
        }
        may.is_ok()
    }

    /// Counted in the audit (SPEC 8.1), where no turn of the loop writes an entry of it.
    pub(super) fn refused(&self, peer: &PeerId, reason: Reason) {
        self.links.port.refuse_peer(reason.code(), peer.to_string(), self.address);
    }

    /// The first answer to this request, if it was answered before (SPEC 3.2).
    ///
    /// # Errors
    /// If the database cannot be read, or another request was answered under this request's id.
    pub(super) async fn first_answer(
        &self,
        at: &ChargingPointId,
        request: &SupplyRequest,
    ) -> Result<Option<FirstAnswer>, (Reason, String)> {
        let (caller, request_id) = (request.requester(at).to_string(), request.request_id.to_string());
        let read = move |conn: &mut store::Conn| OnceRow::find(conn, &caller, &request_id);
        let row = self.links.shared.store.look_up("once", read).await;
        let Some(row) = row.map_err(|error| (Reason::Unavailable, error.to_string()))? else { return Ok(None) };
        row.answers(request.method(), &request.digest(at)).map_err(|reused| (Reason::Invalid, reused.to_string()))?;
        let unreadable = || (Reason::Unavailable, "its first answer is not readable".to_owned());
        rows::first_answer(&row).ok_or_else(unreadable).map(Some)
    }
}

/// What a link asked for that waits for the database, one after another, in the order in which it came.
#[derive(Default)]
pub(super) struct SerialTasks(Option<Arc<Semaphore>>);

impl SerialTasks {
    /// Runs `work` beside the handler, or says that too much waits already.
    pub(super) fn run(&mut self, responder: &Responder, to: u64, work: impl Future<Output = ()> + Send + 'static) {
        let turns = self.0.get_or_insert_with(|| Arc::new(Semaphore::new(1)));
        if Arc::strong_count(turns) > WAITING {
            return responder.answer(to, Reason::Overloaded, "too much of yours waits for the database already");
        }
        let (turns, send_queue) = (Arc::clone(turns), responder.send_queue.clone());
        tokio::spawn(async move {
            let turn = turns.acquire().await;
            // A peer that has gone asks again when it is back.
            if turn.is_ok() && !send_queue.is_closed() {
                work.await;
            }
        });
    }
}
