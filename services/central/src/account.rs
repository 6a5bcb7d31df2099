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
    audit::{Action, Entry},
    charge_point::{Identity, LinkNo, Origin},
    event::Event,
    key::{AGE, EXPIRED, Key, Keyring, Stage},
    settings::Settings,
};

#[derive(Clone, Debug)]
pub struct Account {
    pub id: DriverId,
    pub keys: Keyring,
    pub removed: bool,
}

#[derive(Clone, Debug)]
pub enum Input {
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
    Identity(Identity),
}

#[derive(Clone, Debug)]
pub enum Change {
    Key(Key),
    Audit(Entry),
    Event(Event),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Tell {
    /// Without a link on the one that it has then, if any.
    Grant {
        link: Option<LinkNo>,
        key_no: u64,
    },
    Link(LinkNo, down::Body),
    /// No key now; the credential may be shown again soon.
    Refuse {
        link: LinkNo,
        reason: Reason,
    },
    /// Every link it has.
    CloseAll,
}

#[derive(Clone, Debug)]
pub struct Decision {
    pub next: Account,
    pub changes: Vec<Change>,
    pub tell_after: Vec<Tell>,
}

impl Account {
    pub fn new(id: DriverId, keys: Keyring, removed: bool) -> Self {
        Self { id, keys, removed }
    }

    pub fn peer(&self) -> PeerId {
        PeerId::Driver(self.id.clone())
    }

    pub fn decide(&self, input: &Input, settings: &Settings, now: Now) -> Decision {
        let mut made = Decision { next: self.clone(), changes: Vec::new(), tell_after: Vec::new() };
        match input {
            // Verified before he was removed, or enrolled again a moment ago: Registry is asked once more.
            Input::Grant { link, .. } if self.removed => {
                made.tell_after.push(Tell::Refuse { link: *link, reason: Reason::Unavailable });
            }
            Input::Grant { link, .. } if self.keys.revoked => {
                let (key_state, reason) = (KeyState::Revoked.into(), Reason::CredentialVoid.into());
                let auth_status = link::AuthStatus { key_state, reason, ..link::AuthStatus::default() };
                made.tell_after.push(Tell::Link(*link, down::Body::AuthStatus(auth_status)));
            }
            Input::Grant { link, material, from } => {
                made.stage(material, settings, now);
                let granted = made.next.keys.staged().map(|key| key.no);
                made.audit_key(Action::KeyGranted, granted, from, now);
                made.tell_staged(Some(*link));
            }
            Input::Proven { key_no, from } => {
                let changed = made.next.keys.proved(*key_no, Part::Driver, &[Part::Driver], now, settings);
                match changed.len() {
                    0 => {}
                    1 => made.audit_key(Action::KeyProven, Some(*key_no), from, now),
                    _ => made.audit_key(Action::KeyRotated, Some(*key_no), from, now),
                }
                made.keys(changed, now);
            }
            Input::Rotate { material } => {
                if self.keys.state() == KeyState::Active {
                    made.stage(material, settings, now);
                    let staged = made.next.keys.staged().map(|key| key.no);
                    made.audit_key(Action::KeyRotationOrdered, staged, &Origin::central().because(AGE), now);
                    made.tell_staged(None);
                }
            }
            Input::Expire => {
                let expired = self.keys.active().map(|key| key.no);
                let gone = made.next.keys.renew();
                made.audit_key(Action::KeyRenewed, expired, &Origin::central().because(EXPIRED), now);
                made.keys(gone, now);
                made.tell_after.push(Tell::CloseAll);
            }
            Input::Identity(identity) => made.identity(identity, now),
        }
        made
    }
}

impl Decision {
    fn identity(&mut self, identity: &Identity, now: Now) {
        // A crash may have come between the mirror and what it means for keys.
        let left_over = self.next.removed && self.next.keys.usable().next().is_some();
        if !identity.is_news_to(&self.next.keys, self.next.removed && !left_over) {
            return;
        }
        let (was_removed, keys) = (self.next.removed && !left_over, &mut self.next.keys);
        let (gone, action) = match *identity {
            Identity::Enrolled { incarnation } => (keys.enrolled(incarnation), Action::Enrolled),
            Identity::Void { incarnation } => (keys.voided(incarnation), Action::CredentialVoid),
            Identity::Removed { incarnation } => (keys.removed(incarnation), Action::Removed),
        };
        self.next.removed = matches!(identity, Identity::Removed { .. });
        if was_removed && self.next.removed {
            return;
        }
        self.keys(gone, now);
        self.audit(action, &Origin::new("registry", ""), now);
        self.tell_after.push(Tell::CloseAll);
    }

    fn stage(&mut self, material: &Arc<LinkKey>, settings: &Settings, now: Now) {
        let granted = self.next.keys.grant(material.clone(), now, settings);
        self.keys(granted, now);
    }

    fn tell_staged(&mut self, link: Option<LinkNo>) {
        if let Some(key_no) = self.next.keys.staged().map(|key| key.no) {
            self.tell_after.push(Tell::Grant { link, key_no });
        }
    }

