//! The ledger from the edge (SPEC 10.5): sessions that Central has lost with its database, and that an engine's journal
//! or a driver's tickets bring back with Central's own signature.
//!
//! Guarantees: a session gets the bill that Central signed first, once; without a ticket it is billed by the journal's
//! final value to whom, and at the price that, Central signed when it authorised it; nothing without a signature is
//! believed.

use mesh::clock::Now;
use proto::{
    Energy, Price,
    link::v1::{Authorisation, Reason, SessionState, Ticket, down},
};

use super::{Effect, Evidence, OrderOutcome, PointChange, Reply, StoredSession, decision::DecisionBuilder, messages};
use crate::{
    audit::AuditAction,
    event::DomainEvent,
    session::{CentralTimes, Final, Session, SessionId},
};

impl DecisionBuilder<'_> {
    /// A session of an earlier generation, as the engine's journal or its driver brings it.
    pub(super) fn brought_back(&mut self, id: &SessionId, last: &Final, evidence: &Evidence, reply: Reply) {
        let open = self.point.running().filter(|open| open.id == *id);
        let settling = || self.point.record.settling.iter().find(|settling| settling.id == *id).cloned();
        match (open.or_else(settling), &evidence.ticket) {
            (Some(known), Some(ticket)) => self.take_back(Some(&known), ticket, reply),
            (Some(_), None) => self.ended(id, last, reply),
            (None, _) => self.before_commit(Effect::Recall {
                session: id.clone(),
                last: last.clone(),
                evidence: Box::new(evidence.clone()),
                reply,
            }),
        }
    }

    /// As [`Self::brought_back`], for a session that is not at hand: what the store has of it.
    pub(super) fn recalled(
        &mut self,
        id: &SessionId,
        stored: &StoredSession,
        (last, evidence): (&Final, &Evidence),
        reply: Reply,
    ) {
        let row = stored.row.as_deref().filter(|row| row.charging_point == self.point.record.id);
        match (row.map(|row| row.state), &evidence.ticket, &evidence.authorisation) {
            (Some(SessionState::Reserved | SessionState::Supplying | SessionState::Settling), _, _) => {
                self.brought_back(id, last, evidence, reply);
            }
            (Some(SessionState::Released) | None, Some(ticket), _) => self.take_back(row, ticket, reply),
            (Some(SessionState::Released) | None, None, Some(authorisation)) => {
                self.bill_by_journal(row, authorisation, last, reply);
            }
            (Some(SessionState::Billed), Some(ticket), _) if stored.ticket != ticket.signed.clone().map(Box::new) => {
                let billed = row.cloned();
                self.note_other_ticket(billed.as_ref(), ticket);
                self.ended_long(id, (row, stored.ticket.as_deref()), last, reply);
            }
            (Some(SessionState::Unspecified | SessionState::Billed | SessionState::Released) | None, _, _) => {
                self.ended_long(id, (row, stored.ticket.as_deref()), last, reply);
            }
        }
    }

    /// The bill is the one that Central signed before: it is neither made anew nor changed.
    fn take_back(&mut self, known: Option<&Session>, ticket: &Ticket, reply: Reply) {
        let Some(billed) = Session::of_ticket(ticket, known, self.now) else {
            let why = format!("the ticket of session {} is not readable", ticket.session_id);
            return self.answer(reply, OrderOutcome::Failed(Reason::Invalid, why));
        };
        self.record_bill(known, &billed);
        self.decision.changes.push(PointChange::Event(DomainEvent::ticket(ticket, self.now)));
        let entry = self.entry_of(AuditAction::TicketTakenBack, &billed).with("energy_wh", ticket.energy_wh);
        self.audit_by_engine(entry.outcome(ticket.reason(), ""));
        if let Some(driver) = &billed.driver {
            let body = down::Body::Ticket(ticket.clone());
            self.after_commit(Effect::Driver(driver.clone(), body));
        }
        self.decision.changes.push(PointChange::Ticket(ticket.clone()));
        self.engine(messages::settled(billed.id.as_str(), ticket.signed.as_ref()));
        self.close(&billed);
        self.answer(reply, OrderOutcome::Done);
    }

    /// No ticket is left of it: the journal's final value is billed as it was authorised.
    fn bill_by_journal(&mut self, row: Option<&Session>, authorisation: &Authorisation, last: &Final, reply: Reply) {
        let Some(session) = Session::of_authorisation(authorisation, self.now) else {
            let why = format!("the authorisation of session {} is not readable", authorisation.session_id);
            return self.answer(reply, OrderOutcome::Failed(Reason::Invalid, why));
        };
        let (billed, ticket) = session.bill(last, self.point.energy_limit(self.settings), self.now);
        self.record_bill(row, &billed);
        self.issue(&billed, ticket);
        self.engine(messages::settled(billed.id.as_str(), None));
        self.close(&billed);
        self.answer(reply, OrderOutcome::Done);
    }

    /// The row of the session, which may be lost.
    fn record_bill(&mut self, known: Option<&Session>, billed: &Session) {
        if known.is_none() {
            self.decision.changes.push(PointChange::OpenSession(billed.clone()));
        }
        self.update(billed);
    }

    /// Two bills of one session: the one in the ledger stands, and an operator corrects it by the other.
    fn note_other_ticket(&mut self, billed: Option<&Session>, other: &Ticket) {
        let Some(billed) = billed else { return };
        let entry = self
            .entry_of(AuditAction::OtherTicketFound, billed)
            .with("energy_wh", other.energy_wh)
            .with("amount_minor", other.amount_minor);
        self.audit_by_engine(entry.outcome(other.reason(), "this ticket was signed before the restore; correct by it"));
    }
}

