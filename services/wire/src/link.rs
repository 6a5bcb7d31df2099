//! One end of a link: the conversation of SPEC 4.2 around the handshake and the sealed frames.
//!
//! Sans-io: bytes and instants go in, bytes and events come out. Guarantees, whatever the peer sends: no panic; at most
//! one frame of [`LinkSettings::max_frame`] in memory (4 KiB before the peer has proven itself) and no buffer while
//! idle; messages come out in the order in which they were sent, each at most once, and every missing message was
//! reported as [`Event::Unintelligible`]; a link that makes no progress ends by itself, and [`Event::Closed`] is its
//! last event.

mod phase;
mod state;

use std::{
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;
use proto::link::v1::Part;

use self::{phase::LinkPhase, state::LinkState};
use crate::{
    conversation::{Enquiry, LinkCounts},
    event::{Closed, Event, Unintelligible},
    frame::Token,
    handshake::Ephemeral,
    kind,
    proof::{Admit, Proof},
    seal::{HEAD, TAG},
    settings::{LinkSettings, UNPROVEN_FRAME, bounded_life_sign},
};

/// Number of an initiator's first sealed frame, which follows Hello and handshake.
const FIRST: u64 = 3;

/// One end of a link.
pub struct Link {
    phase: LinkPhase,
    state: LinkState,
    spoiled: bool,
    #[cfg(test)]
    pub(crate) ephemeral: Ephemeral,
}

/// Why a message was not accepted for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the link's queue is full: the peer acknowledges too slowly")]
    Full,
    #[error("the link is not open")]
    NotOpen,
    #[error("the message is longer than a frame may be")]
    TooLarge,
}

impl Link {
    /// The end that opens the conversation; its first transmission is `ENQ`.
    pub fn initiator(settings: LinkSettings, part: Part, id: &str, proof: Proof, now: Instant) -> Self {
        let mut state = LinkState::new(settings, true, part, now);
        state.conversation.enquire(Enquiry::Call);
        Self::new(LinkPhase::calling(part, id, proof, now), state)
    }

    /// The end that waits for an initiator.
    pub fn responder(settings: LinkSettings, now: Instant) -> Self {
        let state = LinkState::new(settings, false, Part::Unspecified, now);
        Self::new(LinkPhase::Listening { busy: None }, state)
    }

    fn new(phase: LinkPhase, state: LinkState) -> Self {
        Self {
            phase,
            state,
            spoiled: false,
            #[cfg(test)]
            ephemeral: None,
        }
    }

    /// Processes bytes from the stream. The caller takes all events out before the next call.
    pub fn handle_bytes(&mut self, input: &[u8], now: Instant) {
        let mut input = input;
        while !self.is_closed()
            && let Some(token) = self.state.conversation.next_token(&mut input, now)
        {
            self.handle_token(token, now);
        }
    }

    /// The caller reports that the stream ended or broke.
    pub fn handle_end(&mut self) {
        let why = if let LinkPhase::Refused(why) = self.phase { why } else { Closed::Cut };
        self.state.end_silently(why);
    }

