//! The ledger from the edge (SPEC 10.5).

use proto::link::v1::{Authorisation, SignedDocument, Ticket};

use super::*;
use crate::session::{Final, SessionId};

fn ticket(session: &str, energy_wh: u64) -> Ticket {
    Ticket {
        session_id: session.into(),
        driver_id: "D1".into(),
        charging_point_id: "CP1".into(),
        started_at_ms: 5_000,
        ended_at_ms: 9_000,
        energy_wh,
        price_e4: 3_950,
        amount_minor: 40,
        currency: "EUR".into(),
        reason: Reason::Unplugged.into(),
        meter_start_wh: 1_000,
        meter_end_wh: 1_000 + energy_wh,
        signed: Some(SignedDocument { signature: vec![7; 64], ..SignedDocument::default() }),
        ..Ticket::default()
    }
}

fn authorisation(session: &str) -> Authorisation {
    Authorisation {
        session_id: session.into(),
        driver_id: "D2".into(),
        charging_point_id: "CP1".into(),
        place: "Plaza".into(),
        price_e4: 5_000,
        currency: "EUR".into(),
        request_id: "r9".into(),
        ..Authorisation::default()
    }
}

fn brought_back(harness: &mut PointHarness, session: &str, end_wh: u64, evidence: Evidence) {
    let last = Final {
        start: Energy::from_wh(1_000),
        end: Energy::from_wh(end_wh),
        reason: Reason::Unplugged,
        started_at: 0,
        ended_at: 0,
    };
    let session = SessionId::new(session);
    harness.input(0, PointInput::BroughtBack { session, last, evidence: Box::new(evidence), reply: Reply::None });
}

fn with_ticket(ticket: Ticket) -> Evidence {
    Evidence { ticket: Some(Box::new(ticket)), ..Evidence::default() }
}

#[test]
fn a_ticket_of_a_lost_session_is_taken_back_once_as_it_was_signed_spec_10_5() {
    let mut harness = PointHarness::ready();
    brought_back(&mut harness, "s9", 9_999, with_ticket(ticket("s9", 1_000)));
    brought_back(&mut harness, "s9", 9_999, with_ticket(ticket("s9", 1_000)));
    assert_eq!(harness.store.tickets[&SessionId::new("s9")], ticket("s9", 1_000));
    assert_eq!(harness.session("s9").state, SessionState::Billed);
    let taken = harness.store.actions.iter().filter(|action| **action == AuditAction::TicketTakenBack).count();
    assert_eq!((taken, harness.store.tickets.len()), (1, 1));
}

#[test]
fn a_supply_of_the_backup_gets_the_bill_that_was_signed_after_it_spec_10_5() {
    let mut harness = PointHarness::supplying();
    brought_back(&mut harness, "s1", 1_700, with_ticket(ticket("s1", 700)));
    assert_eq!(harness.store.tickets[&SessionId::new("s1")], ticket("s1", 700));
    assert!(harness.points[0].record.open.is_none());
    harness.ended("s1", 1_000, 1_900, Reason::Unplugged);
    assert_eq!((harness.store.tickets.len(), harness.session("s1").state), (1, SessionState::Billed));
}

#[test]
fn what_no_ticket_covers_is_billed_by_the_journal_as_it_was_authorised_spec_10_5() {
    let mut harness = PointHarness::ready();
    let evidence = Evidence { authorisation: Some(Box::new(authorisation("s9"))), ..Evidence::default() };
    brought_back(&mut harness, "s9", 1_100, evidence.clone());
    brought_back(&mut harness, "s9", 1_100, evidence);
    let billed = &harness.store.tickets[&SessionId::new("s9")];
    assert_eq!((billed.driver_id.as_str(), billed.price_e4), ("D2", 5_000));
    assert_eq!(billed.energy_wh + billed.disputed_wh, 100);
    assert_eq!(harness.store.tickets.len(), 1);
}

#[test]
fn a_session_that_central_never_signed_is_billed_to_nobody_spec_10_5() {
    let mut harness = PointHarness::ready();
    brought_back(&mut harness, "s9", 1_100, Evidence::default());
    assert!(harness.store.tickets.is_empty() && harness.store.sessions.is_empty());
}

#[test]
fn a_second_bill_of_a_session_changes_nothing_and_is_audited_spec_10_5() {
    let mut harness = PointHarness::ready();
    brought_back(&mut harness, "s9", 1_700, with_ticket(ticket("s9", 700)));
    let mut other = ticket("s9", 900);
    other.signed = Some(SignedDocument { signature: vec![8; 64], ..SignedDocument::default() });
    brought_back(&mut harness, "s9", 1_900, with_ticket(other));
    assert_eq!(harness.store.tickets[&SessionId::new("s9")], ticket("s9", 700));
    assert!(harness.store.actions.contains(&AuditAction::OtherTicketFound));
}

#[test]
fn nothing_is_billed_while_the_database_is_older_than_what_was_signed_spec_10_5() {
    let mut harness = PointHarness::supplying();
    harness.points[0].live.ledger_behind = true;
    harness.ended("s1", 1_000, 1_900, Reason::Unplugged);
    assert!(harness.store.tickets.is_empty());
    let causes = harness.points[0].causes(&harness.settings, harness.now);
    assert!(causes.contains(&Cause::LedgerBehind), "{causes:?}");
}
