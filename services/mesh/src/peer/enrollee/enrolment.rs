//! Enrolment with a token, and what Registry says of this peer (SPEC 1.2, 7.4).

use std::time::Duration;

use proto::{
    enrolment::{Blob, CredentialState, EnrolBody, Enrolled, EnrolmentStatus, EnrolmentToken, SecretText},
    link::v1::{AuthStatus, KeyState, Reason},
};
use rand::Rng as _;

use super::{Enrollee, EnrolleeCommand, EnrolleeEvent, Membership};
use crate::{
    clock::Now,
    peer::{RegistryAnswer, RegistryCall, RegistryError},
};

/// Between two questions to Registry about this peer.
const SOON: Duration = Duration::from_secs(2);

impl Enrollee {
    /// Enrols with this token. A request that was not seen answered is repeated with its id, since Registry gives that
    /// the credential again; for another token the id is a fresh one (SPEC 7.3).
    ///
    /// # Errors
    /// Where the text is not a token, or there is no id to enrol as.
    pub fn enrol(&mut self, token: SecretText) -> Result<(), String> {
        self.id().ok_or("no id to enrol as; start it with --id")?;
        let parsed: EnrolmentToken = token.expose().parse().map_err(|error| format!("{error}"))?;
        let fresh = || format!("{:032x}", self.rng.random::<u128>());
        let request_id = self.stored.enrolling.get_or_insert_with(fresh).clone();
        self.saving.unsaved = true;
        if self.stored.pins.is_empty() {
            self.stored.pins = parsed.pins.iter().map(|pin| Blob(pin.to_vec())).collect();
        }
        self.membership = Membership::Enrolling { token, request_id, again_at: None, trouble: None };
        self.ask_to_enrol();
        Ok(())
    }

    pub(super) fn enrol_with_given_token(&mut self) {
        if let Some(token) = self.settings.token.clone()
            && let Err(why) = self.enrol(token)
        {
            self.membership = Membership::NotEnrolled(why);
        }
    }

    fn ask_to_enrol(&mut self) {
        let id = self.id().unwrap_or_default().to_owned();
        let Membership::Enrolling { token, request_id, again_at, .. } = &mut self.membership else { return };
        *again_at = None;
        let (request_id, token) = (request_id.clone(), token.clone());
        let body = EnrolBody { request_id, id, token, ..self.settings.enrolment.clone() };
        self.commands.push_back(EnrolleeCommand::Registry(RegistryCall::Enrol(Box::new(body))));
    }

    pub(super) fn enrol_again(&mut self, now: Now) {
        if matches!(&self.membership, Membership::Enrolling { again_at: Some(at), .. } if *at <= now.mono) {
            self.ask_to_enrol();
        }
    }

    pub(super) fn registry_answered(&mut self, answer: RegistryAnswer, now: Now) {
        self.registry.has_answered |= answer.has_come();
        match answer {
            // Whatever became of the wish meanwhile: nobody else has this credential.
            RegistryAnswer::Enrolled(Ok(enrolled)) => self.enrolled(*enrolled, now),
            RegistryAnswer::Enrolled(Err(error)) => self.not_enrolled(&error, now),
            RegistryAnswer::Status(result) => {
                self.registry.asking = false;
                match result {
                    Ok(status) => self.registry_status(&status, now),
                    Err(error) => self.no_registry_status(&error, now),
                }
            }
            RegistryAnswer::Removed(Ok(())) => self.removed(now),
            RegistryAnswer::Removed(Err(error)) => {
                self.events.push_back(EnrolleeEvent::RemovalFailed(error.to_string()));
            }
        }
    }

    /// The token given at the start is tried again and again, since an operator may readmit the id; one typed by a
    /// person is not.
    fn not_enrolled(&mut self, error: &RegistryError, now: Now) {
        let why = error.to_string();
        let is_unreachable = matches!(error, RegistryError::Unreachable(_));
        if !is_unreachable {
            self.registry.trouble = None;
        }
        let Membership::Enrolling { token, again_at, trouble, .. } = &mut self.membership else { return };
        let is_given = self.settings.token.as_ref().is_some_and(|given| given.expose() == token.expose());
        if is_unreachable || (is_given && error.may_pass()) {
            let times = if is_unreachable { 1 } else { 6 };
            *again_at = Some(now.mono + self.settings.registry_again * times);
            *trouble = Some(why.clone());
            if is_unreachable {
                self.registry.trouble = Some(why);
            }
            return;
        }
        self.stored.enrolling = None;
        self.saving.unsaved = true;
        self.events.push_back(EnrolleeEvent::EnrolmentRefused(error.clone()));
        // Where an identity is in force, a refused token changes nothing.
        let is_known = self.stored.credential.is_some();
        self.membership = if is_known { Membership::Enrolled } else { Membership::NotEnrolled(why) };
    }

