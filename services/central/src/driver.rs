//! A driver as a holder of keys (SPEC 4.4: drivers the same). Pure, and shaped as a charging point's core is: what is
//! decided takes effect when it is durable.

use std::sync::Arc;

use mesh::clock::Now;
use proto::{
    DriverId, PeerId,
    link::v1::{self as link, KeyState, Part, Reason, down},
};
use wire::LinkKey;

use crate::{
    audit::{AuditAction, AuditRecord},
    charge_point::{EnrolmentChange, StoreRefusal},
    event::DomainEvent,
    key::{AGE, EXPIRED, KeyEntry, KeyStage, Keyring},
    origin::{LinkNo, Origin},
    settings::CentralSettings,
    turns::{Core, Speaker},
};

/// Inputs of a driver that may wait for a turn.
const ROOM: usize = 16;

#[derive(Clone, Debug)]
pub struct DriverAccount {
    pub id: DriverId,
    pub keys: Keyring,
    pub removed: bool,
}

#[derive(Clone, Debug)]
pub enum DriverInput {
    /// Its credential was verified on this link.
    Grant {
        link: LinkNo,
        material: Arc<LinkKey>,
        from: Origin,
    },
    /// A link came with this key.
    Proven {
        key_no: u64,
        from: Origin,
    },
    /// The key is old.
    Rotate {
        material: Arc<LinkKey>,
    },
    /// The key's life is over.
    Expire,
    Identity(EnrolmentChange),
}

#[derive(Clone, Debug)]
pub enum DriverChange {
    Key(KeyEntry),
    Audit(AuditRecord),
    Event(DomainEvent),
}

#[derive(Clone, Debug, PartialEq)]
pub enum DriverEffect {
    /// Without a link on the one that it has then, if any.
    Grant {
        link: Option<LinkNo>,
        key_no: u64,
    },
    Link(LinkNo, Box<down::Body>),
    /// No key now; the credential may be shown again soon.
    Refuse {
        link: LinkNo,
        reason: Reason,
    },
    /// Every link it has.
    CloseAll,
}

#[derive(Clone, Debug)]
pub struct DriverDecision {
    pub next: DriverAccount,
    pub changes: Vec<DriverChange>,
    pub after_commit: Vec<DriverEffect>,
}

impl DriverAccount {
    pub fn new(id: DriverId, keys: Keyring, removed: bool) -> Self {
        Self { id, keys, removed }
    }

    pub fn peer(&self) -> PeerId {
        PeerId::Driver(self.id.clone())
    }
}

impl Core for DriverAccount {
    type Input = DriverInput;
    type Decision = DriverDecision;
    type Refusal = StoreRefusal;

    fn speaker(input: &DriverInput) -> Speaker {
        match input {
            DriverInput::Identity(_) => Speaker::Registry,
            // Repeated by the next link, or the next sweep.
            DriverInput::Grant { .. }
            | DriverInput::Proven { .. }
            | DriverInput::Rotate { .. }
            | DriverInput::Expire => Speaker::Own,
        }
    }

    fn room(speaker: Speaker) -> usize {
        if speaker == Speaker::Registry { usize::MAX } else { ROOM }
    }

    fn decide(&self, input: &DriverInput, settings: &CentralSettings, now: Now) -> DriverDecision {
        let mut decision = DriverDecision { next: self.clone(), changes: Vec::new(), after_commit: Vec::new() };
        match input {
            // Verified before the removal, or enrolled again a moment ago: Registry must be asked once more.
            DriverInput::Grant { link, .. } if self.removed => {
                decision.after_commit.push(DriverEffect::Refuse { link: *link, reason: Reason::Unavailable });
            }
            DriverInput::Grant { link, .. } if self.keys.revoked => {
                let (key_state, reason) = (KeyState::Revoked.into(), Reason::CredentialVoid.into());
                let standing = link::AuthStatus { key_state, reason, ..link::AuthStatus::default() };
                decision.after_commit.push(DriverEffect::Link(*link, Box::new(down::Body::AuthStatus(standing))));
            }
            DriverInput::Grant { link, material, from } => {
                decision.stage(material, settings, now);
                let granted = decision.next.keys.staged().map(|key| key.no);
                decision.audit_key(AuditAction::KeyGranted, granted, from, now);
                decision.tell_staged(Some(*link));
            }
            DriverInput::Proven { key_no, from } => {
                let changed = decision.next.keys.proved(*key_no, Part::Driver, &[Part::Driver], now, settings);
                match changed.len() {
                    0 => {}
                    1 => decision.audit_key(AuditAction::KeyProven, Some(*key_no), from, now),
                    _ => decision.audit_key(AuditAction::KeyRotated, Some(*key_no), from, now),
                }
                decision.keys(changed, now);
            }
            DriverInput::Rotate { material } => {
                if self.keys.state() == KeyState::Active {
                    decision.stage(material, settings, now);
                    let staged = decision.next.keys.staged().map(|key| key.no);
                    decision.audit_key(AuditAction::KeyRotationOrdered, staged, &Origin::central().because(AGE), now);
                    decision.tell_staged(None);
                }
            }
            DriverInput::Expire => {
                let expired = self.keys.active().map(|key| key.no);
                let gone = decision.next.keys.renew();
                decision.audit_key(AuditAction::KeyRenewed, expired, &Origin::central().because(EXPIRED), now);
                decision.keys(gone, now);
                decision.after_commit.push(DriverEffect::CloseAll);
            }
            DriverInput::Identity(identity) => decision.identity(identity, now),
        }
        decision
    }

