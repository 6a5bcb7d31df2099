//! The link (SPEC 4): admits those who name a key or ask for a first contact, and hands what proven peers say to the
//! loop.
//!
//! Guarantees: until a peer's first sealed message has opened, nothing is owned, stored or sent; unknown ids and wrong
//! keys get the same answer after the same work; a link that takes or sends too slowly holds up itself alone; none stops
//! acknowledging because the database is slow.

mod connection;
mod driver;
mod fair_queue;
mod first_contact;
mod handshakes;
mod ledger;
mod limiter;
mod part;
mod port;
mod responder;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mesh::{
    link::{QueuedMessages, SendQueue, send_queue},
    process::Context,
    rate::KeyedBuckets,
};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use proto::{PeerId, link::v1::Reason};
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;
use wire::Link;

use self::{
    connection::ServedConnection,
    handshakes::HandshakeTurns,
    limiter::{LinkLimiter, LinkPermit},
    responder::Responder,
};
use crate::{event_loop::LoopHandle, origin::LinkNo, registry::Verifier, shared::SharedState};

pub(crate) use self::{limiter::LinkBounds, port::Port};

/// Messages to a peer that may wait. A link that takes them too slowly is closed; when the peer reconnects it is sent the
/// present state.
const SEND_QUEUE: usize = 256;
/// Proven peers that are remembered.
const PEERS: usize = 100_000;
/// After how long a peer is told to come again when Central is overloaded.
const BUSY: Duration = Duration::from_secs(2);

/// An accepted connection and what drives it.
struct Accepted {
    connection: ServedConnection,
    evicted: CancellationToken,
    send_queue: SendQueue,
    link: Box<Link>,
    queued: QueuedMessages,
}

/// What all links share.
#[derive(Debug)]
pub(crate) struct Links {
    pub shared: Arc<SharedState>,
    event_loop: LoopHandle,
    verifier: Verifier,
    port: Arc<Port>,
    limiter: Arc<LinkLimiter>,
    handshakes: Arc<HandshakeTurns>,
    /// What each proven peer, on whatever link, asks for that costs a row or an entry.
    requests: Mutex<KeyedBuckets<PeerId>>,
    next: AtomicU64,
    open: Gauge,
    /// Messages that peers said they do not know.
    not_known: Counter,
}

impl Links {
    pub(crate) fn new(
        shared: Arc<SharedState>,
        event_loop: LoopHandle,
        verifier: Verifier,
        bounds: LinkBounds,
        port: Arc<Port>,
        ctx: &Context,
    ) -> Arc<Self> {
        let requests = KeyedBuckets::new(shared.settings.requests, PEERS);
        let handshakes = HandshakeTurns::new(bounds.handshakes_per_second, shared.clock);
        Arc::new(Self {
            shared,
            event_loop,
            verifier,
            port,
            limiter: LinkLimiter::new(bounds),
            handshakes,
            requests: Mutex::new(requests),
            next: AtomicU64::new(1),
            open: ctx.metrics.register("links", "Open connections of the link", Gauge::default()),
            not_known: ctx.metrics.register(
                "link_messages_not_known",
                "Messages that a peer did not know",
                Counter::default(),
            ),
        })
    }

    /// One connection, to its end; then it is closed in order.
    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        stop: CancellationToken,
        place: OwnedSemaphorePermit,
    ) {
        let now = self.shared.clock.mono();
        let permit = if self.event_loop.is_overloaded() { None } else { self.limiter.enter(address.ip(), now) };
        let Some(permit) = permit else {
            return Box::pin(Arc::clone(&self.port).turn_away(stream, address, stop, place)).await;
        };
        let Accepted { mut connection, evicted, send_queue, link, queued } = self.seat(permit, address, now);
        self.open.inc();
        let closed = {
            let running = mesh::link::run(stream, *link, queued, &mut connection, self.shared.clock);
            let mut running = std::pin::pin!(running);
            tokio::select! {
                closed = &mut running => Some(closed),
                // Its permit is needed by another of its address.
                () = evicted.cancelled() => None,
                () = stop.cancelled() => {
                    send_queue.close();
                    tokio::time::timeout(Duration::from_secs(1), running).await.ok()
                }
            }
        };
        self.open.dec();
        // Boxed, as are all rare things that a link waits for: its task is as large as the largest of them.
        Box::pin(connection.leave(closed)).await;
        drop(place);
    }

    fn seat(self: &Arc<Self>, permit: LinkPermit, address: SocketAddr, now: Instant) -> Accepted {
        let link = Box::new(Link::responder(self.port.settings, now));
        let (send_queue, queued) = send_queue(SEND_QUEUE);
        let evicted = permit.evicted.clone();
        let number = LinkNo(self.next.fetch_add(1, Ordering::Relaxed));
        let responder = Responder {
            links: Arc::clone(self),
            link: number,
            address: address.ip(),
            from: address.to_string().into(),
            send_queue: send_queue.clone(),
            epoch: None,
        };
        let connection = ServedConnection::new(responder, Arc::new(permit));
        Accepted { connection, evicted, send_queue, link, queued }
    }

    fn refuse(&self, reason: &'static str, address: IpAddr) {
        self.port.refuse(reason, address);
    }

    /// Whether `peer` may ask for something that costs a row; what is beyond its allowance is counted in the audit.
    ///
    /// # Errors
    /// How long it must wait.
    fn may_ask(&self, peer: &PeerId, address: IpAddr) -> Result<(), Duration> {
        let now = self.shared.clock.mono();
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.take(peer, now) {
            return Ok(());
        }
        self.port.refuse_peer(Reason::TooManyAttempts.code(), peer.to_string(), address);
        Err(requests.wait(peer, now))
    }
}
