//! Throttles audit entries about links that come and go and verdicts that change: as many as a charging point in trouble
//! makes are written one by one; those beyond are counted, and the count is written once a minute (SPEC 8.2). Pure.

use std::time::{Duration, Instant};

use mesh::rate::{RateLimit, TokenBucket};

use super::PointChange;
use crate::audit::AuditAction;

/// Ten losses and returns of both links at once, and then one entry after another.
const LIMIT: RateLimit = RateLimit { burst: 60, every: Duration::from_secs(5) };
const COUNTED_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
pub struct AuditThrottle {
    allowance: TokenBucket,
    counted: Vec<(AuditAction, u64)>,
    taken_at: Option<Instant>,
}

impl AuditThrottle {
    /// Whether it becomes an entry of its own; counted otherwise.
    pub(super) fn may_audit(&mut self, note: &PointChange, now: Instant) -> bool {
        let PointChange::Audit(entry) = note else { return true };
        let often = [
            AuditAction::LinkUp,
            AuditAction::LinkDown,
            AuditAction::LinkTakenOver,
            AuditAction::Fault,
            AuditAction::Recovery,
        ];
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
    pub(super) fn take(&mut self, now: Instant) -> Vec<(AuditAction, u64)> {
        if self.taken_at.is_some_and(|at| now.saturating_duration_since(at) < COUNTED_EVERY) {
            return Vec::new();
        }
        if !self.counted.is_empty() {
            self.taken_at = Some(now);
        }
        std::mem::take(&mut self.counted)
    }
}
