//! Orders of operators. Each sets a state, so that a repeated one changes nothing more.

use std::{sync::Arc, time::Duration};

use mesh::clock::Now;

use super::{Cities, City, CityPolicy, Drill};
use crate::frost::Temperature;

/// So many cities at most.
const CITIES: usize = 10_000;
/// A drill lasts no longer.
const LONGEST_DRILL: Duration = Duration::from_secs(24 * 3600);

/// What an operator orders.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CityOrder {
    Add(Arc<str>),
    Remove(Arc<str>),
    Override {
        city: Arc<str>,
        temperature: Temperature,
        /// Milliseconds since 1970.
        until_ms: i64,
    },
    EndOverride(Arc<str>),
    SetPolicy {
        city: Arc<str>,
        policy: CityPolicy,
    },
    Suspend(bool),
}

/// Why an order is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderRefused {
    #[error("{0:?} is not watched; add it first")]
    NotWatched(Arc<str>),
    #[error("a drill ends in the future and within a day")]
    End,
    #[error("{CITIES} cities are watched already")]
    TooMany,
}

impl Cities {
    /// Carries out an order; true where it changed something.
    ///
    /// # Errors
    /// Where it cannot be carried out.
    pub(crate) fn order(&mut self, order: &CityOrder, now: Now) -> Result<bool, OrderRefused> {
        match order {
            CityOrder::Add(name) => {
                if self.cities.len() >= CITIES && !self.cities.contains_key(name) {
                    return Err(OrderRefused::TooMany);
                }
                let city = self.cities.entry(name.clone()).or_insert_with(|| City::new(now));
                let changed = !city.added || city.removed;
                (city.added, city.removed) = (true, false);
                Ok(changed)
            }
            CityOrder::Remove(name) => Ok(self.remove(name)),
            CityOrder::Override { city, temperature, until_ms } => {
                let left = u64::try_from(until_ms.saturating_sub(now.wall_ms)).map(Duration::from_millis);
                let left = left.ok().filter(|left| !left.is_zero() && *left <= LONGEST_DRILL);
                let left = left.ok_or(OrderRefused::End)?;
                let rule = self.settings.rule;
                let city = self.watched(city)?;
                let before = city.drill.map(|drill| drill.frost).or(city.frost).unwrap_or_default();
                let (temperature, frost) = (*temperature, rule.is_frost(*temperature, before));
                let before = city.drill.map(|drill| (drill.temperature, drill.until_ms));
                city.drill = Some(Drill { temperature, frost, until: now.mono + left, until_ms: *until_ms });
                Ok(before != Some((temperature, *until_ms)))
            }
            CityOrder::EndOverride(city) => Ok(self.watched(city)?.drill.take().is_some()),
            CityOrder::SetPolicy { city, policy } => {
                let city = self.watched(city)?;
                Ok(city.policy.replace(*policy) != Some(*policy))
            }
            CityOrder::Suspend(suspended) => Ok(std::mem::replace(&mut self.suspended, *suspended) != *suspended),
        }
    }

    /// A city that charging points are in is remembered as removed, so that it is not watched for their sake.
    fn remove(&mut self, name: &Arc<str>) -> bool {
        let Some(city) = self.cities.get_mut(name) else { return false };
        let changed = city.is_watched();
        (city.added, city.removed, city.drill) = (false, true, None);
        if !city.followed {
            self.cities.remove(name);
        }
        changed
    }

    fn watched(&mut self, name: &Arc<str>) -> Result<&mut City, OrderRefused> {
        let city = self.cities.get_mut(name).filter(|city| city.is_watched());
        city.ok_or_else(|| OrderRefused::NotWatched(name.clone()))
    }
}
