//! The conversation of SPEC 4.2 at one end: control bytes and frames in both directions, acknowledged and repeated. It
//! does not know what the frames contain.

use std::time::{Duration, Instant};

use crate::{
    frame::{self, Decoder, Token},
    receive_window::{Acknowledgement, FrameVerdict, ReceiveWindow},
    send_window::{RetriesExhausted, SendWindow},
    settings::LinkSettings,
};

/// A link ends after this many runs of garbage without a valid token between them.
const GARBAGE: u32 = 64;

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

/// What the two ends send each other before there are frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enquiry {
    /// `ENQ`.
    Call,
    /// `ACK 0`, or where `ENQ` is repeated the last `ACK`.
    Accept,
    /// `NACK 0`.
    Refuse,
}

/// One end's state of the conversation.
#[derive(Debug)]
pub(crate) struct Conversation {
    decoder: Decoder,
    received: ReceiveWindow,
    sent: SendWindow,
    /// To send before anything else.
    enquiry: Option<Enquiry>,
    /// `EOT` is to be sent after all frames.
    eot_due: bool,
    garbage: u32,
    counts: LinkCounts,
    last_received: Instant,
    last_sent: Instant,
}

impl Conversation {
    /// `limit`: the longest body accepted, in bytes.
    pub(crate) fn new(limit: usize, now: Instant) -> Self {
        Self {
            decoder: Decoder::new(limit),
            received: ReceiveWindow::new(),
            sent: SendWindow::new(now),
            enquiry: None,
            eot_due: false,
            garbage: 0,
            counts: LinkCounts::default(),
            last_received: now,
            last_sent: now,
        }
    }

    /// The next token of `input`; `None` once `input` is used up.
    pub(crate) fn next_token(&mut self, input: &mut &[u8], now: Instant) -> Option<Token> {
        let token = self.decoder.next(input);
        // Any valid traffic is a sign of life (SPEC 2.4), also the beginning of a long frame on a slow line; garbage is
        // not.
        let is_valid = match token {
            Some(Token::Malformed(_)) => false,
            Some(_) => true,
            None => self.decoder.is_within_a_token(),
        };
        if is_valid {
            self.last_received = now;
        }
        token
    }

    /// The body of the frame that [`Self::next_token`] returned; [`Self::reuse`] takes it back.
    pub(crate) fn take_body(&mut self) -> Vec<u8> {
        self.decoder.take_body()
    }

    pub(crate) fn reuse(&mut self, body: Vec<u8>) {
        self.decoder.reuse(body);
    }

    pub(crate) fn set_frame_limit(&mut self, limit: usize) {
        self.decoder.set_limit(limit);
    }

    /// Counts a run of garbage. Returns whether there were too many.
    pub(crate) fn garbage(&mut self) -> bool {
        self.counts.malformed = self.counts.malformed.saturating_add(1);
        self.garbage += 1;
        self.garbage > GARBAGE
    }

    /// Requests the next frame and all that follow it.
    pub(crate) fn request_missing(&mut self, settings: &LinkSettings, now: Instant) {
        self.received.ask_again(now, settings.ack_timeout / 4);
    }

    /// The number of a received frame, if it is to be processed; [`Self::processed`] follows.
    pub(crate) fn accept(&mut self, counter: u8, settings: &LinkSettings, now: Instant) -> Option<u64> {
        match self.received.judge(counter) {
            FrameVerdict::Take(number) => {
                self.garbage = 0;
                return Some(number);
            }
            FrameVerdict::Retry(number) => return Some(number),
            FrameVerdict::Repeated => {
                self.counts.repeated = self.counts.repeated.saturating_add(1);
                self.received.acknowledge();
            }
            FrameVerdict::Gap => self.request_missing(settings, now),
        }
        None
    }

    /// Records a processed frame. `failed`: it did not decrypt or was not understood.
    pub(crate) fn processed(&mut self, number: u64, failed: bool) {
        self.received.take(number, failed);
    }

    /// Sends or answers `ENQ`.
    pub(crate) fn enquire(&mut self, enquiry: Enquiry) {
        match enquiry {
            Enquiry::Accept => self.received.acknowledge(),
            Enquiry::Call | Enquiry::Refuse => self.enquiry = Some(enquiry),
        }
    }

    /// The peer acknowledged frames.
    pub(crate) fn acknowledged(&mut self, counter: u8, now: Instant) {
        if self.sent.ack(counter, now) {
            self.garbage = 0;
        }
    }

    /// The peer requested frames again.
    pub(crate) fn requested(&mut self, counter: u8, tries: u32, now: Instant) -> Result<(), RetriesExhausted> {
        self.sent.nack(counter, tries, now)
    }

    pub(crate) fn resend(&mut self, tries: u32, now: Instant) -> Result<(), RetriesExhausted> {
        self.sent.again(tries, now)
    }

    pub(crate) fn resend_due(&self, settings: &LinkSettings) -> Option<Instant> {
        self.sent.due(settings.ack_timeout)
    }

    /// When the peer counts as dead.
    pub(crate) fn silence_due(&self, settings: &LinkSettings) -> Option<Instant> {
        self.last_received.checked_add(settings.life_sign * settings.misses)
    }

    pub(crate) fn life_sign_due(&self, interval: Duration) -> Option<Instant> {
        self.last_sent.checked_add(interval)
    }

    /// Whether a life sign has to be sent now; frames that wait for the window serve as signs of life themselves.
    pub(crate) fn needs_life_sign(&mut self, now: Instant) -> bool {
        self.last_sent = now;
        self.sent.all_sent()
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.sent.next_number()
    }

    pub(crate) fn push(&mut self, body: Vec<u8>) {
        self.sent.push(body);
    }

    pub(crate) fn has_room(&self, settings: &LinkSettings) -> bool {
        self.sent.len() < settings.queue && self.sent.bytes() < settings.max_frame
    }

    /// Whether the peer has acknowledged everything.
    pub(crate) fn is_drained(&self) -> bool {
        self.sent.len() == 0
    }

    /// Drops what is queued.
    pub(crate) fn clear(&mut self) {
        self.sent.clear();
    }

    /// Sends `EOT` after what is queued.
    pub(crate) fn send_eot(&mut self) {
        self.eot_due = true;
    }

    pub(crate) fn counts(&self) -> LinkCounts {
        LinkCounts { resent: self.sent.resent(), ..self.counts }
    }

    /// Appends what is to be sent now. Returns whether anything was appended.
    pub(crate) fn transmit(&mut self, window: usize, out: &mut Vec<u8>, now: Instant) -> bool {
        let before = out.len();
        match self.enquiry.take() {
            Some(Enquiry::Call) => out.push(frame::ENQ),
            Some(Enquiry::Refuse) => frame::encode_counter(frame::NACK, 0, out),
            Some(Enquiry::Accept) | None => {}
        }
        match self.received.answer() {
            Some(Acknowledgement::Ack(counter)) => frame::encode_counter(frame::ACK, counter, out),
            Some(Acknowledgement::Nack(counter)) => frame::encode_counter(frame::NACK, counter, out),
            None => {}
        }
        self.sent.transmit(window, out, now);
        if self.eot_due && self.sent.all_sent() {
            self.eot_due = false;
            out.push(frame::EOT);
        }
        let appended = out.len() > before;
        if appended {
            self.last_sent = now;
        }
        appended
    }
}
