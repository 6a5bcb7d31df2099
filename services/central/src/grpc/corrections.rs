//! Corrections of tickets and settlements of disputes (SPEC 3.8): a ticket is never changed, a new entry names it, with
//! operator and reason. Each request id once: the same again gets the same answer, anything else under it is refused.
//! What is decided upon a ticket's earlier corrections is decided anew where another came meanwhile.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use mesh::{field_checks::FieldChecks, status::refuse};
use prost::Message as _;
use proto::{
    Energy, Price,
    central::v1::{CorrectTicketRequest, SettleDisputeRequest, Ticket},
    link::v1::{self as link, Reason},
};
use serde::Serialize;
use store::central::{AuditEntry, CommitRefusal, CorrectionRow, RowWrite, TicketRow};
use tonic::Status;

use super::{
    once::{self, OnceCall},
    unread, unwritten,
};
use crate::{
    audit::{AuditAction, AuditRecord},
    order::check_reason,
    origin::Origin,
    rows,
    shared::SharedState,
};

/// How often a correction is decided anew because others came first.
const TRIES: u32 = 10;
/// In watt-hours and in minor units: what one correction may add or take, and what a ticket may come to by it. No
/// register has ever counted as much; without a bound one slip would outgrow every sum that it is in.
const LARGEST: i64 = 1_000_000_000_000;

pub(super) struct Corrections {
    pub(super) shared: Arc<SharedState>,
}

/// What was asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum TicketChange {
    Correct { session_id: String, energy_delta_wh: i64, amount_delta_minor: i64, reason: String },
    Settle { session_id: String, owed_wh: u64, reason: String },
}

