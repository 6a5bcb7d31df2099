//! Tickets: what they come to with their corrections, and the document and its public form as each other.

use prost::Message as _;

use crate::{
    central::v1 as public,
    link::v1::{Correction, Reason, SignedDocument, Ticket},
    millis, timestamp,
};

impl Ticket {
    /// The bytes that Central signs and stores: the ticket without corrections and signature.
    pub fn document(&self) -> Vec<u8> {
        Self { corrections: Vec::new(), signed: None, ..self.clone() }.encode_to_vec()
    }

    /// The ticket that a signed document contains, together with it; nothing where the bytes are no ticket. Whether the
    /// signature holds is another question.
    pub fn of_document(signed: SignedDocument) -> Option<Self> {
        let ticket = Self::decode(signed.document.as_slice()).ok()?;
        let is_bare = ticket.corrections.is_empty() && ticket.signed.is_none() && !ticket.session_id.is_empty();
        is_bare.then_some(Self { signed: Some(signed), ..ticket })
    }

    /// The amount with all corrections, in minor units of the ticket's currency.
    pub fn owed_minor(&self) -> i64 {
        self.corrections.iter().fold(self.amount_minor, |sum, c| sum.saturating_add(c.amount_delta_minor))
    }

    /// The disputed energy that no correction has settled, in watt-hours.
    pub fn still_disputed_wh(&self) -> u64 {
        self.corrections.iter().fold(self.disputed_wh, |left, c| left.saturating_sub(c.settled_wh))
    }
}

impl From<Ticket> for public::Ticket {
    fn from(ticket: Ticket) -> Self {
        Self {
            reason_code: ticket.reason().public_code(),
            session_id: ticket.session_id,
            driver_id: ticket.driver_id,
            charging_point_id: ticket.charging_point_id,
            place: ticket.place,
            start_time: timestamp(ticket.started_at_ms),
            end_time: timestamp(ticket.ended_at_ms),
            energy_wh: ticket.energy_wh,
            price_e4: ticket.price_e4,
            amount_minor: ticket.amount_minor,
            currency: ticket.currency,
            disputed_wh: ticket.disputed_wh,
            meter_start_wh: ticket.meter_start_wh,
            meter_end_wh: ticket.meter_end_wh,
            corrections: ticket.corrections.into_iter().map(Into::into).collect(),
            signed: ticket.signed.map(Into::into),
        }
    }
}

impl From<public::Ticket> for Ticket {
    fn from(ticket: public::Ticket) -> Self {
        Self {
            reason: Reason::of_code(&ticket.reason_code).unwrap_or_default().into(),
            session_id: ticket.session_id,
            driver_id: ticket.driver_id,
            charging_point_id: ticket.charging_point_id,
            place: ticket.place,
            started_at_ms: millis(ticket.start_time.as_ref()),
            ended_at_ms: millis(ticket.end_time.as_ref()),
            energy_wh: ticket.energy_wh,
            price_e4: ticket.price_e4,
            amount_minor: ticket.amount_minor,
            currency: ticket.currency,
            disputed_wh: ticket.disputed_wh,
            meter_start_wh: ticket.meter_start_wh,
            meter_end_wh: ticket.meter_end_wh,
            corrections: ticket.corrections.into_iter().map(Into::into).collect(),
            signed: ticket.signed.map(Into::into),
        }
    }
}

impl From<SignedDocument> for public::SignedDocument {
    fn from(SignedDocument { document, key_id, signature }: SignedDocument) -> Self {
        Self { document, key_id, signature }
    }
}

impl From<public::SignedDocument> for SignedDocument {
    fn from(public::SignedDocument { document, key_id, signature }: public::SignedDocument) -> Self {
        Self { document, key_id, signature }
    }
}

/// Bytes in JSON, as protobuf's own JSON has them.
pub(crate) mod base64_text {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        BASE64_STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl From<Correction> for public::Correction {
    fn from(correction: Correction) -> Self {
        Self {
            number: correction.number,
            create_time: timestamp(correction.at_ms),
            operator: correction.operator,
            reason: correction.reason,
            energy_delta_wh: correction.energy_delta_wh,
            amount_delta_minor: correction.amount_delta_minor,
            settled_wh: correction.settled_wh,
        }
    }
}

impl From<public::Correction> for Correction {
    fn from(correction: public::Correction) -> Self {
        Self {
            number: correction.number,
            at_ms: millis(correction.create_time.as_ref()),
            operator: correction.operator,
            reason: correction.reason,
            energy_delta_wh: correction.energy_delta_wh,
            amount_delta_minor: correction.amount_delta_minor,
            settled_wh: correction.settled_wh,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::link::v1::{Correction, Reason, SignedDocument, Ticket};

    #[test]
    fn corrections_change_what_is_owed_and_settle_what_is_disputed_spec_3_8() {
        let correction =
            |amount_delta_minor, settled_wh| Correction { amount_delta_minor, settled_wh, ..Correction::default() };
        let corrections = vec![correction(-20, 0), correction(5, 300)];
        let ticket = Ticket { amount_minor: 167, disputed_wh: 500, corrections, ..Ticket::default() };
        assert_eq!((ticket.owed_minor(), ticket.still_disputed_wh()), (152, 200));
    }

    #[test]
    fn the_public_form_of_a_ticket_says_all_that_the_document_says_spec_3_9() {
        let correction =
            Correction { at_ms: 1_551_398_401_000, operator: "ana".into(), settled_wh: 5, ..Correction::default() };
        let ticket = Ticket {
            session_id: "s-1".into(),
            started_at_ms: 1_551_398_400_007,
            meter_end_wh: 7,
            reason: Reason::EnergyReached.into(),
            corrections: vec![correction],
            signed: Some(SignedDocument { document: vec![1], key_id: "k".into(), signature: vec![2] }),
            ..Ticket::default()
        };
        assert_eq!(Ticket::from(crate::central::v1::Ticket::from(ticket.clone())), ticket);
    }

    #[test]
    fn a_ticket_survives_its_json_and_an_older_one_lacks_nothing_spec_3_9() {
        let ticket = Ticket {
            session_id: "s-1".into(),
            energy_wh: u64::MAX,
            reason: Reason::EnergyReached.into(),
            corrections: vec![Default::default()],
            signed: Some(SignedDocument { document: vec![0, 255], key_id: "k".into(), signature: vec![7; 64] }),
            ..Ticket::default()
        };
        let json = serde_json::to_value(&ticket).unwrap();
        assert_eq!(json["reason"], "ENERGY_REACHED");
        assert_eq!(serde_json::from_value::<Ticket>(json).unwrap(), ticket);
        let older = serde_json::from_str::<Ticket>(r#"{"session_id":"s-1"}"#).unwrap();
        assert_eq!(older, Ticket { session_id: "s-1".into(), ..Ticket::default() });
    }
}
