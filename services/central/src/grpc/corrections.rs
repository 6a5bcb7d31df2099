//! Corrections of tickets and settlements of disputes (SPEC 3.8): a ticket is never changed, a new entry names it, with
//! operator and reason. Each request id once: the same again gets the same answer, anything else under it is refused.

use std::sync::Arc;

use mesh::status::refuse;
use proto::{
    Energy, Price,
    central::v1::{CorrectTicketRequest, SettleDisputeRequest},
    link::v1::{Reason, Ticket},
};
use serde::Serialize;
use store::central::{CorrectionRow, OrderRow, OrderState, Refusal, TicketRow, Write};
use tonic::Status;

use super::{convert, orders::fresh_id, same_request, unread, unwritten};
use crate::{
    audit::{Action, Entry},
    charge_point::Origin,
    order::LONGEST,
    rows,
    shared::Shared,
};

pub(super) struct Corrections {
    pub(super) shared: Arc<Shared>,
}

/// What was asked for, as it is kept to be told from another use of its request id.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Asked {
    Correct { session_id: String, energy_delta_wh: i64, amount_delta_minor: i64, reason: String },
    Settle { session_id: String, owed_wh: u64, reason: String },
}

impl Asked {
    fn method(&self) -> &'static str {
        match self {
            Self::Correct { .. } => "CorrectTicket",
            Self::Settle { .. } => "SettleDispute",
        }
    }

    fn action(&self) -> Action {
        match self {
            Self::Correct { .. } => Action::TicketCorrected,
            Self::Settle { .. } => Action::DisputeSettled,
        }
    }

    fn at_rest(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn check_reason(reason: &str) -> Result<(), Status> {
    if reason.trim().is_empty() {
        return Err(refuse(Reason::Invalid, "say why: a correction of a ticket and a settlement need a reason"));
    }
    let length = reason.chars().count();
    if length > LONGEST {
        return Err(refuse(Reason::Invalid, format!("a reason of {length} characters; at most {LONGEST}")));
    }
    Ok(())
}

/// A correction changes something, and nobody is owed for having charged.
///
/// # Errors
/// Says what would be left of the ticket.
fn check_correction(ticket: &TicketRow, before: &[CorrectionRow], wh: i64, minor: i64) -> Result<(), String> {
    if wh == 0 && minor == 0 {
        return Err("it changes neither energy nor amount".to_owned());
    }
    let sum = |of: fn(&CorrectionRow) -> i64| before.iter().map(of).fold(0i64, i64::saturating_add);
    let owed = ticket.amount_minor.saturating_add(sum(|row| row.amount_delta_minor));
    let energy = ticket.energy_wh.saturating_add(sum(|row| row.energy_delta_wh));
    if owed.saturating_add(minor) < 0 {
        return Err(format!("{minor} minor units are more than the {owed} that are owed"));
    }
    if energy.saturating_add(wh) < 0 {
        return Err(format!("{wh} Wh are more than the {energy} Wh that are billed"));
    }
    Ok(())
}

/// What a settlement owes, in watt-hours and minor units.
///
/// # Errors
/// Where more is owed than is in dispute, or nothing is.
fn settlement(ticket: &TicketRow, before: &[CorrectionRow], owed_wh: u64) -> Result<(i64, i64, i64), (Reason, String)> {
    let open = ticket.disputed_wh - before.iter().map(|row| row.settled_wh).sum::<i64>();
    let owed = i64::try_from(owed_wh).unwrap_or(i64::MAX);
    if open <= 0 {
        return Err((Reason::NotFound, "nothing of this ticket is in dispute".to_owned()));
    }
    if owed > open {
        return Err((Reason::Invalid, format!("{owed} Wh are more than the {open} Wh in dispute")));
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
        check_reason(&wanted.reason)?;
        let asked = Asked::Correct {
            session_id: wanted.session_id.clone(),
            energy_delta_wh: wanted.energy_delta_wh,
            amount_delta_minor: wanted.amount_delta_minor,
            reason: wanted.reason.clone(),
        };
        // Before it is looked at: what it corrected is corrected.
        if let Some(first) = self.given_before(&by, &wanted.request_id).await? {
            same_request(&first, asked.method(), &asked.at_rest())?;
            return self.ticket(&wanted.session_id).await;
        }
        let (ticket, before) = self.find(&wanted.session_id).await?;
        check_correction(&ticket, &before, wanted.energy_delta_wh, wanted.amount_delta_minor)
            .map_err(|why| refuse(Reason::Invalid, why))?;
        let correction = CorrectionRow {
            session_id: wanted.session_id,
            energy_delta_wh: wanted.energy_delta_wh,
            amount_delta_minor: wanted.amount_delta_minor,
            reason: wanted.reason,
            ..CorrectionRow::default()
        };
        self.append(correction, &asked, (wanted.request_id, &ticket.cp_id), by).await
    }

    pub(super) async fn settle(&self, wanted: SettleDisputeRequest, by: Origin) -> Result<Ticket, Status> {
        check_reason(&wanted.reason)?;
        let asked = Asked::Settle {
            session_id: wanted.session_id.clone(),
            owed_wh: wanted.owed_wh,
            reason: wanted.reason.clone(),
        };
        // Before it is looked at: what it settled is not in dispute any more.
        if let Some(first) = self.given_before(&by, &wanted.request_id).await? {
            same_request(&first, asked.method(), &asked.at_rest())?;
            return self.ticket(&wanted.session_id).await;
        }
        let (ticket, before) = self.find(&wanted.session_id).await?;
        let settled = settlement(&ticket, &before, wanted.owed_wh).map_err(|(reason, why)| refuse(reason, why))?;
        let (energy_delta_wh, amount_delta_minor, settled_wh) = settled;
        let correction = CorrectionRow {
            session_id: wanted.session_id,
            energy_delta_wh,
            amount_delta_minor,
            settled_wh,
            reason: wanted.reason,
            ..CorrectionRow::default()
        };
        self.append(correction, &asked, (wanted.request_id, &ticket.cp_id), by).await
    }

    async fn append(
        &self,
        correction: CorrectionRow,
        asked: &Asked,
        (request_id, cp_id): (String, &str),
        by: Origin,
    ) -> Result<Ticket, Status> {
        let now = self.shared.clock.now();
        let session_id = correction.session_id.clone();
        let name = by.actor.strip_prefix("operator/").unwrap_or(&by.actor).to_owned();
        let correction = CorrectionRow { at_ms: now.wall_ms, operator: name, ..correction };
        let entry = Entry::new(asked.action(), format!("charging-point/{cp_id}"))
            .with("session", &session_id)
            .with("energy_delta_wh", correction.energy_delta_wh)
            .with("amount_delta_minor", correction.amount_delta_minor)
            .with("reason", &correction.reason);
        let order = OrderRow {
            order_id: fresh_id(),
            operator: by.actor.to_string(),
            request_id,
            method: asked.method().to_owned(),
            at_ms: now.wall_ms,
            state: OrderState::Done.into(),
            body: asked.at_rest(),
            ..OrderRow::default()
        };
        let entry = Write::Audit(rows::audit(&entry.by(&by, now)));
        let writes = vec![Write::Order(order), Write::Correction(correction), entry];
        match self.shared.ledger.write("correction", writes).await {
            Ok(_) => self.ticket(&session_id).await,
            Err(Refusal::RepeatedOrder(first)) => {
                same_request(&first, asked.method(), &asked.at_rest())?;
                self.ticket(&session_id).await
            }
            Err(refusal) => Err(unwritten(refusal)),
        }
    }

    async fn given_before(&self, by: &Origin, request_id: &str) -> Result<Option<OrderRow>, Status> {
        let (operator, wanted) = (by.actor.to_string(), request_id.to_owned());
        let read = move |conn: &mut store::Conn| OrderRow::of_request(conn, &operator, &wanted);
        self.shared.ledger.read("order", read).await.map_err(unread)
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
    fn a_correction_changes_something_and_leaves_nothing_negative_spec_3_8() {
        let ticket = TicketRow { amount_minor: 87, ..ticket() };
        let before = [CorrectionRow { amount_delta_minor: -20, ..CorrectionRow::default() }];
        assert_eq!(check_correction(&ticket, &before, 0, -67), Ok(()), "all of it can be waived");
        assert_eq!(check_correction(&ticket, &before, 10, 0), Ok(()));
        assert!(check_correction(&ticket, &before, 0, -68).unwrap_err().contains("the 67 that are owed"));
        assert!(check_correction(&ticket, &[], 0, i64::MIN).is_err());
        assert!(check_correction(&ticket, &[], -10_001, 0).unwrap_err().contains("10000 Wh that are billed"));
        assert!(check_correction(&ticket, &[], 0, 0).unwrap_err().contains("changes neither"));
    }

    #[test]
    fn what_is_not_in_dispute_is_told_from_a_wrong_number_spec_3_8() {
        let reason = |ticket: &TicketRow, wh| settlement(ticket, &[], wh).unwrap_err().0;
        assert_eq!(reason(&ticket(), 501), Reason::Invalid);
        assert_eq!(reason(&TicketRow { disputed_wh: 0, ..ticket() }, 1), Reason::NotFound);
    }

    fn kept(asked: &Asked) -> OrderRow {
        let (method, body) = (asked.method().to_owned(), asked.at_rest());
        OrderRow { method, body, request_id: "r1".into(), ..OrderRow::default() }
    }

    fn correct(session_id: &str, amount_delta_minor: i64) -> Asked {
        let (session_id, reason) = (session_id.into(), "meter fault".into());
        Asked::Correct { session_id, energy_delta_wh: 0, amount_delta_minor, reason }
    }

    #[test]
    fn another_use_of_a_request_id_is_an_error_and_loses_no_correction_spec_7_3() {
        let first = kept(&correct("s1", -100));
        let again = |asked: &Asked| same_request(&first, asked.method(), &asked.at_rest());
        assert!(again(&correct("s1", -100)).is_ok(), "the same again gets the same answer");
        let settle = Asked::Settle { session_id: "s1".into(), owed_wh: 0, reason: "meter fault".into() };
        for other in [correct("s1", -200), correct("s2", -100), settle] {
            let refused = again(&other).unwrap_err();
            assert!(refused.message().contains("\"r1\" was used for"), "{}", refused.message());
        }
    }

    #[test]
    fn corrections_and_settlements_need_a_reason_spec_3_8() {
        assert!(check_reason(" ").is_err());
        assert!(check_reason("meter fault").is_ok());
    }

    #[test]
    fn a_dispute_is_settled_once_spec_3_8() {
        let before = CorrectionRow { settled_wh: 500, energy_delta_wh: 200, ..CorrectionRow::default() };
        assert!(settlement(&ticket(), &[before], 100).is_err());
    }
}
