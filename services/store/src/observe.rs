//! Reports every transaction to the process that owns the database, which turns the reports into metrics.

use std::time::{Duration, Instant};

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionOutcome {
    Committed,
    /// Refused by a rule of the rows (driver busy, fenced, repeated, …).
    Refused,
    /// Lost a race and will run again.
    Retried,
    Failed,
}

/// Receives the name, the outcome and the duration of every transaction and turn. It is called on the store's threads
/// and must not block.
pub trait Observer: Send + Sync + 'static {
    fn transaction(&self, name: &'static str, outcome: TransactionOutcome, took: Duration);

    /// A group of this many turns was committed.
    fn group(&self, turns: usize, took: Duration);
}

/// Ignores all reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unobserved;

impl Observer for Unobserved {
    fn transaction(&self, _: &'static str, _: TransactionOutcome, _: Duration) {}
    fn group(&self, _: usize, _: Duration) {}
}

/// Measures durations for metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "measures for metrics; nothing is decided by it")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn took(self) -> Duration {
        self.0.elapsed()
    }
}
