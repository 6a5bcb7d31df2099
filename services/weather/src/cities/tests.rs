//! The cities by what is measured, ordered and followed.

use super::*;
use crate::frost::Temperature;

const OSLO: &str = "Oslo";

fn settings(requests_per_minute: u32) -> WatchSettings {
    let degrees = |celsius| Temperature::from_celsius(celsius).unwrap();
    let rule = FrostRule { threshold: degrees(0.0), hysteresis: degrees(0.5), threshold_counts: false };
    WatchSettings { every: Duration::from_secs(4), requests_per_minute, rule, policy: CityPolicy::StopNow }
}

/// Cities at an instant that the test moves.
struct CitiesHarness {
    cities: Cities,
    now: Now,
}

impl CitiesHarness {
    fn following(names: &[&str]) -> Self {
        Self::with_budget(names, 6_000)
    }

    fn with_budget(names: &[&str], requests_per_minute: u32) -> Self {
        let now = mesh::clock::Clock::system().now();
        let mut harness = Self { cities: Cities::new(settings(requests_per_minute), SavedCities::default(), now), now };
        harness.follow(names);
        harness
    }

    fn follow(&mut self, names: &[&str]) {
        self.cities.follow(&names.iter().map(|name| Arc::from(*name)).collect(), self.now);
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono += Duration::from_millis(ms);
        self.now.wall_ms += i64::try_from(ms).unwrap();
        self.cities.end_drills(self.now);
    }

    fn answer(&mut self, city: &str, answer: Result<f64, ProviderError>) {
        let answer = answer.map(|celsius| Some(Temperature::from_celsius(celsius).unwrap()));
        self.cities.answered(&city.into(), answer, self.now);
    }

    fn order(&mut self, order: &CityOrder) -> Result<bool, OrderRefused> {
        self.cities.order(order, self.now)
    }

    fn city(&self, name: &str) -> &City {
        &self.cities.cities[name]
    }

    fn drill(&mut self, celsius: f64, seconds: i64) -> Result<bool, OrderRefused> {
        let temperature = Temperature::from_celsius(celsius).unwrap();
        self.order(&CityOrder::Override {
            city: OSLO.into(),
            temperature,
            until_ms: self.now.wall_ms + seconds * 1_000,
        })
    }
}

fn unavailable() -> ProviderError {
    ProviderError::Unavailable("it does not answer".into())
}

#[test]
fn every_city_is_asked_for_every_four_seconds_spec_6_1() {
    let mut harness = CitiesHarness::following(&["Bergen", OSLO]);
    assert_eq!(harness.cities.next_request(harness.now).as_deref(), Some("Bergen"));
    harness.pass(10);
    assert_eq!(harness.cities.next_request(harness.now).as_deref(), Some(OSLO));
    harness.pass(10);
    assert_eq!(harness.cities.next_request(harness.now), None, "both are asked for");
    harness.answer("Bergen", Ok(1.0));
    harness.pass(3_979);
    assert_eq!(harness.cities.next_request(harness.now), None);
    harness.pass(1);
    assert_eq!(harness.cities.next_request(harness.now).as_deref(), Some("Bergen"), "4 s after the last request");
}

#[test]
fn two_hundred_cities_stay_within_sixty_requests_a_minute_spec_6_1() {
    let names: Vec<String> = (0..200).map(|n| format!("City {n}")).collect();
    let mut harness = CitiesHarness::with_budget(&names.iter().map(String::as_str).collect::<Vec<_>>(), 60);
    assert_eq!(harness.cities.interval(), Duration::from_secs(200), "the interval grows, and is shown");
    let mut asked = BTreeMap::<Arc<str>, usize>::new();
    for minute in 0..10 {
        let mut requests = 0;
        for _ in 0..600 {
            if let Some(city) = harness.cities.next_request(harness.now) {
                requests += 1;
                *asked.entry(city.clone()).or_default() += 1;
                harness.answer(&city, Ok(5.0));
            }
            harness.pass(100);
        }
        assert!(requests <= 60, "{requests} in minute {minute}");
    }
    assert_eq!(asked.len(), 200);
    assert_eq!(asked.values().collect::<BTreeSet<_>>().len(), 1, "each as often as any other: {asked:?}");
}

#[test]
fn a_temperature_is_stale_after_two_intervals_and_the_frost_stays_spec_6_5() {
    let mut harness = CitiesHarness::following(&[OSLO]);
    assert!(harness.cities.is_stale(harness.city(OSLO), harness.now));
    assert_eq!(harness.city(OSLO).frost(), FrostState::Unknown);
    harness.answer(OSLO, Ok(-5.0));
    harness.pass(8_000);
    assert!(!harness.cities.is_stale(harness.city(OSLO), harness.now));
    harness.pass(1);
    harness.answer(OSLO, Err(unavailable()));
    assert!(harness.cities.is_stale(harness.city(OSLO), harness.now));
    assert_eq!(harness.city(OSLO).frost(), FrostState::Present);
    assert_eq!(harness.city(OSLO).trouble.as_deref(), Some("it does not answer"));
    harness.answer(OSLO, Ok(1.0));
    assert_eq!((harness.city(OSLO).frost(), harness.cities.trouble.clone()), (FrostState::None, None));
}

