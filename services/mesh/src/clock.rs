//! The only place that reads clocks: code that decides takes [`Now`] as an argument (SPEC 10.8: durations are
//! monotonic, the wall clock only says when something happened).

use std::{
    pin::Pin,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::time::{Sleep, sleep_until};

/// One instant, on the monotonic and on the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For durations and deadlines; never runs backwards.
    pub mono: Instant,
    /// Milliseconds since 1970, UTC; may jump.
    pub wall_ms: i64,
}

/// The clocks of this host. Follows tokio's clock, so that a test that pauses time pauses this one too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock(());

impl Clock {
    pub fn system() -> Self {
        Self(())
    }

    pub fn now(self) -> Now {
        Now { mono: self.mono(), wall_ms: self.wall_ms() }
    }

    pub fn mono(self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the place where the wall clock is read")]
    pub fn wall_ms(self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    /// Returns at once where `at` is past.
    pub async fn sleep_until(self, at: Instant) {
        tokio::time::sleep_until(at.into()).await;
    }
}

/// A timer that is rescheduled only when it must ring earlier or has rung: most deadlines are postponed by the next
/// message long before they are due, and rescheduling costs more than reading the clock. It may therefore ring too
/// early; its user checks what is due.
#[derive(Debug)]
pub struct Alarm {
    sleep: Pin<Box<Sleep>>,
    armed: Instant,
    rang: bool,
}

/// The wait where nothing is due.
const LONG: Duration = Duration::from_secs(3600);

impl Alarm {
    pub fn new(clock: Clock) -> Self {
        let armed = clock.mono() + LONG;
        Self { sleep: Box::pin(sleep_until(armed.into())), armed, rang: false }
    }

    /// Rings at `due` at the latest.
    pub fn arm(&mut self, due: Option<Instant>) {
        let due = due.unwrap_or(self.armed + LONG);
        if self.rang || due < self.armed {
            self.sleep.as_mut().reset(due.into());
            (self.armed, self.rang) = (due, false);
        }
    }

    pub async fn rings(&mut self) {
        self.sleep.as_mut().await;
        self.rang = true;
    }
}

/// `2026-11-21T02:56:00Z`, for people; the time is UTC.
pub fn in_words(unix_seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(unix_seconds)
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| format!("{unix_seconds} s since 1970"))
}
