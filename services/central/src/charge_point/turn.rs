//! A charging point takes turns: who is behind each input, how many may wait, and what each leads to.

use mesh::clock::Now;

use super::{ChargePoint, Decision, PointInput, Reply, StoreRefusal, decision::DecisionBuilder};
use crate::{
    settings::CentralSettings,
    turns::{Core, Speaker},
};

/// Orders of operators and of Central's own that may wait.
const ORDERS: usize = 64;
/// Inputs of drivers that may wait.
const DRIVERS: usize = 64;
/// The charging point's own inputs that may wait: twice what one message may bring.
const OWN: usize = 512;

impl Core for ChargePoint {
    type Input = PointInput;
    type Decision = Decision;
    type Refusal = StoreRefusal;

    fn speaker(input: &PointInput) -> Speaker {
        match input {
            PointInput::Identity(_) => Speaker::Registry,
            PointInput::EndedLong { .. } | PointInput::Recalled { .. } => Speaker::Store,
            PointInput::Order { reply: Reply::Order(_) | Reply::None, .. } => Speaker::Operator,
            PointInput::StopByDriver { .. } | PointInput::Confirmed { .. } => Speaker::Driver,
            PointInput::Request(request) if !request.manual => Speaker::Driver,
            PointInput::Due => Speaker::Time,
            PointInput::Order { reply: Reply::Link { .. }, .. }
            | PointInput::Request(_)
            | PointInput::AskAnswer { .. }
            | PointInput::Started { .. }
            | PointInput::Ended { .. }
            | PointInput::BroughtBack { .. }
            | PointInput::ReservationInJournal { .. }
            | PointInput::JournalReport { .. }
            | PointInput::Grant { .. }
            | PointInput::KeyInstalled { .. } => Speaker::Own,
        }
    }

    fn room(speaker: Speaker) -> usize {
        match speaker {
            Speaker::Registry | Speaker::Store | Speaker::Time => usize::MAX,
            Speaker::Operator => ORDERS,
            Speaker::Driver => DRIVERS,
            Speaker::Own => OWN,
        }
    }

    /// What `input` leads to. Nothing changes until [`ChargePoint::apply`].
    fn decide(&self, input: &PointInput, settings: &CentralSettings, now: Now) -> Decision {
        let mut builder = DecisionBuilder::new(self, settings, now);
        if self.live.ledger_behind && input.may_bill() {
            // What it would be billed by is not all that there is (SPEC 10.5).
            builder.refused(input, &StoreRefusal::Unavailable("Central's database is too old".to_owned()));
            return builder.into_decision();
        }
        match input {
            PointInput::Due => builder.due(),
            PointInput::Request(request) => builder.request(request),
            PointInput::AskAnswer { session, accepted, detail } => builder.ask_answered(session, *accepted, detail),
            PointInput::Confirmed { session, driver, accepted, reply } => {
                builder.confirmed(session, driver, *accepted, *reply);
            }
            PointInput::Started { session, meter, at, reply } => builder.started(session, *meter, *at, *reply),
            PointInput::Ended { session, last, reply } => builder.ended(session, last, *reply),
            PointInput::EndedLong { session, row, ticket, last, reply } => {
                builder.ended_long(session, (row.as_deref(), ticket.as_deref()), last, *reply);
            }
            PointInput::BroughtBack { session, last, evidence, reply } => {
                builder.brought_back(session, last, evidence, *reply);
            }
            PointInput::Recalled { session, stored, last, evidence, reply } => {
                builder.recalled(session, stored, (last, evidence), *reply);
            }
            PointInput::ReservationInJournal { session } => builder.reservation_in_journal(session),
            PointInput::JournalReport { sessions, reply } => builder.journal_report(sessions, *reply),
            PointInput::StopByDriver { session, driver, from, reply } => {
                builder.stopped_by_driver(session, driver, from, *reply);
            }
            PointInput::Order { order, by, reply } => builder.order(order, by, *reply),
            PointInput::Grant { link, material, from } => builder.grant(*link, material, from),
            PointInput::KeyInstalled { key_no, reply } => builder.key_installed(*key_no, *reply),
            PointInput::Identity(identity) => builder.identity(identity),
        }
        builder.into_decision()
    }

    fn refused(&self, input: &PointInput, refusal: &StoreRefusal, settings: &CentralSettings, now: Now) -> Decision {
        let mut builder = DecisionBuilder::new(self, settings, now);
        builder.refused(input, refusal);
        builder.into_decision()
    }

    fn unavailable(why: String) -> StoreRefusal {
        StoreRefusal::Unavailable(why)
    }

    fn is_durable(decision: &Decision) -> bool {
        !decision.changes.is_empty()
    }
}

impl PointInput {
    /// Whether a bill may follow from it, or the end of a session that was billed.
    fn may_bill(&self) -> bool {
        matches!(
            self,
            Self::Started { .. }
                | Self::Ended { .. }
                | Self::EndedLong { .. }
                | Self::BroughtBack { .. }
                | Self::Recalled { .. }
                | Self::ReservationInJournal { .. }
                | Self::JournalReport { .. }
        )
    }

    /// Names the turn in the store's metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Request(_) => "request",
            Self::AskAnswer { .. } => "authorise",
            Self::Confirmed { .. } => "confirm",
            Self::Started { .. } => "start",
            Self::Ended { .. } => "bill",
            Self::EndedLong { .. } => "late end",
            Self::BroughtBack { .. } | Self::Recalled { .. } => "brought back",
            Self::ReservationInJournal { .. } | Self::JournalReport { .. } => "reconcile",
            Self::StopByDriver { .. } => "driver stop",
            Self::Order { .. } => "order",
            Self::Grant { .. } => "grant",
            Self::KeyInstalled { .. } => "key installed",
            Self::Identity(_) => "identity",
        }
    }
}
