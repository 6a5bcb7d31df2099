//! One connection, from its Hello to its end: nothing counts before it is proven.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use mesh::{
    clock::Now,
    link::{Handler, Outbox},
};
use prost::Message as _;
use proto::{
    PeerId,
    link::v1::{self as wire_messages, Down, Part, Reason, Up, down, up},
};
use wire::{Admit, Closed, Event, Link, Unintelligible};

use super::{BUSY, Links, contact::Contact, door::Place, driver, part};
use crate::{
    charge_point::{LinkNo, Sign},
    drive::{Arrival, Message},
};

/// One connection, as far as it has come.
pub(super) struct Guest {
    pub(super) links: Arc<Links>,
    pub(super) link: LinkNo,
    address: SocketAddr,
    pub(super) from: Arc<str>,
    pub(super) outbox: Outbox,
    place: Arc<Place>,
    pub(super) stage: Stage,
    unintelligible: Unheard,
    /// It has said that it does not know a message.
    is_old: bool,
}

pub(super) enum Stage {
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
    told_at: Option<Instant>,
    /// Nothing has opened since.
    unread: bool,
}

impl Handler for Guest {
    async fn handle(&mut self, event: Event, link: &mut Link, now: Now) {
        match event {
            Event::Hello(hello) => self.hello(&hello, link).await,
            Event::Message(bytes) => match Up::decode(bytes) {
                Ok(message) => Box::pin(self.message(message, link, now)).await,
                Err(_) if self.is_unproven() => self.out_of_order(link, now),
                Err(_) => Box::pin(self.not_understood(1, now)).await,
            },
            // It ends the connection, and is counted then.
            Event::Unintelligible(Unintelligible::Handshake) => {}
            Event::Unintelligible(_) => Box::pin(self.not_understood(1, now)).await,
            // Responders get none of these; `Open` proves nothing yet.
            Event::Open | Event::Busy { .. } | Event::UnknownKey | Event::Closed(_) => {}
        }
    }
}

