//! Messages of an open link: sealing, opening, life signs, and the drill that spoils them.

use std::time::Instant;

use bytes::Bytes;

use super::{Link, LinkPhase, UNPROVEN_FRAME};
use crate::{
    event::{Event, Unintelligible},
    kind,
    seal::{CipherState, TAG},
};

/// Counter, kind, sequence.
const HEAD: usize = 10;
/// Number of an initiator's first sealed frame, which follows Hello and handshake.
const FIRST: u64 = 3;

/// The ciphers for both directions of an open link.
pub(super) struct CipherStates {
    pub(super) sending: CipherState,
    pub(super) receiving: CipherState,
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
    /// Seals and queues a message. An empty one is a life sign.
    ///
    /// The maximum length of a message is [`crate::LinkSettings::max_frame`] less 26 bytes; that of an initiator's
    /// first message, which proves it, 4,096 less 26. The queue is also full once its bytes reach `max_frame`.
    pub fn send(&mut self, plaintext: &[u8], _now: Instant) -> Result<(), SendError> {
        if !self.is_open() || self.closing {
            return Err(SendError::NotOpen);
        }
        let first = self.initiator && self.outgoing.next_number() == FIRST;
        let limit = if first { UNPROVEN_FRAME.min(self.settings.max_frame) } else { self.settings.max_frame };
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
        let room = self.outgoing.len() < self.settings.queue && self.outgoing.bytes() < self.settings.max_frame;
        self.is_open() && !self.closing && room
    }

    /// Drill (SPEC 4.8): from now on messages in both directions fail to decrypt, as with a spoiled key. It reveals no
    /// secret: messages are sealed as always and damaged afterwards.
    pub fn spoil(&mut self) {
        self.spoiled = true;
    }

    /// Ends [`Self::spoil`].
    pub fn repair(&mut self) {
        self.spoiled = false;
    }

    pub(super) fn give_life_sign(&mut self, now: Instant) {
        self.last_sent = now;
        // Frames that wait for the window serve as signs of life themselves.
        if self.outgoing.all_sent() {
            // Only a closed link refuses, and a closed link gives no life signs.
            let _refused = self.push_sealed(&[]);
        }
    }

    fn push_sealed(&mut self, plaintext: &[u8]) -> Result<(), SendError> {
        let LinkPhase::Open(ciphers) = &self.phase else { return Err(SendError::NotOpen) };
        let number = self.outgoing.next_number();
        let mut body = Vec::with_capacity(HEAD + plaintext.len() + TAG);
        body.extend_from_slice(&[number as u8, kind::SEALED]);
        body.extend_from_slice(&number.to_be_bytes());
        ciphers.sending.seal(number, plaintext, &mut body).ok_or(SendError::TooLarge)?;
        if let (true, Some(last)) = (self.spoiled, body.last_mut()) {
            *last ^= 0xff;
        }
        self.outgoing.push(body);
        Ok(())
    }

    pub(super) fn handle_sealed(&mut self, number: u64, content: &mut [u8]) {
        match self.opened(number, content) {
            // A sign of life.
            Ok([]) => {}
            Ok(message) => {
                let message = Bytes::copy_from_slice(message);
                self.proven = true;
                if !self.first_contact {
                    self.decoder.set_limit(self.settings.max_frame);
                }
                self.events.push_back(Event::Message(message));
            }
            Err(why) => self.events.push_back(Event::Unintelligible(why)),
        }
    }

    fn opened<'a>(&self, number: u64, content: &'a mut [u8]) -> Result<&'a [u8], Unintelligible> {
        let LinkPhase::Open(ciphers) = &self.phase else { return Err(Unintelligible::DoesNotOpen) };
        let (sequence, sealed) = content.split_first_chunk_mut().ok_or(Unintelligible::DoesNotOpen)?;
        if u64::from_be_bytes(*sequence) != number {
            return Err(Unintelligible::Replayed);
        }
        if let (true, Some(last)) = (self.spoiled, sealed.last_mut()) {
            *last ^= 0xff;
        }
        ciphers.receiving.open(number, sealed).ok_or(Unintelligible::DoesNotOpen)
    }
}
