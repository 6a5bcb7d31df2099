//! The weather of cities in the loop: each change goes to the charging points of its city, and each charging point that
//! joins or moves takes that of its city.

use std::sync::Arc;

use super::EventLoop;
use crate::{
    audit::{AuditAction, AuditRecord},
    charge_point::{CityWeather, Observation},
    origin::Origin,
};

impl EventLoop {
    /// What the durable rows say of the weather before Weather is heard: a city with a blocked charging point has frost,
    /// also for those that join meanwhile.
    pub(super) fn presume_weather(&mut self) {
        for point in &self.points {
            let record = &point.core.record;
            if record.weather_blocked {
                let city = record.city.clone();
                let presumed = CityWeather { city, blocks: true, stops_supplies: false, temperature: "".into() };
                self.cities.entry(record.city.clone()).or_insert(presumed);
            }
        }
        (0..self.points.len()).for_each(|number| self.look_at_weather(number));
    }

    /// What Weather reports of cities: all of a report, of which little is new.
    pub(super) fn weather(&mut self, reported: Vec<CityWeather>, by: &Origin) {
        let mut changed = std::collections::HashSet::new();
        for weather in reported {
            let before = self.cities.get(&weather.city);
            let effect = |weather: &CityWeather| (weather.blocks, weather.stops_supplies);
            if before.map(effect) == Some(effect(&weather)) {
                continue;
            }
            if before.is_some_and(|before| before.blocks) != weather.blocks {
                self.audit_weather(&weather, by);
            }
            changed.insert(weather.city.clone());
            self.cities.insert(weather.city.clone(), weather);
        }
        if !changed.is_empty() {
            let there = |number: &usize| changed.contains(&self.points[*number].core.record.city);
            let numbers: Vec<_> = (0..self.points.len()).filter(there).collect();
            numbers.into_iter().for_each(|number| self.look_at_weather(number));
        }
    }

    fn audit_weather(&self, weather: &CityWeather, by: &Origin) {
        let action = if weather.blocks { AuditAction::FrostBegan } else { AuditAction::FrostEnded };
        let entry = AuditRecord::new(action, format!("city/{}", weather.city));
        let entry = entry.with("temperature", &weather.temperature).by(by, self.now());
        self.shared.audit(None, &entry);
    }

    /// The charging point takes the weather of the city that it is in now.
    pub(super) fn look_at_weather(&mut self, number: usize) {
        if self.points[number].is_gone() {
            return;
        }
        let core = &self.points[number].core;
        let weather: Option<&CityWeather> = self.cities.get::<Arc<str>>(&core.record.city);
        if core.live.weather.as_ref() != weather {
            let weather = weather.cloned();
            self.observe(number, Observation::Weather(weather));
        }
    }
}
