//! The keys of the charging point, from Central's grant to their end.

use std::time::{Duration, Instant};

use mesh::clock::Now;
use proto::{
    enrolment::Blob,
    link::v1::{
        Assignment, AuthStatus, FromMonitor, KeyGrant, KeyInstalled, KeyState, KeyWithdrawn, Reason, from_monitor, up,
    },
};
use wire::LinkKey;

use crate::uplink::{Claim, Target};

use super::{Command, Membership, Monitor, identity::StoredKey};

/// What is in force, beside the keys themselves, which are in the stored identity.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Central's word that there is no valid key.
    pub(super) auth_status: Option<AuthStatus>,
    pub(super) authenticate_at: Option<Instant>,
    pub(super) refusals: u32,
    /// Refused too often: waits for a command.
    pub(super) given_up: bool,
    /// How many of the stored keys Central did not know; past the last a first contact is due.
    unknown: usize,
    installing: Option<Installing>,
}

/// A new key on its way into use.
#[derive(Debug)]
struct Installing {
    key_no: u64,
    stored: bool,
    /// The engine holds it, or is not there.
    held: bool,
    /// The engine is waited for no longer.
    until: Instant,
}

impl Keys {
    pub(super) fn due(&self) -> Option<Instant> {
        let until = self.installing.as_ref().filter(|i| !i.held).map(|i| i.until);
        [self.authenticate_at, until].into_iter().flatten().min()
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.auth_status
            .as_ref()
            .is_some_and(|s| s.key_state() == KeyState::Revoked || s.reason() == Reason::CredentialVoid)
    }
}

impl Monitor {
    /// Aims at Central with the best proof there is.
    pub(super) fn reach(&mut self, now: Now) {
        if let Some(target) = self.target(now) {
            self.way.aim(target, now.mono);
        }
    }

    /// As `reach`, by a new link; the present one stays until Central has spoken on that.
    pub(super) fn reach_anew(&mut self, now: Now) {
        if let Some(target) = self.target(now) {
            self.way.aim_anew(target, now.mono);
        }
    }

    fn target(&mut self, now: Now) -> Option<Target> {
        let id = self.stored.id.clone().filter(|_| self.wants_central())?;
        let key = self.stored.keys.get(self.keys.unknown).filter(|_| self.keys.auth_status.is_none());
        let claim = key.map_or(Claim::FirstContact, |k| Claim::Key { key_no: k.key_no, key: k.key.clone() });
        let target = Target {
            id: id.to_string(),
            central: self.settings.central.clone(),
            pins: crate::engine::pins(&self.stored.pins.iter().map(|p| p.0.as_slice()).collect::<Vec<_>>()),
            claim,
            life_sign: self.settings.life_sign,
        };
        if target.pins.is_empty() {
            // Registry had not met Central when it enrolled us (SPEC 7.4): it is asked again.
            self.ask_registry_soon(now);
        }
        Some(target)
    }

    fn wants_central(&self) -> bool {
        matches!(self.membership, Membership::Enrolled) && !self.disconnected && !self.keys.given_up
    }

    pub(super) fn authenticate_by_hand(&mut self, now: Now) -> Result<(), String> {
        if !matches!(self.membership, Membership::Enrolled) {
            return Err("not enrolled; enrol with a token first".to_owned());
        }
        if self.disconnected {
            return Err("disconnected by hand; connect first".to_owned());
        }
        (self.keys.refusals, self.keys.given_up) = (0, false);
        self.first_contact(now);
        Ok(())
    }

    /// Shows the credential on a new link; the present one stays until Central has answered.
    fn first_contact(&mut self, now: Now) {
        self.keys.authenticate_at = None;
        self.keys.unknown = self.stored.keys.len();
        self.reach_anew(now);
    }

    pub(super) fn keys_due(&mut self, now: Now) {
        if self.keys.authenticate_at.is_some_and(|at| at <= now.mono) {
            self.keys.authenticate_at = None;
            // By a key that nobody has called void, or with the credential.
            self.reach_anew(now);
        }
        if let Some(installing) = self.keys.installing.as_mut().filter(|i| i.until <= now.mono) {
            installing.held = true;
            self.install(now);
        }
    }

