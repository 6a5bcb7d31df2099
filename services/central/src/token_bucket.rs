//! A token bucket: bounds how often a peer may cause a row, an audit entry or a message to somebody else. Pure.

use std::time::{Duration, Instant};

/// `burst` at once, and one more after each `every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub burst: u32,
    pub every: Duration,
}

/// What one peer has used of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenBucket {
    /// When all of it is there again.
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// Whether one more is within the limit; it counts then, and not otherwise.
    pub fn take(&mut self, limit: Limit, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + limit.every;
        let within = full_at.saturating_duration_since(now) <= limit.every.saturating_mul(limit.burst);
        if within {
            self.full_at = Some(full_at);
        }
        within
    }

    /// Nothing of it is used: it need not be remembered.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, at_ms};

    const LIMIT: Limit = Limit { burst: 32, every: Duration::from_millis(250) };

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let mut allowance = TokenBucket::default();
        assert_eq!((0..1_000).filter(|_| allowance.take(LIMIT, at(0).mono)).count(), 32);
        assert_eq!((0..1_000).filter(|ms| allowance.take(LIMIT, at_ms(*ms).mono)).count(), 3);
        assert_eq!(
            (0..1_000).filter(|_| allowance.take(LIMIT, at(1_000).mono)).count(),
            32,
            "and no more, however long"
        );
    }

    #[test]
    fn what_is_not_used_need_not_be_remembered() {
        let mut allowance = TokenBucket::default();
        assert!(allowance.is_full(at(0).mono) && allowance.take(LIMIT, at(0).mono));
        assert!(!allowance.is_full(at(0).mono) && allowance.is_full(at(1).mono));
    }
}
