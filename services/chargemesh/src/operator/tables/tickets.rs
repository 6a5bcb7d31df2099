//! Tickets with their corrections.

use proto::{
    Price,
    central::v1::{Correction, Ticket},
    link::v1 as link,
};

use crate::{
    operator::api_message::{ApiMessage, at, money, payer, wh},
    output::{Columns, escaped},
};

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
        let document = link::Ticket::from(t.clone());
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
            match document.still_disputed_wh() {
                0 => String::new(),
                left => wh(left),
            },
            t.corrections.iter().map(corrected).collect::<Vec<_>>().join("; "),
            document.reason().in_words().to_owned(),
        ]
    }
}
