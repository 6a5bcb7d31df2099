//! Entries about links that come and go and verdicts that change. They are noted one by one as far as a charging point
//! in trouble makes them; what goes beyond that is counted, and noted once a minute (SPEC 8.2). Pure.

use std::time::{Duration, Instant};

use super::Change;
use crate::{
    allowance::{Allowance, Limit},
    audit::Action,
};

/// Ten losses and returns of both links at once, and then one entry after another.
const LIMIT: Limit = Limit { burst: 60, every: Duration::from_secs(5) };
const COUNTED_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
pub struct Noted {
    allowance: Allowance,
    counted: Vec<(Action, u64)>,
    taken_at: Option<Instant>,
}

impl Noted {
    /// Whether it becomes an entry of its own; counted otherwise.
    pub(super) fn may_note(&mut self, note: &Change, now: Instant) -> bool {
        let Change::Audit(entry) = note else { return true };
        let often = [Action::LinkUp, Action::LinkDown, Action::LinkTakenOver, Action::Fault, Action::Recovery];
        if !often.contains(&entry.action) || self.allowance.take(LIMIT, now) {
            return true;
        }
        match self.counted.iter_mut().find(|(action, _)| *action == entry.action) {
            Some((_, times)) => *times += 1,
            None => self.counted.push((entry.action, 1)),
        }
        false
    }

    /// What was counted, once a minute.
    pub(super) fn take(&mut self, now: Instant) -> Vec<(Action, u64)> {
        if self.taken_at.is_some_and(|at| now.saturating_duration_since(at) < COUNTED_EVERY) {
            return Vec::new();
        }
        if !self.counted.is_empty() {
            self.taken_at = Some(now);
        }
        std::mem::take(&mut self.counted)
    }
}
