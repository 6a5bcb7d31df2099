//! One city: what was measured, and whether there is frost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::clock::Now;

use super::{CityPolicy, SavedCity};
use crate::frost::{FrostRule, Temperature};

/// Whether there is frost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrostState {
    /// Never measured.
    Unknown,
    None,
    Present,
    /// An operator removed the city although charging points are in it.
    NotWatched,
}

/// A temperature and when it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measurement {
    pub(crate) temperature: Temperature,
    pub(crate) at: Instant,
    pub(crate) wall_ms: i64,
}

/// An operator's temperature, which counts instead of the measured one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drill {
    pub(crate) temperature: Temperature,
    pub(crate) frost: bool,
    pub(crate) until: Instant,
    pub(crate) until_ms: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct City {
    /// An operator added it.
    pub(crate) added: bool,
    /// An operator removed it: it is not watched, whoever is in it.
    pub(crate) removed: bool,
    /// Charging points are in it.
    pub(crate) followed: bool,
    /// An operator's; nothing: that of Weather.
    pub(crate) policy: Option<CityPolicy>,
    pub(crate) measured: Option<Measurement>,
    /// By what was measured last, in this run or an earlier one.
    pub(super) frost: Option<bool>,
    pub(crate) drill: Option<Drill>,
    /// Why the last request brought no temperature.
    pub(crate) trouble: Option<Arc<str>>,
    /// When it is to be asked for next.
    pub(super) due: Instant,
    /// Since when a request is under way.
    pub(super) asked: Option<Instant>,
}

impl City {
    pub(super) fn new(now: Now) -> Self {
        Self {
            added: false,
            removed: false,
            followed: false,
            policy: None,
            measured: None,
            frost: None,
            drill: None,
            trouble: None,
            due: now.mono,
            asked: None,
        }
    }

    /// As an earlier run left it. It counts as followed until Central says otherwise.
    pub(super) fn restored(saved: SavedCity, now: Now) -> Self {
        let drill = saved.drill.filter(|(_, _, until_ms)| *until_ms > now.wall_ms).map(|drill| {
            let (temperature, frost, until_ms) = drill;
            let left = u64::try_from(until_ms - now.wall_ms).unwrap_or_default();
            Drill { temperature, frost, until: now.mono + Duration::from_millis(left), until_ms }
        });
        let SavedCity { added, removed, policy, frost, .. } = saved;
        Self { added, removed, followed: true, policy, frost, drill, ..Self::new(now) }
    }

    pub(super) fn saved(&self, name: &Arc<str>) -> SavedCity {
        SavedCity {
            name: name.as_ref().to_owned(),
            added: self.added,
            removed: self.removed,
            policy: self.policy,
            frost: self.frost,
            drill: self.drill.map(|drill| (drill.temperature, drill.frost, drill.until_ms)),
        }
    }

    pub(crate) fn is_watched(&self) -> bool {
        !self.removed
    }

    /// A temperature was measured.
    pub(super) fn measured(&mut self, temperature: Temperature, rule: FrostRule, now: Now) {
        self.frost = Some(rule.is_frost(temperature, self.frost.unwrap_or_default()));
        self.measured = Some(Measurement { temperature, at: now.mono, wall_ms: now.wall_ms });
        self.trouble = None;
    }

    /// The temperature that counts.
    pub(crate) fn temperature(&self) -> Option<Temperature> {
        self.drill.map(|drill| drill.temperature).or_else(|| self.measured.map(|measured| measured.temperature))
    }

    pub(crate) fn frost(&self) -> FrostState {
        match self.drill.map(|drill| drill.frost).or(self.frost) {
            _ if self.removed => FrostState::NotWatched,
            None => FrostState::Unknown,
            Some(true) => FrostState::Present,
            Some(false) => FrostState::None,
        }
    }
}
