//! The keys of one holder, a charging point or a driver (SPEC 4.4, 4.6, 4.7).
//!
//! Guarantees: at most one key is active; a new one is staged until its holder proves it, and only then does the old
//! one retire, usable until every part has come back with the new one or the overlap is over (make before break); a
//! revoked or deleted key opens nothing, and its material is gone; numbers only rise.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::clock::Now;
use proto::link::v1::{KeyState, Part};
use wire::LinkKey;

use crate::{running_time::Age, settings::CentralSettings};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStage {
    /// Granted, not yet proven by its holder.
    Staged,
    Active,
    /// Replaced; opens telemetry sealed under it for as long as that is retained.
    Retired,
    /// Void for ever (compromised, or its holder removed).
    Revoked,
    /// Gone by a renewal, or never taken up.
    Deleted,
}

#[derive(Clone, Debug)]
pub struct KeyEntry {
    pub no: u64,
    pub incarnation: u64,
    pub stage: KeyStage,
    /// None where the stage forbids its use.
    pub material: Option<Arc<LinkKey>>,
    pub granted_at: i64,
    /// For people: a wall clock expires no key.
    pub expires_at: i64,
    /// In Central's running time; it alone decides (SPEC 4.6).
    pub age: Age,
    /// A retired key still opens links until then.
    usable_until: Option<Instant>,
    /// Parts that have opened a link with it.
    proved: Vec<Part>,
}

impl KeyEntry {
    /// As a row says it. No overlap survives a restart: every part reconnects anyway, and learns the newer key then.
    pub fn stored(
        no: u64,
        incarnation: u64,
        stage: KeyStage,
        material: Option<Arc<LinkKey>>,
        granted: (i64, i64),
        age: Age,
    ) -> Self {
        let (granted_at, expires_at) = granted;
        Self { no, incarnation, stage, material, granted_at, expires_at, age, usable_until: None, proved: Vec::new() }
    }

    fn ended(&self, stage: KeyStage) -> Self {
        Self { stage, material: None, usable_until: None, ..self.clone() }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Keyring {
    /// Rises with each enrolment of the id.
    pub incarnation: u64,
    /// Void until the id is enrolled anew (SPEC 4.7, revoke).
    pub revoked: bool,
    /// Registry has said that the credential is worth nothing there either. Before, whoever has it could enrol anew with
    /// it, so a new enrolment is no restoration.
    pub void: bool,
    last_no: u64,
    /// Active, staged and the latest retired ones.
    keys: Vec<KeyEntry>,
}

/// What the age of a key calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDue {
    /// A new key is staged beside it.
    Rotation,
    /// It opens nothing any more.
    Expired,
}

/// Why Central changes a key by itself.
pub const AGE: &str = "its age";
pub const EXPIRED: &str = "its life is over";

/// How many retired keys are kept at hand; older ones are in the store.
const RETIRED_AT_HAND: usize = 3;

impl Keyring {
    pub fn stored(incarnation: u64, revoked: bool, last_no: u64, keys: Vec<KeyEntry>) -> Self {
        let mut ring = Self { incarnation, revoked, void: false, last_no, keys };
        ring.forget();
        ring
    }

    /// As Registry last said.
    pub fn with_void(self, void: bool) -> Self {
        Self { void, ..self }
    }

    /// The enrolment that is revoked here and could still be renewed at Registry, by whoever has its credential.
    pub fn to_be_void(&self) -> Option<u64> {
        (self.revoked && !self.void).then_some(self.incarnation)
    }

    /// Whether an enrolment is a new one that counts: while Registry has not been seen to refuse the credential, one that
    /// is revoked is enrolled anew by whoever has it (SPEC 4.7).
    pub fn takes(&self, incarnation: u64) -> bool {
        incarnation > self.incarnation && self.to_be_void().is_none()
    }

    pub fn state(&self) -> KeyState {
        match (self.revoked, self.active().is_some(), self.staged().is_some()) {
            (true, ..) => KeyState::Revoked,
            (false, true, true) => KeyState::Rotating,
            (false, true, false) => KeyState::Active,
            (false, false, _) => KeyState::Deleted,
        }
    }

