//! One end of a link.

use std::time::{Duration, Instant};

use proto::link::v1::Part;

use crate::{Event, LinkKey, PairingSecret, PublicKey, Settings, StaticKey};

/// What an initiator proves, and to whom.
#[derive(Clone, Debug)]
pub enum Proof {
    /// `Noise_NK`: the responder is known by its static key, the initiator authenticates inside the channel.
    FirstContact { responder: PublicKey },
    /// `Noise_NKpsk0`: both prove the granted key.
    Key { responder: PublicKey, key_no: u64, key: LinkKey },
    /// `Noise_NNpsk0`: an engine to its monitor.
    Pairing(PairingSecret),
}

/// A responder's answer to [`Event::Hello`].
#[derive(Clone, Copy, Debug)]
pub enum Admit<'a> {
    FirstContact(&'a StaticKey),
    Key(&'a StaticKey, &'a LinkKey),
    Pairing(&'a PairingSecret),
    /// No such key, id or pin: the same answer, after the same work, as to a handshake that proves another key.
    UnknownKey,
    /// Overloaded: try again after this time, at most [`crate::LONGEST_RETRY`].
    Busy(Duration),
}

/// A message that was not accepted for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the link's queue is full: the peer acknowledges too slowly")]
    Full,
    #[error("the link is not open")]
    NotOpen,
    #[error("the message is longer than a frame may be")]
    TooLarge,
}

/// Sans-io: bytes and instants in, bytes and events out.
#[derive(Debug)]
pub struct Link {
    settings: Settings,
}

impl Link {
    /// An end that opens the conversation.
    pub fn initiator(settings: Settings, _part: Part, _id: &str, _proof: Proof, _now: Instant) -> Self {
        Self { settings }
    }

    /// An end that waits for one.
    pub fn responder(settings: Settings, _now: Instant) -> Self {
        Self { settings }
    }

    /// Answers an [`Event::Hello`]. `Admit::Busy` may come at any time before, even before the first byte.
    pub fn admit(&mut self, _admit: Admit<'_>, _now: Instant) {}

    /// Bytes from the stream. Take the events out before the next call.
    pub fn handle_bytes(&mut self, _input: &[u8], _now: Instant) {}

    /// The stream ended or broke.
    pub fn handle_end(&mut self) {}

    /// To be called at or after [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Appends what is to be sent now, in portions of about 64 KiB: once `out` is written, ask again. Returns whether
    /// anything was appended.
    pub fn transmit(&mut self, _out: &mut Vec<u8>, _now: Instant) -> bool {
        false
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Seals and queues a message. An empty one is a life sign.
    pub fn send(&mut self, _plaintext: &[u8], _now: Instant) -> Result<(), SendError> {
        Err(SendError::NotOpen)
    }

    /// Whether [`Self::send`] would take a message now.
    pub fn ready(&self) -> bool {
        false
    }

    pub fn is_open(&self) -> bool {
        false
    }

    pub fn is_closing(&self) -> bool {
        false
    }

    pub fn is_closed(&self) -> bool {
        false
    }

    /// The initiator's interval, as the profile or `Opened.life_sign_ms` says; kept within 50 ms and one hour.
    pub fn set_life_sign(&mut self, interval: Duration) {
        self.settings.life_sign = interval;
    }

    /// Closes in order: what is queued is sent and acknowledged first, then `EOT`.
    pub fn close(&mut self, _now: Instant) {}

    /// Drill (SPEC 4.8): from now on what this end sends does not open at the peer, and what it receives does not open
    /// here, just as with a spoiled key. Nothing secret is given away by it.
    pub fn spoil(&mut self) {}

    /// Ends [`Self::spoil`].
    pub fn repair(&mut self) {}
}
