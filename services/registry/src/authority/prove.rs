//! Is this secret right? What costs nothing is asked first: the form, the tag, the number of errors so far; only then
//! a hash is spent (DESIGN 4).

use std::net::IpAddr;

use proto::{
    PeerId,
    enrolment::{Credential, EnrolmentToken},
    link::v1::Reason,
};
use store::{Abort, registry::TokenRow};

use super::Authority;
use crate::{
    attempts::Key,
    credential::{same, token_hash},
    enrolment::{Identity, verified, wrong_credential},
    refusal::{Refusal, refuse},
};

/// A credential that is right for an identity that is in, be it void.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) identity: Identity,
    /// The hash that it matched; a change must find the same.
    pub(super) hash: String,
    /// What it is worth.
    pub(crate) worth: Result<(), Refusal>,
}

impl Authority {
    /// Whether `text` is the credential of `peer`.
    pub(crate) async fn shown(
        &self,
        action: &'static str,
        peer: &PeerId,
        text: &str,
        address: Option<IpAddr>,
    ) -> Result<Shown, Refusal> {
        let key = self.attempt(action, peer.as_str(), address)?;
        let result = self.compare(peer, text).await;
        self.conclude(key, &result);
        result.map_err(|why| self.stranger(action, address, why))
    }

    async fn compare(&self, peer: &PeerId, text: &str) -> Result<Shown, Refusal> {
        let wrong = || wrong_credential(peer.as_str());
        let credential: Credential = text.parse().map_err(|_| wrong())?;
        if credential.holder != *peer || !self.mint().ours(&credential) {
            return Err(wrong());
        }
        let unknown = || verified(None, peer.as_str(), false).err().unwrap_or_else(wrong);
        let Some((_, Some(hash))) = self.known(peer).await? else { return Err(unknown()) };
        let right = self.hashing().matches(credential.secret.clone(), hash.clone()).await?;
        // Hashing takes its time, and waits for its turn: what became of the identity meanwhile counts (SPEC 7.4).
        let (identity, kept) = self.known(peer).await?.ok_or_else(unknown)?;
        let right = right && kept.as_ref() == Some(&hash);
        let worth = verified(Some(&identity), peer.as_str(), right);
        if right { Ok(Shown { identity, hash, worth }) } else { Err(worth.err().unwrap_or_else(wrong)) }
    }

    /// Whether the token's secret is right. What the token permits is asked when it is used.
    pub(super) async fn token_shown(
        &self,
        token: &EnrolmentToken,
        id: &str,
        address: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        let key = self.attempt("ENROL", id, address)?;
        let (token_id, hash) = (token.id.clone(), hex::encode(token_hash(&token.secret)));
        let found = self.read("token", move |conn| {
            let right =
                TokenRow::find(conn, &token_id)?.is_some_and(|row| same(row.secret_hash.as_bytes(), hash.as_bytes()));
            let unknown = || Abort::Refused(refuse(Reason::TokenInvalid, "this Registry never made this token"));
            if right { Ok(()) } else { Err(unknown()) }
        });
        let result = found.await;
        self.conclude(key, &result);
        result.map_err(|why| self.stranger("ENROL", address, why))
    }

    /// Begins an attempt, which counts until it succeeds. Where the address is not known, only the tag protects.
    fn attempt(&self, action: &'static str, id: &str, address: Option<IpAddr>) -> Result<Option<Key>, Refusal> {
        let Some(address) = address else { return Ok(None) };
        let key = (address.to_canonical(), id.to_owned());
        let since = self.now().mono.saturating_duration_since(self.0.started);
        if self.attempts().begin(&key, since) {
            return Ok(Some(key));
        }
        let detail = format!("too many wrong credentials or tokens for {id} from {address}; try again in a minute");
        Err(self.stranger(action, Some(address), refuse(Reason::TooManyAttempts, detail)))
    }

    /// What was not judged, because we could not, does not count.
    fn conclude<T>(&self, key: Option<Key>, result: &Result<T, Refusal>) {
        let Some(key) = key else { return };
        match result.as_ref().map_err(|why| why.reason) {
            Ok(_) => self.attempts().succeeded(&key),
            Err(Reason::Overloaded | Reason::Unavailable) => self.attempts().returned(&key),
            Err(_) => {}
        }
    }
}
