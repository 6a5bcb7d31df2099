//! The link port (SPEC 4): accepts connections, admits those who name a key or ask for a first contact, and hands what
//! proven peers say to the loop.
//!
//! Guarantees: until a peer's first sealed message has opened, nothing is owned, stored or told; unknown ids and wrong
//! keys get the same answer after the same work; a link that takes or sends too slowly holds up itself alone.

mod contact;
mod door;
mod driver;
mod part;
mod strangers;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::{
    clock::Now,
    link::{Handler, Outbox, outbox},
    process::Context,
};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use prost::Message as _;
use proto::{
    PeerId,
    link::v1::{self as wire_messages, Down, Part, Reason, Up, down, up},
};
use store::central::Write;
use tokio::net::{TcpListener, TcpStream};
use wire::{Admit, Closed, Event, Link};

use self::{
    contact::Contact,
    door::{Door, Place},
    strangers::Strangers,
};
use crate::{
    charge_point::{LinkNo, Origin},
    drive::{Arrival, Driver, Message},
    registry::Verifier,
    rows,
    shared::Shared,
};

pub(crate) use door::Bounds;

/// Messages to a peer that may wait; one that takes them slower is closed, and told how things stand when it is back.
const OUTBOX: usize = 256;
/// What a peer is told when Central is overloaded.
const BUSY: Duration = Duration::from_secs(2);
/// Strangers' failures become entries this often.
const MINUTE: Duration = Duration::from_secs(60);

/// What all links share.
#[derive(Debug)]
pub(crate) struct Links {
    pub shared: Arc<Shared>,
    drive: Driver,
    verifier: Verifier,
    settings: wire::Settings,
    door: Arc<Door>,
    strangers: Mutex<Strangers>,
    next: AtomicU64,
    open: Gauge,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Links {
    pub(crate) fn new(
        shared: Arc<Shared>,
        drive: Driver,
        verifier: Verifier,
        settings: wire::Settings,
        bounds: Bounds,
        ctx: &Context,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            drive,
            verifier,
            settings,
            door: Door::new(bounds),
            strangers: Mutex::default(),
            next: AtomicU64::new(1),
            open: ctx.metrics.register("links", "Open connections of the link", Gauge::default()),
            refused: ctx.metrics.register("links_refused", "Connections and handshakes refused", Family::default()),
        })
    }

    /// Binds `address` and accepts until the process stops; then closes every link in order.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub(crate) async fn start(self: &Arc<Self>, ctx: &Context, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        let listener = mesh::process::bind("link", address).await?;
        let address = listener.local_addr()?;
        ctx.listening("link", address)?;
        let (links, accepting) = (Arc::clone(self), ctx.clone());
        ctx.spawn("links", async move {
            links.accept(listener, accepting).await;
            Ok(())
        });
        let (links, stop) = (Arc::clone(self), ctx.stop.clone());
        ctx.spawn("strangers", async move {
            while stop.run_until_cancelled(tokio::time::sleep(MINUTE)).await.is_some() {
                links.note_strangers().await;
            }
            links.note_strangers().await;
            Ok(())
        });
        Ok(address)
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, ctx: Context) {
        let open = tokio_util::task::TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = ctx.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    open.spawn(Arc::clone(&self).serve(stream, address, ctx.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: those that end make room.
                    tracing::warn!(%error, "cannot accept a link");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        open.close();
        open.wait().await;
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, address: SocketAddr, ctx: Context) {
        drop(stream.set_nodelay(true));
        let now = self.shared.clock.mono();
        let mut link = Link::responder(self.settings, now);
        let (sender, posted) = outbox(OUTBOX);
        let place = if self.drive.is_overloaded() { None } else { self.door.enter(address.ip(), now) };
        if place.is_none() {
            self.refuse("BUSY", address.ip());
            link.admit(Admit::Busy(BUSY), now);
        }
        let evicted = place.as_ref().map(|place| place.evicted.clone()).unwrap_or_default();
        let number = LinkNo(self.next.fetch_add(1, Ordering::Relaxed));
        let mut guest = Guest {
            links: Arc::clone(&self),
            link: number,
            address,
            from: address.to_string().into(),
            outbox: sender.clone(),
            place: place.map(Arc::new),
            stage: Stage::Knocking,
            unintelligible: Unheard::default(),
        };
        self.open.inc();
        let closed = {
            let mut running = std::pin::pin!(mesh::link::run(stream, link, posted, &mut guest, self.shared.clock));
            tokio::select! {
            closed = &mut running => Some(closed),
            // Its place is needed by another of its address.
            () = evicted.cancelled() => None,
            () = ctx.stop.cancelled() => {
                sender.close();
                tokio::time::timeout(Duration::from_secs(1), running).await.ok()
            }
            }
        };
        self.open.dec();
        guest.leave(closed).await;
    }

    fn refuse(&self, reason: &'static str, address: IpAddr) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
        self.strangers().failed(reason, address);
    }

    fn strangers(&self) -> std::sync::MutexGuard<'_, Strangers> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn note_strangers(&self) {
        let (entries, now) = (self.strangers().take(), self.shared.clock.now());
        if entries.is_empty() {
            return;
        }
        let write = |entry: crate::audit::Entry| Write::Audit(rows::audit(&entry.by(&Origin::central(), now)));
        let written = self.shared.ledger.write("strangers", entries.into_iter().map(write).collect()).await;
        if let Err(error) = written {
            tracing::warn!(%error, "strangers' failures could not be noted");
        }
    }
}

