//! A decision in the making.

use mesh::clock::Now;
use proto::{
    Money,
    link::v1::{Progress, Reason, Ticket, down},
};

use super::{
    ChargePoint, Decision, Effect, FirstAnswer, OrderOutcome, PointChange, PointInput, Reply, StoreRefusal,
    SupplyRequest, Takeover, messages,
};
use crate::{
    audit::{AuditAction, AuditRecord},
    event::DomainEvent,
    key::KeyEntry,
    origin::Origin,
    session::Session,
    settings::CentralSettings,
};

pub(super) struct DecisionBuilder<'a> {
    pub(super) point: &'a ChargePoint,
    pub(super) settings: &'a CentralSettings,
    pub(super) now: Now,
    pub(super) decision: Decision,
}

impl<'a> DecisionBuilder<'a> {
    pub(super) fn new(point: &'a ChargePoint, settings: &'a CentralSettings, now: Now) -> Self {
        let (next, pending) = (point.record.clone(), point.pending.clone());
        let decision = Decision {
            next,
            pending,
            changes: Vec::new(),
            takeover: None,
            queued: Vec::new(),
            before_commit: Vec::new(),
            after_commit: Vec::new(),
        };
        Self { point, settings, now, decision }
    }

    pub(super) fn into_decision(mut self) -> Decision {
        // The first write of this process claims the row where no monitor's link has done so (DESIGN 3).
        let guarded = self.decision.changes.iter().any(|c| !matches!(c, PointChange::Audit(_) | PointChange::Event(_)));
        if guarded && !self.decision.next.owned && self.decision.takeover.is_none() {
            self.decision.takeover = Some(Takeover::Unowned);
        }
        if self.decision.takeover.is_some() {
            self.decision.next.owned = true;
            self.change_point();
        }
        self.decision
    }

    /// The charging point's own row changes.
    pub(super) fn change_point(&mut self) {
        if !self.decision.changes.iter().any(|c| matches!(c, PointChange::Point)) {
            self.decision.changes.push(PointChange::Point);
        }
    }

    pub(super) fn audit(&mut self, by: &Origin, entry: AuditRecord) {
        self.decision.changes.push(PointChange::Audit(entry.by(by, self.now)));
    }

    /// An entry of Central's own.
    pub(super) fn audit_by_central(&mut self, entry: AuditRecord) {
        self.audit(&Origin::central(), entry);
    }

    /// An entry by the charging point's engine.
    pub(super) fn audit_by_engine(&mut self, entry: AuditRecord) {
        let address = self.point.live.engine.as_ref().map(|l| l.from.clone()).unwrap_or_default();
        self.audit(&Origin::new(format!("charging-point/{}", self.point.record.id), address), entry);
    }

    pub(super) fn entry(&self, action: AuditAction) -> AuditRecord {
        AuditRecord::new(action, format!("charging-point/{}", self.point.record.id))
    }

    pub(super) fn entry_of(&self, action: AuditAction, session: &Session) -> AuditRecord {
        let account = messages::account(session.driver.as_ref(), &session.charging_point);
        self.entry(action).with("session", &session.id).with("account", account)
    }

    pub(super) fn after_commit(&mut self, effect: Effect) {
        self.decision.after_commit.push(effect);
    }

    pub(super) fn before_commit(&mut self, effect: Effect) {
        self.decision.before_commit.push(effect);
    }

    pub(super) fn engine(&mut self, body: down::Body) {
        self.after_commit(Effect::Engine(body));
    }

    pub(super) fn answer(&mut self, reply: Reply, outcome: OrderOutcome) {
        let silent = matches!(reply, Reply::None | Reply::Link { to: 0, .. });
        if !silent {
            self.after_commit(Effect::Answer(reply, outcome));
        }
    }

    pub(super) fn step(&mut self, session: &Session, progress: Progress, reason: Reason, detail: &str) {
        if let Some(driver) = &session.driver {
            self.after_commit(Effect::Driver(driver.clone(), messages::step_of(session, progress, reason, detail)));
        }
    }

    pub(super) fn step_now(&mut self, request: &SupplyRequest, progress: Progress) {
        if let Some(driver) = request.driver.clone().filter(|_| !request.manual) {
            let body = messages::step(request, &self.point.record, progress, (Reason::Unspecified, ""), self.settings);
            self.before_commit(Effect::Driver(driver, body));
        }
    }

    /// A session changes: its row and its event.
    pub(super) fn update(&mut self, session: &Session) {
        self.decision.changes.push(PointChange::UpdateSession(session.clone()));
        self.decision.changes.push(PointChange::Event(DomainEvent::session(session, self.now)));
    }

