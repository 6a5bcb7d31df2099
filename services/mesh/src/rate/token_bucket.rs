//! A token bucket, kept as the one instant at which it is full again.

use std::{
    hash::Hash,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use lru::LruCache;

/// `burst` at once, and one more after each `every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub burst: u32,
    pub every: Duration,
}

/// What one caller has used of a [`RateLimit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenBucket {
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// Takes a token, if there is one.
    pub fn take(&mut self, limit: RateLimit, now: Instant) -> bool {
        let has_one = limit.burst > 0 && self.wait(limit, now).is_zero();
        if has_one {
            self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + limit.every);
        }
        has_one
    }

    /// How long until there is a token.
    pub fn wait(&self, limit: RateLimit, now: Instant) -> Duration {
        let missing = self.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        missing.saturating_sub(limit.every.saturating_mul(limit.burst.saturating_sub(1)))
    }

    /// Puts a token back that was taken for nothing.
    pub fn give_back(&mut self, limit: RateLimit) {
        self.full_at = self.full_at.and_then(|at| at.checked_sub(limit.every));
    }
}

/// A [`TokenBucket`] for each key. Bounded: the key that was used longest ago is forgotten, and its bucket is full again;
/// the other way about, a caller that uses very many keys would lock all others out.
#[derive(Debug)]
pub struct KeyedBuckets<K: Eq + Hash> {
    limit: RateLimit,
    buckets: LruCache<K, TokenBucket>,
}

impl<K: Clone + Eq + Hash> KeyedBuckets<K> {
    pub fn new(limit: RateLimit, capacity: usize) -> Self {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Self { limit, buckets: LruCache::new(capacity) }
    }

    /// Takes a token of `key`, if there is one.
    pub fn take(&mut self, key: &K, now: Instant) -> bool {
        self.buckets.get_or_insert_mut_ref(key, TokenBucket::default).take(self.limit, now)
    }

    /// How long until there is a token of `key`.
    pub fn wait(&self, key: &K, now: Instant) -> Duration {
        self.buckets.peek(key).map_or(Duration::ZERO, |bucket| bucket.wait(self.limit, now))
    }

    /// Puts back the token that was taken for nothing.
    pub fn give_back(&mut self, key: &K) {
        if let Some(bucket) = self.buckets.peek_mut(key) {
            bucket.give_back(self.limit);
        }
    }

    /// Fills the bucket of `key`.
    pub fn refill(&mut self, key: &K) {
        self.buckets.pop(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const LIMIT: RateLimit = RateLimit { burst: 32, every: Duration::from_millis(250) };
    const ATTEMPTS: RateLimit = RateLimit { burst: 5, every: Duration::from_secs(12) };

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let (mut bucket, start) = (TokenBucket::default(), Clock::system().mono());
        assert_eq!((0..1_000).filter(|_| bucket.take(LIMIT, start)).count(), 32);
        assert_eq!((0..1_000).filter(|ms| bucket.take(LIMIT, start + Duration::from_millis(*ms))).count(), 3);
        let later = start + secs(1_000);
        assert_eq!((0..1_000).filter(|_| bucket.take(LIMIT, later)).count(), 32, "and no more, however long");
    }

    #[test]
    fn nothing_passes_where_the_burst_is_none() {
        assert!(!TokenBucket::default().take(RateLimit { burst: 0, ..LIMIT }, Clock::system().mono()));
    }

    #[test]
    fn each_key_has_a_bucket_of_its_own_and_a_wait_that_can_be_told() {
        let (mut buckets, start) = (KeyedBuckets::new(ATTEMPTS, 100), Clock::system().mono());
        assert_eq!((0..100).filter(|_| buckets.take(&"CP-1", start)).count(), 5);
        assert_eq!(buckets.wait(&"CP-1", start + secs(2)), secs(10));
        assert!(!buckets.take(&"CP-1", start + secs(11)) && buckets.take(&"CP-1", start + secs(12)));
        assert!(buckets.wait(&"CP-2", start).is_zero() && buckets.take(&"CP-2", start));
    }

    #[test]
    fn what_is_given_back_or_refilled_can_be_taken_again() {
        let (mut buckets, now) = (KeyedBuckets::new(ATTEMPTS, 100), Clock::system().mono());
        for _ in 0..20 {
            assert!(buckets.take(&1, now));
            buckets.give_back(&1);
        }
        assert_eq!((0..100).filter(|_| buckets.take(&1, now)).count(), 5);
        buckets.refill(&1);
        assert_eq!((0..100).filter(|_| buckets.take(&1, now)).count(), 5);
    }

    #[test]
    fn whoever_uses_very_many_keys_locks_nobody_else_out() {
        let (mut buckets, now) = (KeyedBuckets::new(ATTEMPTS, 1_000), Clock::system().mono());
        assert!((0..3_000).all(|key| buckets.take(&key, now)));
        assert_eq!(buckets.buckets.len(), 1_000);
        assert!(buckets.take(&9_999, now));
    }
}
