//! Events for whoever listens downstream (SPEC 5.3), kept in the outbox in the transaction that makes them true.

use mesh::clock::Now;
use proto::link::v1::{Cause, State, Ticket};

use crate::{key::KeyStage, session::Session};

/// One event, and when it happened, in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainEvent {
    pub at: i64,
    pub data: EventData,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum EventData {
    State { charging_point: String, state: State, causes: Vec<Cause> },
    Session(Box<Session>),
    Ticket(Box<Ticket>),
    Key { holder: String, key_no: u64, stage: KeyStage },
}

impl DomainEvent {
    pub fn session(session: &Session, now: Now) -> Self {
        Self { at: now.wall_ms, data: EventData::Session(Box::new(session.clone())) }
    }

    pub fn ticket(ticket: &Ticket, now: Now) -> Self {
        Self { at: now.wall_ms, data: EventData::Ticket(Box::new(ticket.clone())) }
    }

    pub fn state(charging_point: &str, state: State, causes: Vec<Cause>, now: Now) -> Self {
        Self { at: now.wall_ms, data: EventData::State { charging_point: charging_point.to_owned(), state, causes } }
    }

    pub fn key(holder: &str, key_no: u64, stage: KeyStage, now: Now) -> Self {
        Self { at: now.wall_ms, data: EventData::Key { holder: holder.to_owned(), key_no, stage } }
    }
}

impl EventData {
    /// The type of the CloudEvent.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::State { .. } => "chargemesh.charging-point.state-changed",
            Self::Session(_) => "chargemesh.session.changed",
            Self::Ticket(_) => "chargemesh.ticket.issued",
            Self::Key { .. } => "chargemesh.key.changed",
        }
    }
}
