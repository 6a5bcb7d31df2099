//! A driver's rules, from request to ticket (SPEC 3): what is sent to Central, repeated until answered, kept on disk
//! and told to the person.
//!
//! Pure: inputs and the time go in, commands come out. The commands of one call are carried out in their order, so
//! that a request is on disk before it is sent and a ticket before it is acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use mesh::clock::Now;
use proto::{
    ChargingPointId, Energy,
    link::v1::{
        ConfirmRequest, ConfirmSupply, Down, ListChargingPoints, ListHistory, Reason, RequestSupply, StopSupply,
        Ticket, Up, up,
    },
};
use serde::{Deserialize, Serialize};

use crate::told::{Outcome, Told};

mod heard;
#[cfg(test)]
mod tests;

/// Most requests in flight at once; Central allows one session, so more is a mistake of the person or the program.
const MOST_REQUESTS: usize = 16;
/// Most messages that wait for an answer.
const MOST_UNANSWERED: usize = 64;

/// Times of the rules, each a setting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// An unanswered message is sent again after this.
    pub repeat: Duration,
    /// A request made by hand that no link took within this is over: nobody wants an old wish fulfilled.
    pub expire: Duration,
    pub confirm: Confirm,
}

/// What becomes of a manual supply that names this driver (SPEC 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Confirm {
    /// Every one is confirmed.
    Always,
    /// Every one is refused.
    Never,
    /// The person is asked.
    #[default]
    Ask,
}

/// A supply wished for. Kept on disk from before it is sent until it is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Unique for the driver; the same id gets the first answer, so asking again is safe.
    pub id: String,
    pub charging_point: ChargingPointId,
    /// Zero: until unplugged.
    #[serde(rename = "energy_wh")]
    pub energy: Energy,
    /// The line of the file it came from.
    pub line: Option<u64>,
    /// Known once Central has reserved.
    pub session: Option<String>,
}

/// What a person, a file or a program wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Request(Request),
    /// Made by a person, who is told where it cannot be sent now.
    ByHand(Request),
    /// The named session, or the only one.
    Stop(Option<String>),
    /// The named session, or the only one that waits for a word.
    Confirm(Option<String>, bool),
    ListChargingPoints,
    ListHistory(u32),
}

#[derive(Debug)]
pub(crate) enum Input {
    Order(Order),
    /// A link that has proven its key.
    LinkOpen,
    LinkLost,
    Down(Box<Down>),
    /// The ticket is on disk.
    Stored(Box<Ticket>),
    Timeout,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// Lost if there is no link: it is repeated anyway.
    Send(Up),
    /// Put it on disk, then answer [`Input::Stored`]; if that fails, say so and leave it to Central to send it again.
    Store(Ticket),
    /// These requests are on disk before any later command is carried out.
    Keep(Vec<Request>),
    Tell(Told),
}

/// A session of this driver that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Running {
    pub session: String,
    pub charging_point: String,
    pub step: &'static str,
    pub energy_wh: u64,
    pub amount_minor: i64,
    pub currency: String,
    pub power_w: u32,
}

struct Unanswered {
    body: up::Body,
    again_at: Instant,
}

/// All trips of one driver.
pub(crate) struct Trips {
    settings: Settings,
    open: bool,
    next_id: u64,
    requests: BTreeMap<String, Request>,
    /// Requests that Central has not answered yet; the others are known to it.
    unanswered: BTreeMap<u64, Unanswered>,
    /// Requests made by hand without a link, until when they wait for one.
    unsent: BTreeMap<String, Instant>,
    running: BTreeMap<String, Running>,
    confirms: BTreeMap<String, (ConfirmRequest, Instant)>,
    /// Sessions whose ticket is on disk, with the number of its corrections.
    stored: BTreeSet<(String, usize)>,
    storing: BTreeSet<(String, usize)>,
    out: VecDeque<Command>,
}

