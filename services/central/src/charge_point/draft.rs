//! A decision in the making.

use mesh::clock::Now;
use proto::link::v1::{Progress, Reason, down};

use super::{
    Answered, Change, ChargePoint, Claim, Decision, Input, Origin, Outcome, Refusal, Reply, Request, Tell, told,
};
use crate::{
    audit::{Action, Entry},
    event::Event,
    key::Key,
    session::{Session, Ticket},
    settings::Settings,
};

pub(super) struct Draft<'a> {
    pub(super) point: &'a ChargePoint,
    pub(super) settings: &'a Settings,
    pub(super) now: Now,
    pub(super) made: Decision,
}

impl<'a> Draft<'a> {
    pub(super) fn new(point: &'a ChargePoint, settings: &'a Settings, now: Now) -> Self {
        let (next, pending) = (point.record.clone(), point.pending.clone());
        let made = Decision {
            next,
            pending,
            changes: Vec::new(),
            claim: None,
            notes: Vec::new(),
            tell_now: Vec::new(),
            tell_after: Vec::new(),
        };
        Self { point, settings, now, made }
    }

    pub(super) fn into_decision(mut self) -> Decision {
        // The first write of this process claims the row where no monitor's link has done so (DESIGN 3).
        let guarded = self.made.changes.iter().any(|c| !matches!(c, Change::Audit(_) | Change::Event(_)));
        if guarded && !self.made.next.owned && self.made.claim.is_none() {
            self.made.claim = Some(Claim::Unowned);
        }
        if self.made.claim.is_some() {
            self.made.next.owned = true;
            self.change_point();
        }
        self.made
    }

    /// The charging point's own row changes.
    pub(super) fn change_point(&mut self) {
        if !self.made.changes.iter().any(|c| matches!(c, Change::Point)) {
            self.made.changes.push(Change::Point);
        }
    }

    pub(super) fn audit(&mut self, by: &Origin, entry: Entry) {
        self.made.changes.push(Change::Audit(entry.by(by, self.now)));
    }

    /// An entry of Central's own.
    pub(super) fn note(&mut self, entry: Entry) {
        self.audit(&Origin::central(), entry);
    }

    /// An entry by the charging point's engine.
    pub(super) fn note_by_engine(&mut self, entry: Entry) {
        let address = self.point.signs.engine.as_ref().map(|l| l.from.clone()).unwrap_or_default();
        self.audit(&Origin::new(format!("charging-point/{}", self.point.record.id), address), entry);
    }

    pub(super) fn entry(&self, action: Action) -> Entry {
        Entry::new(action, format!("charging-point/{}", self.point.record.id))
    }

    pub(super) fn entry_of(&self, action: Action, session: &Session) -> Entry {
        let account = told::account(session.driver.as_ref(), &session.charging_point);
        self.entry(action).with("session", &session.id).with("account", account)
    }

    pub(super) fn after(&mut self, tell: Tell) {
        self.made.tell_after.push(tell);
    }

    pub(super) fn tell_now(&mut self, tell: Tell) {
        self.made.tell_now.push(tell);
    }

    pub(super) fn engine(&mut self, body: down::Body) {
        self.after(Tell::Engine(body));
    }

    pub(super) fn answer(&mut self, reply: Reply, outcome: Outcome) {
        let silent = matches!(reply, Reply::None | Reply::Link { to: 0, .. });
        if !silent {
            self.after(Tell::Answer(reply, outcome));
        }
    }

    pub(super) fn step(&mut self, session: &Session, progress: Progress, reason: Reason, detail: &str) {
        if let Some(driver) = &session.driver {
            self.after(Tell::Driver(driver.clone(), told::step_of(session, progress, reason, detail)));
        }
    }

    pub(super) fn step_now(&mut self, request: &Request, progress: Progress) {
        if let Some(driver) = request.driver.clone().filter(|_| !request.manual) {
            let body = told::step(request, &self.point.record, progress, (Reason::Unspecified, ""), self.settings);
            self.tell_now(Tell::Driver(driver, body));
        }
    }

