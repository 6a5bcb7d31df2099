//! First contacts (SPEC 4.4): the credential comes inside the channel, Registry judges it, and a key is granted. Every
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

use super::{Place, voice::Voice};
use crate::{drive::Message, registry::Verdict};

/// Longest credential that is looked at.
const LONGEST: usize = 512;

/// A link that says it is `peer` and has proven nothing yet.
#[derive(Clone)]
pub(super) struct Contact {
    voice: Voice,
    pub(super) place: Arc<Place>,
    pub(super) peer: PeerId,
    /// A credential was shown: one for each link, since each costs a password hash.
    asking: Arc<AtomicBool>,
}

impl Contact {
    pub(super) fn new(voice: Voice, place: Arc<Place>, peer: PeerId) -> Self {
        Self { voice, place, peer, asking: Arc::default() }
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
        let Voice { links, address, .. } = &self.voice;
        let now = links.shared.clock.mono();
        let wait = links.attempts().must_wait(*address, self.peer.as_str(), now);
        if let Some(wait) = wait {
            links.refuse(Reason::TooManyAttempts.code(), *address);
            let ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1_000);
            return self.stand(to, Reason::TooManyAttempts, "", ms);
        }
        let verdict = if credential.len() > LONGEST {
            Verdict::Refused(Reason::WrongCredential)
        } else {
            links.verifier.verify(&self.peer, credential, *address).await
        };
        match verdict {
            Verdict::Verified { void } => {
                self.place.proven();
                let (peer, link, from) = (self.peer.clone(), self.voice.link, self.voice.from.clone());
                let send_queue = self.voice.send_queue.clone();
                links.drive.send(Message::Verified { peer, link, send_queue, from, to, void }).await;
            }
            Verdict::Refused(reason) => {
                links.attempts().refused(*address, self.peer.as_str(), now);
                links.refuse(reason.code(), *address);
                self.stand(to, reason, "", self.retry_ms());
            }
            Verdict::Unreachable(why) => self.stand(to, Reason::RegistryUnreachable, &why, self.retry_ms()),
        }
    }

    fn retry_ms(&self) -> u32 {
        u32::try_from(self.voice.links.shared.settings.renew_after.as_millis()).unwrap_or(u32::MAX)
    }

    /// Says why there is no key, and closes behind it.
    fn stand(&self, to: u64, reason: Reason, detail: &str, retry_after_ms: u32) {
        let voice = self.voice();
        voice.answer(to, reason, detail);
        let (reason, detail) = (reason.into(), detail.to_owned());
        voice.say(down::Body::AuthStatus(AuthStatus { reason, detail, retry_after_ms, ..AuthStatus::default() }));
        voice.send_queue.close();
    }

    /// An epoch is told to whoever authenticated alone: it is nothing for strangers.
    pub(super) fn voice(&self) -> Voice {
        let epoch = match &self.peer {
            PeerId::ChargingPoint(id) if self.place.is_proven() => Some(self.voice.links.shared.directory.epoch(id)),
            PeerId::ChargingPoint(_) | PeerId::Driver(_) => None,
        };
        Voice { epoch, ..self.voice.clone() }
    }
}