    pub fn active(&self) -> Option<&KeyEntry> {
        self.at(KeyStage::Active)
    }

    pub fn staged(&self) -> Option<&KeyEntry> {
        self.at(KeyStage::Staged)
    }

    /// The key of that number, where it is at hand.
    pub fn granted(&self, no: u64) -> Option<&KeyEntry> {
        self.keys.iter().find(|key| key.no == no)
    }

    /// Keys with which a link may be opened now.
    pub fn usable(&self) -> impl Iterator<Item = (u64, Arc<LinkKey>)> + '_ {
        self.openable().filter(|(no, _)| {
            self.keys.iter().any(|k| k.no == *no && (k.stage != KeyStage::Retired || k.usable_until.is_some()))
        })
    }

    /// Keys whose telemetry may be opened.
    pub fn openable(&self) -> impl Iterator<Item = (u64, Arc<LinkKey>)> + '_ {
        self.keys.iter().filter_map(|k| Some((k.no, k.material.clone()?)))
    }

    /// Grants a key: staged until proven. One that was staged and never taken up is deleted. Returns what changed.
    pub fn grant(&mut self, material: Arc<LinkKey>, now: Now, settings: &CentralSettings) -> Vec<KeyEntry> {
        let mut changed = self.end(KeyStage::Deleted, |k| k.stage == KeyStage::Staged);
        self.last_no += 1;
        let lifetime = i64::try_from(settings.key_lifetime.as_millis()).unwrap_or(i64::MAX);
        let granted = (now.wall_ms, now.wall_ms.saturating_add(lifetime));
        let (no, age) = (self.last_no, Age::new(Duration::ZERO, now));
        let key = KeyEntry::stored(no, self.incarnation, KeyStage::Staged, Some(material), granted, age);
        changed.push(key.clone());
        self.keys.push(key);
        changed
    }

    /// A part opened a link with key `no`. The first proof of a staged key makes it the active one; when every part
    /// of `all` has come back the old key is usable no more. Returns what changed durably.
    pub fn proved(&mut self, no: u64, part: Part, all: &[Part], now: Now, settings: &CentralSettings) -> Vec<KeyEntry> {
        let Some(index) = self.keys.iter().position(|k| k.no == no) else { return Vec::new() };
        if !self.keys[index].proved.contains(&part) {
            self.keys[index].proved.push(part);
        }
        let mut changed = Vec::new();
        if self.keys[index].stage == KeyStage::Staged {
            let until = now.mono + settings.key_overlap;
            for old in self.keys.iter_mut().filter(|k| k.stage == KeyStage::Active) {
                (old.stage, old.usable_until) = (KeyStage::Retired, Some(until));
                changed.push(old.clone());
            }
            self.keys[index].stage = KeyStage::Active;
            changed.push(self.keys[index].clone());
        }
        let complete = all.iter().all(|part| self.keys[index].proved.contains(part));
        if complete && self.keys[index].stage == KeyStage::Active {
            self.keys.iter_mut().for_each(|k| k.usable_until = None);
        }
        self.forget();
        changed
    }

    /// When the overlap with a replaced key is over.
    pub fn overlap_ends(&self) -> Option<Instant> {
        self.keys.iter().filter_map(|k| k.usable_until).min()
    }

    /// Ends overlaps that are due. The keys were retired before, so nothing durable changes.
    pub fn end_overlap(&mut self, now: Now) {
        for key in &mut self.keys {
            key.usable_until = key.usable_until.filter(|until| *until > now.mono);
        }
    }

    /// Renewal: active and staged keys are deleted (SPEC 4.7).
    pub fn renew(&mut self) -> Vec<KeyEntry> {
        self.end(KeyStage::Deleted, |k| k.stage != KeyStage::Retired || k.usable_until.is_some())
    }

    /// Revocation: they are void, and so is the credential, until the id is enrolled anew (SPEC 4.7).
    pub fn revoke(&mut self) -> Vec<KeyEntry> {
        self.revoked = true;
        self.end(KeyStage::Revoked, |k| k.stage != KeyStage::Retired || k.usable_until.is_some())
    }

    /// Registry says that the credential of this enrolment is void.
    pub fn voided(&mut self, incarnation: u64) -> Vec<KeyEntry> {
        (self.incarnation, self.void) = (incarnation.max(self.incarnation), true);
        if self.revoked { Vec::new() } else { self.revoke() }
    }

    /// Registry says that this enrolment is over.
    pub fn removed(&mut self, incarnation: u64) -> Vec<KeyEntry> {
        (self.incarnation, self.void) = (incarnation.max(self.incarnation), true);
        self.renew()
    }

    /// A new enrolment: what the one before was granted is void, and a revocation is over.
    pub fn enrolled(&mut self, incarnation: u64) -> Vec<KeyEntry> {
        if !self.takes(incarnation) {
            return Vec::new();
        }
        (self.incarnation, self.revoked, self.void) = (incarnation, false, false);
        self.end(KeyStage::Revoked, |_| true)
    }

    /// What the age of the active key calls for now.
    pub fn due(&self, settings: &CentralSettings, stagger: u16, now: Now) -> Option<KeyDue> {
        let age = self.active()?.age.at(now);
        if age >= settings.key_lifetime {
            return Some(KeyDue::Expired);
        }
        let rotates = age >= rotation_age(settings, stagger) && self.state() == KeyState::Active;
        rotates.then_some(KeyDue::Rotation)
    }

    fn at(&self, stage: KeyStage) -> Option<&KeyEntry> {
        self.keys.iter().find(|k| k.stage == stage)
    }

    fn end(&mut self, stage: KeyStage, which: impl Fn(&KeyEntry) -> bool) -> Vec<KeyEntry> {
        let ended = self.keys.iter().filter(|k| which(k)).map(|k| k.ended(stage)).collect();
        self.keys.retain(|k| !which(k));
        ended
    }

    fn forget(&mut self) {
        let retired = |k: &KeyEntry| k.stage == KeyStage::Retired;
        while self.keys.iter().filter(|k| retired(k)).count() > RETIRED_AT_HAND {
            let Some(oldest) = self.keys.iter().position(retired) else { break };
            self.keys.remove(oldest);
        }
    }
}