    fn enrolled(&mut self, enrolled: Enrolled, now: Now) {
        let is_known = self.stored.credential.as_ref().is_some_and(|c| c.expose() == enrolled.credential.expose());
        if (is_known && self.is_enrolled()) || enrolled.status.incarnation < self.registry.incarnation {
            // The answer to a request that was made twice, or to one before the last that was answered.
            return;
        }
        self.registry.incarnation = enrolled.status.incarnation;
        self.registry.trouble = None;
        self.stored.trust(&enrolled.status.trust);
        self.stored.id = Some(enrolled.status.id);
        self.stored.credential = Some(enrolled.credential);
        self.stored.enrolling = None;
        self.membership = Membership::Enrolled;
        self.without_keys_of_before();
        self.authentication.forget();
        self.events.push_back(EnrolleeEvent::Enrolled);
        // In place of a status link of the identity before, if there is one.
        self.reconnect(now);
    }

    fn without_keys_of_before(&mut self) {
        self.stored.keys.clear();
        self.stored.highest_epoch = 0;
        self.peer.forget_epoch();
        (self.saving.unsaved, self.saving.granted_at) = (true, None);
    }

    // ---- Asking for its status

    pub(super) fn ask_registry_soon(&mut self, now: Now) {
        if self.registry.ask_at.is_none() && !self.registry.asking {
            self.registry.ask_at = Some(now.mono + SOON);
        }
    }

    pub(super) fn ask_registry_if_due(&mut self, now: Now) {
        if self.registry.ask_at.take_if(|at| *at <= now.mono).is_some()
            && let Some(shown) = self.stored.shown()
        {
            self.registry.asking = true;
            self.commands.push_back(EnrolleeCommand::Registry(RegistryCall::Status(shown)));
        }
    }

    fn registry_status(&mut self, status: &EnrolmentStatus, now: Now) {
        self.registry.trouble = None;
        let before = self.stored.pins.clone();
        self.stored.trust(&status.trust);
        self.saving.unsaved = true;
        match status.state {
            CredentialState::Enrolled | CredentialState::Void => {
                if self.stored.pins != before {
                    self.events.push_back(EnrolleeEvent::IdentityChanged);
                    self.connect(now);
                } else if self.stored.pins.is_empty() {
                    self.ask_registry_soon(now);
                }
            }
            CredentialState::Removed => self.gone_at_registry(Reason::Removed, now),
        }
    }

    fn no_registry_status(&mut self, error: &RegistryError, now: Now) {
        self.registry.trouble = Some(error.to_string());
        if matches!(error, RegistryError::Unreachable(_)) {
            self.registry.ask_at = Some(now.mono + self.settings.registry_again);
        } else if error.is_unknown() {
            self.gone_at_registry(Reason::NotEnrolled, now);
        }
    }

    fn gone_at_registry(&mut self, reason: Reason, now: Now) {
        let detail = "Registry does not know it any more; enrol with a token".to_owned();
        let key_state = KeyState::Deleted.into();
        self.not_authenticated(AuthStatus { key_state, reason: reason.into(), detail, retry_after_ms: 0 }, now);
    }

    // ---- Without an identity

    /// It waits, saying so, until an operator readmits the id; then it comes back by itself (SPEC 7.4).
    pub(super) fn is_unknown_to_registry(&mut self, status: AuthStatus, now: Now) {
        let detail = if status.detail.is_empty() { status.reason().in_words() } else { &status.detail };
        let why = format!("no longer enrolled: {detail}");
        self.forget_identity(why, status, now);
        self.enrol_with_given_token();
    }

    fn removed(&mut self, now: Now) {
        let why = "removed by hand".to_owned();
        let (key_state, reason, detail) = (KeyState::Deleted.into(), Reason::Removed.into(), why.clone());
        self.forget_identity(why, AuthStatus { key_state, reason, detail, retry_after_ms: 0 }, now);
    }

    fn forget_identity(&mut self, why: String, status: AuthStatus, now: Now) {
        self.stored.credential = None;
        self.authentication.again_at = None;
        self.without_keys_of_before();
        self.peer.disconnect(now.mono);
        self.membership = Membership::NotEnrolled(why);
        self.without_key(status);
    }

    /// Removes the identity, at Registry first.
    ///
    /// # Errors
    /// Where there is none.
    pub fn remove(&mut self) -> Result<(), String> {
        let shown = self.stored.shown().ok_or("not enrolled")?;
        self.commands.push_back(EnrolleeCommand::Registry(RegistryCall::Remove(shown)));
        Ok(())
    }
}
