//! A ticket as one line of a list, and as text to print (SPEC 3.9).

use std::fmt;

use mesh::screen::escaped;
use proto::{Energy, Price, link::v1::Ticket};

use crate::format::{money, utc};

/// A ticket as one line of a list.
pub(crate) fn line(ticket: &Ticket) -> String {
    format!(
        "{}  {:<16} {:>14} {:>12}  {}  {}",
        utc(ticket.ended_at_ms),
        ticket.charging_point_id,
        Energy::from_wh(ticket.energy_wh).to_string(),
        money(ticket.owed_minor(), &ticket.currency).to_string(),
        ticket.session_id,
        ticket.reason().in_words()
    )
}

/// A ticket as text to print.
#[derive(Clone, Copy, Debug)]
pub struct PrintedTicket<'a>(pub &'a Ticket);

impl fmt::Display for PrintedTicket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ticket = self.0;
        let payer =
            if ticket.driver_id.is_empty() { "the charging point's own account" } else { ticket.driver_id.as_str() };
        writeln!(f, "+-- TICKET {}", ticket.session_id)?;
        writeln!(f, "| driver          {payer}")?;
        writeln!(f, "| charging point  {}  {}", ticket.charging_point_id, escaped(&ticket.place))?;
        writeln!(f, "| from            {}", utc(ticket.started_at_ms))?;
        writeln!(f, "| to              {}", utc(ticket.ended_at_ms))?;
        writeln!(f, "| energy          {}", Energy::from_wh(ticket.energy_wh))?;
        writeln!(f, "| price           {} {}/kWh", Price::from_e4(ticket.price_e4), ticket.currency)?;
        writeln!(f, "| amount          {}", money(ticket.amount_minor, &ticket.currency))?;
        if ticket.disputed_wh > 0 {
            let (disputed, left) = (Energy::from_wh(ticket.disputed_wh), Energy::from_wh(ticket.still_disputed_wh()));
            match left.wh() {
                0 => writeln!(f, "| disputed        {disputed}, settled")?,
                _ if left == disputed => writeln!(f, "| disputed        {disputed}, not billed")?,
                _ => writeln!(f, "| disputed        {disputed}, of which {left} is not settled")?,
            }
        }
        for c in &ticket.corrections {
            let amount = money(c.amount_delta_minor, &ticket.currency);
            writeln!(f, "| correction {:<4} {amount}, {} Wh: {}", c.number, c.energy_delta_wh, escaped(&c.reason))?;
        }
        if !ticket.corrections.is_empty() {
            writeln!(f, "| owed            {}", money(ticket.owed_minor(), &ticket.currency))?;
        }
        write!(f, "+-- ended: {}", ticket.reason().in_words())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proto::link::v1::Reason;

    use super::*;

    #[test]
    fn a_ticket_names_all_that_spec_3_9_asks_for_and_escapes_what_comes_from_outside() {
        let ticket = Ticket {
            session_id: "s-1".into(),
            driver_id: "ann".into(),
            charging_point_id: "CP-1".into(),
            place: "Main\u{1b}[2J street".into(),
            started_at_ms: 1_551_421_200_000,
            ended_at_ms: 1_551_426_000_000,
            energy_wh: 4216,
            price_e4: 3950,
            amount_minor: 167,
            currency: "EUR".into(),
            reason: Reason::EnergyReached.into(),
            disputed_wh: 0,
            meter_start_wh: 10,
            meter_end_wh: 4226,
            corrections: Vec::new(),
            signed: None,
        };
        expect![[r#"
            +-- TICKET s-1
            | driver          ann
            | charging point  CP-1  Main\u{1b}[2J street
            | from            2019-03-01 06:20:00 UTC
            | to              2019-03-01 07:40:00 UTC
            | energy          4.216 kWh
            | price           0.3950 EUR/kWh
            | amount          1.67 EUR
            +-- ended: the requested energy was reached"#]]
        .assert_eq(&PrintedTicket(&ticket).to_string());
    }

    #[test]
    fn what_is_disputed_is_shown_with_what_a_correction_settled_of_it_spec_3_8() {
        let settled = |settled_wh| proto::link::v1::Correction { number: 1, settled_wh, ..Default::default() };
        let shown = |corrections| {
            let ticket = Ticket { disputed_wh: 500, corrections, ..Ticket::default() };
            let text = PrintedTicket(&ticket).to_string();
            text.lines().find(|line| line.contains("disputed")).unwrap().to_owned()
        };
        assert_eq!(shown(Vec::new()), "| disputed        0.500 kWh, not billed");
        assert_eq!(shown(vec![settled(200)]), "| disputed        0.500 kWh, of which 0.300 kWh is not settled");
        assert_eq!(shown(vec![settled(200), settled(300)]), "| disputed        0.500 kWh, settled");
    }
}
