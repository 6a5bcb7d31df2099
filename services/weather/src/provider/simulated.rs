//! Temperatures of nowhere, for a network without internet: mild days and cool nights, a little different in each city,
//! and no frost. Drills set others.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use mesh::clock::Clock;

use super::{Provider, ProviderError};
use crate::frost::Temperature;

const DAY_MS: i64 = 24 * 3600 * 1_000;

#[derive(Debug)]
pub(crate) struct Simulated(pub(super) Clock);

/// Warmest at 15:00 UTC.
fn temperature(city: &str, wall_ms: i64) -> Option<Temperature> {
    let own = city.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte))) % 60;
    let ms_of_day = i32::try_from(wall_ms.rem_euclid(DAY_MS)).unwrap_or_default();
    let from_warmest = f64::from(ms_of_day) / 3_600_000.0 - 15.0;
    let swing = 5.0 * (from_warmest * std::f64::consts::TAU / 24.0).cos();
    Temperature::from_celsius(12.0 + swing + f64::from(own) / 10.0)
}

impl Provider for Simulated {
    fn ask<'a>(&'a self, city: &'a Arc<str>) -> BoxFuture<'a, Result<Option<Temperature>, ProviderError>> {
        std::future::ready(Ok(temperature(city, self.0.wall_ms()))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_days_are_warmer_than_nights_and_no_city_has_frost() {
        for city in ["Oslo", "Valencia", "", "東京"] {
            let at = |hour: i64| temperature(city, hour * 3_600_000).unwrap().celsius();
            assert!(at(15) > at(3) && at(3) >= 7.0 && at(15) <= 23.0, "{city}: {} {}", at(3), at(15));
        }
    }
}
