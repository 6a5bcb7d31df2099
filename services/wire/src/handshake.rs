//! Key agreement by the Noise Protocol Framework (SPEC 4.4), two messages: `e, es` or `psk, e, es` from the initiator,
//! `e, ee` from the responder, both with empty payloads. The prologue is the Hello's bytes as they travelled, which
//! binds the handshake to what the Hello claimed in clear.
//!
//! Guarantees: an initiator of NK or NKpsk0 that gets through the handshake talks to the holder of the pinned key. A
//! responder of NKpsk0 or NNpsk0 that reads the first message knows only that somebody once made it with the key: it
//! may be a replay. The ephemeral keys are the only random values in this crate; snow takes them from the operating
//! system.

use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::{
    key::PairingSecret,
    proof::{Admit, Proof},
};

pub(crate) const NK: &str = "Noise_NK_25519_AESGCM_SHA256";
pub(crate) const NK_PSK0: &str = "Noise_NKpsk0_25519_AESGCM_SHA256";
pub(crate) const NN_PSK0: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";

/// Length of either message: a public key and a tag.
const MESSAGE: usize = 48;

/// A handshake message of the wrong length, or one that another key made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake failed")]
pub(crate) struct Failed;

impl From<snow::Error> for Failed {
    /// Which step failed is not revealed.
    fn from(_: snow::Error) -> Self {
        Self
    }
}

/// Both traffic keys of a link, fresh with every handshake.
pub(crate) struct TrafficKeys {
    pub(crate) to_responder: Zeroizing<[u8; 32]>,
    pub(crate) to_initiator: Zeroizing<[u8; 32]>,
}

/// A fixed ephemeral key; only test vectors have one.
pub(crate) type Ephemeral = Option<[u8; 32]>;

/// The initiator's half, between its message and the answer.
pub(crate) struct Initiating(HandshakeState);

impl Initiating {
    /// Begins the handshake; the second value is message 1.
    pub(crate) fn begin(proof: &Proof, prologue: &[u8], ephemeral: Ephemeral) -> Result<(Self, Vec<u8>), Failed> {
        let mut state = match proof {
            Proof::FirstContact { responder } => {
                let builder = builder(NK, prologue, &ephemeral)?;
                builder.remote_public_key(responder.as_bytes())?.build_initiator()?
            }
            Proof::Key { responder, key, key_no: _ } => {
                let psk = key.psk();
                let builder = builder(NK_PSK0, prologue, &ephemeral)?.psk(0, &psk)?;
                builder.remote_public_key(responder.as_bytes())?.build_initiator()?
            }
            Proof::Pairing(secret) => {
                builder(NN_PSK0, prologue, &ephemeral)?.psk(0, &secret.psk())?.build_initiator()?
            }
        };
        let message = write(&mut state)?;
        Ok((Self(state), message))
    }

    /// Processes message 2.
    pub(crate) fn finish(mut self, message: &[u8]) -> Result<TrafficKeys, Failed> {
        read(&mut self.0, message)?;
        Ok(split(self.0))
    }
}

/// The responder's half, before message 1.
pub(crate) struct Responding(HandshakeState);

impl Responding {
    pub(crate) fn prepare(admitted: Admit<'_>, prologue: &[u8], ephemeral: Ephemeral) -> Result<Self, Failed> {
        let state = match admitted {
            Admit::FirstContact(own) => {
                builder(NK, prologue, &ephemeral)?.local_private_key(own.as_bytes())?.build_responder()?
            }
            Admit::Key(own, key) => {
                let psk = key.psk();
                let builder = builder(NK_PSK0, prologue, &ephemeral)?.psk(0, &psk)?;
                builder.local_private_key(own.as_bytes())?.build_responder()?
            }
            Admit::Pairing(secret) => {
                builder(NN_PSK0, prologue, &ephemeral)?.psk(0, &secret.psk())?.build_responder()?
            }
            // No peer has these keys, so the handshake fails, after as much computation as with a key that exists.
            Admit::UnknownKey | Admit::Busy(_) => {
                let psk = PairingSecret::from_bytes([0x55; 32]).psk();
                let builder = builder(NK_PSK0, prologue, &ephemeral)?.psk(0, &psk)?;
                builder.local_private_key(&NOBODY)?.build_responder()?
            }
        };
        Ok(Self(state))
    }