    /// A session changes: its row and its event.
    pub(super) fn update(&mut self, session: &Session) {
        self.made.changes.push(Change::UpdateSession(session.clone()));
        self.made.changes.push(Change::Event(Event::session(session, self.now)));
    }

    /// The one bill of a session, its entry and its driver's copy (SPEC 3.7, 3.9).
    pub(super) fn issue(&mut self, session: &Session, ticket: Ticket) {
        self.update(session);
        self.made.changes.push(Change::Event(Event::ticket(&ticket, self.now)));
        let entry = self
            .entry_of(Action::SupplyEnded, session)
            .with("energy_wh", ticket.energy.wh())
            .with("amount", ticket.amount)
            .with("disputed_wh", ticket.disputed.wh())
            .with("discrepancy_wh", session.discrepancy)
            .outcome(ticket.reason, "");
        self.note_by_engine(entry);
        if let Some(driver) = &ticket.driver {
            self.after(Tell::Driver(driver.clone(), down::Body::Ticket(told::ticket(&ticket))));
        }
        self.made.changes.push(Change::Ticket(ticket));
    }

    pub(super) fn keys_changed(&mut self, keys: Vec<Key>) {
        let holder = format!("charging-point/{}", self.point.record.id);
        for key in keys {
            self.made.changes.push(Change::Event(Event::key(&holder, key.no, key.stage.as_str(), self.now)));
            self.made.changes.push(Change::Key(key));
        }
    }

    /// The store did not take what was made of `input` (DESIGN 3): refusals come back here.
    pub(super) fn refused(&mut self, input: &Input, refusal: &Refusal) {
        match input {
            Input::Request(request) => self.request_refused(request, refusal),
            Input::AskAnswer { .. } | Input::Confirmed { .. } => {
                if let Input::Confirmed { reply, .. } = input {
                    let (reason, detail) = in_reasons(refusal);
                    self.answer(*reply, Outcome::Failed(reason, detail));
                }
                if let Some(ask) = self.point.pending.ask.clone() {
                    self.request_refused(&ask.request, refusal);
                }
            }
            Input::Started { reply, .. }
            | Input::Ended { reply, .. }
            | Input::EndedLong { reply, .. }
            | Input::Held { reply, .. }
            | Input::StopByDriver { reply, .. }
            | Input::Order { reply, .. }
            | Input::KeyInstalled { reply, .. } => {
                // Where it is one of a whole report, that is answered behind it.
                let is_reported =
                    matches!(input, Input::Started { .. } | Input::Ended { .. } | Input::EndedLong { .. });
                self.made.pending.report_refused |= is_reported && *reply == Reply::None;
                let (reason, detail) = in_reasons(refusal);
                self.answer(*reply, Outcome::Failed(reason, detail));
            }
            Input::Due | Input::HeldReserved { .. } | Input::Identity(_) => {}
            Input::Grant { link, .. } => {
                let (reason, detail) = in_reasons(refusal);
                self.refuse_key(*link, reason, detail);
            }
        }
    }
}

/// A refusal of the store's in the words of a request.
pub(super) fn in_reasons(refusal: &Refusal) -> (Reason, String) {
    match refusal {
        Refusal::DriverBusy => (Reason::DriverBusy, String::new()),
        Refusal::ChargingPointBusy => (Reason::Reserved, String::new()),
        Refusal::Repeated(first) => (first.reason, first.detail.clone()),
        Refusal::AlreadyBilled => (Reason::Fenced, "the session is billed already".to_owned()),
        Refusal::Fenced => (Reason::Fenced, String::new()),
        Refusal::Unavailable(why) => (Reason::Unavailable, why.clone()),
    }
}

impl Answered {
    pub(super) fn to(request: &Request, point: &ChargePoint, reason: Reason, detail: &str) -> Self {
        Self {
            requester: request.requester(&point.record.id),
            charging_point: point.record.id.clone(),
            request_id: request.request_id.clone(),
            session: (reason == Reason::Unspecified).then(|| request.session.clone()),
            reason,
            detail: detail.to_owned(),
        }
    }
}
