//! Throttles updates; always delivers the latest value. Pure.

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    told_at: Option<Instant>,
    owed: bool,
}

impl Throttle {
    /// Whether to tell a new value now; otherwise it is owed.
    pub fn may_tell(&mut self, every: Duration, now: Instant) -> bool {
        self.owed = self.told_at.is_some_and(|at| now.saturating_duration_since(at) < every);
        if !self.owed {
            self.told_at = Some(now);
        }
        !self.owed
    }

    /// When what is owed is to be told.
    pub fn due(&self, every: Duration) -> Option<Instant> {
        self.told_at.filter(|_| self.owed).map(|at| at + every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at_ms;

    #[test]
    fn of_a_thousand_values_a_second_two_are_told_and_the_last_one_is_owed() {
        let (mut pace, every) = (Throttle::default(), Duration::from_millis(500));
        let told = (0..1_000).filter(|ms| pace.may_tell(every, at_ms(*ms).mono)).count();
        assert_eq!((told, pace.due(every)), (2, Some(at_ms(1_000).mono)));
        assert!(pace.may_tell(every, at_ms(1_000).mono));
        assert_eq!(pace.due(every), None);
    }
}
