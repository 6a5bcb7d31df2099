//! A supply from its start to its bill or its settling (SPEC 3.3 to 3.8), and what an engine's journal holds.

use proto::{
    DriverId, Energy,
    link::v1::{Progress, Reason, SessionState, SignedDocument},
};

use super::{Effect, OrderOutcome, PointChange, Reply, decision::DecisionBuilder, messages};
use crate::{
    audit::AuditAction,
    origin::Origin,
    session::{Final, Session, SessionId},
};

/// An engine that holds more ended sessions than this reports them in portions, whose last is no whole report.
const PORTION: usize = 255;

impl DecisionBuilder<'_> {
    /// The engine reports that the supply has begun. A repeated report gets the same answer.
    pub(super) fn started(&mut self, id: &SessionId, meter: Energy, at: i64, reply: Reply) {
        match self.point.record.open.as_ref().filter(|open| open.id == *id) {
            Some(open) if open.state == SessionState::Reserved => {
                let begun = self.point.begun().cloned();
                self.begin(begun.unwrap_or_else(|| open.start(meter, self.point.engine_time(at), self.now)));
            }
            Some(open) if open.reason != Reason::Unspecified => self.engine(messages::stop(id.as_str(), open.reason)),
            Some(_) => {}
            // Released, settling or unknown: whatever flows there must stop, and its end will tell how much it was.
            None => {
                let reason = self.settling(id).map_or(Reason::ReservationExpired, |session| session.reason);
                self.engine(messages::stop(id.as_str(), reason));
            }
        }
        self.answer(reply, OrderOutcome::Done);
    }

    fn begin(&mut self, started: Session) {
        self.update(&started);
        let entry =
            self.entry_of(AuditAction::SupplyStarted, &started).with("meter_start_wh", started.meter_start.wh());
        self.audit_by_engine(entry);
        self.step(&started, Progress::Supplying, Reason::Unspecified, "");
        self.decision.pending.saved_at = Some(self.now.mono);
        self.decision.next.open = Some(started);
    }

    /// A start that the store did not take when it came, before whatever follows it.
    pub(super) fn begin_what_began(&mut self) {
        let reserved = self.decision.next.open.as_ref().is_some_and(|open| open.state == SessionState::Reserved);
        if let Some(begun) = self.point.begun().filter(|_| reserved) {
            self.begin(begun.clone());
        }
    }

    /// The engine's final value: the bill, if there was none (SPEC 3.7).
    pub(super) fn ended(&mut self, id: &SessionId, last: &Final, reply: Reply) {
        let open = self.point.running().filter(|open| open.id == *id);
        let Some(session) = open.or_else(|| self.settling(id).cloned()) else {
            return self.before_commit(Effect::Fetch { session: id.clone(), last: last.clone(), reply });
        };
        let said = self.point.in_central_time(last);
        let (billed, ticket) = session.bill(&said, self.point.energy_limit(self.settings), self.now);
        if billed.discrepancy != 0 {
            self.audit_discrepancy(&billed, last.end);
        }
        self.audit_end_not_ordered(&session, last.reason);
        self.issue(&billed, ticket);
        self.engine(messages::settled(id.as_str(), None));
        self.close(&billed);
        self.answer(reply, OrderOutcome::Done);
    }

    /// What the charging point called an end that nobody had ordered; its ticket calls it a fault.
    fn audit_end_not_ordered(&mut self, session: &Session, said: Reason) {
        if said.ends_by_order_only() && session.end_reason(said) == Reason::Fault {
            let entry = self.entry_of(AuditAction::EndNotOrdered, session).with("said_by_charging_point", said.code());
            self.audit_by_engine(entry);
        }
    }

    /// A final value for a session that ended long ago, in `row`.
    pub(super) fn ended_long(
        &mut self,
        id: &SessionId,
        (row, ticket): (Option<&Session>, Option<&SignedDocument>),
        last: &Final,
        reply: Reply,
    ) {
        let Some(session) = row.filter(|row| row.charging_point == self.point.record.id) else {
            // Unknown sessions are refused, never created.
            return self.answer(reply, OrderOutcome::Failed(Reason::NotFound, format!("no session {id} of yours")));
        };
        if session.is_open() || session.state == SessionState::Settling {
            return self.ended(id, last, reply);
        }
        if let Some(late) = session.late(last) {
            self.audit_discrepancy(&late, last.end);
            self.update(&late);
        }
        self.engine(messages::settled(id.as_str(), ticket));
        self.answer(reply, OrderOutcome::Done);
    }

    pub(super) fn reservation_in_journal(&mut self, id: &SessionId) {
        if self.point.record.open.as_ref().is_some_and(|open| open.id == *id) {
            return;
        }
        match self.settling(id).cloned() {
            // It was not known whether it had begun.
            Some(unbegun) if unbegun.started_at.is_none() => self.release(&unbegun, Reason::ReservationExpired),
            settling => {
                let reason = settling.map_or(Reason::ReservationExpired, |session| session.reason);
                self.engine(messages::release(id.as_str(), reason));
            }
        }
    }

    /// What is open here and not in the engine's journal: a reservation it does not know is sent again; a supply it
    /// has lost settles.
    pub(super) fn journal_report(&mut self, sessions: &[SessionId], reply: Reply) {
        if std::mem::take(&mut self.decision.pending.report_refused) {
            let why = "not all of this report could be kept; say it again".to_owned();
            return self.answer(reply, OrderOutcome::Failed(Reason::Unavailable, why));
        }
        self.answer(reply, OrderOutcome::Done);
        if sessions.len() < PORTION {
            // It was not known whether they had begun, and they had not.
            let unbegun = |settling: &&Session| settling.started_at.is_none() && !sessions.contains(&settling.id);
            let unbegun: Vec<_> = self.point.record.settling.iter().filter(unbegun).cloned().collect();
            unbegun.iter().for_each(|session| self.release(session, Reason::ReservationExpired));
        }
        let Some(open) = self.point.running().filter(|open| !sessions.contains(&open.id)) else { return };
        match open.state {
            SessionState::Reserved => self.tell_supply(&open),
            // It has begun since that report, and its start waits behind it.
            SessionState::Supplying if self.point.has_begun_on_this_link() => {}
            SessionState::Supplying => self.settle(&open, Reason::Fault, "the engine knows nothing of it"),
            SessionState::Unspecified | SessionState::Settling | SessionState::Billed | SessionState::Released => {}
        }
    }

    pub(super) fn stopped_by_driver(&mut self, id: &SessionId, driver: &DriverId, from: &Origin, reply: Reply) {
        let open = self.point.running().filter(|open| open.id == *id && open.driver.as_ref() == Some(driver));
        let Some(open) = open else {
            return self
                .answer(reply, OrderOutcome::Failed(Reason::NotFound, format!("no running session {id} of yours")));
        };
        let entry = self.entry_of(AuditAction::SupplyStopOrdered, &open);
        self.audit(from, entry.outcome(Reason::StoppedByDriver, ""));
        self.end(&open, Reason::StoppedByDriver);
        self.answer(reply, OrderOutcome::Done);
    }

    /// Ends the open session: a reservation at once, a supply by telling its engine. The order is durable, so that it
    /// is repeated to an engine that comes back (SPEC 3.5).
    pub(super) fn end(&mut self, open: &Session, reason: Reason) {
        if open.state == SessionState::Reserved {
            return self.release(open, reason);
        }
        self.begin_what_began();
        if open.reason == Reason::Unspecified {
            let stopping = Session { reason, ..open.clone() };
            self.update(&stopping);
            self.decision.next.open = Some(stopping);
        }
        self.decision.pending.stop_due.get_or_insert(self.now.mono + self.settings.stop_timeout);
        self.engine(messages::stop(open.id.as_str(), reason));
    }

    /// Nothing was supplied: no ticket.
    pub(super) fn release(&mut self, open: &Session, reason: Reason) {
        let released = open.release(reason, self.now);
        self.update(&released);
        let entry = self.entry_of(AuditAction::SupplyReleased, &released).outcome(reason, "");
        self.audit_by_central(entry);
        self.step(&released, Progress::Released, reason, "");
        self.engine(messages::release(released.id.as_str(), reason));
        self.close(&released);
    }

    /// The final value is missing: the last accepted one stands for now, and the driver is free (SPEC 3.8).
    pub(super) fn settle(&mut self, open: &Session, reason: Reason, detail: &str) {
        self.begin_what_began();
        let settling = open.settle(reason, self.now, self.now.mono + self.settings.settle_after);
        self.update(&settling);
        let entry = self.entry_of(AuditAction::SupplySettling, &settling).with("energy_wh", settling.energy().wh());
        self.audit_by_central(entry.outcome(settling.reason, detail));
        self.step(&settling, Progress::Settling, settling.reason, detail);
        self.engine(messages::stop(settling.id.as_str(), settling.reason));
        self.decision.next.open = None;
        self.decision.pending.stop_due = None;
        if self.point.record.settling.is_empty() {
            self.decision.pending.settling_saved_at = Some(self.now.mono);
        }
        self.decision.next.settling.push(settling);
    }

    /// No report came in time (SPEC 3.8).
    pub(super) fn bill_without_report(&mut self, settling: &Session) {
        if settling.started_at.is_none() {
            // Nobody has ever said that it began.
            return self.release(settling, Reason::ReservationExpired);
        }
        let (billed, ticket) = settling.bill_without_report();
        self.issue(&billed, ticket);
        self.close(&billed);
    }

    /// The session is over for this charging point.
    pub(super) fn close(&mut self, session: &Session) {
        if self.decision.next.open.as_ref().is_some_and(|open| open.id == session.id) {
            self.decision.next.open = None;
            self.decision.pending.stop_due = None;
        }
        self.decision.next.settling.retain(|settling| settling.id != session.id);
    }

    fn settling(&self, id: &SessionId) -> Option<&Session> {
        self.point.record.settling.iter().find(|settling| settling.id == *id)
    }

    fn audit_discrepancy(&mut self, session: &Session, reported_end: Energy) {
        self.decision.changes.push(PointChange::Discrepancy { session: session.clone(), reported_end });
        let entry = self.entry_of(AuditAction::Discrepancy, session).with("discrepancy_wh", session.discrepancy);
        self.audit_by_engine(entry.with("state", session.state.as_str_name().trim_start_matches("SESSION_STATE_")));
    }

    /// The running value, and what is left of deadlines, as rows.
    pub(super) fn save_running(&mut self) {
        let unsaved = |open: &Session| self.point.record.open.as_ref().is_none_or(|saved| saved != open);
        if let Some(open) = self.point.running().filter(unsaved) {
            self.decision.changes.push(PointChange::UpdateSession(open.clone()));
            self.decision.next.open = Some(open);
        }
        self.decision.pending.saved_at = Some(self.now.mono);
        if self.point.settling_save_due(self.settings).is_some_and(|due| self.is_past(due)) {
            let settling = self.point.record.settling.iter().cloned();
            self.decision.changes.extend(settling.map(PointChange::UpdateSession));
            self.decision.pending.settling_saved_at = Some(self.now.mono);
        }
    }
}
