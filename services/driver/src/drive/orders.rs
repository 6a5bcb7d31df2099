//! What a person, a file or a program orders of the driver's loop.

use std::path::PathBuf;

use mesh::clock::Now;
use proto::enrolment::SecretText;
use serde_json::{Value, json};

use super::{ANSWER_WITHIN, Ask, Drive, Waiting, new_request};
use crate::{
    commands::UserCommand,
    contact::Contact,
    enrolment::{EnrolSettings, enrol_again},
    file_queue::FileQueue,
    notification::Notification,
    request::DriverOrder,
    request_file::RequestFile,
    trip::TripInput,
};

impl Drive {
    /// Whether to end.
    pub(super) async fn asked(&mut self, ask: Ask) -> anyhow::Result<bool> {
        let now = self.clock.now();
        let (word, answer) = match ask {
            Ask::Request(request) => {
                self.trips.handle(TripInput::Order(DriverOrder::Request(request)), now);
                return Ok(false);
            }
            Ask::UserCommand(word, answer) => (word, answer),
        };
        let done = match word {
            UserCommand::Request { charging_point, energy } => {
                let request = new_request(charging_point, energy, None);
                let id = request.id.clone();
                self.trips.handle(TripInput::Order(DriverOrder::ByHand(request)), now);
                self.carry_out().await?.map_or_else(|| Ok(self.requested(&id)), Err)
            }
            UserCommand::Order(order @ (DriverOrder::ListChargingPoints | DriverOrder::ListHistory(_))) => {
                let offers = order == DriverOrder::ListChargingPoints;
                self.trips.handle(TripInput::Order(order), now);
                if !self.reachable() {
                    let why = self.unreachable.clone().unwrap_or_else(|| "not linked yet".to_owned());
                    Err(format!("cannot reach Central: {why}"))
                } else if let Some(answer) = answer {
                    self.waiting.push(Waiting { offers, answer, until: now.mono + ANSWER_WITHIN });
                    return Ok(false);
                } else {
                    return Ok(false);
                }
            }
            UserCommand::Order(order) => {
                self.trips.handle(TripInput::Order(order), now);
                self.carry_out().await?.map_or(Ok(Value::Null), Err)
            }
            UserCommand::Load(path) => match self.load(path.into(), false).await {
                Ok(()) => Ok(self.status()),
                Err(error) => Err(format!("{error:#}")),
            },
            UserCommand::Authenticate => {
                let again = self.contact.told();
                self.again(again, now);
                Ok(Value::Null)
            }
            UserCommand::Enrol(token) => self.enrol(token, now).await,
            UserCommand::Tickets => self.data_dir.tickets().map(|t| json!({ "tickets": t })).map_err(|e| e.to_string()),
            UserCommand::Status => Ok(self.status()),
            UserCommand::Help => Ok(json!({ "help": crate::commands::HELP })),
            UserCommand::Quit => return Ok(true),
        };
        match (answer, done) {
            (Some(answer), done) => drop(answer.send(done)),
            (None, Err(text)) => self.tell(Notification::Hint { text }).await,
            (None, Ok(_)) => {}
        }
        Ok(false)
    }

    /// With what a person must know who cannot see the steps.
    fn requested(&self, id: &str) -> Value {
        if self.reachable() {
            return json!({ "request_id": id });
        }
        let expire = self.settings.request_expires;
        let waits = format!("cannot reach Central: kept, and sent if it is back within {expire:?}");
        json!({ "request_id": id, "waits": waits })
    }

    /// One try; the links wait for it, which a driver who is not enrolled has none of.
    pub(super) async fn enrol(&mut self, token: SecretText, now: Now) -> Result<Value, String> {
        let settings = EnrolSettings { registry: self.enrolment.registry.clone(), token };
        let enrolled = enrol_again(&settings, &self.settings.driver, &self.data_dir).await;
        let mut enrolled = enrolled.map_err(|error| error.to_string())?;
        if enrolled.pins.is_empty() {
            // Registry has not met Central since it started: the keys known so far still hold.
            enrolled.pins = std::mem::take(&mut self.enrolment.pins);
        }
        self.enrolment = enrolled;
        self.key = None;
        self.data_dir.remove_key().map_err(|error| error.to_string())?;
        for connection in [self.active.take(), self.next.take()].into_iter().flatten() {
            connection.close();
        }
        self.trips.handle(TripInput::LinkLost, now);
        self.contact = Contact::new(self.settings.rules(), false);
        self.dial_at = Some(now.mono);
        self.tell(Notification::Enrolled { driver: self.settings.driver.to_string() }).await;
        Ok(json!({ "enrolled": self.settings.driver }))
    }

    pub(super) fn status(&self) -> Value {
        let (done, all) = self.queue.as_ref().map_or((0, 0), FileQueue::progress);
        json!({
            "driver": self.settings.driver,
            "enrolled": true,
            "linked": self.reachable(),
            "waits_for": self.waits_for(),
            "trouble": self.unreachable,
            "authenticates_again": !self.contact.has_ended(),
            "key_no": self.key.as_ref().map(|k| k.key_no),
            "unintelligible": self.unintelligible,
            "requests": self.trips.requests().collect::<Vec<_>>(),
            "supplies": self.trips.running().collect::<Vec<_>>(),
            "to_confirm": self.trips.confirms().map(|c| &c.session_id).collect::<Vec<_>>(),
            "file": self.state.file,
            "file_done": done,
            "file_requests": all,
            "bad_lines": self.queue.as_ref().map_or(0, |q| q.file().rejected.len()),
        })
    }

    /// What there is to wait for before Central can be asked for anything.
    fn waits_for(&self) -> Option<&'static str> {
        match (self.reachable(), self.contact.has_ended()) {
            (true, _) => None,
            (false, true) => Some("a person: enrol, or authenticate"),
            (false, false) => Some("Central"),
        }
    }

    // ---- The file

    /// `resume`: goes on after the last line that is over, if it is the same file as before the restart.
    pub(super) async fn load(&mut self, path: PathBuf, resume: bool) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(&path).map_err(|error| {
            mesh::process::Misuse::new(format!("cannot read the file of requests {}: {error}", path.display()))
        })?;
        let path = std::path::absolute(&path).unwrap_or(path);
        if !resume || self.state.file.as_ref() != Some(&path) {
            self.state.done = 0;
            self.trips.forget_lines();
            for request in &mut self.state.requests {
                request.line = None;
            }
            self.state.file = Some(path);
            self.data_dir.save_state(&self.state)?;
        }
        let file = RequestFile::parse(&text);
        for bad in &file.rejected {
            self.tell(Notification::BadLine { line: bad.line, detail: bad.why.clone() }).await;
        }
        let in_flight = self.state.requests.iter().find_map(|r| r.line);
        self.said_over = false;
        self.queue = Some(FileQueue::new(file, self.state.done, in_flight, self.settings.pause, self.clock.mono()));
        Ok(())
    }

    pub(super) async fn is_done(&mut self) -> bool {
        let Some(queue) = self.queue.as_ref().filter(|q| q.is_over()) else { return false };
        let (requests, bad_lines) = (queue.file().requests.len() as u64, queue.file().rejected.len() as u64);
        if !std::mem::replace(&mut self.said_over, true) {
            self.tell(Notification::FileFinished { requests, bad_lines }).await;
        }
        self.settings.exit_when_done && self.trips.requests().next().is_none()
    }
}
