//! The cities, and every decision about them (SPEC 6): which are watched, whom to ask next within the provider's budget,
//! whether there is frost, whether a temperature is stale, and what an operator has ordered. Touches no clock, socket or
//! file.

mod city;
mod order;
mod policy;
mod saved;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::clock::Now;

use crate::{
    frost::{FrostRule, Temperature},
    provider::ProviderError,
};

pub use self::policy::CityPolicy;
pub(crate) use self::{
    city::{City, Drill, FrostState, Measurement},
    order::{CityOrder, OrderRefused},
    saved::{SavedCities, SavedCity},
};

/// A city that the provider does not know is asked for again after this time.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(60);
/// A key that was refused is tried again after this time, or as soon as it is another one.
const KEY_AGAIN: Duration = Duration::from_secs(30);

/// How the cities are watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchSettings {
    /// Time between two measurements of a city, where the budget allows it.
    pub(crate) every: Duration,
    pub(crate) requests_per_minute: u32,
    pub(crate) rule: FrostRule,
    pub(crate) policy: CityPolicy,
}

/// All cities.
#[derive(Clone, Debug)]
pub(crate) struct Cities {
    settings: WatchSettings,
    cities: BTreeMap<Arc<str>, City>,
    /// An operator has suspended the weather policy.
    pub(crate) suspended: bool,
    /// What is wrong with the provider, as far as its last answer says.
    pub(crate) trouble: Option<Arc<str>>,
    /// The provider is not asked before.
    paused_until: Option<Instant>,
    /// The budget allows no request before.
    next_request: Option<Instant>,
}

impl Cities {
    pub(crate) fn new(settings: WatchSettings, saved: SavedCities, now: Now) -> Self {
        let named = |saved: SavedCity| (saved.name.as_str().into(), City::restored(saved, now));
        Self {
            settings,
            cities: saved.cities.into_iter().map(named).collect(),
            suspended: saved.suspended,
            trouble: None,
            paused_until: None,
            next_request: None,
        }
    }

    /// All of them, in the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &City)> {
        self.cities.iter()
    }

    pub(crate) fn saved(&self) -> SavedCities {
        let cities = self.cities.iter().map(|(name, city)| city.saved(name)).collect();
        SavedCities { suspended: self.suspended, cities }
    }

    /// The cities that charging points are in. One that nobody needs any more is forgotten.
    pub(crate) fn follow(&mut self, names: &BTreeSet<Arc<str>>, now: Now) {
        for name in names {
            self.cities.entry(name.clone()).or_insert_with(|| City::new(now)).followed = true;
        }
        for (name, city) in &mut self.cities {
            city.followed = names.contains(name);
        }
        self.cities.retain(|_, city| city.followed || city.added);
    }

    /// The least time between two requests.
    fn gap(&self) -> Duration {
        Duration::from_secs(60) / self.settings.requests_per_minute.max(1)
    }

    /// Time between two measurements of a city: grows where the budget allows no more.
    pub(crate) fn interval(&self) -> Duration {
        let watched = self.cities.values().filter(|city| city.is_watched()).count();
        let needed = self.gap().saturating_mul(u32::try_from(watched).unwrap_or(u32::MAX));
        self.settings.every.max(needed)
    }

    pub(crate) fn requests_per_minute(&self) -> u32 {
        self.settings.requests_per_minute
    }

    /// The policy in force for a city.
    pub(crate) fn policy(&self, city: &City) -> CityPolicy {
        city.policy.unwrap_or(self.settings.policy)
    }

    /// The city that is to be asked for now, if there is one and the budget allows it. It counts as asked.
    pub(crate) fn next_request(&mut self, now: Now) -> Option<Arc<str>> {
        let waits = |until: Option<Instant>| until.is_some_and(|until| until > now.mono);
        if waits(self.paused_until) || waits(self.next_request) {
            return None;
        }
        let due = self
            .cities
            .iter_mut()
            .filter(|(_, city)| city.is_watched() && city.asked.is_none() && city.due <= now.mono);
        let (name, city) = due.min_by_key(|(_, city)| city.due)?;
        city.asked = Some(now.mono);
        let name = name.clone();
        self.next_request = Some(now.mono + self.gap());
        Some(name)
    }

    /// What the provider answered about a city.
    pub(crate) fn answered(&mut self, name: &Arc<str>, answer: Result<Option<Temperature>, ProviderError>, now: Now) {
        let (interval, rule) = (self.interval(), self.settings.rule);
        let Some(city) = self.cities.get_mut(name) else { return };
        let asked = city.asked.take().unwrap_or(now.mono);
        city.due = (asked + interval).max(now.mono);
        match answer {
            Ok(None) => city.due = now.mono,
            Ok(Some(temperature)) => {
                city.measured(temperature, rule, now);
                self.trouble = None;
            }
            Err(error) => {
                let text: Arc<str> = error.to_string().into();
                city.trouble = Some(text.clone());
                let pause = match error {
                    ProviderError::UnknownCity(_) => {
                        city.due = now.mono + UNKNOWN_AGAIN.max(interval);
                        return;
                    }
                    ProviderError::KeyRefused(_) => Some(KEY_AGAIN),
                    ProviderError::Busy(wait) => Some(wait),
                    ProviderError::Unavailable(_) | ProviderError::Unusable(_) => None,
                };
                self.trouble = Some(text);
                let until = pause.map(|pause| now.mono + pause);
                self.paused_until = self.paused_until.max(until);
            }
        }
    }

    /// The provider may be asked again at once: its key is another one.
    pub(crate) fn key_changed(&mut self, now: Now) {
        self.paused_until = None;
        self.cities.values_mut().for_each(|city| city.due = city.due.min(now.mono));
    }

    /// Ends the drills whose time is over; true where there was one.
    pub(crate) fn end_drills(&mut self, now: Now) -> bool {
        let over = |city: &&mut City| city.drill.as_ref().is_some_and(|drill| drill.until <= now.mono);
        self.cities.values_mut().filter(over).map(|city| city.drill = None).count() > 0
    }

    /// Whether the temperature of a city is too old to be shown without a mark (SPEC 6.5).
    pub(crate) fn is_stale(&self, city: &City, now: Now) -> bool {
        let limit = self.interval() * 2;
        let fresh = |measured: &Measurement| now.mono.saturating_duration_since(measured.at) <= limit;
        city.drill.is_none() && !city.measured.as_ref().is_some_and(fresh)
    }

    /// When something is due next: a request, the end of a drill, or a temperature that becomes stale.
    pub(crate) fn poll_timeout(&self, now: Now) -> Option<Instant> {
        let limit = self.interval() * 2 + Duration::from_millis(1);
        let watched = || self.cities.values().filter(|city| city.is_watched());
        let asked_for = watched().filter(|city| city.asked.is_none()).map(|city| city.due).min();
        let request = asked_for.and_then(|due| [Some(due), self.paused_until, self.next_request].into_iter().max());
        let drill = watched().filter_map(|city| city.drill.as_ref()).map(|drill| drill.until).min();
        let stale = watched().filter_map(|city| city.measured.as_ref()).map(|measured| measured.at + limit);
        let stale = stale.filter(|at| *at > now.mono).min();
        [request.flatten(), drill, stale].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
