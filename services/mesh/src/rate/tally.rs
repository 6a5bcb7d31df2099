//! Counts repeated events so that they become one audit entry (SPEC 4.8, 8.2): the first is reported at once, those that
//! follow as a count after a while.

use std::time::{Duration, Instant};

/// Repeats of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    every: Duration,
    unreported: u64,
    reported_at: Option<Instant>,
}

impl Default for Tally {
    /// Reports once a minute.
    fn default() -> Self {
        Self::new(Duration::from_secs(60))
    }
}

impl Tally {
    /// Reports at most once within `every`.
    pub fn new(every: Duration) -> Self {
        Self { every, unreported: 0, reported_at: None }
    }

    /// Counts `more`. The number to report now, if it is time.
    pub fn count(&mut self, more: u64, now: Instant) -> Option<u64> {
        self.add(more);
        self.flush(now)
    }

    /// Counts `more`, for a later [`Self::flush`].
    pub(crate) fn add(&mut self, more: u64) {
        self.unreported = self.unreported.saturating_add(more);
    }

    /// What no report contains yet.
    pub(crate) fn unreported(&self) -> u64 {
        self.unreported
    }

    /// When the next report may come; nothing before the first.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.reported_at.map(|at| at + self.every)
    }

    /// The number that came since the last report, if it is time for the next.
    pub fn flush(&mut self, now: Instant) -> Option<u64> {
        let early = self.reported_at.is_some_and(|at| now.saturating_duration_since(at) < self.every);
        if early || self.unreported == 0 {
            return None;
        }
        self.reported_at = Some(now);
        Some(std::mem::take(&mut self.unreported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_repeats_are_two_reports_with_counts_spec_4_8() {
        let start = crate::clock::Clock::system().mono();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut tally = Tally::default();
        assert_eq!(tally.count(1, at(0)), Some(1));
        assert!((1..1_000).all(|ms| tally.count(1, at(ms / 20)).is_none()));
        assert_eq!(tally.flush(at(60)), Some(999));
        assert_eq!(tally.flush(at(200)), None);
    }
}
