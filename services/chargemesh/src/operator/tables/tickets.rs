//! Tickets with their corrections.

use driver::{CorrectionText, TicketText};
use proto::{
    Price,
    central::v1::{Correction, Ticket},
    link::v1::Reason,
    millis,
};

use crate::{
    operator::api_message::{ApiMessage, at, money, payer, wh},
    output::{Columns, escaped},
};

/// As a driver has it on disk and prints it.
pub(crate) fn ticket_text(ticket: Ticket) -> TicketText {
    let reason = Reason::of_code(&ticket.reason_code).unwrap_or_default();
    TicketText {
        session: ticket.session_id,
        driver: ticket.driver_id,
        charging_point: ticket.charging_point_id,
        place: ticket.place,
        started_at_ms: millis(ticket.start_time.as_ref()),
        ended_at_ms: millis(ticket.end_time.as_ref()),
        energy_wh: ticket.energy_wh,
        price_e4: ticket.price_e4,
        amount_minor: ticket.amount_minor,
        currency: ticket.currency,
        reason: ticket.reason_code,
        reason_in_words: reason.in_words().to_owned(),
        disputed_wh: ticket.disputed_wh,
        meter_start_wh: ticket.meter_start_wh,
        meter_end_wh: ticket.meter_end_wh,
        corrections: ticket.corrections.into_iter().map(correction_text).collect(),
    }
}

fn correction_text(correction: Correction) -> CorrectionText {
    CorrectionText {
        number: correction.number,
        at_ms: millis(correction.create_time.as_ref()),
        operator: correction.operator,
        reason: correction.reason,
        energy_delta_wh: correction.energy_delta_wh,
        amount_delta_minor: correction.amount_delta_minor,
        settled_wh: correction.settled_wh,
    }
}

impl Columns for ApiMessage<Ticket> {
    const HEADERS: &'static [&'static str] = &[
        "session",
        "charging point",
        "place",
        "driver",
        "start",
        "end",
        "energy",
        "price",
        "amount",
        "disputed",
        "corrections",
        "ended by",
    ];
    fn cells(&self) -> Vec<String> {
        let t = &self.0;
        let text = ticket_text(t.clone());
        let corrected = |c: &Correction| {
            let amount = money(c.amount_delta_minor, &t.currency);
            format!("{amount} by {}: {}", escaped(&c.operator), escaped(&c.reason))
        };
        vec![
            t.session_id.clone(),
            t.charging_point_id.clone(),
            escaped(&t.place),
            payer(&t.driver_id),
            at(t.start_time.as_ref()),
            at(t.end_time.as_ref()),
            wh(t.energy_wh),
            Price::from_e4(t.price_e4).to_string(),
            money(t.amount_minor, &t.currency),
            match text.still_disputed_wh() {
                0 => String::new(),
                left => wh(left),
            },
            t.corrections.iter().map(corrected).collect::<Vec<_>>().join("; "),
            text.reason_in_words,
        ]
    }
}