    /// A driver who waits for a key is told to come again.
    fn refused(&self, input: &DriverInput, _: &StoreRefusal, _: &CentralSettings, _: Now) -> DriverDecision {
        let refuse = |link| DriverEffect::Refuse { link, reason: Reason::Unavailable };
        let after_commit = match input {
            DriverInput::Grant { link, .. } => vec![refuse(*link)],
            DriverInput::Proven { .. }
            | DriverInput::Rotate { .. }
            | DriverInput::Expire
            | DriverInput::Identity(_) => Vec::new(),
        };
        DriverDecision { next: self.clone(), changes: Vec::new(), after_commit }
    }

    fn unavailable(why: String) -> StoreRefusal {
        StoreRefusal::Unavailable(why)
    }

    fn is_durable(decision: &DriverDecision) -> bool {
        !decision.changes.is_empty()
    }
}

impl DriverDecision {
    fn identity(&mut self, identity: &EnrolmentChange, now: Now) {
        // A crash may have come between the mirror and what it means for keys.
        let left_over = self.next.removed && self.next.keys.usable().next().is_some();
        if !identity.is_news_to(&self.next.keys, self.next.removed && !left_over) {
            return;
        }
        let (was_removed, keys) = (self.next.removed && !left_over, &mut self.next.keys);
        let (gone, action) = match *identity {
            EnrolmentChange::Enrolled { incarnation } => (keys.enrolled(incarnation), AuditAction::Enrolled),
            EnrolmentChange::Void { incarnation } => (keys.voided(incarnation), AuditAction::CredentialVoid),
            EnrolmentChange::Removed { incarnation } => (keys.removed(incarnation), AuditAction::Removed),
        };
        self.next.removed = matches!(identity, EnrolmentChange::Removed { .. });
        if was_removed && self.next.removed {
            return;
        }
        self.keys(gone, now);
        self.audit(action, &Origin::new("registry", ""), now);
        self.after_commit.push(DriverEffect::CloseAll);
    }

    fn stage(&mut self, material: &Arc<LinkKey>, settings: &CentralSettings, now: Now) {
        let granted = self.next.keys.grant(material.clone(), now, settings);
        self.keys(granted, now);
    }

    fn tell_staged(&mut self, link: Option<LinkNo>) {
        if let Some(key_no) = self.next.keys.staged().map(|key| key.no) {
            self.after_commit.push(DriverEffect::Grant { link, key_no });
        }
    }

    fn audit(&mut self, action: AuditAction, by: &Origin, now: Now) {
        self.changes.push(DriverChange::Audit(AuditRecord::new(action, self.next.peer()).by(by, now)));
    }

    fn audit_key(&mut self, action: AuditAction, key_no: Option<u64>, by: &Origin, now: Now) {
        let entry = AuditRecord::new(action, self.next.peer());
        let entry = key_no.into_iter().fold(entry, |entry, no| entry.with("key_no", no));
        self.changes.push(DriverChange::Audit(entry.by(by, now)));
    }

    fn keys(&mut self, keys: Vec<KeyEntry>, now: Now) {
        let holder = self.next.peer().to_string();
        for key in keys {
            self.changes.push(DriverChange::Event(DomainEvent::key(&holder, key.no, key.stage, now)));
            self.changes.push(DriverChange::Key(key));
        }
    }
}

