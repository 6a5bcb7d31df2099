//! How a peer proves itself to Central: by a granted key, or with its credential where it has none (SPEC 4.3 to 4.7).

use std::time::{Duration, Instant};

use proto::{
    Retry,
    enrolment::Blob,
    link::v1::{AuthStatus, KeyGrant, KeyState, Part, Reason},
};

use super::{Enrollee, EnrolleeEvent};
use crate::{
    clock::Now,
    peer::{LinkTarget, StoredKey, public_keys},
};

/// What is known beside the keys themselves, which are in the stored identity.
#[derive(Debug, Default)]
pub(super) struct Authentication {
    /// Central's word that there is no valid key.
    pub(super) status: Option<AuthStatus>,
    pub(super) again_at: Option<Instant>,
    refusals: u32,
    /// Refused too often: waits for a command.
    has_given_up: bool,
    /// Which of the stored keys the next link proves; past the last one it is a first contact.
    proof: usize,
    /// Disconnected by a person.
    is_disconnected: bool,
}

impl Authentication {
    /// Of the identity before; that a person has disconnected it stays.
    pub(super) fn forget(&mut self) {
        *self = Self { is_disconnected: self.is_disconnected, ..Self::default() };
    }
}

impl Enrollee {
    // ---- What is the case

    /// Central's word that there is no valid key.
    pub fn auth_status(&self) -> Option<&AuthStatus> {
        self.authentication.status.as_ref()
    }

    pub fn is_revoked(&self) -> bool {
        self.authentication.status.as_ref().is_some_and(is_revoked)
    }

    /// How often the credential was refused since it was accepted last.
    pub fn refusals(&self) -> u32 {
        self.authentication.refusals
    }

    /// Refused too often: it authenticates only when told to.
    pub fn has_given_up(&self) -> bool {
        self.authentication.has_given_up
    }

    /// It waits, and authenticates again by itself.
    pub fn authenticates_again(&self) -> bool {
        self.authentication.again_at.is_some()
    }

    /// By a person.
    pub fn is_disconnected(&self) -> bool {
        self.authentication.is_disconnected
    }

    // ---- To Central

    /// Connects with the best proof there is.
    pub(super) fn connect(&mut self, now: Now) {
        if let Some(target) = self.target(now) {
            self.peer.connect_to(target, now.mono);
        }
    }

    /// As `connect`, by a new link; the present one stays until Central has spoken on that.
    pub(super) fn reconnect(&mut self, now: Now) {
        if let Some(target) = self.target(now) {
            self.peer.reconnect_to(target, now.mono);
        }
    }

    fn target(&mut self, now: Now) -> Option<LinkTarget> {
        if !self.is_enrolled() || self.authentication.is_disconnected || self.authentication.has_given_up {
            return None;
        }
        let key = self.stored.keys.get(self.authentication.proof).filter(|_| self.authentication.status.is_none());
        let target = LinkTarget {
            id: self.stored.id.clone()?,
            central: self.settings.central.clone(),
            pins: public_keys(self.stored.pins.iter().map(|pin| pin.0.as_slice())),
            key: key.map(|stored| (stored.key_no, stored.key.clone())),
            life_sign: self.settings.life_sign,
        };
        if target.pins.is_empty() {
            // Registry had not met Central at the enrolment (SPEC 7.4): it is asked again.
            self.ask_registry_soon(now);
        }
        Some(target)
    }

    /// Closes the links, and makes no other until told to.
    ///
    /// # Errors
    /// Where that is the case already.
    pub fn disconnect_by_hand(&mut self, now: Now) -> Result<(), String> {
        if self.authentication.is_disconnected {
            return Err("it is disconnected already".to_owned());
        }
        self.authentication.is_disconnected = true;
        self.peer.disconnect(now.mono);
        Ok(())
    }

    /// # Errors
    /// Where it was not disconnected by a person.
    pub fn connect_by_hand(&mut self, now: Now) -> Result<(), String> {
        if !self.authentication.is_disconnected {
            return Err("it is not disconnected by hand".to_owned());
        }
        self.authentication.is_disconnected = false;
        self.connect(now);
        Ok(())
    }

    /// Shows the credential now, on a new link; the present one stays until Central has answered.
    ///
    /// # Errors
    /// Where it is not enrolled, or was disconnected by a person.
    pub fn authenticate_by_hand(&mut self, now: Now) -> Result<(), String> {
        if !self.is_enrolled() {
            return Err("not enrolled; enrol with a token first".to_owned());
        }
        if self.authentication.is_disconnected {
            return Err("disconnected by hand; connect first".to_owned());
        }
        self.accepted();
        self.authentication.again_at = None;
        self.authentication.proof = self.stored.keys.len();
        self.reconnect(now);
        Ok(())
    }