    /// Does what is due; the caller calls it at or after [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if is_due(self.state.handshake_due()) {
            return self.state.end_at_once(Closed::HandshakeTimeout);
        }
        if is_due(self.state.silence_due()) {
            return self.state.end_at_once(Closed::Silent);
        }
        let LinkState { conversation, settings, .. } = &mut self.state;
        if is_due(conversation.resend_due(settings)) && conversation.resend(settings.tries, now).is_err() {
            return self.state.end_at_once(Closed::Unanswered);
        }
        if is_due(self.phase.call_due(&self.state)) {
            self.phase.call_again(&mut self.state, now);
        }
        if is_due(self.state.life_sign_due()) && self.state.conversation.needs_life_sign(now) {
            // Only a closed link refuses, and a closed link gives no life signs.
            let _refused = self.push_sealed(&[]);
        }
    }

    /// When [`Self::handle_timeout`] has to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_closed() {
            return None;
        }
        let (state, call) = (&self.state, self.phase.call_due(&self.state));
        let resend = state.conversation.resend_due(&state.settings);
        [state.handshake_due(), state.silence_due(), resend, call, state.life_sign_due()].into_iter().flatten().min()
    }

    /// Appends what is to be sent now, at most about 64 KiB: once `out` is written, call again. Returns whether
    /// anything was appended.
    pub fn transmit(&mut self, out: &mut Vec<u8>, now: Instant) -> bool {
        self.state.conversation.transmit(self.state.settings.window, out, now)
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.state.poll_event()
    }

    /// The owner's answer to [`Event::Hello`]. `Admit::Busy` is allowed at any time before that, even before the first
    /// byte; then the link answers `ENQ` with `NACK`.
    pub fn admit(&mut self, admit: Admit<'_>, _now: Instant) {
        let ephemeral = self.ephemeral();
        self.phase.admit(&mut self.state, admit, ephemeral);
    }

    /// Seals and queues a message. An empty one is a life sign.
    ///
    /// The maximum length of a message is [`LinkSettings::max_frame`] less 26 bytes; that of an initiator's first
    /// message, which proves it, 4,096 less 26. The queue is also full once its bytes reach `max_frame`.
    pub fn send(&mut self, plaintext: &[u8], _now: Instant) -> Result<(), SendError> {
        if !self.is_open() || self.state.closing {
            return Err(SendError::NotOpen);
        }
        let longest = self.state.settings.max_frame;
        let is_first = self.state.initiator && self.state.conversation.next_number() == FIRST;
        let limit = if is_first { UNPROVEN_FRAME.min(longest) } else { longest };
        if plaintext.len() + HEAD + TAG > limit {
            return Err(SendError::TooLarge);
        }
        if !self.ready() {
            return Err(SendError::Full);
        }
        self.push_sealed(plaintext)
    }

    /// Whether [`Self::send`] would accept a message now.
    pub fn ready(&self) -> bool {
        self.is_open() && !self.state.closing && self.state.conversation.has_room(&self.state.settings)
    }

    /// Drill (SPEC 4.8): from now on messages in both directions fail to decrypt, as with a spoiled key. It reveals no
    /// secret: messages are sealed as always and damaged afterwards. `false` ends the drill.
    pub fn spoil(&mut self, spoiled: bool) {
        self.spoiled = spoiled;
    }

    /// Closes in order: sends what is queued, waits for its acknowledgement, then sends `EOT`.
    pub fn close(&mut self, _now: Instant) {
        self.state.closing = true;
        if !self.is_open() || self.state.conversation.is_drained() {
            self.state.end_at_once(Closed::ByUs);
        }
    }

    /// Sets the initiator's life-sign interval, from the profile or `Opened.life_sign_ms`; clamped to 50 ms to 1 h.
    pub fn set_life_sign(&mut self, interval: Duration) {
        self.state.settings.life_sign = bounded_life_sign(interval);
    }

    pub fn is_open(&self) -> bool {
        !self.is_closed() && matches!(self.phase, LinkPhase::Open(_))
    }

    /// Whether [`Self::close`] was called, or the link has ended.
    pub fn is_closing(&self) -> bool {
        self.state.closing || self.is_closed()
    }

    pub fn is_closed(&self) -> bool {
        self.state.closed
    }

    pub fn counts(&self) -> LinkCounts {
        self.state.conversation.counts()
    }

    fn handle_token(&mut self, token: Token, now: Instant) {
        let tries = self.state.settings.tries;
        match (token, &mut self.phase) {
            (Token::Enq, phase) => phase.handle_enquiry(&mut self.state),
            (Token::Eot, phase) => {
                let why = if let LinkPhase::Refused(why) = phase { *why } else { Closed::ByPeer };
                self.state.end_silently(why);
            }
            (Token::Malformed(_), _) => self.handle_garbage(now),
            (Token::Ack(_) | Token::Nack(_) | Token::Frame, LinkPhase::Listening { .. }) => self.state.not_enquired(),
            (Token::Ack(0), LinkPhase::Calling(_)) => {
                let ephemeral = self.ephemeral();
                self.phase.begin_handshake(&mut self.state, ephemeral);
            }
            (Token::Nack(0), LinkPhase::Calling(_)) => self.phase = LinkPhase::Refused(Closed::Busy),
            (Token::Ack(_) | Token::Nack(_), LinkPhase::Calling(_)) => {}
            (Token::Ack(counter), _) => {
                self.state.conversation.acknowledged(counter, now);
                self.state.close_if_drained();
            }
            (Token::Nack(counter), _) => match self.state.conversation.requested(counter, tries, now) {
                Ok(()) => self.state.close_if_drained(),
                Err(_exhausted) => self.state.end_at_once(Closed::Unanswered),
            },
            (Token::Frame, _) => {
                let mut body = self.state.conversation.take_body();
                self.handle_frame(&mut body, now);
                self.state.conversation.reuse(body);
            }
        }
    }

    fn handle_garbage(&mut self, now: Instant) {
        let LinkState { conversation, settings, .. } = &mut self.state;
        let is_too_much = conversation.garbage();
        if matches!(self.phase, LinkPhase::Listening { .. }) {
            self.state.not_enquired();
        } else if is_too_much {
            self.state.violation("it sends nothing but garbage");
        } else if !matches!(self.phase, LinkPhase::Calling(_)) {
            conversation.request_missing(settings, now);
        }
    }

    fn handle_frame(&mut self, body: &mut [u8], now: Instant) {
        let [counter, kind, content @ ..] = body else {
            return self.state.violation("a frame without counter or kind");
        };
        let LinkState { conversation, settings, .. } = &mut self.state;
        if let Some(number) = conversation.accept(*counter, settings, now) {
            let before = self.state.events.len();
            self.handle_content(*kind, number, content);
            let failed = matches!(self.state.events.get(before), Some(Event::Unintelligible(_)));
            self.state.conversation.processed(number, failed);
        }
    }

    fn handle_content(&mut self, kind: u8, number: u64, content: &mut [u8]) {
        let opened = match (kind, &mut self.phase) {
            (kind::SEALED, LinkPhase::Open(ciphers)) => ciphers.open(number, content, self.spoiled),
            (kind::HELLO | kind::HANDSHAKE | kind::BUSY | kind::UNKNOWN_KEY, LinkPhase::Open(_)) => {
                Err(Unintelligible::Clear)
            }
            (_, LinkPhase::Open(_)) => Err(Unintelligible::Kind),
            (kind, phase) => return phase.handle_frame(&mut self.state, kind, content),
        };
        match opened {
            // A sign of life.
            Ok([]) => {}
            Ok(message) => {
                let message = Bytes::copy_from_slice(message);
                self.state.proven = true;
                if !self.state.first_contact {
                    self.state.conversation.set_frame_limit(self.state.settings.max_frame);
                }
                self.state.emit(Event::Message(message));
            }
            Err(why) => self.state.not_understood(why),
        }
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

    fn push_sealed(&mut self, plaintext: &[u8]) -> Result<(), SendError> {
        let LinkPhase::Open(ciphers) = &self.phase else { return Err(SendError::NotOpen) };
        let number = self.state.conversation.next_number();
        let mut body = ciphers.seal(number, plaintext).ok_or(SendError::TooLarge)?;
        if let (true, Some(last)) = (self.spoiled, body.last_mut()) {
            *last ^= 0xff;
        }
        self.state.conversation.push(body);
        Ok(())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("initiator", &self.state.initiator)
            .field("part", &self.state.part)
            .field("phase", &self.phase)
            .field("closed", &self.state.closed)
            .finish_non_exhaustive()
    }
}
