//! Exponential back-off with jitter, so that thousands of peers that lost Central at the same instant do not return at
//! the same instant.

use std::time::Duration;

/// Pure: random numbers are arguments.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    floor: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// The first wait is about `floor`, none is longer than `cap`.
    pub fn new(floor: Duration, cap: Duration) -> Self {
        let cap = cap.max(floor);
        Self { floor, cap, next: floor }
    }

    /// The next wait: between half and all of the current step. `chance` is any random number.
    pub fn wait(&mut self, chance: u32) -> Duration {
        let wait = jittered(self.next, chance);
        self.next = self.next.saturating_mul(2).min(self.cap);
        wait
    }

    /// The wait after a Busy answer: the time that it names, which the link has capped (SPEC 4.2), and up to half of it
    /// more. Does not change the next [`Self::wait`].
    pub fn after_busy(&self, retry_after: Duration, chance: u32) -> Duration {
        let asked = retry_after.max(self.floor);
        asked + jittered(asked, chance) - asked / 2
    }

    /// After a success the next wait is short again.
    pub fn reset(&mut self) {
        self.next = self.floor;
    }
}

/// Between half and all of `step`.
fn jittered(step: Duration, chance: u32) -> Duration {
    step / 2 + (step / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Duration = Duration::from_millis(250);
    const CAP: Duration = Duration::from_secs(5);

    #[test]
    fn waits_double_to_the_cap_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(FLOOR, CAP);
        let waits: Vec<_> = (0..7).map(|_| backoff.wait(u32::MAX).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.wait(u32::MAX), FLOOR);
    }

    #[test]
    fn jitter_takes_off_at_most_half() {
        assert_eq!(Backoff::new(FLOOR, CAP).wait(0), FLOOR / 2);
    }

    #[test]
    fn a_busy_answer_is_waited_for_and_jittered_upon_it_spec_4_2() {
        let backoff = Backoff::new(FLOOR, CAP);
        assert_eq!(backoff.after_busy(Duration::from_secs(2), 0), Duration::from_secs(2), "never earlier than asked");
        assert_eq!(backoff.after_busy(Duration::from_secs(2), u32::MAX), Duration::from_secs(3));
        assert_eq!(backoff.after_busy(Duration::ZERO, 0), FLOOR);
    }
}
