//! What a ticket comes to with its corrections.

use crate::link::v1::Ticket;

impl Ticket {
    /// The amount with all corrections, in minor units of the ticket's currency.
    pub fn owed_minor(&self) -> i64 {
        self.corrections.iter().fold(self.amount_minor, |sum, c| sum.saturating_add(c.amount_delta_minor))
    }

    /// The disputed energy that no correction has settled, in watt-hours.
    pub fn still_disputed_wh(&self) -> u64 {
        self.corrections.iter().fold(self.disputed_wh, |left, c| left.saturating_sub(c.settled_wh))
    }
}

#[cfg(test)]
mod tests {
    use crate::link::v1::{Correction, Reason, Ticket};

    #[test]
    fn corrections_change_what_is_owed_and_settle_what_is_disputed_spec_3_8() {
        let correction =
            |amount_delta_minor, settled_wh| Correction { amount_delta_minor, settled_wh, ..Correction::default() };
        let corrections = vec![correction(-20, 0), correction(5, 300)];
        let ticket = Ticket { amount_minor: 167, disputed_wh: 500, corrections, ..Ticket::default() };
        assert_eq!((ticket.owed_minor(), ticket.still_disputed_wh()), (152, 200));
    }

    #[test]
    fn a_ticket_survives_its_json_and_an_older_one_lacks_nothing_spec_3_9() {
        let ticket = Ticket {
            session_id: "s-1".into(),
            energy_wh: u64::MAX,
            reason: Reason::EnergyReached.into(),
            corrections: vec![Default::default()],
            ..Ticket::default()
        };
        let json = serde_json::to_value(&ticket).unwrap();
        assert_eq!(json["reason"], "ENERGY_REACHED");
        assert_eq!(serde_json::from_value::<Ticket>(json).unwrap(), ticket);
        let older = serde_json::from_str::<Ticket>(r#"{"session_id":"s-1"}"#).unwrap();
        assert_eq!(older, Ticket { session_id: "s-1".into(), ..Ticket::default() });
    }
}
