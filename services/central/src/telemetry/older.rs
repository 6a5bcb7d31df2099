//! Retired keys that are no longer at hand, read from the store when a reading names one (SPEC 4.6). However many numbers
//! a charging point makes up, the store is asked once a second for it at most, and little is remembered. Pure.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use wire::LinkKey;

/// Numbers that are remembered, with their key or that there is none.
const AT_HAND: usize = 8;
const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct OlderKeys {
    known: VecDeque<(u64, Option<Arc<LinkKey>>)>,
    asked_at: Option<Instant>,
}

/// Where a key is to be found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Known(Option<Arc<LinkKey>>),
    /// In the store, if anywhere.
    Read,
    /// The store was asked just now.
    NotNow,
}

impl OlderKeys {
    pub(super) fn look(&mut self, key_no: u64, now: Instant) -> Look {
        if let Some((_, key)) = self.known.iter().find(|(no, _)| *no == key_no) {
            return Look::Known(key.clone());
        }
        if self.asked_at.is_some_and(|at| now.saturating_duration_since(at) < EVERY) {
            return Look::NotNow;
        }
        self.asked_at = Some(now);
        Look::Read
    }

    pub(super) fn remember(&mut self, key_no: u64, key: Option<Arc<LinkKey>>) {
        if self.known.len() >= AT_HAND {
            self.known.pop_front();
        }
        self.known.push_back((key_no, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at_ms;

    #[test]
    fn made_up_key_numbers_cost_one_question_a_second_spec_4_6() {
        let mut older = OlderKeys::default();
        let mut asked = 0;
        for ms in 0..10_000 {
            if older.look(ms, at_ms(ms).mono) == Look::Read {
                asked += 1;
                older.remember(ms, None);
            }
        }
        assert_eq!((asked, older.known.len()), (10, AT_HAND));
    }

    #[test]
    fn a_key_that_was_read_is_not_read_again_spec_4_6() {
        let (mut older, key) = (OlderKeys::default(), Arc::new(LinkKey::from_bytes([7; 32])));
        assert_eq!(older.look(1, at_ms(0).mono), Look::Read);
        older.remember(1, Some(Arc::clone(&key)));
        assert_eq!(older.look(1, at_ms(1).mono), Look::Known(Some(key)));
        assert_eq!(older.look(2, at_ms(2).mono), Look::NotNow);
    }
}