/// One connection, as far as it has come.
struct Guest {
    links: Arc<Links>,
    link: LinkNo,
    address: SocketAddr,
    from: Arc<str>,
    outbox: Outbox,
    place: Option<Arc<Place>>,
    stage: Stage,
    unintelligible: Unheard,
}

enum Stage {
    /// Nothing is known.
    Knocking,
    /// Says it is this, and asks for a first contact.
    Stranger(Contact),
    /// Named a key of this peer; the handshake proves it, its first message makes it count.
    Claims {
        peer: PeerId,
        part: Part,
        key_no: u64,
    },
    /// A monitor or an engine.
    Part(part::Conversation),
    Driver(driver::Conversation),
}

/// Messages that did not open, not yet told to the loop.
#[derive(Debug, Default)]
struct Unheard {
    count: u64,
    told_at: Option<std::time::Instant>,
}

impl Handler for Guest {
    async fn handle(&mut self, event: Event, link: &mut Link, now: Now) {
        match event {
            Event::Hello(hello) => self.hello(&hello, link).await,
            Event::Message(bytes) => match Up::decode(bytes) {
                Ok(message) => self.message(message, link, now).await,
                Err(_) => self.not_understood(1, now).await,
            },
            Event::Unintelligible(_) => self.not_understood(1, now).await,
            // Responders get none of these; `Open` proves nothing yet.
            Event::Open | Event::Busy { .. } | Event::UnknownKey | Event::Closed(_) => {}
        }
    }
}

impl Guest {
    /// In clear, and unproven: at most it chooses the key with which the handshake is answered.
    async fn hello(&mut self, hello: &wire::Hello, link: &mut Link) {
        let links = Arc::clone(&self.links);
        let clock = links.shared.clock;
        match links.door.handshake_turn(clock.mono()) {
            Some(wait) if wait.is_zero() => {}
            Some(wait) => tokio::time::sleep(wait).await,
            None => {
                links.refuse("BUSY", self.address.ip());
                return link.admit(Admit::Busy(BUSY), clock.mono());
            }
        }
        let peer = match hello.part {
            Part::Monitor | Part::Engine => hello.id.parse().ok().map(PeerId::ChargingPoint),
            Part::Driver => hello.id.parse().ok().map(PeerId::Driver),
            Part::Unspecified | Part::Pairing => None,
        };
        let admitted = links.shared.link_key(&hello.pin).zip(peer).and_then(|(ours, peer)| {
            if hello.key_no == 0 {
                // An engine has its key from its monitor, never by a first contact.
                return (hello.part != Part::Engine).then_some((ours, peer, None));
            }
            let key = links.shared.directory.usable(&peer, hello.key_no)?;
            Some((ours, peer, Some(key)))
        });
        match admitted {
            Some((ours, peer, None)) => {
                let Some(place) = self.place.clone() else { return };
                self.stage = Stage::Stranger(self.contact(peer, place));
                link.admit(Admit::FirstContact(ours), clock.mono());
            }
            Some((ours, peer, Some(key))) => {
                self.stage = Stage::Claims { peer, part: hello.part, key_no: hello.key_no };
                link.admit(Admit::Key(ours, &key), clock.mono());
            }
            None => {
                links.refuse("UNKNOWN_KEY", self.address.ip());
                link.admit(Admit::UnknownKey, clock.mono());
            }
        }
    }

    async fn message(&mut self, message: Up, link: &mut Link, now: Now) {
        self.tell_unheard(now).await;
        let Some(body) = message.body else { return self.unsupported(message.id) };
        match (&self.stage, body) {
            (Stage::Claims { .. }, up::Body::Opened(opened)) => self.opened(&opened, message.id, link).await,
            (Stage::Stranger(contact), up::Body::Authenticate(shown)) => contact.authenticate(shown, message.id),
            // A status link: life signs and its key state, nothing else (SPEC 4.7).
            (Stage::Stranger(contact), up::Body::KeyInstalled(installed)) => {
                let PeerId::ChargingPoint(at) = contact.peer.clone() else { return };
                let inputs = vec![part::key_installed(installed, self.link, message.id)];
                self.links.drive.send(Message::FromPart { at, link: self.link, inputs }).await;
            }
            (Stage::Stranger(_), _) if self.place_is_proven() => {
                self.answer(message.id, Reason::NoKey, "this link carries only signs of life: authenticate");
            }
            (Stage::Part(_), body) => self.part_says(body, message.id, now).await,
            (Stage::Driver(_), body) => self.driver_says(body, message.id).await,
            (Stage::Knocking | Stage::Claims { .. } | Stage::Stranger(_), _) => {
                // Whoever proved his key begins with `Opened`, whoever has none with `Authenticate`.
                self.links.refuse("OUT_OF_ORDER", self.address.ip());
                link.close(now.mono);
            }
        }
    }

