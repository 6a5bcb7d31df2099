//! From `ENQ` to an open link (SPEC 4.2, 4.4), for both ends.

use std::{
    fmt,
    time::{Duration, Instant},
};

use prost::Message as _;
use proto::link::v1 as messages;
use proto::link::v1::Part;

use super::{Link, Urgent, sealed::CipherStates};
use crate::{
    VERSION,
    event::{Closed, Event, Hello, Unintelligible},
    handshake::{Ephemeral, Initiating, Responding, TrafficKeys},
    kind,
    proof::{Admit, Proof},
    seal::CipherState,
};

/// The phases of a link, from the first byte to its end.
pub(super) enum LinkPhase {
    /// Initiator: has sent `ENQ`.
    Calling(Box<Calling>),
    /// Initiator: has sent Hello and handshake message 1.
    Handshaking(Box<Initiating>),
    /// Initiator: was refused and waits for `EOT`.
    Refused(Closed),
    /// Responder: waits for `ENQ`.
    Listening {
        busy: Option<Duration>,
    },
    /// Responder: waits for a Hello.
    AwaitingHello,
    /// Responder: waits for its owner to call [`Link::admit`]; message 1 may arrive meanwhile.
    AwaitingAdmission(Box<AwaitingAdmission>),
    /// Responder: the owner admitted the peer; waits for message 1.
    AwaitingHandshake(Box<AwaitingHandshake>),
    Open(Box<CipherStates>),
    Closed,
}

pub(super) struct Calling {
    hello: Vec<u8>,
    proof: Proof,
    tries: u32,
    since: Instant,
}

pub(super) struct AwaitingAdmission {
    /// The bytes as received; they are the prologue of the handshake.
    hello: Vec<u8>,
    message: Option<Vec<u8>>,
}

pub(super) struct AwaitingHandshake {
    responding: Responding,
    unknown: bool,
}

impl LinkPhase {
    pub(super) fn calling(part: Part, id: &str, proof: Proof, now: Instant) -> Self {
        let pin = proof.pin().map(Vec::from).unwrap_or_default();
        let (part, id, key_no) = (part.into(), id.to_owned(), proof.key_no());
        let hello = messages::Hello { version: VERSION, part, id, key_no, pin }.encode_to_vec();
        Self::Calling(Box::new(Calling { hello, proof, tries: 1, since: now }))
    }
}

impl fmt::Debug for LinkPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Calling(_) => "Calling",
            Self::Handshaking(_) => "Handshaking",
            Self::Refused(_) => "Refused",
            Self::Listening { .. } => "Listening",
            Self::AwaitingHello => "AwaitingHello",
            Self::AwaitingAdmission(_) => "AwaitingAdmission",
            Self::AwaitingHandshake(_) => "AwaitingHandshake",
            Self::Open(_) => "Open",
            Self::Closed => "Closed",
        })
    }
}

impl Link {
    /// The owner's answer to [`Event::Hello`]. `Admit::Busy` is allowed at any time before that, even before the first
    /// byte; then the link answers `ENQ` with `NACK`.
    pub fn admit(&mut self, admit: Admit<'_>, _now: Instant) {
        if let (Admit::Busy(retry_after), false) = (admit, self.is_open() || self.is_closed()) {
            return self.refuse_busy(retry_after);
        }
        if !matches!(self.phase, LinkPhase::AwaitingAdmission(_)) {
            return;
        }
        // A placeholder until the branches below set the next phase.
        let LinkPhase::AwaitingAdmission(waiting) = std::mem::replace(&mut self.phase, LinkPhase::AwaitingHello) else {
            return;
        };
        let unknown = matches!(admit, Admit::UnknownKey);
        self.first_contact = matches!(admit, Admit::FirstContact(_));
        match Responding::prepare(admit, &waiting.hello, self.ephemeral()) {
            Ok(responding) => {
                let admitted = Box::new(AwaitingHandshake { responding, unknown });
                match waiting.message {
                    Some(message) => self.answer_handshake(admitted, &message),
                    None => self.phase = LinkPhase::AwaitingHandshake(admitted),
                }
            }
            Err(_failed) => self.refuse_key(unknown),
        }
    }

