//! Keys of the link and what is derived from them.
//!
//! Guarantees: every secret is zeroized when dropped, shows nothing in `Debug`, and compares in constant time. No key
//! serves two purposes: each use has a subkey of its own, derived by HKDF-SHA256 with the salt `chargemesh/1` and an
//! `info` that names the purpose.

use std::fmt;

use ring::hkdf;
use snow::{
    params::DHChoice,
    resolvers::{CryptoResolver, DefaultResolver},
};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// First eight bytes of a responder's static public key, as a Hello names it.
pub type Pin = [u8; 8];

const SALT: &[u8] = b"chargemesh/1";

/// HKDF-SHA256 of `secret`, salt `chargemesh/1`, `info` the concatenation of `purpose`: 32 bytes.
#[expect(clippy::expect_used, reason = "HKDF refuses only outputs past 255 hashes, and no zero key may come of it")]
pub(crate) fn subkey(secret: &[u8; 32], purpose: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    let pseudo_random_key = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(secret);
    pseudo_random_key
        .expand(purpose, hkdf::HKDF_SHA256)
        .and_then(|key_material| key_material.fill(&mut *out))
        .expect("HKDF-SHA256 gives 32 bytes");
    out
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

secret!(
    /// The symmetric key that Central granted to one peer (SPEC 4.4). Its links and its telemetry use subkeys of
    /// it.
    LinkKey
);
secret!(
    /// The secret that an engine and its monitor share when they talk over TCP (SPEC 1.4).
    PairingSecret
);
secret!(
    /// The private half of a responder's static X25519 key pair.
    StaticKey
);

impl LinkKey {
    /// A new key; `random` must come from a cryptographic generator.
    pub const fn generate(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The psk of `Noise_NKpsk0`.
    pub(crate) fn psk(&self) -> Zeroizing<[u8; 32]> {
        subkey(&self.0, &[b"noise psk"])
    }

    /// The key for one telemetry stream, independent of the link's keys.
    pub(crate) fn telemetry(&self, stream_id: &[u8; 16]) -> Zeroizing<[u8; 32]> {
        subkey(&self.0, &[b"telemetry", stream_id])
    }
}

impl PairingSecret {
    /// The well-known secret for a Unix socket of mode 0600, where file permissions authenticate the peer. Never for
    /// TCP.
    pub const fn of_local_socket() -> Self {
        Self([0; 32])
    }

    /// The psk of `Noise_NNpsk0`.
    pub(crate) fn psk(&self) -> Zeroizing<[u8; 32]> {
        subkey(&self.0, &[b"pairing psk"])
    }
}

impl StaticKey {
    pub fn public(&self) -> PublicKey {
        let mut public = [0; 32];
        if let Some(mut pair) = DefaultResolver.resolve_dh(&DHChoice::Curve25519) {
            pair.set(&self.0);
            public.copy_from_slice(pair.pubkey());
        }
        PublicKey(public)
    }
}

/// The public half of a [`StaticKey`]; every peer gets it at enrolment.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The pin by which a Hello names this key.
    pub const fn pin(&self) -> Pin {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        [a, b, c, d, e, f, g, h]
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey(")?;
        self.pin().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_shows_nothing_of_itself() {
        let shown = format!(
            "{:?} {:?} {:?}",
            LinkKey::from_bytes([0xab; 32]),
            PairingSecret::from_bytes([0xab; 32]),
            StaticKey::from_bytes([0xab; 32])
        );
        assert_eq!(shown, "LinkKey(..) PairingSecret(..) StaticKey(..)");
    }

    #[test]
    fn the_public_key_is_x25519_of_the_private_one_rfc_7748_section_5_2() {
        let mut scalar = [0; 32];
        scalar[0] = 9;
        let public = hex::encode(StaticKey::from_bytes(scalar).public().as_bytes());
        assert_eq!(public, "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079");
    }

    #[test]
    fn subkeys_of_one_key_differ_by_purpose_and_stream() {
        let key = LinkKey::from_bytes([7; 32]);
        let (one, other) = (key.telemetry(&[1; 16]), key.telemetry(&[2; 16]));
        assert!(*one != *other && *one != *key.psk() && *key.psk() != *PairingSecret::from_bytes([7; 32]).psk());
    }
}
