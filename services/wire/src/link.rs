//! One end of a link: the conversation of SPEC 4.2 around the handshake and the sealed frames.
//!
//! Sans-io: bytes and instants go in, bytes and events come out. Guarantees, whatever the peer sends: no panic; at most
//! one frame of [`LinkSettings::max_frame`] in memory (4 KiB before the peer has proven itself) and no buffer while
//! idle; messages come out in the order in which they were sent, each at most once, and every missing message was
//! reported as [`Event::Unintelligible`]; a link that makes no progress ends by itself, and [`Event::Closed`] is its
//! last event.

mod opening;
mod sealed;

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use proto::link::v1::Part;

use self::opening::LinkPhase;
pub use self::sealed::SendError;
use crate::{
    event::{Closed, Event, Unintelligible},
    frame::{self, Decoder, Token},
    incoming::{Acknowledgement, FrameVerdict, Incoming},
    kind,
    outgoing::Outgoing,
    proof::Proof,
    settings::{LinkSettings, bounded_life_sign},
};

/// Longest body before a peer has proven itself: an unproven peer gets no more memory than this.
const UNPROVEN_FRAME: usize = 4096;
/// A link ends after this many runs of garbage without a valid token between them.
const GARBAGE: u32 = 64;
/// An empty event queue keeps capacity for this many events.
const EVENTS_KEPT: usize = 4;

/// What happened on a link without causing an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Runs of bytes that belonged to no valid frame.
    pub malformed: u32,
    /// Frames received twice.
    pub repeated: u32,
    /// Frames that this end sent again.
    pub resent: u32,
}

/// One end of a link.
pub struct Link {
    settings: LinkSettings,
    initiator: bool,
    part: Part,
    phase: LinkPhase,
    decoder: Decoder,
    incoming: Incoming,
    outgoing: Outgoing,
    events: VecDeque<Event>,
    /// A control byte to send before anything else.
    urgent: Option<Urgent>,
    /// `EOT` is to be sent after all frames.
    farewell: bool,
    closing: bool,
    proven: bool,
    /// Responder: the peer has no key, so completing the handshake proves nothing about it.
    first_contact: bool,
    spoiled: bool,
    garbage: u32,
    counts: LinkCounts,
    started: Instant,
    last_received: Instant,
    last_sent: Instant,
    #[cfg(test)]
    pub(crate) ephemeral: Option<[u8; 32]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgent {
    Enquire,
    Refuse,
}

impl Link {
    /// The end that opens the conversation; its first transmission is `ENQ`.
    pub fn initiator(settings: LinkSettings, part: Part, id: &str, proof: Proof, now: Instant) -> Self {
        let calling = LinkPhase::calling(part, id, proof, now);
        Self { urgent: Some(Urgent::Enquire), part, ..Self::new(settings, true, calling, now) }
    }

    /// The end that waits for an initiator.
    pub fn responder(settings: LinkSettings, now: Instant) -> Self {
        Self::new(settings, false, LinkPhase::Listening { busy: None }, now)
    }

    fn new(settings: LinkSettings, initiator: bool, phase: LinkPhase, now: Instant) -> Self {
        let settings = settings.bounded();
        Self {
            settings,
            initiator,
            part: Part::Unspecified,
            phase,
            decoder: Decoder::new(UNPROVEN_FRAME.min(settings.max_frame)),
            incoming: Incoming::new(),
            outgoing: Outgoing::new(now),
            events: VecDeque::new(),
            urgent: None,
            farewell: false,
            closing: false,
            proven: false,
            first_contact: false,
            spoiled: false,
            garbage: 0,
            counts: LinkCounts::default(),
            started: now,
            last_received: now,
            last_sent: now,
            #[cfg(test)]
            ephemeral: None,
        }
    }

    /// Processes bytes from the stream. The caller takes all events out before the next call.
    pub fn handle_bytes(&mut self, input: &[u8], now: Instant) {
        let mut input = input;
        while !self.is_closed()
            && let Some(token) = self.decoder.next(&mut input)
        {
            if !matches!(token, Token::Malformed(_)) {
                self.last_received = now;
            }
            self.handle_token(token, now);
        }
        // Any valid traffic is a sign of life (SPEC 2.4), also the beginning of a long frame on a slow line; garbage is
        // not.
        if self.decoder.is_within_a_token() {
            self.last_received = now;
        }
    }

    /// The caller reports that the stream ended or broke.
    pub fn handle_end(&mut self) {
        let why = if let LinkPhase::Refused(why) = self.phase { why } else { Closed::Cut };
        self.outgoing.clear();
        self.end(why);
    }

