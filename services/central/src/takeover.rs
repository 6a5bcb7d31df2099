//! Three takeovers of a link that was still alive, within five minutes, mean that two hold the same key (SPEC 4.9).
//! Whether it was shows by its answer to the farewell: a line that fails and is dialled anew leaves a dead one behind.

use std::{collections::VecDeque, time::Instant};

use crate::{origin::LinkNo, settings::CentralSettings};

/// Links whose end is waited for, of one part; the oldest go first.
const CLOSING: usize = 16;

/// When live links of one part were taken over. Holds no more instants than are needed to decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Takeovers {
    closing: VecDeque<LinkNo>,
    counted: VecDeque<Instant>,
}

impl Takeovers {
    /// A link was taken over, and told so. Rotations and links that had already ended are none.
    pub fn began(&mut self, old: LinkNo) {
        if self.closing.len() >= CLOSING {
            self.closing.pop_front();
        }
        self.closing.push_back(old);
    }

    /// A link ended. True where it was taken over alive, and that is one too many.
    pub fn ended(&mut self, link: LinkNo, answered: bool, at: Instant, settings: &CentralSettings) -> bool {
        let Some(place) = self.closing.iter().position(|old| *old == link) else { return false };
        self.closing.remove(place);
        answered && self.count(at, settings)
    }

    fn count(&mut self, at: Instant, settings: &CentralSettings) -> bool {
        while self.counted.front().is_some_and(|first| at.saturating_duration_since(*first) > settings.takeover_window)
        {
            self.counted.pop_front();
        }
        self.counted.push_back(at);
        let one_too_many = self.counted.len() >= settings.takeovers;
        if one_too_many {
            self.counted.clear();
        }
        one_too_many
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn counted(seconds: &[u64]) -> Vec<bool> {
        let (settings, start, mut takeovers) =
            (CentralSettings::default(), crate::testing::start(), Takeovers::default());
        seconds.iter().map(|s| takeovers.count(start + Duration::from_secs(*s), &settings)).collect()
    }

    #[test]
    fn three_takeovers_within_five_minutes_quarantine_spec_4_9() {
        assert_eq!(counted(&[0, 100, 300]), [false, false, true]);
    }

    #[test]
    fn takeovers_spread_over_more_than_five_minutes_do_not_hold_spec_4_9() {
        assert_eq!(counted(&[0, 200, 301, 502]), [false, false, false, false]);
    }

    #[test]
    fn a_link_that_had_died_unseen_or_was_not_taken_over_counts_for_nothing_spec_4_9() {
        let (settings, now, mut takeovers) =
            (CentralSettings::default(), crate::testing::start(), Takeovers::default());
        for link in (0..100).map(LinkNo) {
            assert!(!takeovers.ended(link, true, now, &settings), "not taken over");
            takeovers.began(link);
            assert!(!takeovers.ended(link, false, now, &settings), "dead");
        }
        assert_eq!(takeovers, Takeovers::default());
        (0..100).for_each(|link| takeovers.began(LinkNo(link)));
        assert_eq!(takeovers.closing.len(), CLOSING);
    }

    #[test]
    fn after_a_hold_the_count_begins_again() {
        assert_eq!(counted(&[0, 1, 2, 3, 4, 5]), [false, false, true, false, false, true]);
    }
}
