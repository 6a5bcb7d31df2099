//! One connection, from its Hello to its end: nothing counts before it is proven.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{clock::Now, link::LinkOwner};
use prost::Message as _;
use proto::{
    PeerId,
    link::v1::{self as wire_messages, Part, Reason, Up, down, up},
};
use wire::{Admit, Closed, Event, Link, Unintelligible};

use super::{BUSY, driver, first_contact::FirstContact, limiter::LinkPermit, part, responder::Responder};
use crate::{
    charge_point::Observation,
    event_loop::{Arrival, Message},
};

/// One connection, as far as it has come.
pub(super) struct ServedConnection {
    responder: Responder,
    permit: Arc<LinkPermit>,
    stage: Stage,
    unintelligible: UnopenedMessages,
    /// It has said that it does not know a message.
    is_old: bool,
    /// The loop knows of its end, or never knew of it.
    has_left: bool,
}

enum Stage {
    /// Nothing is known.
    New,
    /// Says it is this, and asks for a first contact.
    /// Boxed: an idle link is as large as the largest of these.
    FirstContact(Box<FirstContact>),
    /// Named a key of this peer; the handshake proves it, its first message makes it count.
    Claiming {
        peer: PeerId,
        part: Part,
        key_no: u64,
    },
    /// A monitor or an engine.
    Part(part::PartConversation),
    Driver(driver::DriverConversation),
}

/// Messages that did not open and are not yet reported to the event loop.
#[derive(Debug, Default)]
struct UnopenedMessages {
    count: u64,
    told_at: Option<Instant>,
    /// Nothing has opened since.
    unread: bool,
}

impl LinkOwner for ServedConnection {
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

impl ServedConnection {
    pub(super) fn new(responder: Responder, permit: Arc<LinkPermit>) -> Self {
        let (stage, unintelligible) = (Stage::New, UnopenedMessages::default());
        Self { responder, permit, stage, unintelligible, is_old: false, has_left: false }
    }

    /// In clear, and unproven: at most it chooses the key with which the handshake is answered.
    async fn hello(&mut self, hello: &wire::Hello, link: &mut Link) {
        let links = Arc::clone(&self.responder.links);
        let clock = links.shared.clock;
        if !links.handshakes.turn(self.responder.address).await {
            links.refuse("BUSY", self.responder.address);
            return link.admit(Admit::Busy(BUSY), clock.mono());
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
                let contact = FirstContact::new(self.responder.clone(), Arc::clone(&self.permit), peer);
                self.stage = Stage::FirstContact(Box::new(contact));
                link.admit(Admit::FirstContact(ours), clock.mono());
            }
            Some((ours, peer, Some(key))) => {
                self.stage = Stage::Claiming { peer, part: hello.part, key_no: hello.key_no };
                link.admit(Admit::Key(ours, &key), clock.mono());
            }
            None => {
                links.refuse("UNKNOWN_KEY", self.responder.address);
                link.admit(Admit::UnknownKey, clock.mono());
            }
        }
    }

    async fn message(&mut self, message: Up, link: &mut Link, now: Now) {
        self.understood().await;
        let Some(body) = message.body else {
            return if self.is_unproven() { self.out_of_order(link, now) } else { self.unsupported(message.id) };
        };
        match (&mut self.stage, body) {
            (Stage::Claiming { .. }, up::Body::Opened(opened)) => {
                Box::pin(self.opened(&opened, message.id, link)).await;
            }
            (Stage::FirstContact(contact), up::Body::Authenticate(shown)) => contact.authenticate(shown, message.id),
            // A status link: life signs and its key state, nothing else (SPEC 4.7).
            (Stage::FirstContact(contact), up::Body::KeyInstalled(installed)) if contact.permit.is_proven() => {
                let PeerId::ChargingPoint(at) = contact.peer.clone() else { return };
                let inputs = vec![part::key_installed(installed, self.responder.link, message.id)];
                self.responder.hand_in(Message::FromPart { at, link: self.responder.link, inputs }).await;
            }
            (Stage::FirstContact(_), _) if self.permit.is_proven() => {
                self.answer(message.id, Reason::NoKey, "this link carries only signs of life: authenticate");
            }
            (Stage::Part(_) | Stage::Driver(_), up::Body::ReadClock(read)) => {
                if let Stage::Part(conversation) = &self.stage {
                    conversation.clock_told(&self.responder, read.at_ms, now).await;
                }
                self.say(down::Body::Clock(wire_messages::Clock { to: message.id, at_ms: now.wall_ms }));
            }
            (Stage::Part(_) | Stage::Driver(_), up::Body::Unsupported(_)) => self.is_not_understood(),
            (Stage::Part(conversation), body) => {
                if !conversation.receive(&self.responder, body, message.id).await {
                    self.not_understood(1, now).await;
                }
            }
            (Stage::Driver(conversation), body) => {
                conversation.receive(&self.responder, body, message.id).await;
            }
            (Stage::New | Stage::Claiming { .. } | Stage::FirstContact(_), _) => self.out_of_order(link, now),
        }
    }

    /// Whoever proved his key begins with `Opened`, whoever has none with `Authenticate`. Nothing else keeps the
    /// connection of somebody unknown: anyone can open a channel and give signs of life.
    fn out_of_order(&self, link: &mut Link, now: Now) {
        self.responder.links.refuse("OUT_OF_ORDER", self.responder.address);
        link.close(now.mono);
    }

