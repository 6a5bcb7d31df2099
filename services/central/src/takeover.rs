//! Three takeovers of a link that was still alive, within five minutes, mean that two hold the same key (SPEC 4.9).

use std::{collections::VecDeque, time::Instant};

use crate::settings::Settings;

/// When live links of one part were taken over. Holds no more instants than are needed to decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Takeovers(VecDeque<Instant>);

impl Takeovers {
    /// Counts a takeover; true when it is one too many. Rotations and links that had already ended are not counted by
    /// the caller.
    pub fn count(&mut self, at: Instant, settings: &Settings) -> bool {
        while self.0.front().is_some_and(|first| at.saturating_duration_since(*first) > settings.takeover_window) {
            self.0.pop_front();
        }
        self.0.push_back(at);
        let held = self.0.len() >= settings.takeovers;
        if held {
            self.0.clear();
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn counted(seconds: &[u64]) -> Vec<bool> {
        let (settings, start, mut takeovers) = (Settings::default(), crate::testing::start(), Takeovers::default());
        seconds.iter().map(|s| takeovers.count(start + Duration::from_secs(*s), &settings)).collect()
    }

    #[test]
    fn three_takeovers_within_five_minutes_hold_spec_4_9() {
        assert_eq!(counted(&[0, 100, 300]), [false, false, true]);
    }

    #[test]
    fn takeovers_spread_over_more_than_five_minutes_do_not_hold_spec_4_9() {
        assert_eq!(counted(&[0, 200, 301, 502]), [false, false, false, false]);
    }

    #[test]
    fn after_a_hold_the_count_begins_again() {
        assert_eq!(counted(&[0, 1, 2, 3, 4, 5]), [false, false, true, false, false, true]);
    }
}