impl KeyStage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "STAGED",
            Self::Active => "ACTIVE",
            Self::Retired => "RETIRED",
            Self::Revoked => "REVOKED",
            Self::Deleted => "DELETED",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn decided(account: &mut DriverAccount, input: &DriverInput) -> Vec<DriverEffect> {
        let decision = account.decide(input, &CentralSettings::default(), at(1));
        *account = decision.next;
        decision.after_commit
    }

    fn proven(key_no: u64) -> DriverInput {
        DriverInput::Proven { key_no, from: Origin::new("driver/D1", "192.0.2.5:1") }
    }

    fn material() -> Arc<LinkKey> {
        Arc::new(LinkKey::from_bytes([5; 32]))
    }

    #[test]
    fn a_driver_is_granted_a_key_rotates_it_and_loses_it_with_its_identity_spec_4_4() {
        let mut account = DriverAccount::new("D1".parse().unwrap(), Keyring::default(), false);
        let grant = DriverInput::Grant { link: LinkNo(1), material: material(), from: Origin::central() };
        assert_eq!(decided(&mut account, &grant), [DriverEffect::Grant { link: Some(LinkNo(1)), key_no: 1 }]);
        decided(&mut account, &proven(1));
        assert_eq!(account.keys.state(), KeyState::Active);
        let rotate = DriverInput::Rotate { material: material() };
        assert_eq!(decided(&mut account, &rotate), [DriverEffect::Grant { link: None, key_no: 2 }]);
        decided(&mut account, &proven(2));
        assert_eq!(account.keys.usable().map(|(no, _)| no).collect::<Vec<_>>(), [2]);
        let removed = DriverInput::Identity(EnrolmentChange::Removed { incarnation: 1 });
        assert_eq!(decided(&mut account, &removed), [DriverEffect::CloseAll]);
        assert!(account.removed && account.keys.usable().next().is_none());
        assert_eq!(decided(&mut account, &removed), [], "the same again changes nothing");
        for late in [EnrolmentChange::Enrolled { incarnation: 1 }, EnrolmentChange::Void { incarnation: 1 }] {
            assert_eq!(decided(&mut account, &DriverInput::Identity(late)), [], "it was before the removal");
        }
        assert_eq!(
            decided(&mut account, &grant),
            [DriverEffect::Refuse { link: LinkNo(1), reason: Reason::Unavailable }]
        );
        assert!(account.removed && account.keys.staged().is_none());
        decided(&mut account, &DriverInput::Identity(EnrolmentChange::Enrolled { incarnation: 2 }));
        assert_eq!(decided(&mut account, &grant), [DriverEffect::Grant { link: Some(LinkNo(1)), key_no: 3 }]);
    }

    #[test]
    fn every_change_of_a_drivers_key_says_which_key_and_from_where_spec_8_1() {
        let mut account = DriverAccount::new("D1".parse().unwrap(), Keyring::default(), false);
        let from = Origin::new("driver/D1", "192.0.2.5:1");
        let grant = DriverInput::Grant { link: LinkNo(1), material: material(), from };
        let rotate = DriverInput::Rotate { material: material() };
        let expected = [
            (grant, AuditAction::KeyGranted, "1", "192.0.2.5:1"),
            (proven(1), AuditAction::KeyProven, "1", "192.0.2.5:1"),
            (rotate, AuditAction::KeyRotationOrdered, "2", ""),
            (proven(2), AuditAction::KeyRotated, "2", "192.0.2.5:1"),
            (DriverInput::Expire, AuditAction::KeyRenewed, "2", ""),
        ];
        for (input, action, key_no, address) in expected {
            let decision = account.decide(&input, &CentralSettings::default(), at(1));
            account = decision.next;
            let entry = decision.changes.iter().find_map(|change| match change {
                DriverChange::Audit(entry) => Some(entry),
                DriverChange::Key(_) | DriverChange::Event(_) => None,
            });
            let entry = entry.expect("an entry");
            assert_eq!((entry.action, entry.address.as_str()), (action, address));
            assert_eq!(entry.parameters.first(), Some(&("key_no", key_no.to_owned())), "{action:?}");
        }
    }

    #[test]
    fn a_void_credential_gets_no_key_spec_4_7() {
        let mut account = DriverAccount::new("D1".parse().unwrap(), Keyring::default(), false);
        decided(&mut account, &DriverInput::Identity(EnrolmentChange::Void { incarnation: 0 }));
        let grant = DriverInput::Grant { link: LinkNo(1), material: material(), from: Origin::central() };
        let told = decided(&mut account, &grant);
        let [DriverEffect::Link(_, body)] = &told[..] else { panic!("{told:?}") };
        assert!(matches!(**body, down::Body::AuthStatus(_)), "{body:?}");
    }
}
