//! The cities in the words of the contract.

use std::{sync::Arc, time::Duration};

use mesh::clock::Now;
use proto::{
    central::v1::{CityCondition, Frost, FrostPolicy},
    timestamp,
    weather::v1::{self as contract, Provider, WeatherState},
};

use crate::cities::{Cities, City, CityPolicy, FrostState};

/// All that Weather knows.
pub(crate) fn state(cities: &Cities, provider: &'static str, now: Now) -> WeatherState {
    WeatherState {
        cities: cities.iter().map(|(name, one)| city(cities, name, one, now)).collect(),
        suspended: cities.suspended,
        provider: Some(Provider {
            name: provider.to_owned(),
            requests_per_minute: cities.requests_per_minute(),
            interval: Some(duration(cities.interval())),
            detail: cities.trouble.as_deref().unwrap_or_default().to_owned(),
        }),
    }
}

fn city(cities: &Cities, name: &Arc<str>, city: &City, now: Now) -> contract::City {
    let frost = match city.frost() {
        FrostState::Unknown => Frost::Unspecified,
        FrostState::None => Frost::None,
        FrostState::Present => Frost::Present,
        FrostState::NotWatched => Frost::NotWatched,
    };
    let measured = city.measured.filter(|_| city.drill.is_none());
    let condition = CityCondition {
        city: name.as_ref().to_owned(),
        frost: frost.into(),
        temperature_celsius: city.temperature().map(crate::Temperature::celsius),
        measured_time: measured.and_then(|measured| timestamp(measured.wall_ms)),
        stale: city.is_watched() && cities.is_stale(city, now),
        policy: policy(cities.policy(city)).into(),
        drill: city.drill.is_some(),
        interval: Some(duration(cities.interval())),
        detail: city.trouble.as_deref().unwrap_or_default().to_owned(),
    };
    let drill_end_time = city.drill.and_then(|drill| timestamp(drill.until_ms));
    contract::City { condition: Some(condition), added: city.added, drill_end_time }
}

fn policy(policy: CityPolicy) -> FrostPolicy {
    match policy {
        CityPolicy::StopNow => FrostPolicy::StopNow,
        CityPolicy::LetFinish => FrostPolicy::LetFinish,
        CityPolicy::Ignore => FrostPolicy::Ignore,
    }
}

/// Nothing for the unspecified one.
pub(crate) fn policy_of(policy: FrostPolicy) -> Option<CityPolicy> {
    match policy {
        FrostPolicy::Unspecified => None,
        FrostPolicy::StopNow => Some(CityPolicy::StopNow),
        FrostPolicy::LetFinish => Some(CityPolicy::LetFinish),
        FrostPolicy::Ignore => Some(CityPolicy::Ignore),
    }
}

fn duration(duration: Duration) -> proto::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    proto::Duration { seconds, nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default() }
}
