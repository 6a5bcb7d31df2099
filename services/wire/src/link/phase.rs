//! The phases of a link, and how it gets from `ENQ` to an open link (SPEC 4.2, 4.4), for both ends.

use std::{
    fmt,
    time::{Duration, Instant},
};

use prost::Message as _;
use proto::link::v1 as messages;
use proto::link::v1::Part;

use super::state::LinkState;
use crate::{
    VERSION,
    conversation::Enquiry,
    event::{Closed, Event, Hello, Unintelligible},
    handshake::{Ephemeral, Initiating, Responding, TrafficKeys},
    kind,
    proof::{Admit, Proof},
    seal::CipherStates,
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
        })
    }
}

impl LinkPhase {
    /// The owner's answer to [`Event::Hello`]; see [`super::Link::admit`].
    pub(super) fn admit(&mut self, state: &mut LinkState, admit: Admit<'_>, ephemeral: Ephemeral) {
        if let Admit::Busy(retry_after) = admit
            && !state.closed
            && !matches!(self, Self::Open(_))
        {
            return self.refuse_busy(state, retry_after);
        }
        if !matches!(self, Self::AwaitingAdmission(_)) {
            return;
        }
        // A placeholder until the branches below set the next phase.
        let Self::AwaitingAdmission(waiting) = std::mem::replace(self, Self::AwaitingHello) else { return };
        let unknown = matches!(admit, Admit::UnknownKey);
        state.first_contact = matches!(admit, Admit::FirstContact(_));
        match Responding::prepare(admit, &waiting.hello, ephemeral) {
            Ok(responding) => {
                let admitted = Box::new(AwaitingHandshake { responding, unknown });
                match waiting.message {
                    Some(message) => self.answer_handshake(state, admitted, &message),
                    None => *self = Self::AwaitingHandshake(admitted),
                }
            }
            Err(_failed) => refuse_key(state, unknown),
        }
    }

    pub(super) fn call_due(&self, state: &LinkState) -> Option<Instant> {
        let Self::Calling(calling) = self else { return None };
        calling.since.checked_add(state.settings.ack_timeout)
    }

    pub(super) fn call_again(&mut self, state: &mut LinkState, now: Instant) {
        let Self::Calling(calling) = self else { return };
        if calling.tries >= state.settings.tries {
            return state.end_at_once(Closed::Unanswered);
        }
        (calling.tries, calling.since) = (calling.tries + 1, now);
        state.conversation.enquire(Enquiry::Call);
    }

    pub(super) fn handle_enquiry(&mut self, state: &mut LinkState) {
        match self {
            Self::Listening { busy: None } => *self = Self::AwaitingHello,
            Self::Listening { busy: Some(retry_after) } => {
                let retry_after = *retry_after;
                *self = Self::AwaitingHello;
                state.conversation.enquire(Enquiry::Refuse);
                return self.refuse_busy(state, retry_after);
            }
            // A repeated `ENQ`: the `ACK` was lost.
            Self::AwaitingHello | Self::AwaitingAdmission(_) | Self::AwaitingHandshake(_) | Self::Open(_) => {}
            Self::Calling(_) | Self::Handshaking(_) | Self::Refused(_) => return,
        }
        state.conversation.enquire(Enquiry::Accept);
    }

    /// The responder answered `ENQ`: sends Hello and the first message of the handshake together.
    pub(super) fn begin_handshake(&mut self, state: &mut LinkState, ephemeral: Ephemeral) {
        let Self::Calling(calling) = std::mem::replace(self, Self::AwaitingHello) else { return };
        match Initiating::begin(&calling.proof, &calling.hello, ephemeral) {
            Ok((initiating, message)) => {
                state.push_clear(kind::HELLO, &calling.hello);
                state.push_clear(kind::HANDSHAKE, &message);
                *self = Self::Handshaking(Box::new(initiating));
            }
            Err(_failed) => state.end_at_once(Closed::HandshakeFailed),
        }
    }

    /// Handles a frame that arrived before the link is open.
    pub(super) fn handle_frame(&mut self, state: &mut LinkState, kind: u8, content: &[u8]) {
        match (kind, state.initiator) {
            (kind::HELLO, false) => self.handle_hello(state, content),
            (kind::HANDSHAKE, false) => self.handle_first_message(state, content),
            (kind::HANDSHAKE, true) => self.handle_second_message(state, content),
            (kind::BUSY, true) => self.handle_busy(state, content),
            (kind::UNKNOWN_KEY, true) if matches!(self, Self::Handshaking(_)) => {
                *self = Self::Refused(Closed::UnknownKey);
                state.emit(Event::UnknownKey);
            }
            (_, _) => state.violation("a frame that has no place before the link is open"),
        }
    }

