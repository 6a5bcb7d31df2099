//! Random requests: the driver asks for one supply after another, each at a random charging point that is available. The
//! simulated drivers of `chargemesh up` do so.
//!
//! Pure; the seed is an argument.

use std::time::{Duration, Instant};

use proto::Energy;

/// Wait before searching again where no charging point is available.
const SEARCH_AGAIN: Duration = Duration::from_secs(3);
/// A request is for 0.5 to 5 kilowatt-hours.
const LEAST_WH: u64 = 500;
const SPREAD_WH: u64 = 4500;

#[derive(Debug)]
pub(crate) struct RandomRequests {
    chance: u64,
    pause: Duration,
    search_at: Instant,
    searching: bool,
}

impl RandomRequests {
    pub(crate) fn new(seed: u64, pause: Duration, now: Instant) -> Self {
        Self { chance: seed, pause, search_at: now, searching: false }
    }

    /// When to search for a charging point; nothing while the driver has requests.
    pub(crate) fn due(&self, requests: usize) -> Option<Instant> {
        (requests == 0).then_some(self.search_at)
    }

    /// Whether to ask Central for the available charging points now.
    pub(crate) fn start_search(&mut self, requests: usize, now: Instant) -> bool {
        let due = requests == 0 && self.search_at <= now;
        if due {
            self.searching = true;
            self.search_at = now + SEARCH_AGAIN;
        }
        due
    }

    /// Chooses a charging point and an energy, where a search waits for this list.
    pub(crate) fn choose<'a>(&mut self, available: &[&'a str], now: Instant) -> Option<(&'a str, Energy)> {
        if !std::mem::take(&mut self.searching) {
            return None;
        }
        let at = usize::try_from(self.draw()).unwrap_or(0).checked_rem(available.len())?;
        self.search_at = now + self.pause;
        let energy = Energy::from_wh(LEAST_WH + self.draw() % SPREAD_WH);
        available.get(at).map(|id| (*id, energy))
    }

    /// A request has ended, in whatever way.
    pub(crate) fn request_ended(&mut self, now: Instant) {
        self.search_at = now + self.pause;
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) >> 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from; the test never waits")]
    fn a_roaming_driver_asks_one_at_a_time_and_looks_again_where_nobody_is_available() {
        let (now, pause) = (Instant::now(), Duration::from_secs(4));
        let mut random_requests = RandomRequests::new(7, pause, now);
        assert!(random_requests.start_search(0, now) && !random_requests.start_search(0, now));
        assert_eq!(random_requests.choose(&[], now), None);
        assert!(random_requests.start_search(0, now + SEARCH_AGAIN));
        let (id, energy) = random_requests.choose(&["A", "B"], now).unwrap();
        assert!(["A", "B"].contains(&id) && energy >= Energy::from_wh(LEAST_WH));
        assert_eq!(random_requests.due(1), None);
        random_requests.request_ended(now + Duration::from_secs(60));
        assert_eq!(random_requests.due(0), Some(now + Duration::from_secs(64)));
        assert_eq!(random_requests.choose(&["A"], now), None, "a list that a person asked for starts nothing");
    }
}