    /// The one bill of a session, its entry and its driver's copy (SPEC 3.7, 3.9).
    pub(super) fn issue(&mut self, session: &Session, ticket: Ticket) {
        self.update(session);
        self.decision.changes.push(PointChange::Event(DomainEvent::ticket(&ticket, self.now)));
        let entry = self
            .entry_of(AuditAction::SupplyEnded, session)
            .with("energy_wh", ticket.energy_wh)
            .with("amount", Money { minor: ticket.amount_minor, currency: session.currency })
            .with("disputed_wh", ticket.disputed_wh)
            .with("discrepancy_wh", session.discrepancy)
            .outcome(ticket.reason(), "");
        self.audit_by_engine(entry);
        if let Some(driver) = &session.driver {
            self.after_commit(Effect::Driver(driver.clone(), down::Body::Ticket(ticket.clone())));
        }
        self.decision.changes.push(PointChange::Ticket(ticket));
    }

    pub(super) fn keys_changed(&mut self, keys: Vec<KeyEntry>) {
        let holder = format!("charging-point/{}", self.point.record.id);
        for key in keys {
            self.decision.changes.push(PointChange::Event(DomainEvent::key(&holder, key.no, key.stage, self.now)));
            self.decision.changes.push(PointChange::Key(key));
        }
    }

    /// The store did not take what was made of `input` (DESIGN 3): refusals come back here.
    pub(super) fn refused(&mut self, input: &PointInput, refusal: &StoreRefusal) {
        match input {
            PointInput::Request(request) => self.request_refused(request, refusal),
            PointInput::AskAnswer { .. } | PointInput::Confirmed { .. } => {
                if let PointInput::Confirmed { reply, .. } = input {
                    let (reason, detail) = in_reasons(refusal);
                    self.answer(*reply, OrderOutcome::Failed(reason, detail));
                }
                if let Some(ask) = self.point.pending.ask.clone() {
                    self.request_refused(&ask.request, refusal);
                }
            }
            PointInput::Started { reply, .. }
            | PointInput::Ended { reply, .. }
            | PointInput::EndedLong { reply, .. }
            | PointInput::BroughtBack { reply, .. }
            | PointInput::Recalled { reply, .. }
            | PointInput::JournalReport { reply, .. }
            | PointInput::StopByDriver { reply, .. }
            | PointInput::Order { reply, .. }
            | PointInput::KeyInstalled { reply, .. } => {
                // Where it is one of a whole report, that is answered behind it.
                let is_reported = matches!(
                    input,
                    PointInput::Started { .. }
                        | PointInput::Ended { .. }
                        | PointInput::EndedLong { .. }
                        | PointInput::BroughtBack { .. }
                        | PointInput::Recalled { .. }
                );
                self.decision.pending.report_refused |= is_reported && *reply == Reply::None;
                let (reason, detail) = in_reasons(refusal);
                self.answer(*reply, OrderOutcome::Failed(reason, detail));
            }
            PointInput::Due | PointInput::ReservationInJournal { .. } | PointInput::Identity(_) => {}
            PointInput::Grant { link, .. } => {
                let (reason, detail) = in_reasons(refusal);
                self.refuse_key(*link, reason, detail);
            }
        }
    }
}

/// A refusal of the store's in the words of a request.
pub(super) fn in_reasons(refusal: &StoreRefusal) -> (Reason, String) {
    match refusal {
        StoreRefusal::DriverBusy => (Reason::DriverBusy, String::new()),
        StoreRefusal::ChargingPointBusy => (Reason::Reserved, String::new()),
        StoreRefusal::Repeated(first) => (first.reason, first.detail.clone()),
        StoreRefusal::RequestIdReused(why) => (Reason::Invalid, why.clone()),
        StoreRefusal::OrderItemSettled => (Reason::Unavailable, "the order was overtaken or cancelled".to_owned()),
        StoreRefusal::AlreadyBilled => (Reason::Fenced, "the session is billed already".to_owned()),
        StoreRefusal::Fenced => (Reason::Fenced, String::new()),
        StoreRefusal::Unavailable(why) => (Reason::Unavailable, why.clone()),
    }
}

impl FirstAnswer {
    pub(super) fn to(request: &SupplyRequest, point: &ChargePoint, reason: Reason, detail: &str) -> Self {
        Self {
            requester: request.requester(&point.record.id),
            charging_point: point.record.id.clone(),
            request_id: request.request_id.clone(),
            digest: request.digest(&point.record.id),
            session: (reason == Reason::Unspecified).then(|| request.session.clone()),
            reason,
            detail: detail.to_owned(),
        }
    }
}
