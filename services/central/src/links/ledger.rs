//! What the edge brings of Central's ledger (SPEC 10.5), before the loop hears of it: signatures are checked here, and
//! whether the database is older than what Central has signed.

use proto::{
    ChargingPointId, DriverId, PeerId,
    link::v1::{Authorisation, JournalReport, JournalSession, KeyState, Reason, Ticket, TicketHeld},
};
use store::central::{ChargingPointRow, RowWrite, SessionRow, TicketRow};

use super::responder::Responder;
use crate::{
    charge_point::{Evidence, Reply},
    event_loop::Message,
};

/// What an engine says of a session, as far as Central signed it for this charging point.
struct SignedSession {
    authorisation: Authorisation,
    ticket: Option<Ticket>,
}

impl SignedSession {
    fn generation(&self) -> i64 {
        i64::try_from(self.authorisation.epoch >> 32).unwrap_or(i64::MAX)
    }
}

impl Responder {
    fn signed_session(&self, id: &ChargingPointId, held: &JournalSession) -> Option<SignedSession> {
        let documents = &self.links.shared.documents;
        let authorisation = documents.authorisation(held.authorisation.as_ref()?).ok()?;
        let is_its_own = authorisation.charging_point_id == id.as_str() && authorisation.session_id == held.session_id;
        let ticket = held.ticket.clone().and_then(|signed| documents.ticket(signed).ok());
        let ticket =
            ticket.filter(|ticket| ticket.charging_point_id == id.as_str() && ticket.session_id == held.session_id);
        is_its_own.then_some(SignedSession { authorisation, ticket })
    }

    /// What Central signed about a session before it was restored; nothing of a session of this generation, whose rows
    /// are all there.
    pub(super) fn evidence(&self, id: &ChargingPointId, held: &JournalSession) -> Option<Evidence> {
        let restored = &self.links.shared.ledger.restored;
        if restored.number <= 1 {
            return None;
        }
        let signed = self.signed_session(id, held).filter(|signed| signed.generation() < restored.number)?;
        let (authorisation, ticket) = (Some(Box::new(signed.authorisation)), signed.ticket.map(Box::new));
        Some(Evidence { authorisation, ticket })
    }

    /// Whether the engine's latest supply shows that the database is older than what Central has signed. Nothing that an
    /// engine can say by itself does: only a signature of this generation, which is given when its rows are durable.
    pub(super) async fn shows_older_ledger(&self, id: &ChargingPointId, report: &JournalReport) -> bool {
        let shared = &self.links.shared;
        if shared.ledger.is_behind() {
            return true;
        }
        let signed = report.latest.as_ref().and_then(|latest| self.signed_session(id, latest));
        let Some(signed) = signed.filter(|signed| signed.generation() >= shared.ledger.restored.number) else {
            return false;
        };
        let session = signed.authorisation.session_id.clone();
        let read = move |conn: &mut store::Conn| {
            Ok((SessionRow::find(conn, &session)?.is_some(), TicketRow::find(conn, &session)?.is_some()))
        };
        // Where the database cannot be read nothing is decided either.
        let Ok((has_session, has_ticket)) = shared.store.look_up("latest supply", read).await else { return false };
        let what = match (has_session, has_ticket, &signed.ticket) {
            (false, _, _) => "authorised the supply",
            (true, false, Some(_)) => "billed the supply",
            (true, _, None) | (true, true, Some(_)) => return false,
        };
        let why = format!(
            "Central {what} {} at {id}, and its database does not have that: it is older, as after raw files were put \
             back; stop Central and Registry and run `chargemesh restore --raise-generation`",
            signed.authorisation.session_id
        );
        self.hand_in(Message::LedgerBehind { why, by: PeerId::ChargingPoint(id.clone()) }).await;
        true
    }

    /// A ticket that a driver holds: back into the ledger, unless it is there.
    pub(super) async fn ticket_held(self, driver: DriverId, held: TicketHeld, to: u64) {
        let shared = &self.links.shared;
        let ticket = held.ticket.ok_or_else(|| "there is no ticket in it".to_owned());
        let ticket = ticket.and_then(|signed| shared.documents.ticket(signed).map_err(|error| error.to_string()));
        let ticket = match ticket {
            Ok(ticket) if ticket.driver_id == driver.as_str() => ticket,
            Ok(_) => return self.answer(to, Reason::Invalid, "this ticket is of another driver"),
            Err(why) => return self.answer(to, Reason::Invalid, &why),
        };
        let (session, cp_id) = (ticket.session_id.clone(), ticket.charging_point_id.clone());
        let read = move |conn: &mut store::Conn| {
            let stored = TicketRow::find(conn, &session)?.map(|row| row.signed());
            Ok((stored, ChargingPointRow::find(conn, &cp_id)?))
        };
        let row = match shared.store.look_up("ticket held", read).await {
            Ok((stored, _)) if stored.is_some() && stored == ticket.signed => {
                return self.answer(to, Reason::Unspecified, "");
            }
            Ok((_, Some(row))) => row,
            Ok((_, None)) => match self.add_lost_charging_point(&ticket).await {
                Ok(row) => row,
                Err(why) => return self.answer(to, Reason::Unavailable, &why),
            },
            Err(error) => return self.answer(to, Reason::Unavailable, &error.to_string()),
        };
        let reply = Reply::Link { link: self.link, to };
        self.hand_in(Message::TicketHandedBack { ticket: Box::new(ticket), row: Box::new(row), reply }).await;
    }

    /// A charging point that was enrolled after the backup: the ticket belongs to one that is gone until it is enrolled
    /// again.
    async fn add_lost_charging_point(&self, ticket: &Ticket) -> Result<ChargingPointRow, String> {
        let shared = &self.links.shared;
        let row = ChargingPointRow {
            cp_id: ticket.charging_point_id.clone(),
            removed: true,
            place: ticket.place.clone(),
            price_e4: i64::from(ticket.price_e4),
            key_state: KeyState::Deleted.into(),
            since_ms: shared.clock.wall_ms(),
            ..ChargingPointRow::default()
        };
        let written = shared.store.write("lost charging point", vec![RowWrite::AddChargingPoint(row.clone())]).await;
        written.map(|_| row).map_err(|error| error.to_string())
    }
}