    fn audit(&mut self, action: Action, by: &Origin, now: Now) {
        self.changes.push(Change::Audit(Entry::new(action, self.next.peer()).by(by, now)));
    }

    fn audit_key(&mut self, action: Action, key_no: Option<u64>, by: &Origin, now: Now) {
        let entry = Entry::new(action, self.next.peer());
        let entry = key_no.into_iter().fold(entry, |entry, no| entry.with("key_no", no));
        self.changes.push(Change::Audit(entry.by(by, now)));
    }

    fn keys(&mut self, keys: Vec<Key>, now: Now) {
        let holder = self.next.peer().to_string();
        for key in keys {
            self.changes.push(Change::Event(Event::key(&holder, key.no, key.stage.as_str(), now)));
            self.changes.push(Change::Key(key));
        }
    }
}

impl Stage {
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

    fn decided(account: &mut Account, input: &Input) -> Vec<Tell> {
        let decision = account.decide(input, &Settings::default(), at(1));
        *account = decision.next;
        decision.tell_after
    }

    fn proven(key_no: u64) -> Input {
        Input::Proven { key_no, from: Origin::new("driver/D1", "192.0.2.5:1") }
    }

    fn material() -> Arc<LinkKey> {
        Arc::new(LinkKey::from_bytes([5; 32]))
    }

    #[test]
    fn a_driver_is_granted_a_key_rotates_it_and_loses_it_with_its_identity_spec_4_4() {
        let mut account = Account::new("D1".parse().unwrap(), Keyring::default(), false);
        let grant = Input::Grant { link: LinkNo(1), material: material(), from: Origin::central() };
        assert_eq!(decided(&mut account, &grant), [Tell::Grant { link: Some(LinkNo(1)), key_no: 1 }]);
        decided(&mut account, &proven(1));
        assert_eq!(account.keys.state(), KeyState::Active);
        let rotate = Input::Rotate { material: material() };
        assert_eq!(decided(&mut account, &rotate), [Tell::Grant { link: None, key_no: 2 }]);
        decided(&mut account, &proven(2));
        assert_eq!(account.keys.usable().map(|(no, _)| no).collect::<Vec<_>>(), [2]);
        let removed = Input::Identity(Identity::Removed { incarnation: 1 });
        assert_eq!(decided(&mut account, &removed), [Tell::CloseAll]);
        assert!(account.removed && account.keys.usable().next().is_none());
        assert_eq!(decided(&mut account, &removed), [], "the same again changes nothing");
        for late in [Identity::Enrolled { incarnation: 1 }, Identity::Void { incarnation: 1 }] {
            assert_eq!(decided(&mut account, &Input::Identity(late)), [], "it was before the removal");
        }
        assert_eq!(decided(&mut account, &grant), [Tell::Refuse { link: LinkNo(1), reason: Reason::Unavailable }]);
        assert!(account.removed && account.keys.staged().is_none());
        decided(&mut account, &Input::Identity(Identity::Enrolled { incarnation: 2 }));
        assert_eq!(decided(&mut account, &grant), [Tell::Grant { link: Some(LinkNo(1)), key_no: 3 }]);
    }

    #[test]
    fn every_change_of_a_drivers_key_says_which_key_and_from_where_spec_8_1() {
        let mut account = Account::new("D1".parse().unwrap(), Keyring::default(), false);
        let from = Origin::new("driver/D1", "192.0.2.5:1");
        let grant = Input::Grant { link: LinkNo(1), material: material(), from };
        let rotate = Input::Rotate { material: material() };
        let expected = [
            (grant, Action::KeyGranted, "1", "192.0.2.5:1"),
            (proven(1), Action::KeyProven, "1", "192.0.2.5:1"),
            (rotate, Action::KeyRotationOrdered, "2", ""),
            (proven(2), Action::KeyRotated, "2", "192.0.2.5:1"),
            (Input::Expire, Action::KeyRenewed, "2", ""),
        ];
        for (input, action, key_no, address) in expected {
            let decision = account.decide(&input, &Settings::default(), at(1));
            account = decision.next;
            let entry = decision.changes.iter().find_map(|change| match change {
                Change::Audit(entry) => Some(entry),
                Change::Key(_) | Change::Event(_) => None,
            });
            let entry = entry.expect("an entry");
            assert_eq!((entry.action, entry.address.as_str()), (action, address));
            assert_eq!(entry.parameters.first(), Some(&("key_no", key_no.to_owned())), "{action:?}");
        }
    }

    #[test]
    fn a_void_credential_gets_no_key_spec_4_7() {
        let mut account = Account::new("D1".parse().unwrap(), Keyring::default(), false);
        decided(&mut account, &Input::Identity(Identity::Void { incarnation: 0 }));
        let grant = Input::Grant { link: LinkNo(1), material: material(), from: Origin::central() };
        assert!(matches!(decided(&mut account, &grant)[..], [Tell::Link(_, down::Body::AuthStatus(_))]));
    }
}