    /// Processes message 1 and makes message 2.
    pub(crate) fn answer(mut self, message: &[u8]) -> Result<(TrafficKeys, Vec<u8>), Failed> {
        read(&mut self.0, message)?;
        let answer = write(&mut self.0)?;
        Ok((split(self.0), answer))
    }
}

/// A private key that belongs to nobody.
const NOBODY: [u8; 32] = [0x55; 32];

fn builder<'a>(pattern: &str, prologue: &'a [u8], ephemeral: &'a Ephemeral) -> Result<Builder<'a>, Failed> {
    let builder = Builder::new(pattern.parse()?).prologue(prologue)?;
    Ok(match ephemeral {
        Some(key) => builder.fixed_ephemeral_key_for_testing_only(key),
        None => builder,
    })
}

fn write(state: &mut HandshakeState) -> Result<Vec<u8>, Failed> {
    let mut message = vec![0; MESSAGE];
    let length = state.write_message(&[], &mut message)?;
    message.truncate(length);
    Ok(message)
}

/// Payloads are empty, so a message is the ephemeral key and a tag; any other length is refused before computing.
fn read(state: &mut HandshakeState, message: &[u8]) -> Result<(), Failed> {
    if message.len() != MESSAGE {
        return Err(Failed);
    }
    state.read_message(message, &mut [0; MESSAGE])?;
    Ok(())
}

fn split(mut state: HandshakeState) -> TrafficKeys {
    let (to_responder, to_initiator) = state.dangerously_get_raw_split();
    TrafficKeys { to_responder: Zeroizing::new(to_responder), to_initiator: Zeroizing::new(to_initiator) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{LinkKey, StaticKey};

    fn own() -> StaticKey {
        StaticKey::from_bytes([9; 32])
    }

    fn key(byte: u8) -> LinkKey {
        LinkKey::from_bytes([byte; 32])
    }

    fn respond(admitted: Admit<'_>, prologue: &[u8], first: &[u8]) -> Result<(TrafficKeys, Vec<u8>), Failed> {
        Responding::prepare(admitted, prologue, None)?.answer(first)
    }

    fn agree(proof: &Proof, admitted: Admit<'_>) -> Result<bool, Failed> {
        let (initiating, first) = Initiating::begin(proof, b"hello", None)?;
        let (theirs, second) = respond(admitted, b"hello", &first)?;
        assert_eq!((first.len(), second.len()), (48, 48));
        let ours = initiating.finish(&second)?;
        Ok(ours.to_responder == theirs.to_responder && ours.to_initiator == theirs.to_initiator)
    }

    #[test]
    fn both_ends_agree_on_fresh_keys_in_each_of_the_three_handshakes_spec_4_4() {
        let responder = own().public();
        let secret = PairingSecret::from_bytes([3; 32]);
        assert_eq!(agree(&Proof::FirstContact { responder }, Admit::FirstContact(&own())), Ok(true));
        let proof = Proof::Key { responder, key_no: 1, key: key(1) };
        assert_eq!(agree(&proof, Admit::Key(&own(), &key(1))), Ok(true));
        assert_eq!(agree(&Proof::Pairing(secret.clone()), Admit::Pairing(&secret)), Ok(true));
    }

    #[test]
    fn another_key_another_responder_or_another_hello_does_not_get_through_spec_4_8() {
        let responder = own().public();
        let proof = Proof::Key { responder, key_no: 1, key: key(1) };
        assert_eq!(agree(&proof, Admit::Key(&own(), &key(2))), Err(Failed));
        assert_eq!(agree(&proof, Admit::Key(&StaticKey::from_bytes([8; 32]), &key(1))), Err(Failed));
        assert_eq!(agree(&proof, Admit::FirstContact(&own())), Err(Failed));
        assert_eq!(agree(&proof, Admit::UnknownKey), Err(Failed));
        let (_, first) = Initiating::begin(&proof, b"hello", None).unwrap();
        assert!(respond(Admit::Key(&own(), &key(1)), b"other", &first).is_err());
        assert!(respond(Admit::Key(&own(), &key(1)), b"hello", &first[..47]).is_err());
        assert!(respond(Admit::Key(&own(), &key(1)), b"hello", &[&first[..], &[0]].concat()).is_err());
        assert!(respond(Admit::Key(&own(), &key(1)), b"hello", &first).is_ok(), "a replay is not seen here");
    }
}
