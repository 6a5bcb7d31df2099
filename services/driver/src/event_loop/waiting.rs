//! Who waits for an answer of Central or Registry to a command.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::notification::Notification;

/// How long somebody waits.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The answer to a command: JSON, or a sentence that says why not.
pub(crate) type CommandAnswer = Result<Value, String>;

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AwaitedAnswer {
    Offers,
    History,
    Enrolment,
}

struct WaitingUser {
    awaited: AwaitedAnswer,
    answer: oneshot::Sender<CommandAnswer>,
    until: Instant,
}

#[derive(Default)]
pub(super) struct WaitingUsers(Vec<WaitingUser>);

impl WaitingUsers {
    pub(super) fn add(&mut self, awaited: AwaitedAnswer, answer: Option<oneshot::Sender<CommandAnswer>>, now: Instant) {
        self.0.extend(answer.map(|answer| WaitingUser { awaited, answer, until: now + ANSWER_WITHIN }));
    }

    pub(super) fn wait_for(&self, awaited: AwaitedAnswer) -> bool {
        self.0.iter().any(|waiting| waiting.awaited == awaited)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.0.iter().map(|waiting| waiting.until).min()
    }

    pub(super) fn answer(&mut self, awaited: AwaitedAnswer, answer: &CommandAnswer) {
        for waiting in self.0.extract_if(.., |waiting| waiting.awaited == awaited) {
            drop(waiting.answer.send(answer.clone()));
        }
    }

    /// Central's lists come as notifications.
    pub(super) fn answer_with(&mut self, notification: &Notification) {
        if let Notification::Offers { .. } = notification {
            self.answer(AwaitedAnswer::Offers, &Ok(json!(notification)));
        } else if let Notification::History { .. } = notification {
            self.answer(AwaitedAnswer::History, &Ok(json!(notification)));
        }
    }

    /// Tells those who have waited too long `why`.
    pub(super) fn expire(&mut self, now: Instant, why: &str) {
        for waiting in self.0.extract_if(.., |waiting| waiting.until <= now) {
            let whom = if waiting.awaited == AwaitedAnswer::Enrolment { "Registry" } else { "Central" };
            drop(waiting.answer.send(Err(format!("cannot reach {whom}: {why}"))));
        }
    }
}
