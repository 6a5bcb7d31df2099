//! Limits failed attempts per address and id (DESIGN 4). Pure.
//!
//! An attempt counts when it begins and is forgiven when it succeeds, so that a thousand simultaneous attempts cannot
//! pass before the first has failed. Memory is bounded: when it is full, the oldest pair is dropped.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

/// The address of the caller, and the id that it claims.
pub(crate) type AttemptKey = (IpAddr, String);

/// Counts the attempts per key within a window.
#[derive(Debug)]
pub(crate) struct AttemptLimiter {
    limit: u32,
    window: Duration,
    capacity: usize,
    counts: HashMap<AttemptKey, AttemptCount>,
    /// In the order in which the windows began. A key whose window began anew also has its older entry here.
    order: VecDeque<(Duration, AttemptKey)>,
}

#[derive(Debug)]
struct AttemptCount {
    since: Duration,
    tries: u32,
}

impl AttemptLimiter {
    pub(crate) fn new(limit: u32, window: Duration, capacity: usize) -> Self {
        Self { limit, window, capacity: capacity.max(1), counts: HashMap::new(), order: VecDeque::new() }
    }

    /// Counts this attempt and returns whether it may be made. `now` is the time since any fixed moment.
    pub(crate) fn begin(&mut self, key: &AttemptKey, now: Duration) -> bool {
        self.forget(now);
        if let Some(count) = self.counts.get_mut(key) {
            count.tries = count.tries.saturating_add(1);
            return count.tries <= self.limit;
        }
        if self.counts.len() >= self.capacity {
            self.drop_oldest();
        }
        self.counts.insert(key.clone(), AttemptCount { since: now, tries: 1 });
        self.order.push_back((now, key.clone()));
        self.limit > 0
    }

    /// The attempt succeeded, so earlier failures are forgiven.
    pub(crate) fn succeeded(&mut self, key: &AttemptKey) {
        if let Some(count) = self.counts.get_mut(key) {
            count.tries = 0;
        }
    }

    /// The attempt could not be judged for a reason on our side, so it does not count.
    pub(crate) fn returned(&mut self, key: &AttemptKey) {
        if let Some(count) = self.counts.get_mut(key) {
            count.tries = count.tries.saturating_sub(1);
        }
    }

    fn forget(&mut self, now: Duration) {
        while self.order.front().is_some_and(|(since, _)| now.saturating_sub(*since) >= self.window) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((since, key)) = self.order.pop_front()
            && self.counts.get(&key).is_some_and(|count| count.since == since)
        {
            self.counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> AttemptKey {
        (IpAddr::from([10, 0, 0, n]), "CP-1".to_owned())
    }

    #[test]
    fn the_eleventh_wrong_attempt_from_one_address_for_one_id_is_refused_until_the_window_ends() {
        let mut attempts = AttemptLimiter::new(10, Duration::from_secs(60), 100);
        let at = Duration::from_secs;
        assert!((0..10).all(|n| attempts.begin(&key(1), at(n))));
        assert!(!attempts.begin(&key(1), at(10)));
        assert!(attempts.begin(&key(2), at(10)), "another address is not punished");
        assert!(attempts.begin(&key(1), at(60)), "a new window");
    }

    #[test]
    fn a_right_attempt_forgives_the_wrong_ones() {
        let mut attempts = AttemptLimiter::new(2, Duration::from_secs(60), 100);
        for _ in 0..20 {
            assert!(attempts.begin(&key(1), Duration::ZERO));
            attempts.succeeded(&key(1));
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut attempts = AttemptLimiter::new(1, Duration::from_secs(60), 5);
        for n in 0..200 {
            assert!(attempts.begin(&key(n), Duration::ZERO));
        }
        assert_eq!((attempts.counts.len(), attempts.order.len()), (5, 5));
    }
}
