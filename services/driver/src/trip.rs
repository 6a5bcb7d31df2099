//! A driver's rules, from request to ticket (SPEC 3): what is sent to Central and repeated until it is answered, what is
//! saved on disk, and what the person is told.
//!
//! Pure: inputs and the time go in, commands come out. The commands are carried out in their order, so that a request is
//! on disk before it is sent, and a ticket before it is acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use mesh::clock::Now;
use proto::link::v1::{
    ConfirmRequest, ConfirmSupply, HandBackTickets, ListChargingPoints, ListHistory, Reason, RequestSupply,
    SignedDocument, StopSupply, Ticket, down, up,
};

use self::hand_back::HandBack;

use crate::{
    format,
    notification::Notification,
    request::{ConfirmPolicy, DriverOrder, DriverRequest, RequestOutcome, RunningSupply},
};

mod from_central;
mod hand_back;
#[cfg(test)]
mod tests;

/// Most requests in flight at once. Central allows a driver one session, so more requests are a mistake.
const MOST_REQUESTS: usize = 16;

/// The settings of the rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TripSettings {
    /// Time after which a request made by hand ends if it could not be sent: the person no longer expects it by then.
    pub expire: Duration,
    pub confirm: ConfirmPolicy,
}

#[derive(Debug)]
pub(crate) enum TripInput {
    Order(DriverOrder),
    /// A link is open, and Central has answered under its key.
    LinkOpen,
    LinkLost,
    Message(Box<down::Body>),
    Answered {
        body: Box<up::Body>,
        reason: Reason,
        detail: String,
    },
    /// Central cannot answer now; the message is repeated.
    Deferred {
        reason: Reason,
        detail: String,
    },
    /// This ticket is on disk.
    TicketStored(Box<Ticket>),
    /// What there is to hand back to Central's generation.
    TicketsCollected {
        generation: u32,
        tickets: Vec<SignedDocument>,
    },
    Timeout,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TripCommand {
    /// Send a message that must have an effect, and repeat it until it is answered (SPEC 4.2). One that waits for its
    /// answer already is not sent twice.
    Send(up::Body),
    /// No longer repeat this request.
    Withdraw(String),
    /// Store the ticket, then answer [`TripInput::TicketStored`]. If that fails, call [`Trips::ticket_not_stored`]:
    /// Central sends the ticket again.
    StoreTicket(Ticket),
    /// Save these requests before any later command is carried out.
    SaveRequests(Vec<DriverRequest>),
    Notify(Notification),
    /// Read the tickets that Central may have lost, and answer [`TripInput::TicketsCollected`].
    CollectTickets(HandBackTickets),
    /// Save that this generation of Central has got every ticket.
    SaveHandedBack(u32),
}

/// All requests, sessions and tickets of one driver.
pub(crate) struct Trips {
    settings: TripSettings,
    open: bool,
    requests: BTreeMap<String, DriverRequest>,
    /// Requests made by hand that could not be sent yet, and when they expire.
    unsent: BTreeMap<String, Instant>,
    running: BTreeMap<String, RunningSupply>,
    confirmations: BTreeMap<String, (ConfirmRequest, Instant)>,
    /// Sessions whose ticket is on disk, with the number of that ticket's corrections.
    stored: BTreeSet<(String, usize)>,
    storing: BTreeSet<(String, usize)>,
    hand_back: HandBack,
    commands: VecDeque<TripCommand>,
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
    /// `kept`: the requests that were in flight before a restart. `stored`: the sessions with a ticket on disk, with its
    /// number of corrections.
    pub(crate) fn new(
        settings: TripSettings,
        kept: Vec<DriverRequest>,
        stored: impl IntoIterator<Item = (String, usize)>,
    ) -> Self {
        Self {
            settings,
            open: false,
            requests: kept.into_iter().map(|r| (r.id.clone(), r)).collect(),
            unsent: BTreeMap::new(),
            running: BTreeMap::new(),
            confirmations: BTreeMap::new(),
            stored: stored.into_iter().collect(),
            storing: BTreeSet::new(),
            hand_back: HandBack::default(),
            commands: VecDeque::new(),
        }
    }