    pub(super) fn call_due(&self) -> Option<Instant> {
        let LinkPhase::Calling(calling) = &self.phase else { return None };
        calling.since.checked_add(self.settings.ack_timeout)
    }

    pub(super) fn call_again(&mut self, now: Instant) {
        let tries = self.settings.tries;
        let LinkPhase::Calling(calling) = &mut self.phase else { return };
        if calling.tries >= tries {
            return self.end_at_once(Closed::Unanswered);
        }
        (calling.tries, calling.since) = (calling.tries + 1, now);
        self.urgent = Some(Urgent::Enquire);
    }

    pub(super) fn handle_enquiry(&mut self) {
        match &self.phase {
            LinkPhase::Listening { busy: None } => self.phase = LinkPhase::AwaitingHello,
            LinkPhase::Listening { busy: Some(retry_after) } => {
                let retry_after = *retry_after;
                self.phase = LinkPhase::AwaitingHello;
                self.urgent = Some(Urgent::Refuse);
                return self.refuse_busy(retry_after);
            }
            // A repeated `ENQ`: the `ACK` was lost.
            LinkPhase::AwaitingHello
            | LinkPhase::AwaitingAdmission(_)
            | LinkPhase::AwaitingHandshake(_)
            | LinkPhase::Open(_) => {}
            LinkPhase::Calling(_) | LinkPhase::Handshaking(_) | LinkPhase::Refused(_) | LinkPhase::Closed => return,
        }
        self.incoming.acknowledge();
    }

    /// The responder answered `ENQ`: sends Hello and the first message of the handshake together.
    pub(super) fn begin_handshake(&mut self) {
        let LinkPhase::Calling(calling) = std::mem::replace(&mut self.phase, LinkPhase::AwaitingHello) else { return };
        match Initiating::begin(&calling.proof, &calling.hello, self.ephemeral()) {
            Ok((initiating, message)) => {
                self.push_clear(kind::HELLO, &calling.hello);
                self.push_clear(kind::HANDSHAKE, &message);
                self.phase = LinkPhase::Handshaking(Box::new(initiating));
            }
            Err(_failed) => self.end_at_once(Closed::HandshakeFailed),
        }
    }

    /// Handles a frame that arrived before the link is open.
    pub(super) fn handle_opening(&mut self, kind: u8, content: &[u8]) {
        match (kind, self.initiator) {
            (kind::HELLO, false) => self.handle_hello(content),
            (kind::HANDSHAKE, false) => self.handle_first_message(content),
            (kind::HANDSHAKE, true) => self.handle_second_message(content),
            (kind::BUSY, true) => self.handle_busy(content),
            (kind::UNKNOWN_KEY, true) if matches!(self.phase, LinkPhase::Handshaking(_)) => {
                self.phase = LinkPhase::Refused(Closed::UnknownKey);
                self.events.push_back(Event::UnknownKey);
            }
            (_, _) => self.end_at_once(Closed::Protocol("a frame that has no place before the link is open")),
        }
    }

    fn handle_hello(&mut self, content: &[u8]) {
        if !matches!(self.phase, LinkPhase::AwaitingHello) {
            return self.end_at_once(Closed::Protocol("a second Hello"));
        }
        let Ok(hello) = messages::Hello::decode(content) else {
            return self.end_at_once(Closed::Protocol("a Hello that cannot be read"));
        };
        if hello.version != VERSION {
            return self.end_at_once(Closed::Version(hello.version));
        }
        let part = hello.part();
        let pin = match (part, hello.pin.as_slice()) {
            (Part::Pairing, []) => Some([0; 8]),
            (Part::Monitor | Part::Engine | Part::Driver, pin) => pin.try_into().ok(),
            (Part::Pairing | Part::Unspecified, _) => None,
        };
        let (Some(pin), true) = (pin, hello.id.len() <= 64) else {
            return self.end_at_once(Closed::Protocol("a Hello without a known part, id or pin"));
        };
        self.part = part;
        self.phase =
            LinkPhase::AwaitingAdmission(Box::new(AwaitingAdmission { hello: content.to_vec(), message: None }));
        self.events.push_back(Event::Hello(Hello { part, id: hello.id, key_no: hello.key_no, pin }));
    }

