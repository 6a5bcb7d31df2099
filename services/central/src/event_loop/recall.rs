//! Sessions that are not at hand any more, read from the store, and those that come back from the edge (SPEC 10.5).

use proto::{
    PeerId,
    link::v1::{HandBackTickets, Ticket, down},
};
use store::central::{ChargingPointRow, RowWrite, SessionRow, TicketRow};

use super::{Completion, EventLoop};
use crate::{
    audit::{AuditAction, AuditRecord},
    charge_point::{ChargePoint, Evidence, PointInput, Reply, StoredSession, final_of_ticket},
    key::Keyring,
    origin::{LinkNo, Origin},
    rows,
    session::{Final, SessionId},
    shared::SharedState,
};

/// A supply is billed at most so long after its end by its charging point's clock: engines keep closed sessions for that
/// long. So its bill may be younger than a backup, though its end is older.
const LATEST_BILL_MS: i64 = 35 * 24 * 3_600_000;

async fn stored(shared: &SharedState, session: &SessionId) -> Result<StoredSession, String> {
    let wanted = session.to_string();
    let read = move |conn: &mut store::Conn| Ok((SessionRow::find(conn, &wanted)?, TicketRow::find(conn, &wanted)?));
    let (row, ticket) = shared.store.read("session", read).await.map_err(|error| error.to_string())?;
    let row = row.map(|row| rows::session(&row, &shared.settings, shared.clock.now())).transpose();
    let ticket = ticket.filter(|row| !row.signature.is_empty()).map(|row| Box::new(row.signed()));
    Ok(StoredSession { row: row.map_err(|error| error.to_string())?.map(Box::new), ticket })
}

impl EventLoop {
    /// A session that is not at hand any more.
    pub(super) fn fetch(&mut self, number: usize, session: SessionId, last: Final, reply: Reply) {
        self.read_session(number, session, reply, move |session, StoredSession { row, ticket }| {
            PointInput::EndedLong { session, row, ticket, last, reply }
        });
    }

    /// A session of an earlier generation.
    pub(super) fn recall(
        &mut self,
        number: usize,
        session: SessionId,
        (last, evidence): (Final, Box<Evidence>),
        reply: Reply,
    ) {
        self.read_session(number, session, reply, move |session, stored| PointInput::Recalled {
            session,
            stored,
            last,
            evidence,
            reply,
        });
    }

    fn read_session(
        &mut self,
        number: usize,
        session: SessionId,
        reply: Reply,
        input: impl FnOnce(SessionId, StoredSession) -> PointInput + Send + 'static,
    ) {
        let shared = self.shared.clone();
        self.points[number].turns.own_waits = true;
        self.turns.push(Box::pin(async move {
            let fetched = stored(&shared, &session).await.map(|stored| input(session, stored));
            Completion::Fetched(number, Box::new(fetched.map_err(|why| (reply, why))))
        }));
    }

    /// A ticket that its driver hands back; `row` is its charging point's, which may be new to the loop.
    pub(super) fn ticket_handed_back(&mut self, ticket: Ticket, row: &ChargingPointRow, reply: Reply) {
        let now = self.now();
        let known = row.cp_id.parse().ok().and_then(|id| self.index.get(&id).copied());
        let number = known.or_else(|| {
            let record = rows::record(row, Keyring::stored(0, false, 0, Vec::new()), Vec::new()).ok()?;
            Some(self.add_point(ChargePoint::new(record, now), now.wall_ms, now))
        });
        let Some(number) = number else { return };
        let (session, last) = (SessionId::new(&ticket.session_id), final_of_ticket(&ticket));
        let evidence = Box::new(Evidence { authorisation: None, ticket: Some(Box::new(ticket)) });
        self.offer(number, PointInput::BroughtBack { session, last, evidence, reply });
    }

    /// A restored Central asks a driver who comes for the tickets that it may have lost (SPEC 10.5).
    pub(super) fn ask_for_tickets(&self, link: LinkNo) {
        let restored = &self.shared.ledger.restored;
        if restored.number > 1 {
            let generation = u32::try_from(restored.number).unwrap_or(u32::MAX);
            let since_ms = restored.backup_at_ms.saturating_sub(LATEST_BILL_MS);
            self.send(link, 0, down::Body::HandBackTickets(HandBackTickets { generation, since_ms }));
        }
    }

    /// A charging point has shown that the database is older than what Central has signed: nothing is served any more.
    pub(super) fn ledger_is_behind(&mut self, why: &str, by: PeerId) {
        if !self.shared.ledger.note_behind() {
            return;
        }
        tracing::error!(alarm = true, peer = %by, "{why}");
        let entry = AuditRecord::new(AuditAction::LedgerBehind, "central").with("shown_by", &by).with("why", why);
        self.shared.audit(None, &entry.by(&Origin::central(), self.now()));
        self.shared.write_queue.push(None, RowWrite::LedgerBehind(why.to_owned()));
        for number in 0..self.points.len() {
            self.points[number].core.live.ledger_behind = true;
            self.touch(number);
        }
    }
}
