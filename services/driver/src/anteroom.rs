//! Before a driver drives: while he is being enrolled, or waits for Central's keys, what a person asks is answered with
//! what is waited for (SPEC 1.7, 1.9).

use mesh::{health::ComponentState, process::Context};
use proto::DriverId;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    commands::{self, UserCommand},
    drive::Ask,
    enrolment,
};

/// Who waits.
pub(crate) struct Waits<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) driver: &'a DriverId,
}

/// `work` to its end, while questions are answered. Nothing where somebody said `quit` before.
pub(crate) async fn meanwhile<T>(
    work: impl Future<Output = T>,
    asked: &mut mpsc::Receiver<Ask>,
    waits: &Waits<'_>,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            Some(ask) = asked.recv() => {
                if waits.answer(ask) {
                    return None;
                }
            }
        }
    }
}

impl Waits<'_> {
    /// Whether to end.
    fn answer(&self, ask: Ask) -> bool {
        // A request cannot come yet: whoever makes one has been given a driver that drives.
        let Ask::UserCommand(word, answer) = ask else { return false };
        let said = match &word {
            UserCommand::Status => Ok(self.status()),
            UserCommand::Help => Ok(json!({ "help": commands::HELP })),
            UserCommand::Quit => Ok(Value::Null),
            UserCommand::Request { .. }
            | UserCommand::Order(_)
            | UserCommand::Load(_)
            | UserCommand::Authenticate
            | UserCommand::Enrol(_)
            | UserCommand::Tickets => Err(format!("not enrolled yet: {}", self.trouble())),
        };
        if let Some(answer) = answer {
            drop(answer.send(said));
        }
        matches!(word, UserCommand::Quit)
    }

    fn status(&self) -> Value {
        json!({
            "driver": self.driver,
            "enrolled": false,
            "linked": false,
            "waits_for": "Registry",
            "trouble": self.trouble(),
        })
    }

    fn trouble(&self) -> String {
        match self.ctx.health.report().components.remove(enrolment::COMPONENT) {
            Some(ComponentState::Starting { reason } | ComponentState::Degraded { reason }) => reason,
            Some(ComponentState::Ready) | None => "starting".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_driver_says_what_it_waits_for_before_it_is_enrolled_spec_1_9() {
        let (ctx, driver) = (Context::detached("driver"), "ann".parse().unwrap());
        ctx.health.component(enrolment::COMPONENT).starting("cannot reach Registry at r:7580: refused; trying again");
        let (asks, mut asked) = mpsc::channel(4);
        let waits = Waits { ctx: &ctx, driver: &driver };
        let ask = |word| {
            let (answer, answered) = oneshot::channel();
            asks.try_send(Ask::UserCommand(word, Some(answer))).unwrap();
            answered
        };
        let (status, tickets, quit) = (ask(UserCommand::Status), ask(UserCommand::Tickets), ask(UserCommand::Quit));
        let done = meanwhile(std::future::pending::<()>(), &mut asked, &waits).await;
        assert!(done.is_none() && quit.await.unwrap().is_ok());
        let status = status.await.unwrap().unwrap();
        assert_eq!((&status["enrolled"], &status["waits_for"]), (&json!(false), &json!("Registry")));
        assert!(status["trouble"].as_str().unwrap().contains("cannot reach Registry at r:7580"));
        assert!(tickets.await.unwrap().unwrap_err().starts_with("not enrolled yet: cannot reach Registry"));
    }
}
