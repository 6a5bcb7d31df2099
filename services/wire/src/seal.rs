//! Sealing of the frames that follow the handshake (SPEC 4.5).

use ring::aead::{AES_256_GCM, LessSafeKey, Nonce, UnboundKey};

/// Four zero bytes and the sequence, big endian.
pub(crate) fn nonce(sequence: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = sequence.to_be_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}

#[expect(clippy::expect_used, reason = "ring refuses only a key of another length, and the type says 32 bytes")]
pub(crate) fn aead_key(bytes: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).expect("AES-256 takes 32 bytes"))
}
