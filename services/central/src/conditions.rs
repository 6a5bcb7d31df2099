//! What Weather has reported, as it is shown, and what is said where it is silent (SPEC 6.4, 6.5).

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh::clock::Now;
use proto::central::v1::CityCondition;

/// The latest report of each city.
#[derive(Debug, Default)]
pub(crate) struct ReportedConditions(Mutex<Reported>);

#[derive(Debug, Default)]
pub(crate) struct Reported {
    pub(crate) conditions: BTreeMap<String, CityCondition>,
    pub(crate) suspended: bool,
    pub(crate) at: Option<Now>,
}

impl Reported {
    /// Weather has been heard, and is not heard any more.
    pub(crate) fn is_silent(&self, silence: Duration, now: Now) -> bool {
        self.at.is_some_and(|at| now.mono.saturating_duration_since(at.mono) > silence)
    }

    /// What a person should know about the temperatures; nothing: they are fresh.
    pub(crate) fn trouble(&self, silence: Duration, now: Now) -> Option<String> {
        if let Some(at) = self.at.filter(|_| self.is_silent(silence, now)) {
            let seconds = now.mono.saturating_duration_since(at.mono).as_secs();
            return Some(format!("Weather has not reported for {seconds} s: temperatures are stale, blocks stay"));
        }
        let stale: Vec<_> = self.conditions.values().filter(|condition| condition.stale).collect();
        let why = stale.iter().map(|condition| condition.detail.as_str()).find(|detail| !detail.is_empty());
        let first = stale.first()?;
        let why = why.unwrap_or("no temperature yet");
        Some(format!("temperatures of {} cities are stale, such as of {}: {why}", stale.len(), first.city))
    }
}

impl ReportedConditions {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Reported> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use mesh::clock::Clock;

    use super::*;

    #[test]
    fn silence_and_stale_temperatures_are_said_and_a_network_without_weather_is_well_spec_6_5() {
        let (silence, now) = (Duration::from_secs(8), Clock::system().now());
        let mut reported = Reported::default();
        assert_eq!(reported.trouble(silence, now), None);
        let later = |seconds| Now { mono: now.mono + Duration::from_secs(seconds), ..now };
        reported.at = Some(now);
        assert_eq!(reported.trouble(silence, later(8)), None);
        let said = reported.trouble(silence, later(9)).unwrap();
        assert_eq!(said, "Weather has not reported for 9 s: temperatures are stale, blocks stay");
        let city = |city: &str, stale, detail: &str| CityCondition {
            city: city.into(),
            stale,
            detail: detail.into(),
            ..Default::default()
        };
        for one in [city("Bergen", false, ""), city("Oslo", true, "the key is refused")] {
            reported.conditions.insert(one.city.clone(), one);
        }
        let said = reported.trouble(silence, now).unwrap();
        assert_eq!(said, "temperatures of 1 cities are stale, such as of Oslo: the key is refused");
    }
}
