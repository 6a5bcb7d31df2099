//! What the edge and the store say of a session that Central may have lost with its database (SPEC 10.5).

use proto::{
    Energy,
    link::v1::{Authorisation, JournalSession, SignedDocument, Ticket},
};

use crate::session::{Final, Session};

/// What Central signed about a session before a restore, its signature checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    pub authorisation: Option<Box<Authorisation>>,
    pub ticket: Option<Box<Ticket>>,
}

/// A session as the store has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredSession {
    pub row: Option<Box<Session>>,
    pub ticket: Option<Box<SignedDocument>>,
}

/// What an engine's journal says of a session that ended.
pub(super) fn final_of(held: &JournalSession) -> Final {
    Final {
        start: Energy::from_wh(held.meter_start_wh),
        end: Energy::from_wh(held.meter_wh),
        reason: held.reason(),
        started_at: held.started_at_ms,
        ended_at: held.ended_at_ms,
    }
}

/// What a ticket says of its session's end.
pub fn final_of_ticket(ticket: &Ticket) -> Final {
    Final {
        start: Energy::from_wh(ticket.meter_start_wh),
        end: Energy::from_wh(ticket.meter_end_wh),
        reason: ticket.reason(),
        started_at: ticket.started_at_ms,
        ended_at: ticket.ended_at_ms,
    }
}
