//! Credentials and enrolment tokens as texts that a person can paste.

use std::{fmt, str::FromStr};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::PeerKind;
use crate::PeerId;

/// Maximum length of an accepted text; two roots with 4,096-bit RSA keys and two pins fit well.
const MAX_TEXT: usize = 16 * 1024;

/// A text is not a credential or a token. The error does not quote the text, which may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("this is no credential: it must look like cmc1.<kind>-<id>.<secret>.<tag>; paste all of it, on one line")]
    Credential,
    #[error("this is no enrolment token: it must begin with \"cmt1.\"; paste all of it, on one line")]
    Token,
}

/// 32 random bytes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The credential by which a charging point or a driver authenticates on a first contact.
#[derive(Clone, Debug)]
pub struct Credential {
    pub holder: PeerId,
    pub secret: Secret,
    /// Proves that Registry made this credential; checked before anything is hashed.
    pub tag: [u8; 16],
}

impl Credential {
    /// The text that the tag authenticates.
    pub fn tagged(holder: &PeerId, secret: &Secret) -> Zeroizing<String> {
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_bytes()));
        Zeroizing::new(format!("cmc1.{}{}.{}", PeerKind::of(holder).prefix(), holder.as_str(), secret.as_str()))
    }

    /// The whole text, as it is shown to the bearer and kept in a file.
    pub fn to_text(&self) -> Zeroizing<String> {
        let tagged = Self::tagged(&self.holder, &self.secret);
        Zeroizing::new(format!("{}.{}", tagged.as_str(), URL_SAFE_NO_PAD.encode(self.tag)))
    }
}

impl FromStr for Credential {
    type Err = TextError;
    fn from_str(text: &str) -> Result<Self, TextError> {
        // Split from the right, because an id may contain dots.
        let parse = || {
            let rest = bounded(text)?.strip_prefix("cmc1.")?;
            let (rest, tag) = rest.rsplit_once('.')?;
            let (holder, secret) = rest.rsplit_once('.')?;
            let kind = PeerKind::ALL.into_iter().find(|kind| holder.starts_with(kind.prefix()))?;
            let holder = kind.peer(holder.strip_prefix(kind.prefix())?).ok()?;
            Some(Self { holder, secret: Secret(fixed(secret)?), tag: fixed(tag)? })
        };
        parse().ok_or(TextError::Credential)
    }
}

/// Permission to enrol, with the roots and keys to trust while doing so.
#[derive(Clone, Debug)]
pub struct EnrolmentToken {
    /// Not secret: the audit and `ListTokens` identify a token by it.
    pub id: String,
    pub secret: Secret,
    /// DER root certificates; one of them has signed Registry's HTTPS certificate, which is for the name `registry`.
    pub roots: Vec<Vec<u8>>,
    /// Central's static public keys: a first contact accepts no other. Empty: Registry did not know them yet; ask
    /// Registry again with the credential.
    pub pins: Vec<[u8; 32]>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct TokenJson {
    id: String,
    secret: Zeroizing<String>,
    roots: Vec<String>,
    pins: Vec<String>,
}

impl EnrolmentToken {
    /// The whole text, shown once.
    pub fn to_text(&self) -> Zeroizing<String> {
        let json = TokenJson {
            id: self.id.clone(),
            secret: Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret.as_bytes())),
            roots: self.roots.iter().map(|root| URL_SAFE_NO_PAD.encode(root)).collect(),
            pins: self.pins.iter().map(|pin| URL_SAFE_NO_PAD.encode(pin)).collect(),
        };
        let json = Zeroizing::new(serde_json::to_vec(&json).unwrap_or_default());
        let body = Zeroizing::new(URL_SAFE_NO_PAD.encode(&json));
        Zeroizing::new(format!("cmt1.{}", body.as_str()))
    }
}

impl EnrolmentToken {
    /// The roots as PEM, as TLS clients take them.
    pub fn roots_pem(&self) -> String {
        pem(self.roots.iter().map(Vec::as_slice))
    }
}

impl FromStr for EnrolmentToken {
    type Err = TextError;
    fn from_str(text: &str) -> Result<Self, TextError> {
        let parse = || {
            let body = bounded(text)?.strip_prefix("cmt1.")?;
            let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).ok()?);
            let json: TokenJson = serde_json::from_slice(&json).ok()?;
            Some(Self {
                secret: Secret(fixed(&json.secret)?),
                roots: json.roots.iter().map(|root| URL_SAFE_NO_PAD.decode(root).ok()).collect::<Option<_>>()?,
                pins: json.pins.iter().map(|pin| fixed(pin)).collect::<Option<_>>()?,
                id: json.id,
            })
        };
        parse().ok_or(TextError::Token)
    }
}

/// The text without the spaces and line ends that pasting adds; `None` if it is too long.
fn bounded(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| text.len() <= MAX_TEXT)
}

fn fixed<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
    <[u8; N]>::try_from(bytes.as_slice()).ok()
}

/// Certificates in PEM form.
pub(super) fn pem<'a>(certificates: impl Iterator<Item = &'a [u8]>) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let body = STANDARD.encode(certificate);
        // base64 is ASCII, so every byte is a character.
        for line in body.as_bytes().chunks(64) {
            text.extend(line.iter().map(|b| char::from(*b)));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