    // ---- Granted

    pub(super) fn granted(&mut self, grant: KeyGrant, now: Now) {
        let Ok(key) = <[u8; 32]>::try_from(grant.key.as_slice()).map(LinkKey::from_bytes) else {
            self.notice = Some("Central granted a key that is not one".to_owned());
            return;
        };
        let expires_at_ms = grant.expires_at_ms;
        self.keys.auth_status = None;
        self.keys.authenticate_at = None;
        // The older one still opens a link, should this one never be taken up (make before break).
        self.stored.keys.retain(|k| k.key_no != grant.key_no);
        self.stored.keys.truncate(1);
        self.stored.keys.insert(0, StoredKey { key_no: grant.key_no, key, expires_at_ms });
        if !grant.pins.is_empty() {
            self.stored.pins = grant.pins.iter().map(|pin| Blob(pin.to_vec())).collect();
        }
        self.unsaved = true;
        let held = self.paired.is_err();
        let until = now.mono + self.settings.key_handed;
        self.keys.installing = Some(Installing { key_no: grant.key_no, stored: false, held, until });
    }

    /// The file is written, or could not be.
    pub(super) fn key_stored(&mut self, now: Now) {
        // Another save may have been under way when the key came: what matters is that none is outstanding.
        if self.unsaved && self.save_trouble.is_none() {
            return;
        }
        if let Some(installing) = self.keys.installing.as_mut().filter(|i| !i.stored) {
            installing.stored = true;
            self.assign();
            self.install(now);
        }
    }

    pub(super) fn engine_stored_key(&mut self, key_no: u64, now: Now) {
        if let Some(installing) = self.keys.installing.as_mut().filter(|i| i.key_no == key_no) {
            installing.held = true;
            self.install(now);
        }
    }

    /// The engine left while it was waited for.
    pub(super) fn nobody_holds(&mut self, now: Now) {
        if let Some(installing) = &mut self.keys.installing {
            installing.held = true;
            self.install(now);
        }
    }

    /// Both parts hold the key: say so, and open the next link with it (SPEC 4.6).
    fn install(&mut self, now: Now) {
        let Some(installing) = self.keys.installing.take_if(|i| i.stored && i.held) else { return };
        self.keys.unknown = 0;
        self.way.replace(up::Body::KeyInstalled(KeyInstalled { key_no: installing.key_no }), now.mono);
        self.reach(now);
    }

    /// Central has opened what was said under this key.
    pub(super) fn key_proven(&mut self, key_no: u64, _now: Now) {
        (self.keys.refusals, self.keys.given_up) = (0, false);
        if self.stored.keys.first().is_some_and(|k| k.key_no == key_no) && self.stored.keys.len() > 1 {
            self.stored.keys.truncate(1);
            self.unsaved = true;
        }
    }

    // ---- To the engine

    /// Who it is, and under which key it reaches Central; or that there is none.
    pub(super) fn assign(&mut self) {
        if self.paired.is_err() {
            return;
        }
        let key = self.stored.keys.first().filter(|_| self.keys.auth_status.is_none());
        let body = match (key, &self.stored.id) {
            (Some(stored), Some(id)) => from_monitor::Body::Assignment(Assignment {
                charging_point_id: id.to_string(),
                key: Some(KeyGrant {
                    key_no: stored.key_no,
                    key: stored.key.as_bytes().to_vec(),
                    expires_at_ms: stored.expires_at_ms,
                    pins: self.stored.pins.iter().map(|p| p.0.clone()).collect(),
                }),
                central: self.settings.central.clone(),
                life_sign_ms: u32::try_from(self.settings.life_sign.as_millis()).unwrap_or(u32::MAX),
            }),
            _none => from_monitor::Body::KeyWithdrawn(self.withdrawal()),
        };
        self.out.push_back(Command::Tell(Box::new(FromMonitor { body: Some(body) })));
    }

