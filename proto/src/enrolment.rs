//! What Registry and an enrolling peer exchange (SPEC 7.4): the text forms of credentials and enrolment tokens, and the
//! JSON of Registry's HTTPS interface. Only the forms are here; Registry checks, hashes and signs.
//!
//! * A credential is `cmc1.<kind>-<id>.<secret>.<tag>`: kind `cp` or `driver`, 32 secret bytes and the first 16 bytes
//!   of Registry's HMAC-SHA256 over everything before the last dot, both base64url without padding. A peer sends
//!   the bytes of this text to Central in `Authenticate`.
//! * An enrolment token is `cmt1.<base64url of JSON {id, secret, roots, pins}>`: with it and Registry's address
//!   the bearer can verify Registry (roots: DER certificates for its HTTPS) and Central (pins: its static public keys).
//!
//! `Debug` does not show secrets, and they are wiped when dropped.

mod http;
mod text;

pub use http::{Blob, CredentialState, EnrolBody, Enrolled, EnrolmentStatus, RefusalBody, SecretText, Trust};
pub use text::{Credential, EnrolmentToken, Secret, TextError};

use crate::{ChargingPointId, DriverId, IdError, PeerId};

/// The kinds of peers that can be enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerKind {
    ChargingPoint,
    Driver,
}

impl PeerKind {
    pub const ALL: [Self; 2] = [Self::ChargingPoint, Self::Driver];

    /// The collection's name in Registry's URLs: `/v1/charging-points`, `/v1/drivers`.
    pub const fn collection(self) -> &'static str {
        match self {
            Self::ChargingPoint => "charging-points",
            Self::Driver => "drivers",
        }
    }

    pub fn from_collection(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.collection() == name)
    }

    /// The id of a peer of this kind, from its text.
    pub fn peer(self, id: &str) -> Result<PeerId, IdError> {
        Ok(match self {
            Self::ChargingPoint => PeerId::ChargingPoint(id.parse::<ChargingPointId>()?),
            Self::Driver => PeerId::Driver(id.parse::<DriverId>()?),
        })
    }

    pub const fn of(peer: &PeerId) -> Self {
        match peer {
            PeerId::ChargingPoint(_) => Self::ChargingPoint,
            PeerId::Driver(_) => Self::Driver,
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::ChargingPoint => "cp-",
            Self::Driver => "driver-",
        }
    }
}

#[cfg(test)]
mod tests;