    /// Does what is due; the caller calls it at or after [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if is_due(self.handshake_due()) {
            self.end_at_once(Closed::HandshakeTimeout);
        } else if is_due(self.silence_due()) {
            self.end_at_once(Closed::Silent);
        } else {
            if is_due(self.outgoing.due(self.settings.ack_timeout))
                && self.outgoing.again(self.settings.tries, now).is_err()
            {
                return self.end_at_once(Closed::Unanswered);
            }
            if is_due(self.call_due()) {
                self.call_again(now);
            }
            if is_due(self.life_sign_due()) {
                self.give_life_sign(now);
            }
        }
    }

    /// When [`Self::handle_timeout`] has to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_closed() {
            return None;
        }
        let resend = self.outgoing.due(self.settings.ack_timeout);
        let all = [self.handshake_due(), self.silence_due(), resend, self.call_due(), self.life_sign_due()];
        all.into_iter().flatten().min()
    }

    fn handshake_due(&self) -> Option<Instant> {
        let done = if self.initiator { self.is_open() } else { self.proven };
        if done { None } else { self.started.checked_add(self.settings.handshake_timeout) }
    }

    /// When the peer counts as dead. Until a responder's peer is proven, the time limit of the handshake applies
    /// instead.
    fn silence_due(&self) -> Option<Instant> {
        let awaited = self.is_open() && (self.initiator || self.proven);
        if awaited { self.last_received.checked_add(self.settings.life_sign * self.settings.misses) } else { None }
    }

    fn life_sign_due(&self) -> Option<Instant> {
        let gives = self.initiator && self.is_open() && !self.closing;
        if gives { self.last_sent.checked_add(self.settings.life_sign) } else { None }
    }

    /// Appends what is to be sent now, at most about 64 KiB: once `out` is written, call again. Returns whether
    /// anything was appended.
    pub fn transmit(&mut self, out: &mut Vec<u8>, now: Instant) -> bool {
        let before = out.len();
        match self.urgent.take() {
            Some(Urgent::Enquire) => out.push(frame::ENQ),
            Some(Urgent::Refuse) => frame::encode_counter(frame::NACK, 0, out),
            None => {}
        }
        match self.incoming.answer() {
            Some(Acknowledgement::Ack(counter)) => frame::encode_counter(frame::ACK, counter, out),
            Some(Acknowledgement::Nack(counter)) => frame::encode_counter(frame::NACK, counter, out),
            None => {}
        }
        self.outgoing.transmit(self.settings.window, out, now);
        if self.farewell && self.outgoing.all_sent() {
            self.farewell = false;
            out.push(frame::EOT);
        }
        let appended = out.len() > before;
        if appended {
            self.last_sent = now;
        }
        appended
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > EVENTS_KEPT {
            self.events = VecDeque::new();
        }
        event
    }

    /// Closes in order: sends what is queued, waits for its acknowledgement, then sends `EOT`.
    pub fn close(&mut self, _now: Instant) {
        self.closing = true;
        if !self.is_open() || self.outgoing.len() == 0 {
            self.end_at_once(Closed::ByUs);
        }
    }

    /// Sets the initiator's life-sign interval, from the profile or `Opened.life_sign_ms`; clamped to 50 ms to 1 h.
    pub fn set_life_sign(&mut self, interval: Duration) {
        self.settings.life_sign = bounded_life_sign(interval);
    }

    pub fn is_open(&self) -> bool {
        matches!(self.phase, LinkPhase::Open(_))
    }

    /// Whether [`Self::close`] was called, or the link has ended.
    pub fn is_closing(&self) -> bool {
        self.closing || self.is_closed()
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.phase, LinkPhase::Closed)
    }

    pub fn counts(&self) -> LinkCounts {
        LinkCounts { resent: self.outgoing.resent(), ..self.counts }
    }

    fn handle_token(&mut self, token: Token, now: Instant) {
        match token {
            Token::Malformed(_why) => self.handle_malformed(now),
            Token::Enq => self.handle_enquiry(),
            Token::Ack(counter) => self.handle_ack(counter, now),
            Token::Nack(counter) => self.handle_nack(counter, now),
            Token::Eot => self.handle_farewell(),
            Token::Frame => {
                let mut body = self.decoder.take_body();
                self.handle_frame(&mut body, now);
                self.decoder.reuse(body);
            }
        }
    }

    fn handle_malformed(&mut self, now: Instant) {
        self.counts.malformed = self.counts.malformed.saturating_add(1);
        self.garbage += 1;
        if matches!(self.phase, LinkPhase::Listening { .. }) {
            self.end_at_once(Closed::Protocol("it does not begin with ENQ"));
        } else if self.garbage > GARBAGE {
            self.end_at_once(Closed::Protocol("it sends nothing but garbage"));
        } else if !matches!(self.phase, LinkPhase::Calling(_)) {
            self.incoming.ask_again(now, self.settings.ack_timeout / 4);
        }
    }

    fn handle_ack(&mut self, counter: u8, now: Instant) {
        if matches!(self.phase, LinkPhase::Listening { .. }) {
            self.end_at_once(Closed::Protocol("it does not begin with ENQ"));
        } else if matches!(self.phase, LinkPhase::Calling(_)) {
            if counter == 0 {
                self.begin_handshake();
            }
        } else {
            if self.outgoing.ack(counter, now) {
                self.garbage = 0;
            }
            self.close_if_drained();
        }
    }

    fn handle_nack(&mut self, counter: u8, now: Instant) {
        if matches!(self.phase, LinkPhase::Listening { .. }) {
            self.end_at_once(Closed::Protocol("it does not begin with ENQ"));
        } else if matches!(self.phase, LinkPhase::Calling(_)) {
            if counter == 0 {
                self.phase = LinkPhase::Refused(Closed::Busy);
            }
        } else if self.outgoing.nack(counter, self.settings.tries, now).is_err() {
            self.end_at_once(Closed::Unanswered);
        } else {
            self.close_if_drained();
        }
    }

    fn close_if_drained(&mut self) {
        if self.closing && self.outgoing.len() == 0 {
            self.end_at_once(Closed::ByUs);
        }
    }

    fn handle_farewell(&mut self) {
        let why = if let LinkPhase::Refused(why) = self.phase { why } else { Closed::ByPeer };
        self.outgoing.clear();
        self.end(why);
    }

    fn handle_frame(&mut self, body: &mut [u8], now: Instant) {
        let [counter, kind, content @ ..] = body else {
            return self.end_at_once(Closed::Protocol("a frame without counter or kind"));
        };
        if matches!(self.phase, LinkPhase::Listening { .. }) {
            return self.end_at_once(Closed::Protocol("it does not begin with ENQ"));
        }
        match self.incoming.judge(*counter) {
            FrameVerdict::Take(number) => {
                self.garbage = 0;
                let failed = self.handle_content(*kind, number, content);
                self.incoming.take(number, failed);
            }
            FrameVerdict::Retry(number) => {
                let failed = self.handle_content(*kind, number, content);
                self.incoming.take(number, failed);
            }
            FrameVerdict::Repeated => {
                self.counts.repeated = self.counts.repeated.saturating_add(1);
                self.incoming.acknowledge();
            }
            FrameVerdict::Gap => self.incoming.ask_again(now, self.settings.ack_timeout / 4),
        }
    }

    /// Returns whether the frame could not be decrypted or understood.
    fn handle_content(&mut self, kind: u8, number: u64, content: &mut [u8]) -> bool {
        let before = self.events.len();
        match (kind, self.is_open()) {
            (kind::SEALED, true) => self.handle_sealed(number, content),
            (kind::HELLO | kind::HANDSHAKE | kind::BUSY | kind::UNKNOWN_KEY, true) => {
                self.events.push_back(Event::Unintelligible(Unintelligible::Clear));
            }
            (_, true) => self.events.push_back(Event::Unintelligible(Unintelligible::Kind)),
            (kind, false) => self.handle_opening(kind, content),
        }
        matches!(self.events.get(before), Some(Event::Unintelligible(_)))
    }

    /// Ends at once: drops what is queued and sends `EOT`.
    fn end_at_once(&mut self, why: Closed) {
        if !self.is_closed() {
            self.outgoing.clear();
            self.end_after_queue(why);
        }
    }

    /// Ends after sending what is queued once.
    fn end_after_queue(&mut self, why: Closed) {
        if !self.is_closed() {
            self.farewell = true;
        }
        self.end(why);
    }

    fn end(&mut self, why: Closed) {
        if !self.is_closed() {
            self.phase = LinkPhase::Closed;
            self.events.push_back(Event::Closed(why));
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("initiator", &self.initiator)
            .field("part", &self.part)
            .field("phase", &self.phase)
            .field("incoming", &self.incoming)
            .field("unacknowledged", &self.outgoing.len())
            .finish_non_exhaustive()
    }
}
