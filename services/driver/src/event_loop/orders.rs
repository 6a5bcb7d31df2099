//! What a person, a file or a program orders of a driver.

use std::path::PathBuf;

use mesh::peer::Membership;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    DriverLoop, new_request,
    waiting::{AwaitedAnswer, CommandAnswer},
};
use crate::{
    commands::{HELP, UserCommand},
    file_queue::FileQueue,
    notification::Notification,
    request::DriverOrder,
    request_file::RequestFile,
    trip::TripInput,
};

impl DriverLoop {
    /// Executes a command; the answer, where one is waited for, may come later.
    pub(super) async fn execute(&mut self, command: UserCommand, answer: Option<oneshot::Sender<CommandAnswer>>) {
        let done = match command {
            UserCommand::Order(DriverOrder::ListChargingPoints) => {
                return self.list(DriverOrder::ListChargingPoints, AwaitedAnswer::Offers, answer).await;
            }
            UserCommand::Order(order @ DriverOrder::ListHistory(_)) => {
                return self.list(order, AwaitedAnswer::History, answer).await;
            }
            UserCommand::Enrol(token) => match self.enrollee.enrol(token) {
                Ok(()) => return self.waiting.add(AwaitedAnswer::Enrolment, answer, self.clock.mono()),
                Err(why) => Err(why),
            },
            UserCommand::Request { charging_point, energy } => {
                let request = new_request(charging_point, energy, None);
                let id = request.id.clone();
                self.order(DriverOrder::ByHand(request)).await.map(|()| self.requested(&id))
            }
            UserCommand::Order(order) => self.order(order).await.map(|()| Value::Null),
            UserCommand::Load(path) => match self.load(path.into(), false).await {
                Ok(()) => Ok(self.status()),
                Err(error) => Err(format!("{error:#}")),
            },
            UserCommand::Authenticate => self.enrollee.authenticate_by_hand(self.clock.now()).map(|()| Value::Null),
            UserCommand::Tickets => self.data_dir.tickets().map(|t| json!({ "tickets": t })).map_err(|e| e.to_string()),
            UserCommand::Status => Ok(self.status()),
            UserCommand::Help => Ok(json!({ "help": HELP })),
            UserCommand::Quit => {
                self.has_quit = true;
                Ok(Value::Null)
            }
        };
        match (answer, done) {
            (Some(answer), done) => drop(answer.send(done)),
            (None, Err(text)) => self.reporter.hint(text).await,
            (None, Ok(_)) => {}
        }
    }

    /// What cannot be done now is refused with its hint.
    async fn order(&mut self, order: DriverOrder) -> Result<(), String> {
        self.trips.handle(TripInput::Order(order), self.clock.now());
        self.carry_out_trips().await.map_or(Ok(()), Err)
    }

    async fn list(
        &mut self,
        order: DriverOrder,
        awaited: AwaitedAnswer,
        answer: Option<oneshot::Sender<CommandAnswer>>,
    ) {
        self.trips.handle(TripInput::Order(order), self.clock.now());
        let Some(trouble) = self.trouble() else {
            return self.waiting.add(awaited, answer, self.clock.mono());
        };
        let text = format!("cannot reach Central: {trouble}");
        match answer {
            Some(answer) => drop(answer.send(Err(text))),
            None => self.reporter.hint(text).await,
        }
    }

    /// With what a person must know who cannot see the steps.
    fn requested(&self, id: &str) -> Value {
        if self.is_reachable() {
            return json!({ "request_id": id });
        }
        let expire = self.settings.request_expires;
        let waits = format!("cannot reach Central: kept, and sent if it is back within {expire:?}");
        json!({ "request_id": id, "waits": waits })
    }

    pub(super) fn status(&self) -> Value {
        let (done, all) = self.plans.queue.as_ref().map_or((0, 0), FileQueue::progress);
        json!({
            "driver": self.enrollee.id(),
            "enrolled": self.enrollee.is_enrolled(),
            "linked": self.is_reachable(),
            "waits_for": self.waits_for(),
            "trouble": self.trouble(),
            "authenticates_again": !self.waits_for_a_person(),
            "key_no": self.enrollee.key().map(|key| key.key_no),
            "unintelligible": self.enrollee.peer.unintelligible(),
            "requests": self.trips.requests().collect::<Vec<_>>(),
            "supplies": self.trips.running().collect::<Vec<_>>(),
            "to_confirm": self.trips.confirms().map(|c| &c.session_id).collect::<Vec<_>>(),
            "file": self.plans.state.file,
            "file_done": done,
            "file_requests": all,
            "bad_lines": self.plans.queue.as_ref().map_or(0, |q| q.file().rejected.len()),
        })
    }

    /// What there is to wait for before Central can be asked for anything.
    fn waits_for(&self) -> Option<&'static str> {
        if self.is_reachable() {
            return None;
        }
        Some(match self.enrollee.membership() {
            _any if self.waits_for_a_person() => "a person: enrol, or authenticate",
            Membership::Enrolling { .. } => "Registry",
            Membership::NotEnrolled(_) | Membership::Enrolled => "Central",
        })
    }

    fn waits_for_a_person(&self) -> bool {
        let enrollee = &self.enrollee;
        matches!(enrollee.membership(), Membership::NotEnrolled(_)) || enrollee.has_given_up() || enrollee.is_revoked()
    }

    // ---- The file

    /// `resume`: goes on after the last line that is over, if it is the same file as before the restart.
    pub(crate) async fn load(&mut self, path: PathBuf, resume: bool) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(&path).map_err(|error| {
            mesh::process::Misuse::new(format!("cannot read the file of requests {}: {error}", path.display()))
        })?;
        let path = std::path::absolute(&path).unwrap_or(path);
        if !resume || self.plans.state.file.as_ref() != Some(&path) {
            self.plans.state.done = 0;
            self.trips.forget_lines();
            for request in &mut self.plans.state.requests {
                request.line = None;
            }
            self.plans.state.file = Some(path);
            self.data_dir.save_state(&self.plans.state)?;
        }
        let file = RequestFile::parse(&text);
        for bad in &file.rejected {
            self.reporter.notify(Notification::BadLine { line: bad.line, detail: bad.why.clone() }).await;
        }
        let in_flight = self.plans.state.requests.iter().find_map(|r| r.line);
        self.reporter.file_is_over = false;
        self.plans.queue =
            Some(FileQueue::new(file, self.plans.state.done, in_flight, self.settings.pause, self.clock.mono()));
        Ok(())
    }

    /// Its file is over, and that ends the driver: not before what it is enrolled with is on disk.
    pub(super) fn is_done(&self) -> bool {
        let is_over = self.plans.queue.as_ref().is_some_and(FileQueue::is_over);
        let has_ended = is_over && self.settings.exit_when_done && self.trips.requests().next().is_none();
        has_ended && self.enrollee.is_enrolled() && self.enrollee.is_persisted()
    }

    pub(super) async fn report_file(&mut self) {
        let Some(queue) = self.plans.queue.as_ref().filter(|queue| queue.is_over()) else { return };
        let (requests, bad_lines) = (queue.file().requests.len() as u64, queue.file().rejected.len() as u64);
        if !std::mem::replace(&mut self.reporter.file_is_over, true) {
            self.reporter.notify(Notification::FileFinished { requests, bad_lines }).await;
        }
    }
}
