//! Checks presented secrets. The cheap checks come first (form, tag, number of failed attempts), so that a hash is
//! only computed for a credential that Registry issued (DESIGN 4). Only a credential with a right tag counts as an
//! attempt on its id, and a token as one on that token: whoever makes one up locks no neighbour behind the same address
//! out.

use std::net::IpAddr;

use proto::{
    PeerId,
    enrolment::{Credential, EnrolmentToken},
    link::v1::Reason,
};
use store::{Abort, registry::TokenRow};

use super::{AttemptKey, IdentityService};
use crate::{
    credential::{same, token_hash},
    enrolment::{IdentityRecord, verified, wrong_credential},
    error::{Error, refuse},
};

/// A right credential of an identity that is enrolled or void.
#[derive(Debug)]
pub(crate) struct VerifiedCredential {
    pub(crate) identity: IdentityRecord,
    /// The hash that it matched. A change must find the same hash in its transaction.
    pub(super) hash: String,
    /// An error if the identity is void.
    pub(crate) worth: Result<(), Error>,
}

impl IdentityService {
    /// Verifies that `text` is the credential of `peer`.
    pub(crate) async fn verify_credential(
        &self,
        action: &'static str,
        peer: &PeerId,
        text: &str,
        address: Option<IpAddr>,
    ) -> Result<VerifiedCredential, Error> {
        let credential = self.issued(peer, text).map_err(|why| self.count_unauthenticated(action, address, why))?;
        let key = self.attempt(action, peer.as_str(), address)?;
        let result = self.compare(peer, &credential).await;
        self.conclude(key, &result);
        result.map_err(|why| self.count_unauthenticated(action, address, why))
    }

    /// A credential that this Registry once issued to `peer`.
    fn issued(&self, peer: &PeerId, text: &str) -> Result<Credential, Error> {
        let credential = text.parse::<Credential>().ok();
        let ours = credential.filter(|shown| shown.holder == *peer && self.secret_issuer().ours(shown));
        ours.ok_or_else(|| wrong_credential(peer.as_str()))
    }

    async fn compare(&self, peer: &PeerId, credential: &Credential) -> Result<VerifiedCredential, Error> {
        let wrong = || wrong_credential(peer.as_str());
        let unknown = || verified(None, peer.as_str(), false).err().unwrap_or_else(wrong);
        let Some((_, Some(hash))) = self.known(peer).await? else { return Err(unknown()) };
        let right = self.hashing().matches(credential.secret.clone(), hash.clone()).await?;
        // The identity may have changed while the hash waited and was computed (SPEC 7.4).
        let (identity, kept) = self.known(peer).await?.ok_or_else(unknown)?;
        let right = right && kept.as_ref() == Some(&hash);
        let worth = verified(Some(&identity), peer.as_str(), right);
        if right { Ok(VerifiedCredential { identity, hash, worth }) } else { Err(worth.err().unwrap_or_else(wrong)) }
    }

    /// Verifies the token's secret. What the token permits is checked when it is used. A token may be shown by many at
    /// once, and nobody guesses its secret: so only a wrong one counts, and only once it was judged.
    pub(super) async fn verify_token(&self, token: &EnrolmentToken, address: Option<IpAddr>) -> Result<(), Error> {
        let key = address.map(|address| (address.to_canonical(), token.id.clone()));
        if let Some(key) = &key {
            self.refuse_while_exhausted("ENROL", key)?;
        }
        let (token_id, hash) = (token.id.clone(), hex::encode(token_hash(&token.secret)));
        let found = self.read("token", move |conn| {
            let right =
                TokenRow::find(conn, &token_id)?.is_some_and(|row| same(row.secret_hash.as_bytes(), hash.as_bytes()));
            let unknown = || Abort::Refused(refuse(Reason::TokenInvalid, "this Registry did not create this token"));
            if right { Ok(()) } else { Err(unknown()) }
        });
        let result = found.await;
        if let (Some(key), Err(why)) = (&key, &result)
            && why.reason.counts_as_wrong_try()
        {
            self.attempts().take(key, self.now().mono);
        }
        result.map_err(|why| self.count_unauthenticated("ENROL", address, why))
    }

    /// Begins an attempt, which counts from now on, so that a thousand at once cannot pass before the first has failed.
    /// Without an address only the tag protects against guessing.
    fn attempt(&self, action: &'static str, id: &str, address: Option<IpAddr>) -> Result<Option<AttemptKey>, Error> {
        let Some(address) = address else { return Ok(None) };
        let key = (address.to_canonical(), id.to_owned());
        if !self.attempts().take(&key, self.now().mono) {
            self.refuse_while_exhausted(action, &key)?;
        }
        Ok(Some(key))
    }

    fn refuse_while_exhausted(&self, action: &'static str, key: &AttemptKey) -> Result<(), Error> {
        let wait = self.attempts().wait(key, self.now().mono);
        if wait.is_zero() {
            return Ok(());
        }
        let ((address, id), seconds) = (key, wait.as_secs().saturating_add(1));
        let detail = format!("too many wrong ones for {id} from {address}; try again in {seconds} s");
        Err(self.count_unauthenticated(action, Some(*address), refuse(Reason::TooManyAttempts, detail).until(wait)))
    }

    /// An attempt counts only where the secret was judged wrong.
    fn conclude<T>(&self, key: Option<AttemptKey>, result: &Result<T, Error>) {
        let Some(key) = key else { return };
        match result.as_ref().map_err(|why| why.reason) {
            Ok(_) => self.attempts().refill(&key),
            Err(reason) if reason.counts_as_wrong_try() => {}
            Err(_) => self.attempts().give_back(&key),
        }
    }
}
