//! The sealed link between Central and a charging point's monitor, its engine, or a driver; and between an engine and
//! its monitor (SPEC 1.4, 4). Sans-io: bytes and instants go in, bytes and events come out, for both ends.
//!
//! This page specifies the wire format. Together with `proto/chargemesh/link/v1/*.proto` and the test vectors in
//! `services/wire/vectors` it suffices to write the other end in any language. Each test run computes the vectors and
//! compares them; after a deliberate change of the format `WIRE_VECTORS=write cargo test -p wire vectors` rewrites
//! them.
//!
//! # 1. The stream
//!
//! One connection, TCP or a Unix socket, is one link. The end that connects is the *initiator*, the other the
//! *responder*. Both directions carry the same tokens, in any order and split into any packets:
//!
//! | token | bytes |
//! |---|---|
//! | `ENQ` | `05` |
//! | `EOT` | `04` |
//! | `ACK n` | `06` esc(n), n one byte |
//! | `NACK n` | `15` esc(n), n one byte |
//! | frame | `02` esc(body) `03` esc(LRC), LRC the XOR of all bytes of the body |
//!
//! esc sends each of the seven control bytes `02 03 04 05 06 10 15` as `10` followed by the byte XOR `40`, and every
//! other byte as it is. No other byte may be escaped: there is one encoding of a body. (`frames.json`)
//!
//! A body is a counter byte, a kind byte and content; at most [`LinkSettings::max_frame`] bytes (1 MiB) before
//! escaping, and at most 4,096 until the receiver has opened a message of the peer (a responder) or completed the
//! handshake (an initiator). On a first contact a responder never accepts more, since anybody can complete that
//! handshake.
//!
//! A receiver skips bytes that fit none of these tokens: outside a frame, every byte that begins no token; within a
//! frame, a raw control byte other than `STX` and `ETX` makes the frame invalid, and its rest is skipped up to `STX`,
//! or up to `ETX` and its check. The receiver asks for a frame that is invalid or has a wrong LRC by `NACK` (section
//! 2). A responder closes when the very first byte is not `ENQ`; either end closes after 64 runs of garbage without a
//! valid token between them.
//!
//! # 2. The conversation
//!
//! 1. The initiator sends `ENQ` and waits. Without an answer it sends `ENQ` again, three times in all, 2 s apart.
//! 2. The responder answers `ACK 0`. An overloaded responder answers `NACK 0`, one Busy frame with counter 1, and
//!    `EOT`, and closes. It may also send the Busy frame and `EOT` later, until its answer to the handshake.
//! 3. Frames flow both ways. Each direction numbers its frames 1, 2, 3, …; the counter byte is the number modulo 256.
//!    At most 32 frames (settable up to 127) are unacknowledged.
//! 4. A receiver accepts frames in order. It accepts and acknowledges the expected frame; `ACK n` acknowledges all
//!    frames up to the one with counter n, and one `ACK` for all frames of one read is enough. With e the expected
//!    counter and c the frame's, (e − c) mod 256 in 1..=128 is a repetition: the receiver drops it and sends the last
//!    `ACK` again. Any other counter is ahead of e, so a frame was lost: the receiver drops it and sends `NACK e`. It
//!    also sends `NACK e` after an unreadable frame or garbage. It sends `NACK` for the same e at most once in 0.5 s.
//! 5. `NACK n` acknowledges all frames before n and requests n and all frames after it, byte for byte as before. The
//!    sender also repeats frames that are not acknowledged within 2 s. It sends a frame at most three times, then it
//!    closes the link. It ignores an `ACK` or `NACK` of a frame that it never sent.
//! 6. `EOT` ends the link in order. Where possible its sender has waited for the acknowledgement of all its frames.
//!    After `EOT` neither end sends or processes anything.
//!
//! `ACK` says that a frame was received; it does not say that the frame could be decrypted or that its message had an
//! effect. Effects have their own answers (`Up.id`, `Answer.to`): a message that needs an answer is repeated, newly
//! sealed, until the answer arrives.
//!
//! **Signs of life.** Once the link is open, an initiator that has sent no byte for its interval (0.5 s, or what its
//! profile says; it tells Central in `Opened.life_sign_ms`) sends a sealed frame with an empty plaintext. Its `ACK` is
//! the sign of life in return. An end that has received nothing but garbage for three intervals considers the peer dead
//! and closes; a frame that is still arriving is a sign of life.
//!
//! # 3. Kinds of frames
//!
//! | kind | from | content |
//! |---|---|---|
//! | `10` Hello | initiator | protobuf `Hello`, in clear |
//! | `11` Handshake | both | a Noise message, as it is |
//! | `12` Busy | responder | protobuf `Busy`, in clear; the receiver caps the time at 60 s and jitters it |
//! | `13` UnknownKey | responder | protobuf `UnknownKey` (empty), in clear, followed by `EOT` |
//! | `20` Sealed | both | sequence (8 bytes, big endian), ciphertext, tag (16 bytes) |
//!
//! The first four are valid only before the link is open, and the most that they can cause is a first contact. An open
//! link acknowledges and reports them, and frames of unknown kinds, and otherwise ignores them. Before the link is
//! open, a frame out of place ends it. There is no way to send a message in clear.
//!
//! # 4. Opening
//!
//! ```text
//! initiator                                    responder
//! ENQ                                     ──▶
//!                                         ◀──  ACK 0
//! 1 Hello, 2 Handshake (message 1)        ──▶
//!                                         ◀──  ACK 2, 1 Handshake (message 2)
//! ACK 1
//! 3 Sealed …                              ──▶
//!                                         ◀──  2 Sealed …
//! ```
//!
//! `Hello.version` is 1. `Hello.part` says which part the initiator is. `Hello.id` is the charging point's or the
//! driver's id; empty for a pairing. `Hello.key_no` names the granted key; 0 for a first contact and for a pairing.
//! `Hello.pin` is the first 8 bytes of the responder's static public key that the initiator expects; empty for a
//! pairing.
//!
//! The handshake is the Noise Protocol Framework, revision 34, with empty payloads; each message is 48 bytes:
//!
//! | case | name | static key | psk |
//! |---|---|---|---|
//! | first contact (`key_no` 0) | `Noise_NK_25519_AESGCM_SHA256` | the responder's, known by enrolment | |
//! | with a granted key | `Noise_NKpsk0_25519_AESGCM_SHA256` | the responder's | HKDF(key, `"noise psk"`) |
//! | pairing (part `PAIRING`) | `Noise_NNpsk0_25519_AESGCM_SHA256` | | HKDF(pairing secret, `"pairing psk"`) |
//!
//! The prologue is the content of the Hello frame, byte for byte as it travelled. HKDF(secret, info) is HKDF-SHA256
//! with the salt `"chargemesh/1"`, 32 bytes long. Over a Unix socket of mode 0600 the pairing secret is 32 zero bytes.
//! Noise's `Split()` gives the two traffic keys of 32 bytes: the first for what goes to the responder, the second for
//! what goes to the initiator. Noise's own transport messages are not used. (`handshakes.json`)
//!
//! A responder answers UnknownKey and `EOT` both where it knows no such key, id or pin and where message 1 does not
//! decrypt, after the same amount of computation. It answers a Hello of another version with `EOT`. The responder
//! closes if no message has been decrypted 10 s after the connection began, the initiator if the link is not open by
//! then.
//!
//! Message 2 proves to the initiator that the responder holds the static key (and the psk). To the responder nothing is
//! proven yet, since message 1 may be a replay: the first sealed message that decrypts proves the peer. That first
//! message is `Authenticate` on a first contact, so that the credential travels encrypted, and `Opened` otherwise.
//!
//! # 5. Sealed frames
//!
//! AES-256-GCM under the traffic key of the direction:
//!
//! ```text
//! sequence         the frame's number: the counter byte is its low byte
//! nonce            00 00 00 00 ‖ sequence (8, big endian)
//! associated data  version (1) ‖ part (1) ‖ direction (1: 0 to the responder, 1 to the initiator) ‖ sequence (8)
//! body             counter (1) ‖ 20 ‖ sequence (8) ‖ ciphertext ‖ tag (16)
//! plaintext        protobuf `Up` or `Down`; to and from a monitor `FromEngine` and `FromMonitor`; empty: a life sign
//! ```
//!
//! Since Hello and the handshake are frames too, the first sequence is 3 to the responder and 2 to the initiator. It
//! rises by one with every frame, and the receiver accepts only the number that the frame has in the conversation: no
//! message can be replayed, reordered or left out unnoticed. A frame with another sequence, or one that does not
//! decrypt, is acknowledged, reported and dropped, and the link goes on. If the next frame has the same counter, it
//! replaces the one that did not decrypt. (`sealed.json`, `conversations.json`)
//!
//! # 6. Telemetry
//!
//! Readings travel as `SealedReading` inside `Up`, or over Kafka, sealed under a key of their own: see [`telemetry`].
//! (`telemetry.json`)
//!
//! # 7. Signed tickets
//!
//! Central signs each ticket and each authorisation, so that they can be checked without it: see [`signature`].
//! (`signatures.json`)
//!
//! # In this crate
//!
//! [`Link`] is one end; it combines the conversation (`conversation`), the handshake and the
//! sealing. [`frame`] encodes and decodes section 1, also for tools that inspect the wire. `mesh::link` gives a
//! [`Link`] its stream and its clock.
//!
//! Architecture invariant: no sockets, no clock, no async; depends on no other crate of the workspace but `proto`; no
//! input panics.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod conversation;
mod event;
pub mod frame;
mod handshake;
mod key;
pub mod kind;
mod link;
#[cfg(test)]
mod pair;
mod proof;
mod receive_window;
mod seal;
mod send_window;
mod settings;
pub mod signature;
pub mod telemetry;
#[cfg(test)]
mod tests;

pub use conversation::LinkCounts;
pub use event::{Closed, Event, Hello, Unintelligible};
pub use key::{LinkKey, PairingSecret, Pin, PublicKey, StaticKey};
pub use link::{Link, SendError};
pub use proof::{Admit, Proof};
pub use settings::LinkSettings;

/// The version of the wire that a Hello names.
pub const VERSION: u32 = 1;
