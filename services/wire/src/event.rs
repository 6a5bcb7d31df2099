//! What a link tells its owner.

use std::time::Duration;

use bytes::Bytes;
use proto::link::v1::Part;

use crate::key::Pin;

/// In the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Responder only: somebody claims to be this. Answer with [`crate::Link::admit`]; nothing is proven.
    Hello(Hello),
    /// The handshake is complete and messages can be sent. To a responder nothing is proven yet: a first message of a
    /// handshake can be replayed, so nothing may be owned, stored or told before the first `Message`.
    Open,
    /// An opened message, never empty (life signs stay within the link). The first proves the peer.
    Message(Bytes),
    /// Initiator only: the responder is overloaded. At most [`crate::LinkSettings::longest_retry`]; the caller jitters it.
    Busy { retry_after: Duration },
    /// Initiator only: the responder knows no such key, id or pin. It is in clear and can at most cause a first contact.
    UnknownKey,
    /// Something was dropped because it could not be opened (SPEC 4.8); what follows is not affected.
    Unintelligible(Unintelligible),
    /// The last event of every link.
    Closed(Closed),
}

/// The first frame of an initiator, in clear and unproven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub part: Part,
    /// At most 64 bytes, otherwise as it came: check it before use. Empty for a pairing.
    pub id: String,
    /// 0 asks for a first contact.
    pub key_no: u64,
    /// Zeros for a pairing.
    pub pin: Pin,
}

/// Why something could not be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unintelligible {
    #[error("a message that does not open: wrong or spoiled key, or tampering")]
    DoesNotOpen,
    #[error("a message out of its sequence: a repetition or a replay")]
    Replayed,
    #[error("a handshake that proves another key, or none")]
    Handshake,
    #[error("a message in clear on an open link")]
    Clear,
    #[error("a frame of a kind that does not exist")]
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
