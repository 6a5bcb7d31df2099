//! First contacts (SPEC 4.4): the credential comes inside the channel, Registry judges it, and a key is granted. Every
//! refusal is said in words on the channel, with the time of the next try.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mesh::link::Outbox;
use prost::Message as _;
use proto::{
    PeerId,
    link::v1::{Answer, Authenticate, Down, Reason, Standing, down},
};
use zeroize::Zeroizing;

use super::{Links, Place};
use crate::{charge_point::LinkNo, drive::Message, registry::Verdict};

/// Longest credential that is looked at.
const LONGEST: usize = 512;

/// A link that says it is `peer` and has proven nothing yet.
#[derive(Clone)]
pub(super) struct Contact {
    pub(super) links: Arc<Links>,
    pub(super) place: Arc<Place>,
    pub(super) peer: PeerId,
    pub(super) link: LinkNo,
    pub(super) address: IpAddr,
    pub(super) from: Arc<str>,
    pub(super) outbox: Outbox,
    /// A credential was shown: one for each link, since each costs a password hash.
    pub(super) asking: Arc<AtomicBool>,
}

impl Contact {
    /// Registry may take its time: the link goes on meanwhile, or its peer would take Central for dead.
    pub(super) fn authenticate(&self, shown: Authenticate, to: u64) {
        if self.asking.swap(true, Ordering::Relaxed) {
            return;
        }
        let credential = Zeroizing::new(shown.credential.to_vec());
        let contact = self.clone();
        tokio::spawn(async move {
            contact.judge(&credential, to).await;
        });
    }

    async fn judge(&self, credential: &[u8], to: u64) {
        let now = self.links.shared.clock.mono();
        let wait = self.links.attempts().must_wait(self.address, self.peer.as_str(), now);
        if let Some(wait) = wait {
            self.links.refuse(Reason::TooManyAttempts.code(), self.address);
            let ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1_000);
            return self.stand(to, Reason::TooManyAttempts, "", ms);
        }
        let verdict = if credential.len() > LONGEST {
            Verdict::Refused(Reason::WrongCredential)
        } else {
            self.links.verifier.verify(&self.peer, credential, self.address).await
        };
        match verdict {
            Verdict::Verified { void } => {
                self.place.proven();
                let (peer, link, from) = (self.peer.clone(), self.link, self.from.clone());
                let outbox = self.outbox.clone();
                self.links.drive.send(Message::Verified { peer, link, outbox, from, to, void }).await;
            }
            Verdict::Refused(reason) => {
                self.links.attempts().refused(self.address, self.peer.as_str(), now);
                self.links.refuse(reason.code(), self.address);
                self.stand(to, reason, "", self.retry_ms());
            }
            Verdict::Unreachable(why) => self.stand(to, Reason::RegistryUnreachable, &why, self.retry_ms()),
        }
    }

    fn retry_ms(&self) -> u32 {
        u32::try_from(self.links.shared.settings.renew_after.as_millis()).unwrap_or(u32::MAX)
    }

    /// Says why there is no key, and closes behind it.
    fn stand(&self, to: u64, reason: Reason, detail: &str, retry_after_ms: u32) {
        let (reason, detail) = (reason.into(), detail.to_owned());
        if to != 0 {
            self.say(down::Body::Answer(Answer { to, reason, detail: detail.clone() }));
        }
        self.say(down::Body::Standing(Standing { reason, detail, retry_after_ms, ..Standing::default() }));
        self.outbox.close();
    }

    /// Told to whoever authenticated alone: an epoch is nothing for strangers.
    pub(super) fn epoch(&self) -> u64 {
        match &self.peer {
            PeerId::ChargingPoint(id) if self.place.is_proven() => self.links.shared.directory.epoch(id).get(),
            PeerId::ChargingPoint(_) | PeerId::Driver(_) => 0,
        }
    }

    fn say(&self, body: down::Body) {
        let message = Down { epoch: self.epoch(), body: Some(body) };
        // Full or closed: whoever does not listen is told when he comes back.
        let _told = self.outbox.try_send(message.encode_to_vec().into());
    }
}