    pub(super) fn authenticate_again(&mut self, now: Now) {
        if self.authentication.again_at.is_some_and(|at| at <= now.mono) {
            self.authentication.again_at = None;
            // By a key that nobody has called void, or with the credential.
            self.reconnect(now);
        }
    }

    fn accepted(&mut self) {
        (self.authentication.refusals, self.authentication.has_given_up) = (0, false);
    }

    // ---- Keys

    pub(super) fn granted(&mut self, grant: &KeyGrant, now: Now) {
        let Some(key) = StoredKey::new(grant) else {
            tracing::warn!(key.no = grant.key_no, "Central granted a key that does not have 32 bytes");
            return;
        };
        (self.authentication.status, self.authentication.again_at) = (None, None);
        self.stored.add_key(key);
        if !grant.pins.is_empty() {
            self.stored.pins = grant.pins.iter().map(|pin| Blob(pin.clone())).collect();
        }
        self.saving.unsaved = true;
        self.saving.granted_at = Some(now.mono);
    }

    /// The next link proves the newest key.
    pub fn use_key(&mut self, now: Now) {
        self.authentication.proof = 0;
        self.connect(now);
    }

    /// Central has opened what was said under this key.
    pub(super) fn key_is_proven(&mut self, key_no: u64) {
        self.accepted();
        if self.stored.keys.first().is_some_and(|key| key.key_no == key_no) && self.stored.keys.len() > 1 {
            self.stored.keys.truncate(1);
            self.saving.unsaved = true;
        }
    }

    /// Central does not know the key or the id that was shown. It says so in clear and unproven: no key is given up for
    /// it, and keys and credential are tried in turn, so that a forger keeps nobody from using a good key (SPEC 4.3).
    pub(super) fn key_is_unknown(&mut self, first_contact: bool, now: Now) {
        self.authentication.proof = (self.authentication.proof + 1) % (self.stored.keys.len() + 1);
        if first_contact {
            // Enrolled a moment ago, removed, or Central's static key is another one.
            self.ask_registry_soon(now);
        }
        if let Some(target) = self.target(now) {
            self.peer.set_target(target);
        }
    }

    // ---- Not authenticated

    /// Central's word that there is no valid key, or that the credential was not accepted (SPEC 4.7).
    pub(super) fn not_authenticated(&mut self, status: AuthStatus, now: Now) {
        let reason = Reason::received(status.reason);
        if status.key_state() == KeyState::Active && reason == Reason::Unspecified {
            return;
        }
        self.events.push_back(EnrolleeEvent::NotAuthenticated(status.clone()));
        if reason.ends_an_enrolment() {
            return self.is_unknown_to_registry(status, now);
        }
        let mut wait = self.settings.authenticate_again;
        // Nobody has judged the credential, and that says nothing of a key. Too many attempts may be those of somebody
        // else, who guesses for this id.
        let is_unchecked = reason.is_undecided();
        let is_revoked = is_revoked(&status);
        if !is_unchecked || self.stored.keys.is_empty() {
            // Central may ask for more time, but not for ever.
            let asked = Duration::from_millis(u64::from(status.retry_after_ms));
            wait = wait.max(asked.min(self.settings.peer.wire.longest_retry));
            self.without_key(status);
        }
        // Keys that were not known are tried again before the credential is.
        self.authentication.proof = 0;
        self.authentication.again_at = None;
        if reason.counts_as_wrong_try() {
            self.authentication.refusals += 1;
            self.authentication.has_given_up = self.authentication.refusals >= self.settings.refusals;
        }
        // The link stays as a status link; nothing is dialled before it is time.
        self.peer.stop_dialing();
        if is_revoked {
            self.keep_status_link(now);
        } else if !self.authentication.has_given_up {
            self.authentication.again_at = Some(now.mono + wait);
        }
    }

    /// A revoked charging point shows that it is; its lost status link is made again with the void credential, and
    /// nothing is expected of it. Drivers have no such link.
    fn keep_status_link(&mut self, now: Now) {
        if self.settings.part == Part::Monitor
            && let Some(target) = self.target(now)
        {
            self.peer.set_next_target(target);
        }
    }

    pub(super) fn without_key(&mut self, status: AuthStatus) {
        self.stored.keys.clear();
        self.authentication.proof = 0;
        self.authentication.status = Some(status);
        (self.saving.unsaved, self.saving.granted_at) = (true, None);
        self.events.push_back(EnrolleeEvent::IdentityChanged);
    }
}

fn is_revoked(status: &AuthStatus) -> bool {
    status.key_state() == KeyState::Revoked || status.reason().retry() == Retry::AfterAPersonActs
}
