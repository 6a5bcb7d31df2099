//! What passes between Registry and whoever enrols (SPEC 7.4): the texts of credentials and enrolment tokens, and the
//! JSON of Registry's HTTPS door. Forms only: who checks, hashes and signs is Registry.
//!
//! * A credential is `cmc1.<kind>-<id>.<secret>.<tag>`: kind `cp` or `driver`, 32 secret bytes and the first 16 bytes
//!   of Registry's HMAC-SHA256 over everything before the last dot, both base64url without padding. What a peer sends
//!   Central in `Authenticate` is this text's bytes.
//! * An enrolment token is `cmt1.<base64url of JSON {id, secret, roots, pins}>`: with it and Registry's address alone
//!   the bearer can trust Registry (roots: DER certificates for its HTTPS) and Central (pins: static public keys).
//!
//! Secrets show nothing in `Debug` and are wiped when dropped.

mod http;
mod text;

pub use http::{Blob, CredentialState, EnrolBody, Enrolled, EnrolmentStatus, RefusalBody, SecretText, Trust};
pub use text::{Credential, EnrolmentToken, Secret, TextError};

use crate::{ChargingPointId, DriverId, IdError, PeerId};

/// What can be enrolled.
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

    /// The id as one of this kind.
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
