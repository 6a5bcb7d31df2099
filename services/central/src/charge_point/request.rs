//! From a request to a reservation (SPEC 3.1 to 3.3): the causes are checked, the charging point or the named driver is
//! asked, the reservation and the answer are made durable together, and only then is anybody answered.

use std::sync::Arc;

use proto::{
    DriverId, Energy, Price,
    link::v1::{Progress, Reason, SessionState},
};

use super::{
    AskStage, Effect, FirstAnswer, OrderOutcome, PendingAsk, PointChange, Reply, StoreRefusal, SupplyRequest,
    decision::{DecisionBuilder, in_reasons},
    messages,
};
use crate::{
    audit::AuditAction,
    event::DomainEvent,
    session::{CentralTimes, Session, SessionId},
};

/// A charging point that owes so many final values gets no further supply.
pub(super) const SETTLING: usize = 8;

impl DecisionBuilder<'_> {
    pub(super) fn request(&mut self, request: &SupplyRequest) {
        if let Some(ask) = &self.point.pending.ask
            && (&ask.request.driver, &ask.request.request_id) == (&request.driver, &request.request_id)
        {
            // Sent again while the first is under way: it will be answered with that.
            return self.step_now(request, Progress::Asking);
        }
        if self.is_answered_by_open_session(request) {
            return;
        }
        self.audit_request(request);
        if let Some((reason, detail)) = self.objection(request) {
            return self.refuse(request, reason, &detail);
        }
        match (&request.driver, request.manual) {
            (Some(driver), true) => self.ask_driver(driver.clone(), request),
            (None, true) => self.open(request),
            (_, false) => self.ask_engine(request),
        }
    }

    pub(super) fn ask_answered(&mut self, session: &SessionId, accepted: bool, detail: &Arc<str>) {
        let Some(ask) = self.asked(session, AskStage::Asking) else { return };
        if !accepted {
            return self.refuse(&ask.request, Reason::RefusedByChargingPoint, detail);
        }
        // What came meanwhile counts: it was asked and not yet reserved.
        match self.against().or_else(|| self.price_objection(Some(ask.price))) {
            Some((reason, detail)) => {
                self.release_engine(&ask.request, reason);
                self.refuse(&ask.request, reason, &detail);
            }
            None => self.open(&ask.request),
        }
    }

    pub(super) fn confirmed(&mut self, session: &SessionId, driver: &DriverId, accepted: Option<Price>, reply: Reply) {
        let ask = self.asked(session, AskStage::Confirming).filter(|ask| ask.request.driver.as_ref() == Some(driver));
        let Some(ask) = ask else {
            return self.answer(reply, OrderOutcome::Failed(Reason::NotFound, "nothing is to be confirmed".to_owned()));
        };
        if accepted.is_some()
            && let Some((reason, detail)) = self.price_objection(accepted)
        {
            self.answer(reply, OrderOutcome::Failed(reason, detail));
            return self.ask_driver_again(&ask);
        }
        self.answer(reply, OrderOutcome::Done);
        match (accepted, self.against()) {
            (None, _) => self.refuse(&ask.request, Reason::NotConfirmed, ""),
            (Some(_), Some((reason, detail))) => self.refuse(&ask.request, reason, &detail),
            (Some(_), None) => self.open(&ask.request),
        }
    }

    /// Nobody pays a price that he was not told, or did not accept (SPEC 3.2).
    fn price_objection(&self, accepted: Option<Price>) -> Option<(Reason, String)> {
        let (price, currency) = (self.point.record.price, self.settings.currency);
        let changed = |accepted: &Price| *accepted != price;
        accepted
            .filter(changed)
            .map(|was| (Reason::PriceChanged, format!("it is {price} {currency}/kWh now, not {was}")))
    }

    /// The price of what he confirmed has changed meanwhile: he may confirm the new one, within the time that is left.
    fn ask_driver_again(&mut self, ask: &PendingAsk) {
        let left = ask.due.saturating_duration_since(self.now.mono);
        let expires_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        let body = messages::confirm_request(&ask.request, &self.point.record, expires_ms, self.settings);
        if let Some(driver) = ask.request.driver.clone() {
            self.after_commit(Effect::Driver(driver, body));
        }
    }

    /// Time is up for the engine or the driver that was asked.
    pub(super) fn ask_expired(&mut self, ask: &PendingAsk) {
        match ask.stage {
            AskStage::Confirming => self.refuse(&ask.request, Reason::NotConfirmed, "no answer in time"),
            AskStage::Asking => {
                self.release_engine(&ask.request, Reason::NoAnswer);
                self.refuse(&ask.request, Reason::NoAnswer, "");
            }
        }
    }

    /// A refusal is an answer as durable as any other (SPEC 3.2).
    pub(super) fn refuse(&mut self, request: &SupplyRequest, reason: Reason, detail: &str) {
        self.forget(request);
        self.decision.changes.push(PointChange::Answered(FirstAnswer::to(request, self.point, reason, detail)));
        let entry = self.entry(AuditAction::SupplyRefused).with("request", &request.request_id);
        let account = messages::account(request.driver.as_ref(), &self.point.record.id);
        self.audit(&request.from, entry.with("account", account).outcome(reason, detail));
        self.tell_refusal(request, reason, detail);
    }

    /// The store did not take the reservation, or the refusal.
    pub(super) fn request_refused(&mut self, request: &SupplyRequest, refusal: &StoreRefusal) {
        let (reason, detail) = in_reasons(refusal);
        let was_asked = self.point.pending.ask.as_ref().is_some_and(|ask| ask.stage == AskStage::Asking);
        if was_asked {
            self.release_engine(request, reason);
        }
        self.forget(request);
        match refusal {
            StoreRefusal::DriverBusy | StoreRefusal::ChargingPointBusy => self.refuse(request, reason, &detail),
            StoreRefusal::Repeated(first) => self.tell_first_answer(request, first),
            StoreRefusal::RequestIdReused(_)
            | StoreRefusal::OrderItemSettled
            | StoreRefusal::AlreadyBilled
            | StoreRefusal::Fenced
            | StoreRefusal::Unavailable(_) => {
                self.tell_refusal(request, reason, &detail);
            }
        }
    }

    fn objection(&self, request: &SupplyRequest) -> Option<(Reason, String)> {
        if !request.known {
            return Some((Reason::UnknownDriver, String::new()));
        }
        if let Some(objection) = self.against() {
            return Some(objection);
        }
        if self.point.pending.ask.is_some() {
            return Some((Reason::Reserved, "another request is under way".to_owned()));
        }
        let price = self.point.record.price;
        if let Some(highest) = request.terms.highest_price.filter(|highest| *highest < price) {
            let currency = self.settings.currency;
            return Some((Reason::PriceChanged, format!("it is {price} {currency}/kWh, above {highest}")));
        }
        if request.busy {
            return Some((Reason::DriverBusy, String::new()));
        }
        let away =
            |driver| (Reason::NotConfirmed, format!("{driver} has no link to Central now, so he cannot confirm it"));
        request.driver.as_ref().filter(|_| request.away).map(away)
    }

    fn against(&self) -> Option<(Reason, String)> {
        let settling = self.point.record.settling.len();
        let owes = || (Reason::OutOfOrder, format!("{settling} of its supplies wait for their final value"));
        self.point.against(self.settings, self.now).or_else(|| (settling >= SETTLING).then(owes))
    }

    /// The request was answered with the session that is open: its driver missed the answer.
    fn is_answered_by_open_session(&mut self, request: &SupplyRequest) -> bool {
        let Some(open) = self.point.record.open.clone() else { return false };
        let same = open.driver == request.driver && open.request_id == request.request_id;
        if same {
            self.tell_reserved(&open, request.reply);
        }
        same
    }

    fn ask_driver(&mut self, driver: DriverId, request: &SupplyRequest) {
        let wait = self.settings.confirmation;
        self.ask(request, AskStage::Confirming, wait);
        let expires_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let body = messages::confirm_request(request, &self.point.record, expires_ms, self.settings);
        self.after_commit(Effect::Driver(driver, body));
    }

    fn ask_engine(&mut self, request: &SupplyRequest) {
        self.ask(request, AskStage::Asking, self.settings.ask_timeout);
        self.step_now(request, Progress::Received);
        self.step_now(request, Progress::Asking);
        self.before_commit(Effect::Engine(messages::ask(request, &self.point.record, self.settings)));
    }

    fn ask(&mut self, request: &SupplyRequest, stage: AskStage, wait: std::time::Duration) {
        self.decision.pending.ask = Some(PendingAsk {
            request: request.clone(),
            stage,
            price: self.point.record.price,
            due: self.now.mono + wait,
        });
    }

    fn asked(&self, session: &SessionId, stage: AskStage) -> Option<PendingAsk> {
        self.point.pending.ask.clone().filter(|ask| ask.request.session == *session && ask.stage == stage)
    }

    /// Reserves: the session, the answer to the request and their entries in one turn.
    fn open(&mut self, request: &SupplyRequest) {
        self.forget(request);
        let record = &self.point.record;
        let session = Session {
            id: request.session.clone(),
            charging_point: record.id.clone(),
            driver: request.driver.clone(),
            request_id: request.request_id.clone(),
            manual: request.manual,
            state: SessionState::Reserved,
            price: record.price,
            currency: self.settings.currency,
            place: record.place.clone(),
            requested: request.terms.energy,
            meter_start: Energy::ZERO,
            meter_last: Energy::ZERO,
            reserved_at: self.now.wall_ms,
            started_at: None,
            ended_at: None,
            reason: Reason::Unspecified,
            due: Some(self.now.mono + self.settings.reservation),
            discrepancy: 0,
            disputed: Energy::ZERO,
            times: CentralTimes::authorised(self.now.mono),
        };
        self.decision.changes.push(PointChange::OpenSession(session.clone()));
        self.decision.changes.push(PointChange::Answered(FirstAnswer::to(
            request,
            self.point,
            Reason::Unspecified,
            "",
        )));
        self.decision.changes.push(PointChange::Event(DomainEvent::session(&session, self.now)));
        let entry = self.entry_of(AuditAction::SupplyGranted, &session).with("request", &request.request_id);
        self.audit(&request.from, entry.with("price", session.price));
        self.tell_reserved(&session, request.reply);
        self.decision.next.open = Some(session);
    }

    fn tell_reserved(&mut self, session: &Session, reply: Reply) {
        let progress =
            if session.state == SessionState::Supplying { Progress::Supplying } else { Progress::Authorised };
        self.tell_supply(session);
        self.step(session, progress, Reason::Unspecified, "");
        self.answer(reply, OrderOutcome::Done);
    }

    /// Energy flows once it is plugged in. Repeated without harm: the engine knows the session by its id.
    pub(super) fn tell_supply(&mut self, session: &Session) {
        if session.state == SessionState::Reserved {
            let left = session.due.map(|due| due.saturating_duration_since(self.now.mono)).unwrap_or_default();
            self.engine(messages::supply(session, u32::try_from(left.as_millis()).unwrap_or(u32::MAX)));
        }
    }

    fn tell_first_answer(&mut self, request: &SupplyRequest, first: &FirstAnswer) {
        match (first.reason, &first.session) {
            (Reason::Unspecified, Some(session)) => {
                let first = SupplyRequest { session: session.clone(), ..request.clone() };
                self.tell_driver(&first, Progress::Authorised, Reason::Unspecified, "");
                self.answer(request.reply, OrderOutcome::Done);
            }
            (reason, _) => self.tell_refusal(request, reason, &first.detail),
        }
    }

    fn tell_refusal(&mut self, request: &SupplyRequest, reason: Reason, detail: &str) {
        // A driver who was never asked about a manual supply in his name is not bothered with its refusal.
        let concerns_him = !request.manual
            || self.point.pending.ask.as_ref().is_some_and(|ask| ask.request.session == request.session);
        if concerns_him {
            self.tell_driver(request, Progress::Refused, reason, detail);
        }
        self.answer(request.reply, OrderOutcome::Failed(reason, detail.to_owned()));
    }

    fn tell_driver(&mut self, request: &SupplyRequest, progress: Progress, reason: Reason, detail: &str) {
        if let Some(driver) = request.driver.clone().filter(|_| request.known) {
            let body = messages::step(request, &self.point.record, progress, (reason, detail), self.settings);
            self.after_commit(Effect::Driver(driver, body));
        }
    }

    fn release_engine(&mut self, request: &SupplyRequest, reason: Reason) {
        self.engine(messages::release(request.session.as_str(), reason));
    }

    fn forget(&mut self, request: &SupplyRequest) {
        if self.decision.pending.ask.as_ref().is_some_and(|ask| ask.request.session == request.session) {
            self.decision.pending.ask = None;
        }
    }

    fn audit_request(&mut self, request: &SupplyRequest) {
        let account = messages::account(request.driver.as_ref(), &self.point.record.id);
        let entry = self.entry(AuditAction::SupplyRequested).with("request", &request.request_id);
        let entry = entry.with("account", account).with("energy", messages::wished(request.terms.energy));
        // The answer is what must be durable; asking the charging point does not wait for the disk.
        self.decision.queued.push(PointChange::Audit(entry.by(&request.from, self.now)));
    }
}
