//! Counts repeated events so that they become one audit entry (SPEC 4.8, 8.2): the first is reported at once, the count
//! of those that follow once a minute.

use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    unnoted: u64,
    noted_at: Option<Instant>,
}

impl Tally {
    /// Counts `more`. The number to report now, if it is time.
    pub fn count(&mut self, more: u64, now: Instant) -> Option<u64> {
        self.unnoted = self.unnoted.saturating_add(more);
        self.flush(now)
    }

    /// The number that came since the last report, if a minute has passed since.
    pub fn flush(&mut self, now: Instant) -> Option<u64> {
        let early = self.noted_at.is_some_and(|at| now.saturating_duration_since(at) < EVERY);
        if early || self.unnoted == 0 {
            return None;
        }
        self.noted_at = Some(now);
        Some(std::mem::take(&mut self.unnoted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn a_thousand_repeats_are_two_entries_with_counts_spec_4_8() {
        let mut repeats = Tally::default();
        assert_eq!(repeats.count(1, at(0).mono), Some(1));
        assert!((1..1_000).all(|ms| repeats.count(1, at(ms / 20).mono).is_none()));
        assert_eq!(repeats.flush(at(60).mono), Some(999));
        assert_eq!(repeats.flush(at(200).mono), None);
    }
}