    pub(crate) fn handle(&mut self, input: TripInput, now: Now) {
        match input {
            TripInput::Order(order) => self.order(order, now),
            TripInput::LinkOpen => self.link_open(),
            TripInput::LinkLost => self.open = false,
            TripInput::Message(body) => self.handle_message(*body, now),
            TripInput::Answered { body, reason, detail } => self.handle_answer(*body, reason, detail),
            TripInput::Deferred { reason, detail } => {
                let detail = format::reason(reason, &detail);
                self.notify(Notification::Waiting { reason: reason.code(), detail });
            }
            TripInput::TicketStored(ticket) => self.handle_ticket_stored(*ticket),
            TripInput::TicketsCollected { generation, tickets } => self.hand_tickets_back(generation, tickets),
            TripInput::Timeout => self.timeout(now),
        }
    }

    pub(crate) fn next_command(&mut self) -> Option<TripCommand> {
        self.commands.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let until = self.confirmations.values().map(|(_, until)| until).chain(self.unsent.values());
        until.copied().min()
    }

    /// Requests that have not ended.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &DriverRequest> {
        self.requests.values()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &RunningSupply> {
        self.running.values()
    }

    pub(crate) fn confirms(&self) -> impl Iterator<Item = &ConfirmRequest> {
        self.confirmations.values().map(|(asked, _)| asked)
    }

    /// Another file is loaded: the requests in flight belong to none of its lines.
    pub(crate) fn forget_lines(&mut self) {
        for request in self.requests.values_mut() {
            request.line = None;
        }
    }

    fn order(&mut self, order: DriverOrder, now: Now) {
        match order {
            DriverOrder::Request(request) => self.request(request),
            DriverOrder::ByHand(request) => self.request_by_hand(request, now),
            DriverOrder::Stop(session) => {
                match self.resolve_session(session, |t| t.running.keys().cloned().collect()) {
                    Ok(session) => self.send(up::Body::StopSupply(StopSupply { session_id: session })),
                    Err(why) => self.notify(Notification::Hint { text: format!("nothing to stop: {why}") }),
                }
            }
            DriverOrder::Confirm(session, accepted) => {
                match self.resolve_session(session, |t| t.confirmations.keys().cloned().collect()) {
                    Ok(session) => self.confirm(session, accepted),
                    Err(why) => self.notify(Notification::Hint { text: format!("nothing to confirm: {why}") }),
                }
            }
            DriverOrder::ListChargingPoints => self.send(up::Body::ListChargingPoints(ListChargingPoints {})),
            DriverOrder::ListHistory(limit) => self.send(up::Body::ListHistory(ListHistory { limit })),
        }
    }

    fn resolve_session(&self, named: Option<String>, all: impl Fn(&Self) -> Vec<String>) -> Result<String, String> {
        let mut all = all(self);
        match named {
            Some(session) if all.contains(&session) => Ok(session),
            Some(session) => Err(format!("this driver has no such session {session:?}")),
            None if all.len() == 1 => Ok(all.remove(0)),
            None if all.is_empty() => Err("there is no such session".to_owned()),
            None => Err(format!("there are several sessions, name one of {}", all.join(", "))),
        }
    }

    fn request(&mut self, request: DriverRequest) {
        if self.requests.len() >= MOST_REQUESTS {
            let text = format!("{MOST_REQUESTS} requests are in flight already; wait until one has ended");
            return self.notify(Notification::Hint { text });
        }
        self.notify(Notification::requested(&request));
        self.requests.insert(request.id.clone(), request.clone());
        self.save_requests();
        self.send(request_body(&request));
    }

