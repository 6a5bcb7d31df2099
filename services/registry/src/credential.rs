//! Derives secrets, and recognises Registry's own secrets before any work is done for them.
//!
//! Every secret is derived from Registry's own secret and a fresh 32-byte nonce, and is not stored. The store holds
//! the nonce for ten minutes, so that a repeated request whose answer was lost gets the same answer, even after
//! Registry was killed in between. Then the nonce is erased and the secret cannot be shown again. Without Registry's
//! own secret the store reveals nothing at any time.

use proto::{
    PeerId,
    enrolment::{Credential, Secret},
};
use ring::{digest, hkdf, hmac};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// The 32 random bytes from which one secret is derived.
pub(crate) type Nonce = [u8; 32];

/// Derives secrets, tags and digests with keys made from Registry's own secret.
pub(crate) struct SecretIssuer {
    credentials: hmac::Key,
    tokens: hmac::Key,
    tags: hmac::Key,
    digests: hmac::Key,
}

impl std::fmt::Debug for SecretIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretIssuer(..)")
    }
}

impl SecretIssuer {
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"chargemesh registry v1").extract(secret);
        let key = |label: &[u8]| {
            let mut bytes = Zeroizing::new([0; 32]);
            root.expand(&[label], hkdf::HKDF_SHA256)
                .and_then(|okm| okm.fill(bytes.as_mut()))
                .expect("HKDF-SHA256 gives 32 bytes");
            hmac::Key::new(hmac::HMAC_SHA256, bytes.as_ref())
        };
        Self { credentials: key(b"credential"), tokens: key(b"token"), tags: key(b"tag"), digests: key(b"digest") }
    }

    /// The credential that is derived from this nonce.
    pub(crate) fn credential(&self, holder: &PeerId, nonce: &Nonce) -> Credential {
        let secret = derive(&self.credentials, &[nonce, holder.to_string().as_bytes()]);
        let tag = self.tag(holder, &secret);
        Credential { holder: holder.clone(), secret, tag }
    }

    /// The secret of the token that is derived from this nonce.
    pub(crate) fn token_secret(&self, token_id: &str, nonce: &Nonce) -> Secret {
        derive(&self.tokens, &[nonce, token_id.as_bytes()])
    }

    /// Whether this Registry ever issued this credential to its holder. Costs one HMAC.
    pub(crate) fn ours(&self, credential: &Credential) -> bool {
        same(&self.tag(&credential.holder, &credential.secret), &credential.tag)
    }

    /// A keyed digest of a request, by which another request under the same id is recognised. Without the key nobody
    /// can test guesses of the request's content against it.
    pub(crate) fn digest(&self, parts: &[&[u8]]) -> Vec<u8> {
        sign(&self.digests, parts).as_ref().to_vec()
    }

    fn tag(&self, holder: &PeerId, secret: &Secret) -> [u8; 16] {
        let whole = hmac::sign(&self.tags, Credential::tagged(holder, secret).as_bytes());
        let mut tag = [0; 16];
        tag.iter_mut().zip(whole.as_ref()).for_each(|(to, from)| *to = *from);
        tag
    }
}

/// What is stored of a token. Its secret is 256 random bits, so a plain hash cannot be searched.
pub(crate) fn token_hash(secret: &Secret) -> Vec<u8> {
    digest::digest(&digest::SHA256, secret.as_bytes()).as_ref().to_vec()
}

/// Compares in constant time.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    bool::from(a.ct_eq(b))
}

fn derive(key: &hmac::Key, parts: &[&[u8]]) -> Secret {
    let signature = sign(key, parts);
    let mut bytes = Zeroizing::new([0; 32]);
    bytes.iter_mut().zip(signature.as_ref()).for_each(|(to, from)| *to = *from);
    Secret::from_bytes(*bytes)
}

/// Signs each part with its length, so that no two lists of parts yield the same bytes.
fn sign(key: &hmac::Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.sign()
}

/// A token's public id.
pub(crate) fn token_id(random: [u8; 8]) -> String {
    format!("{:016x}", u64::from_be_bytes(random))
}

#[cfg(test)]
mod tests {
    use proto::enrolment::PeerKind;

    use super::*;

    fn cp(id: &str) -> PeerId {
        PeerKind::ChargingPoint.peer(id).unwrap()
    }

    #[test]
    fn a_credential_that_we_did_not_make_is_known_by_its_tag_design_4() {
        let secret_issuer = SecretIssuer::new(&[7; 32]);
        let credential = secret_issuer.credential(&cp("CP-1"), &[1; 32]);
        assert!(secret_issuer.ours(&credential));
        assert!(!SecretIssuer::new(&[8; 32]).ours(&credential), "another Registry's");
        assert!(!secret_issuer.ours(&Credential { holder: cp("CP-2"), ..credential.clone() }), "for another id");
        for bit in 0..128 {
            let mut forged = credential.clone();
            forged.tag[bit / 8] ^= 1 << (bit % 8);
            assert!(!secret_issuer.ours(&forged));
        }
    }

    #[test]
    fn the_same_nonce_gives_the_same_secret_and_another_another() {
        let secret_issuer = SecretIssuer::new(&[7; 32]);
        let text = |id: &str, nonce: u8| secret_issuer.credential(&cp(id), &[nonce; 32]).to_text();
        assert_eq!(text("CP-1", 1), text("CP-1", 1));
        assert_ne!(text("CP-1", 1), text("CP-1", 2));
        let secret = |id: &str, nonce: u8| *secret_issuer.credential(&cp(id), &[nonce; 32]).secret.as_bytes();
        assert_ne!(secret("CP-1", 1), secret("CP-2", 1));
        assert_ne!(*secret_issuer.token_secret("CP-1", &[1; 32]).as_bytes(), secret("CP-1", 1));
    }

    #[test]
    fn a_digest_tells_where_one_part_ends() {
        let secret_issuer = SecretIssuer::new(&[7; 32]);
        assert_ne!(secret_issuer.digest(&[b"ab", b"c"]), secret_issuer.digest(&[b"a", b"bc"]));
    }
}