/// The age at which a key should be replaced: a third of its life is left, or as much less as `stagger` (0..1,000) says,
/// so that keys granted together do not rotate together.
fn rotation_age(settings: &CentralSettings, stagger: u16) -> Duration {
    let third = settings.key_lifetime / 3;
    settings.key_lifetime - third + third / 2 / 1_000 * u32::from(stagger.min(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    const BOTH: &[Part] = &[Part::Monitor, Part::Engine];

    fn material() -> Arc<LinkKey> {
        Arc::new(LinkKey::from_bytes([7; 32]))
    }

    /// A ring whose key 1 is active and proven by both parts.
    fn ring() -> Keyring {
        let (mut ring, settings) = (Keyring::default(), CentralSettings::default());
        ring.grant(material(), at(0), &settings);
        ring.proved(1, Part::Monitor, BOTH, at(1), &settings);
        ring.proved(1, Part::Engine, BOTH, at(1), &settings);
        ring
    }

    fn usable(ring: &Keyring) -> Vec<u64> {
        ring.usable().map(|(no, _)| no).collect()
    }

    #[test]
    fn a_rotation_makes_before_it_breaks_spec_4_6() {
        let (mut ring, settings) = (ring(), CentralSettings::default());
        ring.grant(material(), at(10), &settings);
        assert_eq!((ring.state(), usable(&ring)), (KeyState::Rotating, vec![1, 2]));
        ring.proved(2, Part::Monitor, BOTH, at(11), &settings);
        assert_eq!((ring.state(), usable(&ring)), (KeyState::Active, vec![1, 2]), "the engine may still need key 1");
        ring.proved(2, Part::Engine, BOTH, at(12), &settings);
        assert_eq!(usable(&ring), [2]);
        assert_eq!(ring.openable().count(), 2, "telemetry sealed under key 1 can still be opened");
    }

    #[test]
    fn the_old_key_is_retired_after_sixty_seconds_at_the_latest_spec_4_6() {
        let (mut ring, settings) = (ring(), CentralSettings::default());
        ring.grant(material(), at(10), &settings);
        ring.proved(2, Part::Monitor, BOTH, at(11), &settings);
        assert_eq!(ring.overlap_ends(), Some(at(71).mono));
        ring.end_overlap(at(70));
        assert_eq!(usable(&ring), [1, 2]);
        ring.end_overlap(at(71));
        assert_eq!(usable(&ring), [2]);
    }

    #[test]
    fn a_staged_key_that_was_never_taken_up_leaves_the_active_one_alone_spec_4_6() {
        let (mut ring, settings) = (ring(), CentralSettings::default());
        ring.grant(material(), at(10), &settings);
        let changed = ring.grant(material(), at(20), &settings);
        assert_eq!(
            changed.iter().map(|k| (k.no, k.stage)).collect::<Vec<_>>(),
            [(2, KeyStage::Deleted), (3, KeyStage::Staged)]
        );
        assert_eq!(usable(&ring), [1, 3]);
    }

    #[test]
    fn a_renewal_leaves_no_key_and_the_next_grant_has_a_new_number_spec_4_7() {
        let (mut ring, settings) = (ring(), CentralSettings::default());
        let changed = ring.renew();
        assert!(changed.iter().all(|k| k.stage == KeyStage::Deleted && k.material.is_none()));
        assert_eq!((ring.state(), usable(&ring).len()), (KeyState::Deleted, 0));
        ring.grant(material(), at(20), &settings);
        assert_eq!(ring.state(), KeyState::Deleted, "granted is not yet proven");
        ring.proved(2, Part::Monitor, BOTH, at(21), &settings);
        assert_eq!((ring.state(), usable(&ring)), (KeyState::Active, vec![2]));
    }

    #[test]
    fn a_revocation_lasts_until_a_new_enrolment_spec_4_7() {
        let mut ring = ring();
        assert!(ring.revoke().iter().all(|k| k.stage == KeyStage::Revoked && k.material.is_none()));
        assert_eq!((ring.state(), ring.openable().count()), (KeyState::Revoked, 0));
        ring.voided(1);
        ring.enrolled(1);
        assert_eq!(ring.state(), KeyState::Revoked);
        ring.enrolled(2);
        assert_eq!(ring.state(), KeyState::Deleted);
    }

    #[test]
    fn whoever_enrols_anew_before_the_credential_is_void_undoes_no_revocation_spec_4_7() {
        let mut ring = ring();
        ring.revoke();
        assert!(ring.enrolled(1).is_empty());
        assert_eq!((ring.state(), ring.to_be_void()), (KeyState::Revoked, Some(0)));
        ring.voided(1);
        assert_eq!((ring.state(), ring.to_be_void(), ring.takes(1)), (KeyState::Revoked, None, false));
        ring.enrolled(2);
        assert_eq!((ring.state(), ring.incarnation), (KeyState::Deleted, 2), "an operator restored it");
    }

    #[test]
    fn keys_rotate_by_age_and_not_all_at_once_spec_4_6() {
        let (ring, settings, day) = (ring(), CentralSettings::default(), 24 * 3600);
        let due = |stagger, second| ring.due(&settings, stagger, at(second));
        assert_eq!((due(0, 20 * day - 1), due(0, 20 * day)), (None, Some(KeyDue::Rotation)));
        assert_eq!((due(1_000, 25 * day - 1), due(1_000, 25 * day)), (None, Some(KeyDue::Rotation)));
        assert_eq!(due(0, 30 * day), Some(KeyDue::Expired));
    }

    #[test]
    fn a_wall_clock_that_jumps_by_a_month_makes_no_key_older_spec_4_6() {
        let (ring, settings) = (ring(), CentralSettings::default());
        let jumped = Now { wall_ms: 31 * 24 * 3600 * 1000, ..at(60) };
        assert_eq!(ring.due(&settings, 0, jumped), None);
    }
}
