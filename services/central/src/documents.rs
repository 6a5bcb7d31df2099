//! Tickets and authorisations as Central signs them, and as it takes them back (SPEC 10.5).

use prost::Message as _;
use proto::link::v1::{Authorisation, Settled, SignedDocument, Supply, Ticket, down};
use wire::signature::{DocumentKey, DocumentKeys, DocumentKind, SignatureError};

use crate::{
    charge_point::{Decision, Effect, PointChange, Record},
    session::Session,
};

/// The key that signs, and the keys that have signed.
#[derive(Debug)]
pub(crate) struct Documents {
    key: DocumentKey,
    keys: DocumentKeys,
    /// The public keys in hexadecimal, the current one first.
    published: Vec<String>,
}

impl Documents {
    pub(crate) fn new(key: DocumentKey, keys: DocumentKeys, published: Vec<String>) -> Self {
        Self { key, keys, published }
    }

    /// The public keys in hexadecimal, the current one first.
    pub(crate) fn published(&self) -> &[String] {
        &self.published
    }

    pub(crate) fn sign_ticket(&self, ticket: Ticket) -> Ticket {
        let signed = self.key.sign(DocumentKind::Ticket, ticket.document());
        Ticket { signed: Some(signed), ..ticket }
    }

    /// The ticket of a document, if Central signed it.
    pub(crate) fn ticket(&self, signed: SignedDocument) -> Result<Ticket, SignatureError> {
        self.keys.verify(DocumentKind::Ticket, &signed)?;
        Ticket::of_document(signed).ok_or(SignatureError::Wrong)
    }

    /// The authorisation of a document, if Central signed it.
    pub(crate) fn authorisation(&self, signed: &SignedDocument) -> Result<Authorisation, SignatureError> {
        self.keys.verify(DocumentKind::Authorisation, signed)?;
        Authorisation::decode(signed.document.as_slice()).map_err(|_| SignatureError::Wrong)
    }

    /// Signs the tickets of a decision wherever they go: to the row, to the driver, and to the engine with `Settled`.
    pub(crate) fn sign_tickets(&self, decision: &mut Decision) {
        for change in &mut decision.changes {
            let PointChange::Ticket(ticket) = change else { continue };
            if ticket.signed.is_none() {
                *ticket = self.sign_ticket(std::mem::take(ticket));
            }
            for effect in &mut decision.after_commit {
                if let Effect::Driver(_, down::Body::Ticket(sent)) = effect
                    && sent.session_id == ticket.session_id
                {
                    sent.clone_from(ticket);
                } else if let Effect::Engine(down::Body::Settled(Settled { session_id, ticket: held })) = effect
                    && *session_id == ticket.session_id
                {
                    held.clone_from(&ticket.signed);
                }
            }
        }
    }

    /// Signs what the engine is told to supply, under the epoch of the charging point.
    pub(crate) fn sign_supply(&self, body: down::Body, record: &Record) -> down::Body {
        let down::Body::Supply(supply) = body else { return body };
        let session = record.open.as_ref().filter(|open| open.id.as_str() == supply.session_id);
        let authorisation = session.map(|session| {
            let document = authorisation(session, record.epoch).encode_to_vec();
            self.key.sign(DocumentKind::Authorisation, document)
        });
        down::Body::Supply(Supply { authorisation, ..supply })
    }
}

fn authorisation(session: &Session, epoch: u64) -> Authorisation {
    Authorisation {
        session_id: session.id.to_string(),
        driver_id: session.driver.as_ref().map(ToString::to_string).unwrap_or_default(),
        charging_point_id: session.charging_point.to_string(),
        place: session.place.as_ref().to_owned(),
        price_e4: session.price.e4(),
        currency: session.currency.to_string(),
        energy_wh: session.requested.wh(),
        reserved_at_ms: session.reserved_at,
        epoch,
        request_id: session.request_id.as_ref().to_owned(),
        manual: session.manual,
    }
}
