//! How long the supervisor waits before it restarts a dead process: briefly after a long run, exponentially longer after
//! short ones, so that a process that cannot run neither keeps the CPU busy nor is given up.
//!
//! Pure.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// After a run this long the wait starts from [`FIRST`] again.
const HEALTHY_RUN: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RestartBackoff {
    short_runs: u32,
}

impl RestartBackoff {
    /// The wait before the next start of a process that ran for `run`.
    pub(crate) fn after(&mut self, run: Duration) -> Duration {
        if run >= HEALTHY_RUN {
            self.short_runs = 0;
        }
        let wait = FIRST.saturating_mul(1 << self.short_runs.min(10)).min(LONGEST);
        self.short_runs = self.short_runs.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_after_short_runs_and_starts_over_after_a_long_one() {
        let mut backoff = RestartBackoff::default();
        let short_run = Duration::from_millis(10);
        let waits: Vec<_> = (0..8).map(|_| backoff.after(short_run).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.after(HEALTHY_RUN), FIRST);
    }
}
