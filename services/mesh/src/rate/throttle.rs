//! Throttles updates; always delivers the latest value.

use std::time::{Duration, Instant};

/// When the last update was sent, and whether a later one waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    sent_at: Option<Instant>,
    waits: bool,
}

impl Throttle {
    /// Whether to send a new value now; otherwise it waits until [`Self::due`].
    pub fn may_send(&mut self, every: Duration, now: Instant) -> bool {
        self.waits = self.sent_at.is_some_and(|at| now.saturating_duration_since(at) < every);
        if !self.waits {
            self.sent_at = Some(now);
        }
        !self.waits
    }

    /// When to send the value that waits.
    pub fn due(&self, every: Duration) -> Option<Instant> {
        self.sent_at.filter(|_| self.waits).map(|at| at + every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_thousand_values_a_second_two_are_sent_and_the_last_one_waits() {
        let start = crate::clock::Clock::system().mono();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut throttle, every) = (Throttle::default(), Duration::from_millis(500));
        let sent = (0..1_000).filter(|ms| throttle.may_send(every, at(*ms))).count();
        assert_eq!((sent, throttle.due(every)), (2, Some(at(1_000))));
        assert!(throttle.may_send(every, at(1_000)));
        assert_eq!(throttle.due(every), None);
    }
}