    fn handle_first_message(&mut self, content: &[u8]) {
        if let LinkPhase::AwaitingAdmission(waiting) = &mut self.phase
            && waiting.message.is_none()
        {
            waiting.message = Some(content.to_vec());
        } else if let LinkPhase::AwaitingHandshake(_) = &self.phase
            && let LinkPhase::AwaitingHandshake(waiting) = std::mem::replace(&mut self.phase, LinkPhase::AwaitingHello)
        {
            self.answer_handshake(waiting, content);
        } else {
            self.end_at_once(Closed::Protocol("a handshake out of place"));
        }
    }

    fn answer_handshake(&mut self, waiting: Box<AwaitingHandshake>, message: &[u8]) {
        let unknown = waiting.unknown;
        match waiting.responding.answer(message) {
            Ok((keys, answer)) => {
                self.push_clear(kind::HANDSHAKE, &answer);
                self.open(&keys);
            }
            Err(_failed) => self.refuse_key(unknown),
        }
    }

    fn handle_second_message(&mut self, content: &[u8]) {
        let LinkPhase::Handshaking(initiating) = std::mem::replace(&mut self.phase, LinkPhase::AwaitingHello) else {
            return self.end_at_once(Closed::Protocol("a handshake out of place"));
        };
        match initiating.finish(content) {
            Ok(keys) => self.open(&keys),
            Err(_failed) => {
                self.events.push_back(Event::Unintelligible(Unintelligible::Handshake));
                self.end_at_once(Closed::HandshakeFailed);
            }
        }
    }

    fn handle_busy(&mut self, content: &[u8]) {
        let longest = self.settings.longest_retry;
        let asked = messages::Busy::decode(content)
            .map_or(longest, |busy| Duration::from_millis(u64::from(busy.retry_after_ms)).min(longest));
        if !matches!(self.phase, LinkPhase::Refused(Closed::UnknownKey)) {
            self.phase = LinkPhase::Refused(Closed::Busy);
            self.events.push_back(Event::Busy { retry_after: asked });
        }
    }

    fn open(&mut self, keys: &TrafficKeys) {
        let (sending, receiving) = CipherState::both(keys, self.part, self.initiator);
        self.phase = LinkPhase::Open(Box::new(CipherStates { sending, receiving }));
        if self.initiator {
            // The responder has proven its static key, or the pairing secret.
            self.decoder.set_limit(self.settings.max_frame);
        }
        self.events.push_back(Event::Open);
    }

    fn refuse_busy(&mut self, retry_after: Duration) {
        if let LinkPhase::Listening { busy } = &mut self.phase {
            *busy = Some(retry_after);
            return;
        }
        let retry_after = retry_after.min(self.settings.longest_retry).as_millis();
        let busy = messages::Busy { retry_after_ms: u32::try_from(retry_after).unwrap_or(u32::MAX) };
        self.push_clear(kind::BUSY, &busy.encode_to_vec());
        self.end_after_queue(Closed::Busy);
    }

    /// Gives the same answer to an unknown key and to a handshake that proves another key.
    fn refuse_key(&mut self, unknown: bool) {
        if !unknown {
            self.events.push_back(Event::Unintelligible(Unintelligible::Handshake));
        }
        self.push_clear(kind::UNKNOWN_KEY, &messages::UnknownKey {}.encode_to_vec());
        self.end_after_queue(if unknown { Closed::UnknownKey } else { Closed::HandshakeFailed });
    }

    fn push_clear(&mut self, kind: u8, content: &[u8]) {
        let counter = self.outgoing.next_number() as u8;
        self.outgoing.push([&[counter, kind], content].concat());
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests fix it per link")]
    fn ephemeral(&self) -> Ephemeral {
        None
    }

    #[cfg(test)]
    fn ephemeral(&self) -> Ephemeral {
        self.ephemeral
    }
}
