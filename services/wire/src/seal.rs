//! Sealing of the frames that follow the handshake (SPEC 4.5): AES-256-GCM under the traffic keys.
//!
//! Guarantees: a nonce is used once per key, because the sequence is the number of the frame and only rises; version,
//! part, direction and sequence are authenticated with each message; sealing and opening work in place.

use proto::link::v1::Part;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::{VERSION, event::Unintelligible, handshake::TrafficKeys, kind};

/// Counter, kind and sequence of a sealed frame.
pub(crate) const HEAD: usize = 10;
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

/// The ciphers of one end of a link.
pub(crate) struct CipherStates {
    sending: CipherState,
    receiving: CipherState,
}

impl CipherStates {
    pub(crate) fn new(keys: &TrafficKeys, part: Part, initiator: bool) -> Self {
        let to_responder = CipherState::new(&keys.to_responder, part, Direction::ToResponder);
        let to_initiator = CipherState::new(&keys.to_initiator, part, Direction::ToInitiator);
        let (sending, receiving) = if initiator { (to_responder, to_initiator) } else { (to_initiator, to_responder) };
        Self { sending, receiving }
    }

    /// The body of a sealed frame; `None` for a message that the cipher does not accept.
    pub(crate) fn seal(&self, number: u64, plaintext: &[u8]) -> Option<Vec<u8>> {
        let mut body = Vec::with_capacity(HEAD + plaintext.len() + TAG);
        body.extend_from_slice(&[number as u8, kind::SEALED]);
        body.extend_from_slice(&number.to_be_bytes());
        self.sending.seal(number, plaintext, &mut body)?;
        Some(body)
    }

    /// The plaintext of a sealed frame's content; decrypts in place. `spoiled`: the message is damaged first.
    pub(crate) fn open<'a>(
        &self,
        number: u64,
        content: &'a mut [u8],
        spoiled: bool,
    ) -> Result<&'a [u8], Unintelligible> {
        let (sequence, sealed) = content.split_first_chunk_mut().ok_or(Unintelligible::DoesNotOpen)?;
        if u64::from_be_bytes(*sequence) != number {
            return Err(Unintelligible::Replayed);
        }
        if let (true, Some(last)) = (spoiled, sealed.last_mut()) {
            *last ^= 0xff;
        }
        self.receiving.open(number, sealed).ok_or(Unintelligible::DoesNotOpen)
    }
}

/// The cipher of one direction of a link.
struct CipherState {
    key: LessSafeKey,
    part: u8,
    direction: Direction,
}

impl CipherState {
    fn new(key: &[u8; 32], part: Part, direction: Direction) -> Self {
        // Parts are numbered from 1 to 4.
        Self { key: aead_key(key), part: u8::try_from(part as i32).unwrap_or(0), direction }
    }

    fn associated_data(&self, sequence: u64) -> Aad<[u8; 11]> {
        let [a, b, c, d, e, f, g, h] = sequence.to_be_bytes();
        Aad::from([VERSION as u8, self.part, self.direction as u8, a, b, c, d, e, f, g, h])
    }

    /// Appends `plaintext`, sealed, to `out`. The caller never uses a sequence twice.
    fn seal(&self, sequence: u64, plaintext: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let start = out.len();
        out.extend_from_slice(plaintext);
        let (_, sealed) = out.split_at_mut_checked(start)?;
        let data = self.associated_data(sequence);
        let tag = self.key.seal_in_place_separate_tag(nonce(sequence), data, sealed).ok()?;
        out.extend_from_slice(tag.as_ref());
        Some(())
    }

    /// Decrypts in place; `None` if the message does not decrypt.
    fn open<'a>(&self, sequence: u64, sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        let opened = self.key.open_in_place(nonce(sequence), self.associated_data(sequence), sealed).ok()?;
        Some(opened)
    }
}