    fn handle_hello(&mut self, state: &mut LinkState, content: &[u8]) {
        if !matches!(self, Self::AwaitingHello) {
            return state.violation("a second Hello");
        }
        let Ok(hello) = messages::Hello::decode(content) else {
            return state.violation("a Hello that cannot be read");
        };
        if hello.version != VERSION {
            return state.end_at_once(Closed::Version(hello.version));
        }
        let part = hello.part();
        let pin = match (part, hello.pin.as_slice()) {
            (Part::Pairing, []) => Some([0; 8]),
            (Part::Monitor | Part::Engine | Part::Driver, pin) => pin.try_into().ok(),
            (Part::Pairing | Part::Unspecified, _) => None,
        };
        let (Some(pin), true) = (pin, hello.id.len() <= 64) else {
            return state.violation("a Hello without a known part, id or pin");
        };
        state.part = part;
        *self = Self::AwaitingAdmission(Box::new(AwaitingAdmission { hello: content.to_vec(), message: None }));
        state.emit(Event::Hello(Hello { part, id: hello.id, key_no: hello.key_no, pin }));
    }

    fn handle_first_message(&mut self, state: &mut LinkState, content: &[u8]) {
        if let Self::AwaitingAdmission(waiting) = self
            && waiting.message.is_none()
        {
            waiting.message = Some(content.to_vec());
        } else if let Self::AwaitingHandshake(_) = self
            && let Self::AwaitingHandshake(admitted) = std::mem::replace(self, Self::AwaitingHello)
        {
            self.answer_handshake(state, admitted, content);
        } else {
            state.violation("a handshake out of place");
        }
    }

    fn answer_handshake(&mut self, state: &mut LinkState, admitted: Box<AwaitingHandshake>, message: &[u8]) {
        let unknown = admitted.unknown;
        match admitted.responding.answer(message) {
            Ok((keys, answer)) => {
                state.push_clear(kind::HANDSHAKE, &answer);
                self.open(state, &keys);
            }
            Err(_failed) => refuse_key(state, unknown),
        }
    }

    fn handle_second_message(&mut self, state: &mut LinkState, content: &[u8]) {
        let Self::Handshaking(initiating) = std::mem::replace(self, Self::AwaitingHello) else {
            return state.violation("a handshake out of place");
        };
        match initiating.finish(content) {
            Ok(keys) => self.open(state, &keys),
            Err(_failed) => {
                state.not_understood(Unintelligible::Handshake);
                state.end_at_once(Closed::HandshakeFailed);
            }
        }
    }

    fn handle_busy(&mut self, state: &mut LinkState, content: &[u8]) {
        let longest = state.settings.longest_retry;
        let asked = messages::Busy::decode(content)
            .map_or(longest, |busy| Duration::from_millis(u64::from(busy.retry_after_ms)).min(longest));
        if !matches!(self, Self::Refused(Closed::UnknownKey)) {
            *self = Self::Refused(Closed::Busy);
            state.emit(Event::Busy { retry_after: asked });
        }
    }

    fn open(&mut self, state: &mut LinkState, keys: &TrafficKeys) {
        *self = Self::Open(Box::new(CipherStates::new(keys, state.part, state.initiator)));
        if state.initiator {
            // The responder has proven its static key, or the pairing secret.
            state.proven = true;
            state.conversation.set_frame_limit(state.settings.max_frame);
        }
        state.emit(Event::Open);
    }

    fn refuse_busy(&mut self, state: &mut LinkState, retry_after: Duration) {
        if let Self::Listening { busy } = self {
            *busy = Some(retry_after);
            return;
        }
        let retry_after = retry_after.min(state.settings.longest_retry).as_millis();
        let busy = messages::Busy { retry_after_ms: u32::try_from(retry_after).unwrap_or(u32::MAX) };
        state.push_clear(kind::BUSY, &busy.encode_to_vec());
        state.end_after_queue(Closed::Busy);
    }
}

/// Gives the same answer to an unknown key and to a handshake that proves another key.
fn refuse_key(state: &mut LinkState, unknown: bool) {
    if !unknown {
        state.not_understood(Unintelligible::Handshake);
    }
    state.push_clear(kind::UNKNOWN_KEY, &messages::UnknownKey {}.encode_to_vec());
    state.end_after_queue(if unknown { Closed::UnknownKey } else { Closed::HandshakeFailed });
}