impl std::fmt::Debug for Trips {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trips")
            .field("requests", &self.requests.len())
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl Trips {
    /// `kept`: what was in flight before a restart; `stored`: sessions with a ticket on disk and its number of
    /// corrections; `first_id`: where the ids of messages begin, different at each start.
    pub(crate) fn new(
        settings: Settings,
        kept: Vec<Request>,
        stored: impl IntoIterator<Item = (String, usize)>,
        first_id: u64,
    ) -> Self {
        Self {
            settings,
            open: false,
            next_id: first_id.max(1),
            requests: kept.into_iter().map(|r| (r.id.clone(), r)).collect(),
            unanswered: BTreeMap::new(),
            unsent: BTreeMap::new(),
            running: BTreeMap::new(),
            confirms: BTreeMap::new(),
            stored: stored.into_iter().collect(),
            storing: BTreeSet::new(),
            out: VecDeque::new(),
        }
    }

    pub(crate) fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::Order(order) => self.order(order, now),
            Input::LinkOpen => self.link_open(now),
            Input::LinkLost => self.open = false,
            Input::Down(down) => self.down(*down, now),
            Input::Stored(ticket) => self.ticket_stored(*ticket, now),
            Input::Timeout => self.timeout(now),
        }
    }

    pub(crate) fn next_command(&mut self) -> Option<Command> {
        self.out.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let again = self.unanswered.values().map(|u| u.again_at).filter(|_| self.open);
        let until = self.confirms.values().map(|(_, until)| until).chain(self.unsent.values());
        again.chain(until.copied()).min()
    }

    /// Requests that are not over.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &Request> {
        self.requests.values()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Running> {
        self.running.values()
    }

    pub(crate) fn confirms(&self) -> impl Iterator<Item = &ConfirmRequest> {
        self.confirms.values().map(|(asked, _)| asked)
    }

    /// Another file is worked off: what is under way is of no line of it.
    pub(crate) fn forget_lines(&mut self) {
        for request in self.requests.values_mut() {
            request.line = None;
        }
    }

    fn order(&mut self, order: Order, now: Now) {
        match order {
            Order::Request(request) => self.request(request, now),
            Order::ByHand(request) => self.request_by_hand(request, now),
            Order::Stop(session) => match self.the_one(session, |t| t.running.keys().cloned().collect()) {
                Ok(session) => self.ask(up::Body::StopSupply(StopSupply { session_id: session }), now),
                Err(why) => self.tell(Told::Hint { text: format!("nothing to stop: {why}") }),
            },
            Order::Confirm(session, accepted) => {
                match self.the_one(session, |t| t.confirms.keys().cloned().collect()) {
                    Ok(session) => self.confirm(session, accepted, now),
                    Err(why) => self.tell(Told::Hint { text: format!("nothing to confirm: {why}") }),
                }
            }
            Order::ListChargingPoints => self.ask(up::Body::ListChargingPoints(ListChargingPoints {}), now),
            Order::ListHistory(limit) => self.ask(up::Body::ListHistory(ListHistory { limit }), now),
        }
    }

    fn the_one(&self, named: Option<String>, all: impl Fn(&Self) -> Vec<String>) -> Result<String, String> {
        let mut all = all(self);
        match named {
            Some(session) if all.contains(&session) => Ok(session),
            Some(session) => Err(format!("there is no session {session:?} of yours")),
            None if all.len() == 1 => Ok(all.remove(0)),
            None if all.is_empty() => Err("no session of yours waits for that".to_owned()),
            None => Err(format!("there are several sessions, name one of {}", all.join(", "))),
        }
    }

    fn request(&mut self, request: Request, now: Now) {
        if self.requests.len() >= MOST_REQUESTS {
            let text = format!("{MOST_REQUESTS} requests are waiting already; wait until one is over");
            return self.tell(Told::Hint { text });
        }
        self.tell(Told::asking(&request));
        self.requests.insert(request.id.clone(), request.clone());
        self.keep();
        self.ask(request_body(&request), now);
    }

    fn request_by_hand(&mut self, request: Request, now: Now) {
        let id = request.id.clone();
        self.request(request, now);
        if !self.open && self.requests.contains_key(&id) {
            self.unsent.insert(id, now.mono + self.settings.expire);
            let detail =
                format!("cannot reach Central: kept, and sent if it is back within {:?}", self.settings.expire);
            self.tell(Told::Waiting { reason: Reason::Unavailable.code(), detail });
        }
    }

    fn confirm(&mut self, session_id: String, accepted: bool, now: Now) {
        self.confirms.remove(&session_id);
        self.tell(Told::Confirmed { session: session_id.clone(), accepted });
        self.ask(up::Body::ConfirmSupply(ConfirmSupply { session_id, accepted }), now);
    }

    /// Sends a message that must have an effect: again and again with its id, until its answer comes (SPEC 4.2).
    fn ask(&mut self, body: up::Body, now: Now) {
        if self.unanswered.values().any(|u| u.body == body) {
            return;
        }
        if self.unanswered.len() >= MOST_UNANSWERED {
            let text = "too much waits for Central's answer already; try again when the link is back".to_owned();
            return self.tell(Told::Hint { text });
        }
        let id = self.next_id;
        self.next_id += 1;
        self.unanswered.insert(id, Unanswered { body: body.clone(), again_at: now.mono + self.settings.repeat });
        self.send(id, body);
    }

    fn send(&mut self, id: u64, body: up::Body) {
        if self.open {
            self.out.push_back(Command::Send(Up { id, body: Some(body) }));
        }
    }

    /// Everything unanswered again, and every request that is not over: its answer, repeated, and Central's view of it
    /// say what was missed. A supply that he confirmed, and of which no request speaks, may have ended unsaid; Central
    /// says at each opening which ones have not (SPEC 9).
    fn link_open(&mut self, now: Now) {
        self.open = true;
        self.unsent.clear();
        self.running.retain(|session, _| self.requests.values().any(|r| r.session.as_ref() == Some(session)));
        for request in self.requests.values().map(request_body).collect::<Vec<_>>() {
            if !self.unanswered.values().any(|u| u.body == request) {
                self.ask(request, now);
            }
        }
        self.repeat(now, |_| true);
    }

    fn repeat(&mut self, now: Now, due: impl Fn(&Unanswered) -> bool) {
        let mut again = Vec::new();
        for (id, unanswered) in self.unanswered.iter_mut().filter(|(_, u)| due(u)) {
            unanswered.again_at = now.mono + self.settings.repeat;
            again.push((*id, unanswered.body.clone()));
        }
        let sent: Vec<u64> = self
            .out
            .iter()
            .filter_map(|c| match c {
                Command::Send(up) => Some(up.id),
                Command::Store(_) | Command::Keep(_) | Command::Tell(_) => None,
            })
            .collect();
        for (id, body) in again {
            if !sent.contains(&id) {
                self.send(id, body);
            }
        }
    }

    fn timeout(&mut self, now: Now) {
        if self.open {
            self.repeat(now, |u| u.again_at <= now.mono);
        }
        let over: Vec<String> =
            self.confirms.iter().filter(|(_, (_, until))| *until <= now.mono).map(|(id, _)| id.clone()).collect();
        for session in over {
            self.confirms.remove(&session);
            self.tell(Told::Hint { text: format!("the manual supply {session} was not confirmed in time") });
        }
        let over: Vec<String> =
            self.unsent.iter().filter(|(_, at)| **at <= now.mono).map(|(id, _)| id.clone()).collect();
        for request in over {
            let detail = format!("Central could not be reached within {:?}; it was never asked", self.settings.expire);
            self.over(&request, Outcome::Refused { reason: Reason::Unavailable.code(), detail });
            self.unsent.remove(&request);
        }
    }

    /// It could not be kept, so it must not be sent.
    pub(crate) fn not_kept(&mut self, request_id: &str) {
        let asks = |body: &up::Body| matches!(body, up::Body::RequestSupply(r) if r.request_id == request_id);
        self.requests.remove(request_id);
        self.unanswered.retain(|_, u| !asks(&u.body));
        self.out.retain_mut(|command| match command {
            Command::Send(up) => !up.body.as_ref().is_some_and(asks),
            Command::Keep(requests) => {
                requests.retain(|request| request.id != request_id);
                true
            }
            Command::Store(_) | Command::Tell(_) => true,
        });
    }

    fn over(&mut self, request_id: &str, outcome: Outcome) {
        let Some(request) = self.requests.remove(request_id) else { return };
        self.unanswered.retain(|_, u| !matches!(&u.body, up::Body::RequestSupply(r) if r.request_id == request_id));
        if let Some(session) = &request.session {
            self.running.remove(session);
        }
        self.keep();
        self.tell(Told::over(&request, outcome));
    }

    fn keep(&mut self) {
        self.out.push_back(Command::Keep(self.requests.values().cloned().collect()));
    }

    fn tell(&mut self, told: Told) {
        self.out.push_back(Command::Tell(told));
    }
}

fn request_body(request: &Request) -> up::Body {
    up::Body::RequestSupply(RequestSupply {
        request_id: request.id.clone(),
        charging_point_id: request.charging_point.to_string(),
        energy_wh: request.energy.wh(),
    })
}