impl TicketChange {
    fn method(&self) -> &'static str {
        match self {
            Self::Correct { .. } => "CorrectTicket",
            Self::Settle { .. } => "SettleDispute",
        }
    }

    fn action(&self) -> AuditAction {
        match self {
            Self::Correct { .. } => AuditAction::TicketCorrected,
            Self::Settle { .. } => AuditAction::DisputeSettled,
        }
    }

    fn session_id(&self) -> &str {
        match self {
            Self::Correct { session_id, .. } | Self::Settle { session_id, .. } => session_id,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::Correct { reason, .. } | Self::Settle { reason, .. } => reason,
        }
    }

    fn decide(&self, ticket: &link::Ticket) -> Result<TicketDelta, (Reason, String)> {
        match self {
            Self::Correct { energy_delta_wh, amount_delta_minor, .. } => {
                correction(ticket, *energy_delta_wh, *amount_delta_minor).map_err(|why| (Reason::Invalid, why))
            }
            Self::Settle { owed_wh, .. } => settlement(ticket, *owed_wh),
        }
    }

    /// By which a repeat is told from another request under the same id.
    fn content(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Both name a ticket and say why.
fn check(checks: &mut FieldChecks, session_id: &str, reason: &str) {
    checks.not_empty("session_id", session_id);
    checks.not_empty("reason", reason);
    if let Err(why) = check_reason(reason) {
        checks.wrong("reason", why);
    }
}

/// What is to be appended, decided upon what was seen of a ticket.
#[derive(Debug, Default, PartialEq, Eq)]
struct TicketDelta {
    energy_delta_wh: i64,
    amount_delta_minor: i64,
    settled_wh: i64,
}

/// A correction changes something, nobody is owed for having charged, and nothing outgrows its sums.
///
/// # Errors
/// Says what would be left of the ticket.
fn correction(ticket: &link::Ticket, wh: i64, minor: i64) -> Result<TicketDelta, String> {
    if wh == 0 && minor == 0 {
        return Err("it changes neither energy nor amount".to_owned());
    }
    let owed = ticket.owed_minor();
    let deltas = ticket.corrections.iter().map(|c| c.energy_delta_wh);
    let energy = deltas.fold(rows::signed(ticket.energy_wh), i64::saturating_add);
    if owed.saturating_add(minor) < 0 {
        return Err(format!("{minor} minor units are more than the {owed} that are owed"));
    }
    if energy.saturating_add(wh) < 0 {
        return Err(format!("{wh} Wh are more than the {energy} Wh that are billed"));
    }
    for (delta, so_far, unit) in [(wh, energy, "Wh"), (minor, owed, "minor units")] {
        let too_much = delta > 0 && so_far.saturating_add(delta) > LARGEST;
        if too_much || delta.unsigned_abs() > LARGEST.unsigned_abs() {
            return Err(format!("{delta} {unit} are too many: no ticket comes to more than {LARGEST}"));
        }
    }
    Ok(TicketDelta { energy_delta_wh: wh, amount_delta_minor: minor, settled_wh: 0 })
}

/// What a settlement owes, in watt-hours and minor units.
///
/// # Errors
/// Where more is owed than is in dispute, or nothing is.
fn settlement(ticket: &link::Ticket, owed_wh: u64) -> Result<TicketDelta, (Reason, String)> {
    let open = ticket.still_disputed_wh();
    if open == 0 {
        return Err((Reason::WrongState, "nothing of this ticket is in dispute".to_owned()));
    }
    if owed_wh > open {
        return Err((Reason::Invalid, format!("{owed_wh} Wh are more than the {open} Wh in dispute")));
    }
    let price = Price::from_e4(ticket.price_e4);
    let owed = rows::signed(owed_wh);
    let currency = ticket.currency.parse().unwrap_or_default();
    // Rounded once over the whole (SPEC 3.6): what both together cost, less what is billed.
    let settlements = ticket.corrections.iter().filter(|c| c.settled_wh > 0).map(|c| c.energy_delta_wh);
    let owed_so_far = settlements.fold(0i64, i64::saturating_add);
    let amount = |wh: i64| price.amount(Energy::from_wh(rows::unsigned(wh)), currency).minor;
    let billed = rows::signed(ticket.energy_wh).saturating_add(owed_so_far);
    let amount_delta_minor = amount(billed.saturating_add(owed)).saturating_sub(amount(billed));
    Ok(TicketDelta { energy_delta_wh: owed, amount_delta_minor, settled_wh: rows::signed(open) })
}

impl Corrections {
    pub(super) async fn ticket(&self, session_id: &str) -> Result<Ticket, Status> {
        self.find(session_id).await.map(Ticket::from)
    }

    pub(super) async fn correct(&self, wanted: CorrectTicketRequest, by: Origin) -> Result<Ticket, Status> {
        let CorrectTicketRequest { request_id, session_id, energy_delta_wh, amount_delta_minor, reason } = wanted;
        let mut checks = FieldChecks::default();
        check(&mut checks, &session_id, &reason);
        if energy_delta_wh == 0 && amount_delta_minor == 0 {
            checks.wrong("amount_delta_minor", "neither it nor energy_delta_wh changes anything");
        }
        checks.finish()?;
        let asked = TicketChange::Correct { session_id, energy_delta_wh, amount_delta_minor, reason };
        self.append(&asked, &request_id, &by).await
    }

    pub(super) async fn settle(&self, wanted: SettleDisputeRequest, by: Origin) -> Result<Ticket, Status> {
        let SettleDisputeRequest { request_id, session_id, owed_wh, reason } = wanted;
        let mut checks = FieldChecks::default();
        check(&mut checks, &session_id, &reason);
        let owed_wh = checks.required("owed_wh", owed_wh);
        checks.finish()?;
        self.append(&TicketChange::Settle { session_id, owed_wh, reason }, &request_id, &by).await
    }

    /// Decides and appends. If another correction came first, it decides again, because the ticket has changed.
    async fn append(&self, asked: &TicketChange, request_id: &str, by: &Origin) -> Result<Ticket, Status> {
        let call = OnceCall::new(&by.actor, request_id, asked.method(), [asked.content()]);
        for _ in 0..TRIES {
            // The ticket is read first: a request id that is unknown afterwards was not used before it.
            let mut ticket = self.find(asked.session_id()).await?;
            if let Some(first) = call.first_answer(&self.shared).await? {
                return once::decoded(&first);
            }
            let decided = asked.decide(&ticket).map_err(|(reason, why)| refuse(reason, why))?;
            let correction = self.correction(asked, (&ticket, decided), by);
            let entry = self.entry(asked, &ticket, &correction, by);
            ticket.corrections.push(correction.clone().into());
            let answer = Ticket::from(ticket);
            let once = call.row(&answer.encode_to_vec(), correction.at_ms);
            let writes = vec![RowWrite::Once(once), RowWrite::Correction(correction), RowWrite::Audit(entry)];
            match self.shared.store.write("correction", writes).await {
                Ok(_) => return Ok(answer),
                Err(CommitRefusal::Repeated(first)) => return once::decoded(&first),
                Err(CommitRefusal::CorrectedMeanwhile) => {}
                Err(refusal) => return Err(unwritten(refusal)),
            }
        }
        Err(unwritten(CommitRefusal::CorrectedMeanwhile))
    }

    fn correction(
        &self,
        asked: &TicketChange,
        (ticket, decided): (&link::Ticket, TicketDelta),
        by: &Origin,
    ) -> CorrectionRow {
        let TicketDelta { energy_delta_wh, amount_delta_minor, settled_wh } = decided;
        CorrectionRow {
            session_id: ticket.session_id.clone(),
            number: CorrectionRow::next_number(&ticket.corrections),
            at_ms: self.shared.clock.wall_ms(),
            operator: by.actor.strip_prefix("operator/").unwrap_or(&by.actor).to_owned(),
            reason: asked.reason().to_owned(),
            energy_delta_wh,
            amount_delta_minor,
            settled_wh,
        }
    }

    fn entry(
        &self,
        asked: &TicketChange,
        ticket: &link::Ticket,
        correction: &CorrectionRow,
        by: &Origin,
    ) -> AuditEntry {
        let entry = AuditRecord::new(asked.action(), format!("charging-point/{}", ticket.charging_point_id))
            .with("session", &ticket.session_id)
            .with("energy_delta_wh", correction.energy_delta_wh)
            .with("amount_delta_minor", correction.amount_delta_minor)
            .with("reason", asked.reason());
        rows::audit(&entry.by(by, self.shared.clock.now()))
    }

    async fn find(&self, session_id: &str) -> Result<link::Ticket, Status> {
        let wanted = session_id.to_owned();
        let read = move |conn: &mut store::Conn| {
            let row = TicketRow::find(conn, &wanted)?;
            TicketRow::tickets(conn, row.as_slice())
        };
        let found = self.shared.store.read("ticket", read).await.map_err(unread)?.pop();
        found.ok_or_else(|| refuse(Reason::NotFound, format!("no ticket of session {session_id}")))
    }
}
