//! Sealing of the frames that follow the handshake (SPEC 4.5): AES-256-GCM under the traffic keys.
//!
//! Guarantees: a nonce is used once per key, because the sequence is the number of the frame and only rises; version,
//! part, direction and sequence are authenticated with each message; sealing and opening work in place.

use proto::link::v1::Part;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::{VERSION, handshake::TrafficKeys};

/// Bytes that sealing appends to the plaintext.
pub(crate) const TAG: usize = 16;

/// Four zero bytes and the sequence, big endian.
pub(crate) fn nonce(sequence: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = sequence.to_be_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}

#[expect(clippy::expect_used, reason = "ring refuses only a key of another length, and the type says 32 bytes")]
pub(crate) fn aead_key(bytes: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).expect("AES-256 takes 32 bytes"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Direction {
    ToResponder = 0,
    ToInitiator = 1,
}

/// The cipher of one direction of a link.
pub(crate) struct CipherState {
    key: LessSafeKey,
    part: u8,
    direction: Direction,
}

impl CipherState {
    fn new(key: &[u8; 32], part: Part, direction: Direction) -> Self {
        // Parts are numbered from 1 to 4.
        Self { key: aead_key(key), part: u8::try_from(part as i32).unwrap_or(0), direction }
    }

    /// The two ciphers of one end: for sending and for receiving.
    pub(crate) fn both(keys: &TrafficKeys, part: Part, initiator: bool) -> (Self, Self) {
        let to_responder = Self::new(&keys.to_responder, part, Direction::ToResponder);
        let to_initiator = Self::new(&keys.to_initiator, part, Direction::ToInitiator);
        if initiator { (to_responder, to_initiator) } else { (to_initiator, to_responder) }
    }

    fn associated_data(&self, sequence: u64) -> Aad<[u8; 11]> {
        let [a, b, c, d, e, f, g, h] = sequence.to_be_bytes();
        Aad::from([VERSION as u8, self.part, self.direction as u8, a, b, c, d, e, f, g, h])
    }

    /// Appends `plaintext`, sealed, to `out`. The caller never uses a sequence twice.
    pub(crate) fn seal(&self, sequence: u64, plaintext: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let start = out.len();
        out.extend_from_slice(plaintext);
        let (_, sealed) = out.split_at_mut_checked(start)?;
        let data = self.associated_data(sequence);
        let tag = self.key.seal_in_place_separate_tag(nonce(sequence), data, sealed).ok()?;
        out.extend_from_slice(tag.as_ref());
        Some(())
    }

    /// Decrypts in place; `None` if the message does not decrypt.
    pub(crate) fn open<'a>(&self, sequence: u64, sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        let opened = self.key.open_in_place(nonce(sequence), self.associated_data(sequence), sealed).ok()?;
        Some(opened)
    }
}