impl Session {
    /// The billed session of a ticket; nothing where the ticket names what cannot be.
    pub fn of_ticket(ticket: &Ticket, known: Option<&Self>, now: Now) -> Option<Self> {
        let driver = if ticket.driver_id.is_empty() { None } else { Some(ticket.driver_id.parse().ok()?) };
        let (requested, request_id, manual, reserved_at) = known.map_or_else(
            || (Energy::ZERO, "".into(), false, ticket.started_at_ms),
            |known| (known.requested, known.request_id.clone(), known.manual, known.reserved_at),
        );
        Some(Self {
            id: SessionId::new(&ticket.session_id),
            charging_point: ticket.charging_point_id.parse().ok()?,
            driver,
            request_id,
            manual,
            state: SessionState::Billed,
            price: Price::from_e4(ticket.price_e4),
            currency: ticket.currency.parse().ok()?,
            place: ticket.place.as_str().into(),
            requested,
            meter_start: Energy::from_wh(ticket.meter_start_wh),
            meter_last: Energy::from_wh(ticket.meter_end_wh),
            reserved_at,
            started_at: Some(ticket.started_at_ms),
            ended_at: Some(ticket.ended_at_ms),
            reason: ticket.reason(),
            due: None,
            discrepancy: 0,
            disputed: Energy::from_wh(ticket.disputed_wh),
            times: CentralTimes::of_earlier_process(reserved_at, now),
        })
    }

    /// A session as it was authorised, of whose start and end Central knows nothing.
    pub fn of_authorisation(authorisation: &Authorisation, now: Now) -> Option<Self> {
        let of_it = Ticket {
            session_id: authorisation.session_id.clone(),
            driver_id: authorisation.driver_id.clone(),
            charging_point_id: authorisation.charging_point_id.clone(),
            place: authorisation.place.clone(),
            started_at_ms: authorisation.reserved_at_ms,
            price_e4: authorisation.price_e4,
            currency: authorisation.currency.clone(),
            ..Ticket::default()
        };
        Self::of_ticket(&of_it, None, now).map(|session| Self {
            request_id: authorisation.request_id.as_str().into(),
            manual: authorisation.manual,
            requested: Energy::from_wh(authorisation.energy_wh),
            state: SessionState::Settling,
            started_at: None,
            ended_at: None,
            reason: Reason::Unspecified,
            ..session
        })
    }
}