#[test]
fn a_busy_provider_is_left_alone_for_as_long_as_it_says_spec_6_1() {
    let mut harness = CitiesHarness::following(&[OSLO, "Bergen"]);
    assert!(harness.cities.next_request(harness.now).is_some());
    harness.answer("Bergen", Err(ProviderError::Busy(Duration::from_secs(20))));
    harness.pass(19_999);
    assert_eq!(harness.cities.next_request(harness.now), None);
    harness.pass(1);
    assert!(harness.cities.next_request(harness.now).is_some());
}

#[test]
fn a_refused_key_is_not_shown_again_and_again_until_it_is_another_spec_6_1() {
    let mut harness = CitiesHarness::following(&[OSLO]);
    assert!(harness.cities.next_request(harness.now).is_some());
    harness.answer(OSLO, Err(ProviderError::KeyRefused("wrong key".into())));
    harness.pass(10_000);
    assert_eq!(harness.cities.next_request(harness.now), None);
    assert_eq!(harness.cities.trouble.as_deref(), Some("wrong key"));
    harness.cities.key_changed(harness.now);
    assert_eq!(harness.cities.next_request(harness.now).as_deref(), Some(OSLO));
}

#[test]
fn an_unknown_city_is_said_and_costs_the_others_nothing_spec_6_5() {
    let mut harness = CitiesHarness::following(&[OSLO]);
    harness.answer(OSLO, Err(ProviderError::UnknownCity(OSLO.into())));
    assert!(harness.city(OSLO).trouble.as_deref().unwrap().contains("knows no city \"Oslo\""));
    assert_eq!(harness.cities.trouble, None, "the provider is well");
    harness.pass(59_999);
    assert_eq!(harness.cities.next_request(harness.now), None);
}

#[test]
fn a_drill_counts_instead_of_the_measured_temperature_until_its_end_spec_6_3() {
    let mut harness = CitiesHarness::following(&[OSLO]);
    harness.answer(OSLO, Ok(10.0));
    assert_eq!(harness.drill(-7.0, 60), Ok(true));
    harness.answer(OSLO, Ok(11.0));
    assert_eq!(harness.city(OSLO).frost(), FrostState::Present);
    assert_eq!(harness.city(OSLO).temperature(), Temperature::from_celsius(-7.0));
    harness.pass(60_000);
    assert_eq!(harness.city(OSLO).frost(), FrostState::None);
    assert_eq!(harness.city(OSLO).temperature(), Temperature::from_celsius(11.0));
    assert_eq!(harness.drill(-7.0, 0), Err(OrderRefused::End));
    assert_eq!(harness.drill(-7.0, 24 * 3600 + 1), Err(OrderRefused::End));
    assert_eq!(harness.drill(-7.0, 60), Ok(true));
    assert_eq!(harness.order(&CityOrder::EndOverride(OSLO.into())), Ok(true));
    assert_eq!(harness.city(OSLO).frost(), FrostState::None);
}

#[test]
fn cities_follow_the_charging_points_and_the_operators_spec_6_3() {
    let mut harness = CitiesHarness::following(&[OSLO]);
    assert_eq!(harness.order(&CityOrder::Add("Rome".into())), Ok(true));
    assert_eq!(harness.order(&CityOrder::Add("Rome".into())), Ok(false), "repeated, it changes nothing");
    harness.follow(&["Bergen"]);
    let names = |harness: &CitiesHarness| harness.cities.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&harness), ["Bergen", "Rome"]);
    assert_eq!(harness.order(&CityOrder::Remove("Rome".into())), Ok(true));
    assert_eq!(harness.order(&CityOrder::Remove("Bergen".into())), Ok(true));
    harness.follow(&["Bergen"]);
    assert_eq!(names(&harness), ["Bergen"]);
    assert_eq!(harness.city("Bergen").frost(), FrostState::NotWatched, "its blocks end");
    assert_eq!(harness.cities.next_request(harness.now), None);
    assert_eq!(harness.drill(-1.0, 60), Err(OrderRefused::NotWatched(OSLO.into())));
}

#[test]
fn a_restart_forgets_neither_orders_nor_the_frost_spec_6_2() {
    let mut harness = CitiesHarness::following(&[OSLO, "Bergen"]);
    harness.answer(OSLO, Ok(-1.0));
    harness.order(&CityOrder::Suspend(true)).unwrap();
    harness.order(&CityOrder::SetPolicy { city: "Bergen".into(), policy: CityPolicy::Ignore }).unwrap();
    let saved = harness.cities.saved();
    harness.cities = Cities::new(settings(60), saved.clone(), harness.now);
    assert_eq!(harness.cities.saved(), saved);
    assert!(harness.cities.suspended);
    assert_eq!(harness.cities.policy(harness.city("Bergen")), CityPolicy::Ignore);
    harness.answer(OSLO, Ok(0.2));
    assert_eq!(harness.city(OSLO).frost(), FrostState::Present, "not yet beyond the hysteresis");
}