    fn withdrawal(&self) -> KeyWithdrawn {
        match (&self.keys.auth_status, &self.membership) {
            (Some(auth_status), _) => KeyWithdrawn {
                key_state: auth_status.key_state,
                reason: auth_status.reason,
                detail: auth_status.detail.clone(),
            },
            (None, Membership::Enrolled) => KeyWithdrawn {
                key_state: KeyState::Unspecified.into(),
                reason: Reason::NoKey.into(),
                detail: "Central has not granted a key yet".to_owned(),
            },
            (None, Membership::NotEnrolled(_) | Membership::Enrolling { .. }) => KeyWithdrawn {
                key_state: KeyState::Unspecified.into(),
                reason: Reason::NotEnrolled.into(),
                detail: "not enrolled".to_owned(),
            },
        }
    }

    // ---- Ended

    /// Central's word that there is no valid key, or that the credential was refused (SPEC 4.7).
    pub(super) fn stands(&mut self, auth_status: AuthStatus, now: Now) {
        if auth_status.key_state() == KeyState::Active && auth_status.reason() == Reason::Unspecified {
            return;
        }
        let reason = auth_status.reason();
        // Central may ask for more, but not for ever (SPEC 4.7).
        let asked = Duration::from_millis(u64::from(auth_status.retry_after_ms)).min(self.settings.longest_retry);
        let wait = self.settings.authenticate_again.max(asked);
        let detail = if auth_status.detail.is_empty() { reason.in_words() } else { &auth_status.detail };
        self.notice = Some(format!("Central: {detail}"));
        let gone = matches!(
            reason,
            Reason::NotEnrolled | Reason::Removed | Reason::NotReadmitted | Reason::UnknownChargingPoint
        );
        let revoked = auth_status.key_state() == KeyState::Revoked || reason == Reason::CredentialVoid;
        // That nobody could check it is no refusal, and says nothing of the keys.
        let unchecked = matches!(
            reason,
            Reason::RegistryUnreachable | Reason::Unavailable | Reason::Overloaded | Reason::TooManyAttempts
        );
        if gone {
            return self.not_enrolled(auth_status, now);
        }
        if !unchecked || self.stored.keys.is_empty() {
            self.without_key(auth_status);
        }
        // Where the keys stand, whoever did not know them is asked again by them, and not for the credential alone.
        self.keys.unknown = 0;
        if revoked {
            self.keys.authenticate_at = None;
            // A lost status link is made again with the void credential, and nothing is expected of it.
            if let Some(target) = self.target(now) {
                self.way.aim_later(target);
            }
            return;
        }
        if reason == Reason::WrongCredential {
            self.keys.refusals += 1;
            if self.keys.refusals >= self.settings.refusals {
                self.keys.given_up = true;
                self.keys.authenticate_at = None;
                self.way.rest();
                return;
            }
        }
        // The link stays as a status link; nothing is dialled before it is time.
        self.way.rest();
        self.keys.authenticate_at = Some(now.mono + wait);
    }

    fn without_key(&mut self, auth_status: AuthStatus) {
        self.stored.keys.clear();
        self.keys.unknown = 0;
        self.keys.installing = None;
        self.keys.auth_status = Some(auth_status);
        self.unsaved = true;
        self.assign();
    }

    /// Registry forgot this charging point: it waits, saying so (SPEC 7.4).
    fn not_enrolled(&mut self, auth_status: AuthStatus, now: Now) {
        let detail = if auth_status.detail.is_empty() { auth_status.reason().in_words() } else { &auth_status.detail };
        let why = format!("no longer enrolled: {detail}");
        self.without_key(auth_status);
        self.forget(why, now);
    }

    /// Central does not know the key or the id that was shown. In clear and unproven, so no key is given up for it.
    pub(super) fn not_known(&mut self, now: Now) {
        if self.keys.unknown < self.stored.keys.len() {
            self.keys.unknown += 1;
            return self.reach(now);
        }
        // Not even as a first contact: enrolled a moment ago, removed, or Central's key is another one.
        self.ask_registry_soon(now);
    }
}