    /// The first sealed message has opened: from now on it counts (SPEC 4.9).
    async fn opened(&mut self, opened: &wire_messages::Opened, to: u64, link: &mut Link) {
        let Stage::Claims { peer, part, key_no } = std::mem::replace(&mut self.stage, Stage::Knocking) else { return };
        if opened.life_sign_ms > 0 {
            link.set_life_sign(Duration::from_millis(opened.life_sign_ms.into()));
        }
        self.prove();
        self.stage = match &peer {
            PeerId::ChargingPoint(id) => Stage::Part(part::Conversation::new(id.clone(), part, &self.links.shared)),
            PeerId::Driver(id) => Stage::Driver(driver::Conversation { id: id.clone() }),
        };
        let arrival = Arrival {
            link: self.link,
            peer: peer.clone(),
            part,
            key_no,
            from: self.from.clone(),
            highest_epoch: opened.highest_epoch,
            outbox: self.outbox.clone(),
        };
        self.links.drive.send(Message::Arrived(Box::new(arrival))).await;
        self.answer(to, Reason::Unspecified, "");
        if let PeerId::Driver(id) = peer {
            self.send_due_tickets(&id).await;
        }
    }

    fn contact(&self, peer: PeerId, place: Arc<Place>) -> Contact {
        Contact {
            links: Arc::clone(&self.links),
            place,
            peer,
            link: self.link,
            address: self.address.ip(),
            from: self.from.clone(),
            outbox: self.outbox.clone(),
            asking: Arc::new(AtomicBool::new(false)),
        }
    }

    fn prove(&mut self) {
        if let Some(place) = &self.place {
            place.proven();
        }
    }

    fn place_is_proven(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.is_proven())
    }

    fn say(&self, body: down::Body) {
        let message = Down { epoch: 0, body: Some(body) };
        // Full or closed: whoever does not listen is told when he comes back.
        let _told = self.outbox.try_send(message.encode_to_vec().into());
    }

    fn answer(&self, to: u64, reason: Reason, detail: &str) {
        if to != 0 {
            let answer = wire_messages::Answer { to, reason: reason.into(), detail: detail.to_owned() };
            self.say(down::Body::Answer(answer));
        }
    }

    fn unsupported(&self, to: u64) {
        self.say(down::Body::Unsupported(wire_messages::Unsupported { to }));
    }

    /// Something could not be opened: counted at once, told to the loop once a second (SPEC 4.8).
    async fn not_understood(&mut self, count: u64, now: Now) {
        self.unintelligible.count += count;
        let early = |at: std::time::Instant| now.mono.saturating_duration_since(at) < Duration::from_secs(1);
        if !self.unintelligible.told_at.is_some_and(early) {
            self.unintelligible.told_at = Some(now.mono);
            self.flush_unheard().await;
        }
    }

    async fn tell_unheard(&mut self, now: Now) {
        if self.unintelligible.count > 0 {
            self.not_understood(0, now).await;
        }
    }

    async fn flush_unheard(&mut self) {
        let count = std::mem::take(&mut self.unintelligible.count);
        if count == 0 {
            return;
        }
        let (link, from) = (self.link, self.from.clone());
        let message = match &self.stage {
            Stage::Part(conversation) => {
                let sign = crate::charge_point::Sign::Unintelligible { link, count };
                Message::Sign { at: conversation.id.clone(), sign }
            }
            Stage::Driver(conversation) => {
                Message::DriverUnintelligible { driver: conversation.id.clone(), count, from }
            }
            Stage::Knocking | Stage::Stranger(_) | Stage::Claims { .. } => {
                return self.links.refuse("UNINTELLIGIBLE", self.address.ip());
            }
        };
        // The peer is told, so that it can say so on its own screen, and where the keys do not agree it cannot read that
        // either: both ends know within a life sign.
        self.unsupported(0);
        self.links.drive.send(message).await;
    }

    async fn leave(mut self, closed: Option<Closed>) {
        self.flush_unheard().await;
        let proven = self.place_is_proven();
        if !proven && let Some(reason) = failure(closed) {
            self.links.refuse(reason, self.address.ip());
        }
        let detail = closed.map_or_else(|| "given up for another of its address".to_owned(), |why| why.to_string());
        if !matches!(self.stage, Stage::Knocking | Stage::Claims { .. }) {
            self.links.drive.send(Message::Left { link: self.link, detail: detail.into() }).await;
        }
    }
}

/// How a stranger's end is counted; nothing for those who were answered, or went in order.
fn failure(closed: Option<Closed>) -> Option<&'static str> {
    Some(match closed {
        None => "EVICTED",
        Some(Closed::HandshakeFailed) => "HANDSHAKE_FAILED",
        Some(Closed::HandshakeTimeout | Closed::Silent | Closed::Unanswered) => "UNFINISHED",
        Some(Closed::Protocol(_)) => "GARBAGE",
        Some(Closed::Version(_)) => "VERSION",
        Some(Closed::Cut | Closed::ByUs | Closed::ByPeer | Closed::Busy | Closed::UnknownKey) => return None,
    })
}
