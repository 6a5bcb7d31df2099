//! Corrections of tickets and settlements of disputes (SPEC 3.8): a ticket is never changed, a new entry names it, with
//! operator and reason. Each request id once.

use std::sync::Arc;

use mesh::status::refuse;
use proto::{
    Energy, Price,
    central::v1::{CorrectTicketRequest, SettleDisputeRequest},
    link::v1::{Reason, Ticket},
};
use store::central::{CorrectionRow, OrderRow, OrderState, Refusal, TicketRow, Write};
use tonic::Status;

use super::{convert, orders::fresh_id, unread, unwritten};
use crate::{
    audit::{Action, Entry},
    charge_point::Origin,
    rows,
    shared::Shared,
};

pub(super) struct Corrections {
    pub(super) shared: Arc<Shared>,
}

/// What a settlement owes, in watt-hours and minor units.
///
/// # Errors
/// Where more is owed than is in dispute, or nothing is.
fn settlement(ticket: &TicketRow, before: &[CorrectionRow], owed_wh: u64) -> Result<(i64, i64, i64), String> {
    let open = ticket.disputed_wh - before.iter().map(|row| row.settled_wh).sum::<i64>();
    let owed = i64::try_from(owed_wh).unwrap_or(i64::MAX);
    if open <= 0 {
        return Err("nothing of this ticket is in dispute".to_owned());
    }
    if owed > open {
        return Err(format!("{owed} Wh are more than the {open} Wh in dispute"));
    }
    let price = Price::from_e4(u32::try_from(ticket.price_e4).unwrap_or(u32::MAX));
    let currency = ticket.currency.parse().unwrap_or_default();
    // Rounded once over the whole (SPEC 3.6): what both together cost, less what is billed.
    let owed_so_far: i64 = before.iter().filter(|row| row.settled_wh > 0).map(|row| row.energy_delta_wh).sum();
    let amount = |wh: i64| price.amount(Energy::from_wh(rows::unsigned(wh)), currency).minor;
    let billed = ticket.energy_wh + owed_so_far;
    Ok((owed, amount(billed + owed) - amount(billed), open))
}

impl Corrections {
    pub(super) async fn ticket(&self, session_id: &str) -> Result<Ticket, Status> {
        let (row, corrections) = self.find(session_id).await?;
        convert::tickets(&[row], &corrections)
            .pop()
            .ok_or_else(|| refuse(Reason::NotFound, format!("no ticket of session {session_id}")))
    }

    pub(super) async fn correct(&self, wanted: CorrectTicketRequest, by: Origin) -> Result<Ticket, Status> {
        if wanted.reason.trim().is_empty() {
            return Err(refuse(Reason::Invalid, "a correction needs a reason"));
        }
        self.find(&wanted.session_id).await?;
        let correction = CorrectionRow {
            session_id: wanted.session_id,
            energy_delta_wh: wanted.energy_delta_wh,
            amount_delta_minor: wanted.amount_delta_minor,
            reason: wanted.reason,
            ..CorrectionRow::default()
        };
        self.append(correction, (Action::TicketCorrected, "CorrectTicket"), wanted.request_id, by).await
    }

    pub(super) async fn settle(&self, wanted: SettleDisputeRequest, by: Origin) -> Result<Ticket, Status> {
        if self.was_given(&by, &wanted.request_id).await? {
            return self.ticket(&wanted.session_id).await;
        }
        let (ticket, before) = self.find(&wanted.session_id).await?;
        let settled = settlement(&ticket, &before, wanted.owed_wh).map_err(|why| refuse(Reason::Invalid, why))?;
        let (energy_delta_wh, amount_delta_minor, settled_wh) = settled;
        let correction = CorrectionRow {
            session_id: wanted.session_id,
            energy_delta_wh,
            amount_delta_minor,
            settled_wh,
            reason: wanted.reason,
            ..CorrectionRow::default()
        };
        self.append(correction, (Action::DisputeSettled, "SettleDispute"), wanted.request_id, by).await
    }

    async fn append(
        &self,
        correction: CorrectionRow,
        (action, method): (Action, &str),
        request_id: String,
        by: Origin,
    ) -> Result<Ticket, Status> {
        let now = self.shared.clock.now();
        let session_id = correction.session_id.clone();
        let name = by.actor.strip_prefix("operator/").unwrap_or(&by.actor).to_owned();
        let correction = CorrectionRow { at_ms: now.wall_ms, operator: name, ..correction };
        let entry = Entry::new(action, format!("ticket/{session_id}"))
            .with("energy_delta_wh", correction.energy_delta_wh)
            .with("amount_delta_minor", correction.amount_delta_minor)
            .with("reason", &correction.reason);
        let order = OrderRow {
            order_id: fresh_id(),
            operator: by.actor.to_string(),
            request_id,
            method: method.to_owned(),
            at_ms: now.wall_ms,
            state: OrderState::Done.into(),
            ..OrderRow::default()
        };
        let entry = Write::Audit(rows::audit(&entry.by(&by, now)));
        let writes = vec![Write::Order(order), Write::Correction(correction), entry];
        match self.shared.ledger.write("correction", writes).await {
            Ok(_) | Err(Refusal::RepeatedOrder(_)) => self.ticket(&session_id).await,
            Err(refusal) => Err(unwritten(refusal)),
        }
    }

    async fn was_given(&self, by: &Origin, request_id: &str) -> Result<bool, Status> {
        let (operator, wanted) = (by.actor.to_string(), request_id.to_owned());
        let read = move |conn: &mut store::Conn| OrderRow::of_request(conn, &operator, &wanted);
        Ok(self.shared.ledger.read("order", read).await.map_err(unread)?.is_some())
    }

    async fn find(&self, session_id: &str) -> Result<(TicketRow, Vec<CorrectionRow>), Status> {
        let wanted = session_id.to_owned();
        let read = move |conn: &mut store::Conn| {
            Ok((TicketRow::find(conn, &wanted)?, CorrectionRow::of(conn, &[wanted.as_str()])?))
        };
        let (row, corrections) = self.shared.ledger.read("ticket", read).await.map_err(unread)?;
        let missing = || refuse(Reason::NotFound, format!("no ticket of session {session_id}"));
        Ok((row.ok_or_else(missing)?, corrections))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> TicketRow {
        TicketRow {
            energy_wh: 10_000,
            disputed_wh: 500,
            price_e4: 3_950,
            currency: "EUR".into(),
            ..TicketRow::default()
        }
    }

    #[test]
    fn a_settlement_owes_at_most_what_is_in_dispute_spec_3_8() {
        assert_eq!(settlement(&ticket(), &[], 500), Ok((500, 20, 500)));
        assert_eq!(settlement(&ticket(), &[], 0), Ok((0, 0, 500)), "the rest is waived");
        assert!(settlement(&ticket(), &[], 501).is_err());
    }

    #[test]
    fn a_dispute_is_settled_once_spec_3_8() {
        let before = CorrectionRow { settled_wh: 500, energy_delta_wh: 200, ..CorrectionRow::default() };
        assert!(settlement(&ticket(), &[before], 100).is_err());
    }
}
