//! The JSON of Registry's HTTPS interface.
//!
//! | call | request | response |
//! |---|---|---|
//! | `POST /v1/{charging-points,drivers}` | [`EnrolBody`] | 201 [`Enrolled`] |
//! | `GET /v1/{charging-points,drivers}/{id}` | `Authorization: Bearer <credential>` | 200 [`EnrolmentStatus`] |
//! | `DELETE /v1/{charging-points,drivers}/{id}` | `Authorization: Bearer <credential>` | 200 [`EnrolmentStatus`], now removed |
//!
//! The body of every error response is a [`RefusalBody`].

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::PeerKind;
use crate::{Retry, link::v1::Reason};

/// A credential or a token inside JSON.
#[derive(Clone, Default, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "SecretText(empty)" } else { "SecretText(..)" })
    }
}

/// Bytes, in JSON as base64url without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        URL_SAFE_NO_PAD.decode(text).map(Self).map_err(|_| D::Error::custom("not base64url without padding"))
    }
}

/// A request to be enrolled.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolBody {
    /// Chosen by the caller and kept over its restarts: within ten minutes a repeated request gets the same answer, so
    /// that losing an answer does no harm.
    pub request_id: String,
    pub id: String,
    #[serde(default)]
    pub token: SecretText,
    /// Replaces the token where the id is enrolled already.
    #[serde(default)]
    pub old_credential: SecretText,
    #[serde(default)]
    pub city: String,
    #[serde(default)]
    pub place: String,
    /// Ten-thousandths of the currency unit per kWh.
    #[serde(default)]
    pub price_e4: u32,
}

/// The keys and roots to trust from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Central's static public keys, 32 bytes each. Empty: Registry has not met Central yet; ask again later.
    pub pins: Vec<Blob>,
    /// DER certificates for Registry's HTTPS.
    pub roots: Vec<Blob>,
}

impl Trust {
    /// The roots as PEM, as TLS clients take them.
    pub fn roots_pem(&self) -> String {
        super::text::pem(self.roots.iter().map(|root| root.0.as_slice()))
    }
}

/// The current state of an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentStatus {
    pub kind: PeerKind,
    pub id: String,
    pub state: CredentialState,
    pub city: String,
    pub place: String,
    pub price_e4: u32,
    pub enrolled_at_ms: i64,
    /// Rises with each enrolment of the id.
    pub incarnation: u64,
    pub trust: Trust,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialState {
    Enrolled,
    /// Revoked: enrolling again needs an operator's one-use token.
    Void,
    Removed,
}

/// The response to an enrolment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enrolled {
    /// Returned once: Registry keeps only its hash.
    pub credential: SecretText,
    pub status: EnrolmentStatus,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalBody {
    /// A [`Reason`] by its code, such as `TOKEN_EXPIRED`.
    pub reason: String,
    /// One sentence for a person.
    pub message: String,
}

impl RefusalBody {
    pub fn reason(&self) -> Reason {
        Reason::of_code(&self.reason).unwrap_or(Reason::Unrecognised)
    }

    /// Whether nothing was decided, so that the same request is to be repeated after a pause: by its reason, or where
    /// this build does not know that, by the `status` of the response.
    pub fn is_undecided(&self, status: u16) -> bool {
        Reason::of_code(&self.reason).map_or_else(|| Retry::of_http_status(status), Reason::retry) == Retry::SameIdLater
    }
}