impl Guest {
    pub(super) fn new(links: Arc<Links>, link: LinkNo, address: SocketAddr, outbox: Outbox, place: Arc<Place>) -> Self {
        let (from, stage) = (address.to_string().into(), Stage::Knocking);
        Self { links, link, address, from, outbox, place, stage, unintelligible: Unheard::default(), is_old: false }
    }

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
                self.stage = Stage::Stranger(self.contact(peer));
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
        self.understood().await;
        let Some(body) = message.body else {
            return if self.is_unproven() { self.out_of_order(link, now) } else { self.unsupported(message.id) };
        };
        match (&self.stage, body) {
            (Stage::Claims { .. }, up::Body::Opened(opened)) => {
                Box::pin(self.opened(&opened, message.id, link)).await;
            }
            (Stage::Stranger(contact), up::Body::Authenticate(shown)) => contact.authenticate(shown, message.id),
            // A status link: life signs and its key state, nothing else (SPEC 4.7).
            (Stage::Stranger(contact), up::Body::KeyInstalled(installed)) if contact.place.is_proven() => {
                let PeerId::ChargingPoint(at) = contact.peer.clone() else { return };
                let inputs = vec![part::key_installed(installed, self.link, message.id)];
                self.links.drive.send(Message::FromPart { at, link: self.link, inputs }).await;
            }
            (Stage::Stranger(_), _) if self.place.is_proven() => {
                self.answer(message.id, Reason::NoKey, "this link carries only signs of life: authenticate");
            }
            (Stage::Part(_) | Stage::Driver(_), up::Body::ReadClock(_)) => {
                self.say(down::Body::Clock(wire_messages::Clock { to: message.id, at_ms: now.wall_ms }));
            }
            (Stage::Part(_) | Stage::Driver(_), up::Body::Unsupported(_)) => self.is_not_understood(),
            (Stage::Part(_), body) => self.part_says(body, message.id, now).await,
            (Stage::Driver(_), body) => Box::pin(self.driver_says(body, message.id)).await,
            (Stage::Knocking | Stage::Claims { .. } | Stage::Stranger(_), _) => self.out_of_order(link, now),
        }
    }

    /// Whoever proved his key begins with `Opened`, whoever has none with `Authenticate`. Nothing else keeps the
    /// connection of somebody unknown: anyone can open a channel and give signs of life.
    fn out_of_order(&self, link: &mut Link, now: Now) {
        self.links.refuse("OUT_OF_ORDER", self.address.ip());
        link.close(now.mono);
    }

    /// The first sealed message has opened: from now on it counts (SPEC 4.9).
    async fn opened(&mut self, opened: &wire_messages::Opened, to: u64, link: &mut Link) {
        let Stage::Claims { peer, part, key_no } = std::mem::replace(&mut self.stage, Stage::Knocking) else { return };
        if opened.life_sign_ms > 0 {
            link.set_life_sign(Duration::from_millis(opened.life_sign_ms.into()));
        }
        self.place.proven();
        self.stage = match &peer {
            PeerId::ChargingPoint(id) => Stage::Part(part::Conversation::new(id.clone(), part, &self.links.shared)),
            PeerId::Driver(id) => Stage::Driver(driver::Conversation::new(id.clone())),
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

    fn contact(&self, peer: PeerId) -> Contact {
        Contact {
            links: Arc::clone(&self.links),
            place: Arc::clone(&self.place),
            peer,
            link: self.link,
            address: self.address.ip(),
            from: self.from.clone(),
            outbox: self.outbox.clone(),
            asking: Arc::new(AtomicBool::new(false)),
        }
    }

    fn is_unproven(&self) -> bool {
        match self.stage {
            Stage::Knocking | Stage::Claims { .. } => true,
            Stage::Stranger(_) => !self.place.is_proven(),
            Stage::Part(_) | Stage::Driver(_) => false,
        }
    }

    /// Every message to a charging point carries its epoch (SPEC 4.9); a driver has none.
    fn epoch(&self) -> u64 {
        match &self.stage {
            Stage::Part(conversation) => conversation.epoch.get(),
            Stage::Stranger(contact) => contact.epoch(),
            Stage::Knocking | Stage::Claims { .. } | Stage::Driver(_) => 0,
        }
    }

    pub(super) fn say(&self, body: down::Body) {
        let message = Down { epoch: self.epoch(), body: Some(body) };
        // Full or closed: whoever does not listen is told when he comes back.
        let _told = self.outbox.try_send(message.encode_to_vec().into());
    }

    pub(super) fn answer(&self, to: u64, reason: Reason, detail: &str) {
        if to != 0 {
            let answer = wire_messages::Answer { to, reason: reason.into(), detail: detail.to_owned() };
            self.say(down::Body::Answer(answer));
        }
    }

    /// Whether it may ask for something that costs a row; it is told where not.
    pub(super) fn may_ask(&self, peer: &PeerId, to: u64) -> bool {
        let may = self.links.may_ask(peer, self.address.ip());
        if !may {
            self.answer(to, Reason::TooManyAttempts, "");
        }
        may
    }

    /// The peer does not know a kind of message that it was sent: its software is older than this.
    fn is_not_understood(&mut self) {
        self.links.not_known.inc();
        let peer = match &self.stage {
            Stage::Part(conversation) => conversation.id.to_string(),
            Stage::Driver(conversation) => conversation.id.to_string(),
            Stage::Knocking | Stage::Stranger(_) | Stage::Claims { .. } => return,
        };
        if !std::mem::replace(&mut self.is_old, true) {
            tracing::warn!(
                peer.id = peer,
                "its software is older than Central's: it does not know a message it was sent"
            );
        }
    }

    pub(super) fn unsupported(&self, to: u64) {
        self.say(down::Body::Unsupported(wire_messages::Unsupported { to }));
    }

    /// Something could not be opened: counted at once, told to the loop once a second (SPEC 4.8).
    pub(super) async fn not_understood(&mut self, count: u64, now: Now) {
        self.unintelligible.count += count;
        self.unintelligible.unread = true;
        let early = |at: Instant| now.mono.saturating_duration_since(at) < Duration::from_secs(1);
        if !self.unintelligible.told_at.is_some_and(early) {
            self.unintelligible.told_at = Some(now.mono);
            self.flush_unheard().await;
        }
    }

    /// A message has opened. What did not open before it is told first, so that the last word is the true one.
    async fn understood(&mut self) {
        if !std::mem::take(&mut self.unintelligible.unread) {
            return;
        }
        self.flush_unheard().await;
        if let Stage::Part(conversation) = &self.stage {
            let sign = Sign::Intelligible { link: self.link };
            self.links.drive.send(Message::Sign { at: conversation.id.clone(), sign }).await;
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
                let sign = Sign::Unintelligible { link, count };
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

    pub(super) async fn leave(mut self, closed: Option<Closed>) {
        self.flush_unheard().await;
        let proven = self.place.is_proven();
        if !proven && let Some(reason) = failure(closed) {
            self.links.refuse(reason, self.address.ip());
        }
        let detail = closed.map_or_else(|| "given up for another of its address".to_owned(), |why| why.to_string());
        if !matches!(self.stage, Stage::Knocking | Stage::Claims { .. }) {
            let answered = closed == Some(Closed::ByUs);
            self.links.drive.send(Message::Left { link: self.link, answered, detail: detail.into() }).await;
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
