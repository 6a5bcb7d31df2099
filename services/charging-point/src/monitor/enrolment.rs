//! Enrolment with a token, and what Registry says of this charging point (SPEC 1.2, 7.4).

use std::time::Duration;

use mesh::clock::Now;
use proto::{
    ChargingPointId,
    enrolment::{CredentialState, EnrolBody, Enrolled, EnrolmentStatus, EnrolmentToken, SecretText, Trust},
    link::v1::{AuthStatus, KeyState, Reason},
};

use super::{Command, Membership, Monitor, registry::RegistryError};

/// Between two questions to Registry about ourselves.
const SOON: Duration = Duration::from_secs(2);

impl Monitor {
    /// A request that was not seen answered is repeated with its id, since Registry gives that the credential again; for
    /// another token the id is a fresh one (SPEC 7.3).
    pub(super) fn enrol(&mut self, token: SecretText, now: Now) -> Result<(), String> {
        let id = self.stored.id.clone().or_else(|| self.settings.id.clone());
        id.ok_or("no id to enrol as; start the monitor with --id")?;
        let parsed: EnrolmentToken = token.expose().parse().map_err(|error| format!("{error}"))?;
        let fresh = || format!("{:016x}{:016x}", self.chance.draw_long(), self.chance.draw_long());
        let request_id = self.stored.enrolling.get_or_insert_with(fresh).clone();
        self.unsaved = true;
        if !parsed.pins.is_empty() && self.stored.pins.is_empty() {
            self.stored.pins = parsed.pins.iter().map(|pin| proto::enrolment::Blob(pin.to_vec())).collect();
        }
        self.membership = Membership::Enrolling { token, request_id, again_at: None, trouble: None };
        self.ask_to_enrol(now);
        Ok(())
    }

    fn ask_to_enrol(&mut self, _now: Now) {
        let Membership::Enrolling { token, request_id, again_at, .. } = &mut self.membership else { return };
        *again_at = None;
        let id = self.stored.id.clone().or_else(|| self.settings.id.clone());
        let body = EnrolBody {
            request_id: request_id.clone(),
            id: id.map(String::from).unwrap_or_default(),
            token: token.clone(),
            old_credential: SecretText::default(),
            city: self.settings.city.clone(),
            place: self.settings.place.clone(),
            price_e4: self.settings.price.e4(),
        };
        self.out.push_back(Command::Enrol(Box::new(body)));
    }

    pub(super) fn enrol_again(&mut self, now: Now) {
        let due = matches!(&self.membership, Membership::Enrolling { again_at: Some(at), .. } if *at <= now.mono);
        if due {
            self.ask_to_enrol(now);
        }
    }

    pub(super) fn enrolled(&mut self, result: Result<Box<Enrolled>, RegistryError>, now: Now) {
        match result {
            // Whatever became of the wish meanwhile: nobody else has this credential.
            Ok(enrolled) => self.welcome(*enrolled, now),
            Err(error @ RegistryError::Unreachable(_)) => {
                let Membership::Enrolling { again_at, trouble, .. } = &mut self.membership else { return };
                *again_at = Some(now.mono + self.settings.registry_again);
                *trouble = Some(error.to_string());
                self.registry_trouble = Some(error.to_string());
            }
            Err(error @ RegistryError::Refused { .. }) => self.refused(&error, now),
        }
    }

    /// The token given at the start is tried again and again, since an operator may readmit the id; one typed by a
    /// person is not.
    fn refused(&mut self, error: &RegistryError, now: Now) {
        self.registry_trouble = None;
        let Membership::Enrolling { token, again_at, trouble, .. } = &mut self.membership else { return };
        let given = self.settings.token.as_ref().is_some_and(|t| t.expose() == token.expose());
        if given && error.may_pass() {
            *again_at = Some(now.mono + self.settings.registry_again * 6);
            *trouble = Some(error.to_string());
            return;
        }
        self.stored.enrolling = None;
        self.unsaved = true;
        self.notice = Some(format!("enrolment refused: {error}"));
        // Where an identity is in force, a refused token changes nothing.
        let why = error.to_string();
        self.membership =
            if self.stored.credential.is_some() { Membership::Enrolled } else { Membership::NotEnrolled(why) };
    }