    /// The first sealed message has opened: from now on it counts (SPEC 4.9).
    async fn opened(&mut self, opened: &wire_messages::Opened, to: u64, link: &mut Link) {
        let Stage::Claiming { peer, part, key_no } = std::mem::replace(&mut self.stage, Stage::New) else {
            return;
        };
        if opened.life_sign_ms > 0 {
            link.set_life_sign(Duration::from_millis(opened.life_sign_ms.into()));
        }
        self.permit.proven();
        self.stage = match &peer {
            PeerId::ChargingPoint(id) => {
                self.responder.epoch = Some(self.responder.links.shared.directory.epoch(id));
                Stage::Part(part::PartConversation::new(id.clone(), part, &self.responder.links.shared))
            }
            PeerId::Driver(id) => Stage::Driver(driver::DriverConversation::new(id.clone())),
        };
        let arrival = Arrival {
            link: self.responder.link,
            peer,
            part,
            key_no,
            from: self.responder.from.clone(),
            highest_epoch: opened.highest_epoch,
            send_queue: self.responder.send_queue.clone(),
        };
        self.responder.hand_in(Message::Arrived(Box::new(arrival))).await;
        self.answer(to, Reason::Unspecified, "");
    }

    fn is_unproven(&self) -> bool {
        match self.stage {
            Stage::New | Stage::Claiming { .. } => true,
            Stage::FirstContact(_) => !self.permit.is_proven(),
            Stage::Part(_) | Stage::Driver(_) => false,
        }
    }

    fn say(&self, body: down::Body) {
        match &self.stage {
            Stage::FirstContact(contact) => contact.responder().say(body),
            Stage::New | Stage::Claiming { .. } | Stage::Part(_) | Stage::Driver(_) => self.responder.say(body),
        }
    }

    fn answer(&self, to: u64, reason: Reason, detail: &str) {
        if to != 0 {
            let (reason, detail) = (reason.into(), detail.to_owned());
            let answer = wire_messages::Answer { to, reason, detail, ..wire_messages::Answer::default() };
            self.say(down::Body::Answer(answer));
        }
    }

    /// The peer does not know a kind of message that it was sent: its software is older than this.
    fn is_not_understood(&mut self) {
        self.responder.links.not_known.inc();
        let peer = match &self.stage {
            Stage::Part(conversation) => conversation.id.to_string(),
            Stage::Driver(conversation) => conversation.id.to_string(),
            Stage::New | Stage::FirstContact(_) | Stage::Claiming { .. } => return,
        };
        if !std::mem::replace(&mut self.is_old, true) {
            tracing::warn!(
                peer.id = peer,
                "its software is older than Central's: it does not know a message it was sent"
            );
        }
    }

    fn unsupported(&self, to: u64) {
        self.say(down::Body::Unsupported(wire_messages::Unsupported { to }));
    }

    /// Something could not be opened: counted at once, reported to the event loop once a second (SPEC 4.8).
    async fn not_understood(&mut self, count: u64, now: Now) {
        self.unintelligible.count += count;
        self.unintelligible.unread = true;
        let early = |at: Instant| now.mono.saturating_duration_since(at) < Duration::from_secs(1);
        if !self.unintelligible.told_at.is_some_and(early) {
            self.unintelligible.told_at = Some(now.mono);
            self.flush_unheard().await;
        }
    }

    /// A message has opened. What did not open before it is reported first, so that the latest report is the true one.
    async fn understood(&mut self) {
        if !std::mem::take(&mut self.unintelligible.unread) {
            return;
        }
        self.flush_unheard().await;
        if let Stage::Part(conversation) = &self.stage {
            let observation = Observation::Intelligible { link: self.responder.link };
            self.responder.hand_in(Message::Observation { at: conversation.id.clone(), observation }).await;
        }
    }

    async fn flush_unheard(&mut self) {
        let count = std::mem::take(&mut self.unintelligible.count);
        if count == 0 {
            return;
        }
        let (link, from) = (self.responder.link, self.responder.from.clone());
        let message = match &self.stage {
            Stage::Part(conversation) => {
                let observation = Observation::Unintelligible { link, count };
                Message::Observation { at: conversation.id.clone(), observation }
            }
            Stage::Driver(conversation) => {
                Message::DriverUnintelligible { driver: conversation.id.clone(), count, from }
            }
            Stage::New | Stage::FirstContact(_) | Stage::Claiming { .. } => {
                return self.responder.links.refuse("UNINTELLIGIBLE", self.responder.address);
            }
        };
        // The peer is told, so that it can say so on its own screen, and where the keys do not agree it cannot read that
        // either: both ends know within a life sign.
        self.unsupported(0);
        self.responder.hand_in(message).await;
    }

    pub(super) async fn leave(mut self, closed: Option<Closed>) {
        self.flush_unheard().await;
        let proven = self.permit.is_proven();
        if !proven && let Some(reason) = failure(closed) {
            self.responder.links.refuse(reason, self.responder.address);
        }
        let detail = closed.map_or_else(|| "given up for another of its address".to_owned(), |why| why.to_string());
        self.has_left = true;
        if self.is_told() {
            let answered = closed == Some(Closed::ByUs);
            self.responder.hand_in(Message::Left { link: self.responder.link, answered, detail: detail.into() }).await;
        }
    }

    /// Whether the event loop knows of this connection, or may.
    fn is_told(&self) -> bool {
        !matches!(self.stage, Stage::New | Stage::Claiming { .. })
    }
}

/// Whose task ends by a fault of this program ends for the loop too, which would take it for alive for ever.
impl Drop for ServedConnection {
    fn drop(&mut self) {
        if !self.has_left && self.is_told() {
            let detail = "its task was cut off by a fault of Central".into();
            self.responder.links.event_loop.post(Message::Left { link: self.responder.link, answered: false, detail });
        }
    }
}

/// How the end of an unauthenticated connection is counted; none for one that was answered or closed in order.
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
