//! When a dead part is started again: at once after a long life, later and later after short ones, so that a part that
//! cannot run neither burns the machine nor is given up.
//!
//! Pure.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// A part that lived this long is well: its next death is a first one.
const WELL: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    short_lives: u32,
}

impl Backoff {
    /// The wait before the next start of a part that lived so long.
    pub(crate) fn after(&mut self, life: Duration) -> Duration {
        if life >= WELL {
            self.short_lives = 0;
        }
        let wait = FIRST.saturating_mul(1 << self.short_lives.min(10)).min(LONGEST);
        self.short_lives = self.short_lives.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_lives_wait_longer_and_a_long_one_starts_afresh() {
        let mut backoff = Backoff::default();
        let short = Duration::from_millis(10);
        let waits: Vec<_> = (0..8).map(|_| backoff.after(short).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.after(WELL), FIRST);
    }
}
