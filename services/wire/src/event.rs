//! What a link tells its owner.

use std::time::Duration;

use bytes::Bytes;
use proto::link::v1::Part;

use crate::key::Pin;

/// Events come in the order in which they happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Responder only: the initiator claims to be this peer. Nothing is proven yet; the owner answers with
    /// [`crate::Link::admit`].
    Hello(Hello),
    /// The handshake is complete and messages can be sent. To a responder the peer is still unproven, since the first
    /// handshake message can be replayed: nothing may be owned, stored or announced before the first `Message`.
    Open,
    /// A decrypted message, never empty (the link itself consumes life signs). The first one proves the peer.
    Message(Bytes),
    /// Initiator only: the responder is overloaded. `retry_after` is at most [`crate::LinkSettings::longest_retry`];
    /// the owner adds jitter.
    Busy { retry_after: Duration },
    /// Initiator only: the responder knows no such key, id or pin. The answer came in clear and unauthenticated, so the
    /// most it may cause is a first contact.
    UnknownKey,
    /// A frame was dropped because it could not be decrypted or understood (SPEC 4.8); later frames are not affected.
    Unintelligible(Unintelligible),
    /// The last event of every link.
    Closed(Closed),
}

/// The first frame of an initiator, in clear and unproven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub part: Part,
    /// At most 64 bytes and otherwise unchecked: validate it before use. Empty for a pairing.
    pub id: String,
    /// 0 asks for a first contact.
    pub key_no: u64,
    /// Zeros for a pairing.
    pub pin: Pin,
}

/// Why a frame could not be decrypted or understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unintelligible {
    #[error("a message does not decrypt: a wrong or spoiled key, or tampering")]
    DoesNotOpen,
    #[error("a message is out of sequence: a repetition or a replay")]
    Replayed,
    #[error("a handshake proves another key, or none")]
    Handshake,
    #[error("a message came in clear on an open link")]
    Clear,
    #[error("a frame has a kind that does not exist")]
    Kind,
}

/// Why a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Closed {
    #[error("closed in order by this end")]
    ByUs,
    #[error("closed in order by the peer")]
    ByPeer,
    #[error("cut: the connection ended without a farewell")]
    Cut,
    #[error("no sign of life from the peer")]
    Silent,
    #[error("the peer did not acknowledge in time")]
    Unanswered,
    #[error("the handshake took too long")]
    HandshakeTimeout,
    #[error("the handshake failed: the keys of the two ends do not agree")]
    HandshakeFailed,
    #[error("the responder is overloaded")]
    Busy,
    #[error("the responder knows no such key")]
    UnknownKey,
    #[error("the peer speaks version {0} of the link, this end version 1")]
    Version(u32),
    #[error("the peer does not keep to the protocol: {0}")]
    Protocol(&'static str),
}
