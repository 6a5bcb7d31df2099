//! The sealed link between a charging point's monitor, its engine, or a driver, and Central; and between an engine and
//! its monitor (SPEC 1.4, 4). Sans-io: bytes and instants in, bytes and events out, for both ends.
//!
//! What follows describes the wire so that the other end can be written from it, from
//! `proto/chargemesh/link/v1/*.proto`, and from the vectors in `services/wire/vectors`, in any language. The vectors are
//! worked out anew by each test run; after a deliberate change `WIRE_VECTORS=write cargo test -p wire vectors` rewrites
//! them.
//!
//! # 1. The stream
//!
//! One connection, TCP or a Unix socket, is one link. The end that connects is the *initiator*, the other the
//! *responder*. Both directions carry the same tokens, in any order and any split:
//!
//! | token | bytes |
//! |---|---|
//! | `ENQ` | `05` |
//! | `EOT` | `04` |
//! | `ACK n` | `06` esc(n), n one byte |
//! | `NACK n` | `15` esc(n), n one byte |
//! | frame | `02` esc(body) `03` esc(LRC), LRC the XOR of all bytes of the body |
//!
//! esc sends each of the seven control bytes `02 03 04 05 06 10 15` as `10` followed by the byte XOR `40`, and every other
//! byte as it is. No other byte may be escaped: there is one encoding of a body. (`frames.json`)
//!
//! A body is a counter byte, a kind byte and content; at most [`LinkSettings::max_frame`] bytes (1 MiB) before escaping, and
//! at most 4,096 until the receiver has opened a message of the peer (a responder) or completed the handshake (an
//! initiator). A responder takes no more on a first contact, whose channel anybody can open.
//!
//! Bytes that are none of this are skipped up to the next token that can be read: outside a frame every byte that
//! begins no token; within a frame a raw control byte other than `STX` and `ETX` loses the frame, and what follows is
//! skipped up to `STX`, or `ETX` and its check. A frame that is lost or has a wrong LRC is asked for by `NACK` (section 2).
//! A responder closes when the very first byte is not `ENQ`; either end after 64 runs of garbage with nothing whole
//! between them.
//!
//! # 2. The conversation
//!
//! 1. The initiator sends `ENQ` and waits; without an answer it repeats it, three times in all, 2 s apart.
//! 2. The responder answers `ACK 0`. Overloaded, it answers `NACK 0`, one Busy frame with counter 1, and `EOT`, and
//!    closes. It may also send the Busy frame and `EOT` later, up to its answer to the handshake.
//! 3. Frames flow both ways. Each direction numbers its frames 1, 2, 3, …; the counter byte is the number modulo 256.
//!    At most 32 frames (settable up to 127) are unacknowledged.
//! 4. A receiver takes frames in order. The expected one is taken and acknowledged; `ACK n` acknowledges all frames up to
//!    the one with counter n, and one `ACK` for all that came in one read is enough. With e the expected counter and c
//!    the frame's, (e − c) mod 256 in 1..=128 is a repetition: it is dropped and the last `ACK` is sent again. Anything
//!    else is ahead, so something was lost: it is dropped and `NACK e` is sent. After an unreadable frame or garbage
//!    `NACK e` is sent too. For the same e not more often than each 0.5 s.
//! 5. `NACK n` acknowledges all frames before n and asks for n and all that followed it, byte for byte as before. Frames
//!    not acknowledged for 2 s are sent again likewise. A frame is sent three times at most; then the link is closed. An
//!    `ACK` or `NACK` of what was never sent means nothing.
//! 6. `EOT` ends the link in order; its sender has first got all its frames acknowledged, if it could. Nothing is sent
//!    and nothing is heard after it.
//!
//! `ACK` says that a frame was received, not that it could be opened and not that anything was done. Effects have their
//! own answers (`Up.id`, `Answer.to`), and a message that must have one is repeated, newly sealed, until then.
//!
//! **Signs of life.** Once the link is open, an initiator that has sent no byte for its interval (0.5 s, or what its
//! profile says; it tells Central in `Opened.life_sign_ms`) sends a sealed frame with an empty plaintext. The `ACK` is
//! the sign in return. An end that has received nothing but garbage for three intervals takes the peer for dead and
//! closes; a frame that is still coming is a sign of life.
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
//! The first four mean something only before the link is open and can at most cause a first contact. On an open link
//! they, and kinds that do not exist, are acknowledged, reported and otherwise ignored. Before that, a frame out of
//! place ends the link. There is no way to send a message in clear.
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
//! `Hello.version` is 1. `Hello.part` is who speaks. `Hello.id` is the charging point's or the driver's id; empty for a
//! pairing. `Hello.key_no` names the granted key; 0 for a first contact and for a pairing. `Hello.pin` is the first 8
//! bytes of the responder's static public key that the initiator means; empty for a pairing.
//!
//! The handshake is the Noise Protocol Framework, revision 34, with empty payloads; each message is 48 bytes:
//!
//! | case | name | static key | psk |
//! |---|---|---|---|
//! | first contact (`key_no` 0) | `Noise_NK_25519_AESGCM_SHA256` | the responder's, known by enrolment | |
//! | with a granted key | `Noise_NKpsk0_25519_AESGCM_SHA256` | the responder's | HKDF(key, `"noise psk"`) |
//! | pairing (part `PAIRING`) | `Noise_NNpsk0_25519_AESGCM_SHA256` | | HKDF(pairing secret, `"pairing psk"`) |
//!
//! The prologue is the content of the Hello frame, byte for byte as it travelled. HKDF(secret, info) is HKDF-SHA256 with
//! the salt `"chargemesh/1"`, 32 bytes long. Over a Unix socket of mode 0600 the pairing secret is 32 zero bytes. Noise's
//! `Split()` gives the two traffic keys of 32 bytes: the first for what goes to the responder, the second for what goes
//! to the initiator. Noise's own transport messages are not used. (`handshakes.json`)
//!
//! A responder that knows no such key, id or pin, and one to which message 1 does not open, give the same answer after
//! the same work: UnknownKey and `EOT`. A Hello of another version gets `EOT`. The responder closes when no message has
//! been opened 10 s after the connection began, the initiator when the link is not open by then.
//!
//! The initiator knows by message 2 that it talks to the holder of the static key (and of the psk). The responder knows
//! nothing yet, for message 1 may be a replay: the first sealed message that opens proves the peer. That first message
//! is `Authenticate` in a first contact, where the credential so travels inside the channel, and `Opened` otherwise.
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
//! rises by one with every frame, and the receiver takes exactly the number that the frame has in the conversation: a
//! message cannot be replayed, moved or left out unnoticed. A frame whose sequence is another or that does not open is
//! acknowledged, reported and dropped, and the link goes on. If the next frame bears the same counter, it is given the
//! place of the one that did not open. (`sealed.json`, `conversations.json`)
//!
//! # 6. Telemetry
//!
//! Readings travel as `SealedReading` inside `Up`, or over Kafka, sealed under a key apart from the link's: see
//! [`telemetry`]. (`telemetry.json`)
//!
//! # In this crate
//!
//! [`Link`] is one end. [`frame`] is the coding of section 1, for tools that look at the wire. The pure halves of the
//! conversation (`incoming`, `outgoing`), the handshake and the sealing are put together there. `mesh::link` gives a
//! [`Link`] its stream and its clock.
//!
//! Architecture invariant: no sockets, no clock, no async; of ours only the messages in `proto`; no input panics.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod event;
pub mod frame;
mod handshake;
mod incoming;
mod key;
pub mod kind;
mod link;
mod outgoing;
#[cfg(test)]
mod pair;
mod proof;
mod seal;
mod settings;
pub mod telemetry;
#[cfg(test)]
mod tests;

pub use event::{Closed, Event, Hello, Unintelligible};
pub use key::{LinkKey, PairingSecret, Pin, PublicKey, StaticKey};
pub use link::{Link, LinkCounts, SendError};
pub use proof::{Admit, Proof};
pub use settings::LinkSettings;

/// The version of the wire that a Hello names.
pub const VERSION: u32 = 1;
