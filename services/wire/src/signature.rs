//! Documents that Central signs, so that its ledger can be checked and rebuilt without it (SPEC 10.5).
//!
//! A `SignedDocument` travels as three fields: the document as bytes, the id of the key, and the signature. The document
//! is an encoded protobuf message, `Ticket` without `corrections` and `signed`, or `Authorisation`. Protobuf has several
//! encodings of one message, so nobody encodes it again before checking: the bytes that came are the bytes that count.
//!
//! ```text
//! key id      the first 8 bytes of SHA-256(public key), in 16 lower-case hexadecimal digits
//! message     "chargemesh " ‖ kind ‖ " 1" ‖ 0a ‖ key id (16 characters) ‖ 0a ‖ document
//! kind        "ticket" or "authorisation"
//! signature   Ed25519 (RFC 8032) of the message: 64 bytes
//! ```
//!
//! Public keys are published as lines of 64 hexadecimal digits, the current key first. The test vectors are in
//! `services/wire/vectors/signatures.json`.

use std::{collections::BTreeMap, fmt};

use proto::link::v1::SignedDocument;
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use zeroize::Zeroizing;

/// What a signed document is, so that a signature of one kind is worth nothing for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    Ticket,
    Authorisation,
}

/// Why a document is not taken for Central's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("it was signed with the key {0}, which is not among the keys at hand")]
    UnknownKey(String),
    #[error("its signature is wrong: somebody changed it, or it is not Central's")]
    Wrong,
}

/// The text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    #[error("not an Ed25519 key in PKCS#8, in hexadecimal")]
    Private,
    #[error("not lines of Ed25519 public keys, each of 64 hexadecimal digits")]
    Public,
}

/// The private key that signs documents.
pub struct DocumentKey {
    pair: Ed25519KeyPair,
    id: String,
}

impl fmt::Debug for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DocumentKey({})", self.id)
    }
}

impl DocumentKey {
    /// The text of a new key's file.
    #[expect(clippy::expect_used, reason = "without the system's randomness no key may come of it")]
    pub fn generate() -> Zeroizing<String> {
        let document =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("the operating system has randomness");
        Zeroizing::new(hex::encode(document.as_ref()) + "\n")
    }

    /// Reads the text of a key's file.
    ///
    /// # Errors
    /// Where the text is not an Ed25519 key in PKCS#8, in hexadecimal.
    pub fn parse(text: &str) -> Result<Self, KeyTextError> {
        let bytes = Zeroizing::new(hex::decode(text.trim()).map_err(|_| KeyTextError::Private)?);
        Ed25519KeyPair::from_pkcs8(&bytes).map(Self::of).map_err(|_| KeyTextError::Private)
    }

    fn of(pair: Ed25519KeyPair) -> Self {
        let id = key_id(pair.public_key().as_ref());
        Self { pair, id }
    }

    #[cfg(test)]
    pub(crate) fn from_seed(seed: &[u8; 32]) -> Self {
        Self::of(Ed25519KeyPair::from_seed_unchecked(seed).unwrap())
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public key in hexadecimal.
    pub fn public(&self) -> String {
        hex::encode(self.pair.public_key())
    }

    pub fn sign(&self, kind: DocumentKind, document: Vec<u8>) -> SignedDocument {
        let signature = self.pair.sign(&signed_bytes(kind, &self.id, &document)).as_ref().to_vec();
        SignedDocument { document, key_id: self.id.clone(), signature }
    }
}

/// Public keys by which documents are checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentKeys(BTreeMap<String, Vec<u8>>);

impl DocumentKeys {
    /// Reads lines of public keys; empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// Where a line is no key, or there is none.
    pub fn parse(text: &str) -> Result<Self, KeyTextError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys = lines.map(|line| hex::decode(line).ok().filter(|key| key.len() == 32).ok_or(KeyTextError::Public));
        let keys: BTreeMap<_, _> = keys.map(|key| key.map(|key| (key_id(&key), key))).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(KeyTextError::Public) } else { Ok(Self(keys)) }
    }

    /// Whether Central signed this document.
    ///
    /// # Errors
    /// Where the key is not among these, or the signature does not hold.
    pub fn verify(&self, kind: DocumentKind, signed: &SignedDocument) -> Result<(), SignatureError> {
        let key = self.0.get(&signed.key_id).ok_or_else(|| {
            // From outside: as much of it as a key's id has.
            SignatureError::UnknownKey(signed.key_id.chars().filter(char::is_ascii_alphanumeric).take(16).collect())
        })?;
        let message = signed_bytes(kind, &signed.key_id, &signed.document);
        UnparsedPublicKey::new(&ED25519, key).verify(&message, &signed.signature).map_err(|_| SignatureError::Wrong)
    }
}

/// How a signed document names the key that signed it.
pub fn key_id(public_key: &[u8]) -> String {
    let hash = digest(&SHA256, public_key);
    hex::encode(hash.as_ref().get(..8).unwrap_or_default())
}

fn signed_bytes(kind: DocumentKind, key_id: &str, document: &[u8]) -> Vec<u8> {
    let kind = match kind {
        DocumentKind::Ticket => "ticket",
        DocumentKind::Authorisation => "authorisation",
    };
    [format!("chargemesh {kind} 1\n{key_id}\n").as_bytes(), document].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_valid_only_unchanged_as_its_kind_and_under_a_known_key_spec_10_5() {
        let (key, other) = (DocumentKey::generate(), DocumentKey::generate());
        let (key, other) = (DocumentKey::parse(&key).unwrap(), DocumentKey::parse(&other).unwrap());
        let keys = DocumentKeys::parse(&format!("# tickets\n{}\n\n", key.public())).unwrap();
        let signed = key.sign(DocumentKind::Ticket, b"a bill".to_vec());
        assert_eq!(keys.verify(DocumentKind::Ticket, &signed), Ok(()));
        assert_eq!(keys.verify(DocumentKind::Authorisation, &signed), Err(SignatureError::Wrong));
        let dearer = SignedDocument { document: b"a Bill".to_vec(), ..signed };
        assert_eq!(keys.verify(DocumentKind::Ticket, &dearer), Err(SignatureError::Wrong));
        let foreign = other.sign(DocumentKind::Ticket, b"a bill".to_vec());
        assert_eq!(keys.verify(DocumentKind::Ticket, &foreign), Err(SignatureError::UnknownKey(other.id().to_owned())));
        let renamed = SignedDocument { key_id: key.id().to_owned(), ..foreign };
        assert_eq!(keys.verify(DocumentKind::Ticket, &renamed), Err(SignatureError::Wrong));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(DocumentKeys::parse("\n"), Err(KeyTextError::Public));
        assert_eq!(DocumentKeys::parse("abcd"), Err(KeyTextError::Public));
        assert_eq!(DocumentKey::parse("zz").err(), Some(KeyTextError::Private));
    }
}
