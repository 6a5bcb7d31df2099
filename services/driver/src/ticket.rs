//! A ticket as JSON, as one line of a list, and as text to print (SPEC 3.9).

use std::fmt;

use mesh::screen::escaped;
use proto::{
    Energy, Price,
    link::v1::{Reason, Ticket},
};
use serde::{Deserialize, Serialize};

use crate::format::{money, utc};

/// A ticket as it is stored in `tickets.jsonl` and printed by `--json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketText {
    pub session: String,
    /// Empty: the charging point's own account.
    pub driver: String,
    pub charging_point: String,
    pub place: String,
    /// Milliseconds since 1970, UTC.
    pub started_at_ms: i64,
    pub ended_at_ms: i64,
    pub energy_wh: u64,
    /// Price per kWh in ten-thousandths of the currency's unit.
    pub price_e4: u32,
    pub amount_minor: i64,
    pub currency: String,
    /// Why the supply ended: the name of a reason.
    pub reason: String,
    pub reason_in_words: String,
    pub disputed_wh: u64,
    pub meter_start_wh: u64,
    pub meter_end_wh: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub corrections: Vec<CorrectionText>,
}

/// An operator's correction of a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorrectionText {
    pub number: u32,
    pub at_ms: i64,
    pub operator: String,
    pub reason: String,
    pub energy_delta_wh: i64,
    pub amount_delta_minor: i64,
    /// How much of the disputed energy it settles.
    pub settled_wh: u64,
}

impl From<Ticket> for TicketText {
    fn from(t: Ticket) -> Self {
        let reason: Reason = t.reason();
        Self {
            reason: reason.code().to_owned(),
            reason_in_words: reason.in_words().to_owned(),
            session: t.session_id,
            driver: t.driver_id,
            charging_point: t.charging_point_id,
            place: t.place,
            started_at_ms: t.started_at_ms,
            ended_at_ms: t.ended_at_ms,
            energy_wh: t.energy_wh,
            price_e4: t.price_e4,
            amount_minor: t.amount_minor,
            currency: t.currency,
            disputed_wh: t.disputed_wh,
            meter_start_wh: t.meter_start_wh,
            meter_end_wh: t.meter_end_wh,
            corrections: t
                .corrections
                .into_iter()
                .map(|c| CorrectionText {
                    number: c.number,
                    at_ms: c.at_ms,
                    operator: c.operator,
                    reason: c.reason,
                    energy_delta_wh: c.energy_delta_wh,
                    amount_delta_minor: c.amount_delta_minor,
                    settled_wh: c.settled_wh,
                })
                .collect(),
        }
    }
}

impl TicketText {
    /// The ticket as one line of a list.
    pub fn line(&self) -> String {
        format!(
            "{}  {:<16} {:>14} {:>12}  {}  {}",
            utc(self.ended_at_ms),
            self.charging_point,
            Energy::from_wh(self.energy_wh).to_string(),
            money(self.owed_minor(), &self.currency).to_string(),
            self.session,
            self.reason_in_words
        )
    }

    /// Disputed energy that no correction has settled.
    pub fn still_disputed_wh(&self) -> u64 {
        self.corrections.iter().fold(self.disputed_wh, |left, c| left.saturating_sub(c.settled_wh))
    }

    /// The amount with all corrections.
    pub fn owed_minor(&self) -> i64 {
        self.corrections.iter().fold(self.amount_minor, |sum, c| sum.saturating_add(c.amount_delta_minor))
    }
}

impl fmt::Display for TicketText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payer = if self.driver.is_empty() { "the charging point's own account" } else { self.driver.as_str() };
        writeln!(f, "+-- TICKET {}", self.session)?;
        writeln!(f, "| driver          {payer}")?;
        writeln!(f, "| charging point  {}  {}", self.charging_point, escaped(&self.place))?;
        writeln!(f, "| from            {}", utc(self.started_at_ms))?;
        writeln!(f, "| to              {}", utc(self.ended_at_ms))?;
        writeln!(f, "| energy          {}", Energy::from_wh(self.energy_wh))?;
        writeln!(f, "| price           {} {}/kWh", Price::from_e4(self.price_e4), self.currency)?;
        writeln!(f, "| amount          {}", money(self.amount_minor, &self.currency))?;
        if self.disputed_wh > 0 {
            let (disputed, left) = (Energy::from_wh(self.disputed_wh), Energy::from_wh(self.still_disputed_wh()));
            match left.wh() {
                0 => writeln!(f, "| disputed        {disputed}, settled")?,
                _ if left == disputed => writeln!(f, "| disputed        {disputed}, not billed")?,
                _ => writeln!(f, "| disputed        {disputed}, of which {left} is not settled")?,
            }
        }
        for c in &self.corrections {
            let amount = money(c.amount_delta_minor, &self.currency);
            writeln!(f, "| correction {:<4} {amount}, {} Wh: {}", c.number, c.energy_delta_wh, escaped(&c.reason))?;
        }
        if !self.corrections.is_empty() {
            writeln!(f, "| owed            {}", money(self.owed_minor(), &self.currency))?;
        }
        write!(f, "+-- ended: {}", self.reason_in_words)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_ticket_names_all_that_spec_3_9_asks_for_and_escapes_what_comes_from_outside() {
        let ticket = TicketText::from(Ticket {
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
        });
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
        .assert_eq(&ticket.to_string());
    }

    #[test]
    fn what_is_disputed_is_shown_with_what_a_correction_settled_of_it_spec_3_8() {
        let settled = |settled_wh| proto::link::v1::Correction { number: 1, settled_wh, ..Default::default() };
        let shown = |corrections| {
            let ticket = TicketText::from(Ticket { disputed_wh: 500, corrections, ..Ticket::default() });
            let text = ticket.to_string();
            text.lines().find(|line| line.contains("disputed")).unwrap().to_owned()
        };
        assert_eq!(shown(Vec::new()), "| disputed        0.500 kWh, not billed");
        assert_eq!(shown(vec![settled(200)]), "| disputed        0.500 kWh, of which 0.300 kWh is not settled");
        assert_eq!(shown(vec![settled(200), settled(300)]), "| disputed        0.500 kWh, settled");
    }
}
