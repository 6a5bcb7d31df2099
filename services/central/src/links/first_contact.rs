//! First contacts (SPEC 4.4): the credential comes inside the channel, Registry judges it, which knows by its tag whether
//! it is one of its own and counts wrong ones, and a key is granted. Every
//! refusal is said in words on the channel, with the time of the next try.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use proto::{
    PeerId,
    link::v1::{AuthStatus, Authenticate, Reason, down},
};
use zeroize::Zeroizing;

use super::{LinkPermit, responder::Responder};
use crate::{event_loop::Message, registry::CredentialVerdict};

/// Longest credential that is looked at.
const LONGEST: usize = 512;

/// A link that says it is `peer` and has proven nothing yet.
#[derive(Clone)]
pub(super) struct FirstContact {
    responder: Responder,
    pub(super) permit: Arc<LinkPermit>,
    pub(super) peer: PeerId,
    /// A credential was shown: one for each link, since each costs a password hash.
    asking: Arc<AtomicBool>,
}

impl FirstContact {
    pub(super) fn new(responder: Responder, permit: Arc<LinkPermit>, peer: PeerId) -> Self {
        Self { responder, permit, peer, asking: Arc::default() }
    }

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
        let Responder { links, address, .. } = &self.responder;
        let verdict = if credential.len() > LONGEST {
            CredentialVerdict::Refused(Reason::WrongCredential)
        } else {
            links.verifier.verify(&self.peer, credential, *address).await
        };
        match verdict {
            CredentialVerdict::Verified { void } => {
                self.permit.proven();
                let (peer, link, from) = (self.peer.clone(), self.responder.link, self.responder.from.clone());
                let send_queue = self.responder.send_queue.clone();
                links.event_loop.send(Message::Verified { peer, link, send_queue, from, to, void }).await;
            }
            CredentialVerdict::Refused(reason) => {
                links.refuse(reason.code(), *address);
                self.stand(to, reason, "", self.retry_ms());
            }
            CredentialVerdict::Undecided(reason, why, wait) => {
                links.refuse(reason.code(), *address);
                let wait = wait.map(|wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX));
                self.stand(to, reason, &why, wait.unwrap_or_default().max(self.retry_ms()));
            }
        }
    }

    fn retry_ms(&self) -> u32 {
        u32::try_from(self.responder.links.shared.settings.renew_after.as_millis()).unwrap_or(u32::MAX)
    }

    /// Says why there is no key, and closes behind it.
    fn stand(&self, to: u64, reason: Reason, detail: &str, retry_after_ms: u32) {
        let responder = self.responder();
        responder.answer(to, reason, detail);
        let (reason, detail) = (reason.into(), detail.to_owned());
        responder.say(down::Body::AuthStatus(AuthStatus { reason, detail, retry_after_ms, ..AuthStatus::default() }));
        responder.send_queue.close();
    }

    /// Only an authenticated peer is told the epoch.
    pub(super) fn responder(&self) -> Responder {
        let epoch = match &self.peer {
            PeerId::ChargingPoint(id) if self.permit.is_proven() => {
                Some(self.responder.links.shared.directory.epoch(id))
            }
            PeerId::ChargingPoint(_) | PeerId::Driver(_) => None,
        };
        Responder { epoch, ..self.responder.clone() }
    }
}
