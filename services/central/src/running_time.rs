//! How long Central has run in all, by its own clock alone (SPEC 4.6, 10.8): what the age of keys counts in. A wall clock
//! that jumps, now or between two runs, makes none older.

use std::time::{Duration, Instant};

use mesh::clock::Now;
use store::{
    Database, StoreError,
    central::{KeyEncryption, running_time},
};

/// Since the first start of any process on this database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunningTime {
    before: Duration,
    since: Instant,
}

/// How old something is, in running time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    before: Duration,
    since: Instant,
}

/// What keys are stored with: the key-encryption keys, and the clock of their age.
#[derive(Debug)]
pub(crate) struct KeysAtRest {
    pub encryption: KeyEncryption,
    pub running: RunningTime,
}

impl Age {
    /// As old as this now.
    pub fn new(before: Duration, now: Now) -> Self {
        Self { before, since: now.mono }
    }

    pub fn at(self, now: Now) -> Duration {
        self.before + now.mono.saturating_duration_since(self.since)
    }
}

impl RunningTime {
    /// Goes on from what was saved.
    pub(crate) async fn load(database: &Database, since: Instant) -> Result<Self, StoreError> {
        let saved = database.read("running time", running_time).await?;
        Ok(Self { before: Duration::from_millis(saved.max(0).unsigned_abs()), since })
    }

    pub(crate) fn total_ms(self, now: Now) -> i64 {
        i64::try_from(Age { before: self.before, since: self.since }.at(now).as_millis()).unwrap_or(i64::MAX)
    }

    /// Of what came when Central had run for so long.
    pub(crate) fn age(self, came_ms: i64, now: Now) -> Age {
        Age::new(Duration::from_millis(self.total_ms(now).saturating_sub(came_ms).max(0).unsigned_abs()), now)
    }

    /// When that came which is so old now.
    pub(crate) fn came_ms(self, age: Age, now: Now) -> i64 {
        let age = i64::try_from(age.at(now).as_millis()).unwrap_or(i64::MAX);
        self.total_ms(now).saturating_sub(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn an_age_goes_on_after_a_restart_without_the_time_between_spec_4_6() {
        let first = RunningTime { before: Duration::ZERO, since: at(0).mono };
        let granted = first.came_ms(Age::new(Duration::ZERO, at(100)), at(160));
        assert_eq!((granted, first.age(granted, at(160)).at(at(170))), (100_000, Duration::from_secs(70)));
        // Stopped after 200 s, and started again a day later by its clock.
        let second = RunningTime { before: Duration::from_secs(200), since: at(86_400).mono };
        assert_eq!(second.age(granted, at(86_400)).at(at(86_405)), Duration::from_secs(105));
    }
}
