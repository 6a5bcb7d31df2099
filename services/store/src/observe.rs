//! What the store tells of its transactions; the process that owns it turns this into metrics.

use std::time::{Duration, Instant};

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionOutcome {
    Committed,
    /// Dropped out by a rule of the rows (driver busy, fenced, repeated, …).
    Refused,
    /// Lost a race and was run again.
    Retried,
    Failed,
}

/// Receives the name, the end and the duration of every transaction and turn. Called on the store's own threads, so
/// it must not block.
pub trait Observer: Send + Sync + 'static {
    fn transaction(&self, name: &'static str, outcome: TransactionOutcome, took: Duration);

    /// A group commit of so many turns.
    fn group(&self, turns: usize, took: Duration);
}

/// For those who do not watch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unobserved;

impl Observer for Unobserved {
    fn transaction(&self, _: &'static str, _: TransactionOutcome, _: Duration) {}
    fn group(&self, _: usize, _: Duration) {}
}

/// A stopwatch: how long things took, for metrics alone.
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