    fn request_by_hand(&mut self, request: DriverRequest, now: Now) {
        let id = request.id.clone();
        self.request(request);
        if !self.open && self.requests.contains_key(&id) {
            self.unsent.insert(id, now.mono + self.settings.expire);
            let detail =
                format!("cannot reach Central: kept, and sent if it is back within {:?}", self.settings.expire);
            self.notify(Notification::Waiting { reason: Reason::Unavailable.code(), detail });
        }
    }

    fn confirm(&mut self, session_id: String, accepted: bool) {
        // At the price that he was shown last.
        let price_e4 = self.confirmations.remove(&session_id).map_or(0, |(asked, _)| asked.price_e4);
        self.notify(Notification::Confirmed { session: session_id.clone(), accepted });
        self.send(up::Body::ConfirmSupply(ConfirmSupply { session_id, accepted, price_e4 }));
    }

    fn send(&mut self, body: up::Body) {
        self.commands.push_back(TripCommand::Send(body));
    }

    /// Asks again for every request that has not ended: Central repeats its answer, which tells what was missed. A manual
    /// supply belongs to no request and may have ended meanwhile; Central reports at each opening of a link which ones
    /// still run (SPEC 9).
    fn link_open(&mut self) {
        self.open = true;
        self.unsent.clear();
        self.running.retain(|session, _| self.requests.values().any(|r| r.session.as_ref() == Some(session)));
        for request in self.requests.values().map(request_body).collect::<Vec<_>>() {
            self.send(request);
        }
    }

    fn timeout(&mut self, now: Now) {
        let over: Vec<String> =
            self.confirmations.iter().filter(|(_, (_, until))| *until <= now.mono).map(|(id, _)| id.clone()).collect();
        for session in over {
            self.confirmations.remove(&session);
            self.notify(Notification::Hint { text: format!("the manual supply {session} was not confirmed in time") });
        }
        let over: Vec<String> =
            self.unsent.iter().filter(|(_, at)| **at <= now.mono).map(|(id, _)| id.clone()).collect();
        for request in over {
            let detail =
                format!("Central could not be reached within {:?}; the request was not sent", self.settings.expire);
            self.end_request(&request, RequestOutcome::Refused { reason: Reason::Unavailable.code(), detail });
            self.unsent.remove(&request);
        }
    }

    /// The request could not be saved, so it must not be sent.
    pub(crate) fn request_not_saved(&mut self, request_id: &str) {
        self.requests.remove(request_id);
        self.commands.retain_mut(|command| match command {
            TripCommand::Send(body) => {
                !matches!(body, up::Body::RequestSupply(request) if request.request_id == request_id)
            }
            TripCommand::SaveRequests(requests) => {
                requests.retain(|request| request.id != request_id);
                true
            }
            TripCommand::Withdraw(_)
            | TripCommand::StoreTicket(_)
            | TripCommand::Notify(_)
            | TripCommand::CollectTickets(_)
            | TripCommand::SaveHandedBack(_) => true,
        });
    }

    fn end_request(&mut self, request_id: &str, outcome: RequestOutcome) {
        let Some(request) = self.requests.remove(request_id) else { return };
        self.commands.push_back(TripCommand::Withdraw(request.id.clone()));
        if let Some(session) = &request.session {
            self.running.remove(session);
        }
        self.save_requests();
        self.notify(Notification::ended(&request, outcome));
    }

    fn save_requests(&mut self) {
        self.commands.push_back(TripCommand::SaveRequests(self.requests.values().cloned().collect()));
    }

    fn notify(&mut self, notification: Notification) {
        self.commands.push_back(TripCommand::Notify(notification));
    }
}

fn request_body(request: &DriverRequest) -> up::Body {
    up::Body::RequestSupply(RequestSupply {
        request_id: request.id.clone(),
        charging_point_id: request.charging_point.to_string(),
        energy_wh: request.energy.wh(),
        highest_price_e4: None,
    })
}