    fn welcome(&mut self, enrolled: Enrolled, now: Now) {
        let is_known = self.stored.credential.as_ref().is_some_and(|c| c.expose() == enrolled.credential.expose());
        let is_repeated = is_known && matches!(self.membership, Membership::Enrolled);
        if is_repeated || enrolled.status.incarnation < self.incarnation {
            // The answer to a request that was made twice, or to one before the last that was answered.
            return;
        }
        self.incarnation = enrolled.status.incarnation;
        let Ok(id) = enrolled.status.id.parse::<ChargingPointId>() else {
            self.notice = Some("Registry answered with an id that is not one".to_owned());
            return;
        };
        self.registry_trouble = None;
        self.stored.id = Some(id);
        self.stored.credential = Some(enrolled.credential.clone());
        self.trust(&enrolled.status.trust);
        self.stored.keys.clear();
        self.stored.enrolling = None;
        self.stored.highest_epoch = 0;
        self.way.forget_epoch();
        self.unsaved = true;
        self.membership = Membership::Enrolled;
        self.keys = super::Keys::default();
        self.notice = Some("enrolled".to_owned());
        // In place of a status link of the identity before, if there is one.
        self.reach_anew(now);
    }

    fn trust(&mut self, trust: &Trust) {
        if !trust.pins.is_empty() {
            self.stored.pins.clone_from(&trust.pins);
        }
        if !trust.roots.is_empty() {
            self.stored.roots.clone_from(&trust.roots);
        }
    }

    // ---- Asking for ourselves

    pub(super) fn ask_registry_soon(&mut self, now: Now) {
        if self.ask_registry_at.is_none() && !self.asking_registry {
            self.ask_registry_at = Some(now.mono + SOON);
        }
    }

    pub(super) fn ask_registry(&mut self) {
        let (Some(id), Some(credential)) = (self.stored.id.clone(), self.stored.credential.clone()) else { return };
        self.asking_registry = true;
        let trust = self.known_trust();
        self.out.push_back(Command::AskRegistry { id, credential, trust });
    }

    fn known_trust(&self) -> Trust {
        Trust { pins: self.stored.pins.clone(), roots: self.stored.roots.clone() }
    }

    pub(super) fn registry_said(&mut self, result: Result<Box<EnrolmentStatus>, RegistryError>, now: Now) {
        self.asking_registry = false;
        match result {
            Ok(status) => {
                self.registry_trouble = None;
                let before = self.stored.pins.clone();
                self.trust(&status.trust);
                self.unsaved = true;
                match status.state {
                    CredentialState::Enrolled | CredentialState::Void => {
                        if self.stored.pins != before {
                            // The engine as well: no grant may follow, where the key that both hold is good.
                            self.assign();
                            self.reach(now);
                        } else if self.stored.pins.is_empty() {
                            self.ask_registry_soon(now);
                        }
                    }
                    CredentialState::Removed => self.gone_at_registry(Reason::Removed, now),
                }
            }
            Err(RegistryError::Unreachable(why)) => {
                self.registry_trouble = Some(why);
                self.ask_registry_at = Some(now.mono + self.settings.registry_again);
            }
            Err(error @ RegistryError::Refused { .. }) => {
                self.registry_trouble = Some(error.to_string());
                if error.is(Reason::NotEnrolled) || error.is(Reason::Removed) || error.is(Reason::NotFound) {
                    self.gone_at_registry(Reason::NotEnrolled, now);
                }
            }
        }
    }

    fn gone_at_registry(&mut self, reason: Reason, now: Now) {
        let auth_status = AuthStatus {
            key_state: KeyState::Deleted.into(),
            reason: reason.into(),
            detail: "Registry does not know it any more".to_owned(),
            retry_after_ms: 0,
        };
        self.stands(auth_status, now);
    }

    /// Without an identity from here on.
    pub(super) fn forget(&mut self, why: String, now: Now) {
        self.stored.credential = None;
        self.stored.keys.clear();
        self.stored.highest_epoch = 0;
        self.unsaved = true;
        self.way.lay_down();
        self.view = None;
        self.membership = Membership::NotEnrolled(why);
        self.assign();
        if let Some(token) = self.settings.token.clone() {
            // Refused until an operator readmits the id; then it comes back by itself.
            drop(self.enrol(token, now));
        }
    }

    // ---- Removal by hand

    pub(super) fn remove(&mut self) -> Result<(), String> {
        let (Some(id), Some(credential)) = (self.stored.id.clone(), self.stored.credential.clone()) else {
            return Err("not enrolled".to_owned());
        };
        let trust = self.known_trust();
        self.out.push_back(Command::Remove { id, credential, trust });
        Ok(())
    }

    pub(super) fn removed(&mut self, result: Result<(), RegistryError>) {
        match result {
            Ok(()) => {
                self.stored.credential = None;
                self.stored.keys.clear();
                self.unsaved = true;
                self.way.lay_down();
                self.view = None;
                self.keys.auth_status = Some(AuthStatus {
                    key_state: KeyState::Deleted.into(),
                    reason: Reason::Removed.into(),
                    detail: "removed at the monitor".to_owned(),
                    retry_after_ms: 0,
                });
                self.membership = Membership::NotEnrolled("removed at the monitor".to_owned());
                self.assign();
            }
            Err(error) => self.notice = Some(format!("removal failed: {error}")),
        }
    }
}
