//! What the two ends bring to a handshake.

use std::time::Duration;

use crate::key::{LinkKey, PairingSecret, Pin, PublicKey, StaticKey};

/// What an initiator proves, and to whom.
#[derive(Clone, Debug)]
pub enum Proof {
    /// `Noise_NK`: the responder is known by its static key, the initiator authenticates inside the channel.
    FirstContact { responder: PublicKey },
    /// `Noise_NKpsk0`: both prove the granted key. `key_no` is not 0.
    Key { responder: PublicKey, key_no: u64, key: LinkKey },
    /// `Noise_NNpsk0`: an engine to its monitor.
    Pairing(PairingSecret),
}

impl Proof {
    /// The key number that the Hello names.
    pub(crate) fn key_no(&self) -> u64 {
        match self {
            Self::FirstContact { .. } | Self::Pairing(_) => 0,
            Self::Key { key_no, .. } => *key_no,
        }
    }

    pub(crate) fn pin(&self) -> Option<Pin> {
        match self {
            Self::FirstContact { responder } | Self::Key { responder, .. } => Some(responder.pin()),
            Self::Pairing(_) => None,
        }
    }
}

/// A responder's answer to [`crate::Event::Hello`].
#[derive(Clone, Copy, Debug)]
pub enum Admit<'a> {
    FirstContact(&'a StaticKey),
    Key(&'a StaticKey, &'a LinkKey),
    Pairing(&'a PairingSecret),
    /// There is no such key, id or pin. The peer gets the same answer, after the same computation, as one whose
    /// handshake proves another key.
    UnknownKey,
    /// This end is overloaded: the peer is to retry after this time, at most [`crate::LinkSettings::longest_retry`].
    Busy(Duration),
}
