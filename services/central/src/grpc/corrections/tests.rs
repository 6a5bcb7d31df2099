//! What may be corrected and settled, and what comes of two who do so at once.

use proto::link::v1::{Correction, Ticket};
use store::central::SessionRow;

use super::*;
use crate::testing::{TestCentral, ana};

fn ticket() -> Ticket {
    Ticket { energy_wh: 10_000, disputed_wh: 500, price_e4: 3_950, currency: "EUR".into(), ..Ticket::default() }
}

#[test]
fn a_settlement_owes_at_most_what_is_in_dispute_spec_3_8() {
    let settled =
        |energy_delta_wh, amount_delta_minor| Ok(TicketDelta { energy_delta_wh, amount_delta_minor, settled_wh: 500 });
    assert_eq!(settlement(&ticket(), 500), settled(500, 20));
    assert_eq!(settlement(&ticket(), 0), settled(0, 0), "the rest is waived");
    assert!(settlement(&ticket(), 501).is_err());
}

#[test]
fn a_correction_changes_something_and_leaves_nothing_negative_spec_3_8() {
    let ticket = Ticket { amount_minor: 87, ..ticket() };
    let corrections = vec![Correction { amount_delta_minor: -20, ..Correction::default() }];
    let corrected = Ticket { corrections, ..ticket.clone() };
    assert!(correction(&corrected, 0, -67).is_ok(), "all of it can be waived");
    assert!(correction(&corrected, 10, 0).is_ok());
    assert!(correction(&corrected, 0, -68).unwrap_err().contains("the 67 that are owed"));
    assert!(correction(&ticket, 0, i64::MIN).is_err());
    assert!(correction(&ticket, -10_001, 0).unwrap_err().contains("10000 Wh that are billed"));
    assert!(correction(&ticket, 0, 0).unwrap_err().contains("changes neither"));
}

#[test]
fn what_is_not_in_dispute_is_told_from_a_wrong_number_spec_3_8() {
    let reason = |ticket: &Ticket, wh| settlement(ticket, wh).unwrap_err().0;
    assert_eq!(reason(&ticket(), 501), Reason::Invalid);
    assert_eq!(reason(&Ticket { disputed_wh: 0, ..ticket() }, 1), Reason::WrongState);
}

fn correct(session_id: &str, amount_delta_minor: i64) -> TicketChange {
    let (session_id, reason) = (session_id.into(), "meter fault".into());
    TicketChange::Correct { session_id, energy_delta_wh: 0, amount_delta_minor, reason }
}

#[test]
fn another_use_of_a_request_id_is_an_error_and_loses_no_correction_spec_7_3() {
    let call =
        |asked: &TicketChange| OnceCall::new("operator/ana", "r1", asked.method(), [asked.content()]).row(b"", 1);
    let first = call(&correct("s1", -100));
    let again = |asked: &TicketChange| first.answers(asked.method(), &call(asked).digest);
    assert!(again(&correct("s1", -100)).is_ok(), "the same again gets the same answer");
    let settle = TicketChange::Settle { session_id: "s1".into(), owed_wh: 0, reason: "meter fault".into() };
    for other in [correct("s1", -200), correct("s2", -100), settle] {
        let refused = again(&other).unwrap_err().to_string();
        assert!(refused.contains("\"r1\" was used for"), "{refused}");
    }
}

#[test]
fn corrections_and_settlements_need_a_reason_spec_3_8() {
    let checked = |reason: &str| {
        let mut checks = FieldChecks::default();
        check(&mut checks, "s-1", reason);
        checks.finish()
    };
    assert!(checked(" ").is_err() && checked(&"x".repeat(501)).is_err());
    assert!(checked("meter fault").is_ok());
}

#[test]
fn a_dispute_is_settled_once_spec_3_8() {
    let corrections = vec![Correction { settled_wh: 500, energy_delta_wh: 200, ..Correction::default() }];
    assert!(settlement(&Ticket { corrections, ..ticket() }, 100).is_err());
}

#[test]
fn no_correction_outgrows_the_sums_that_it_is_in_spec_3_8() {
    let (most, one) = (LARGEST - 10_000, LARGEST - 9_999);
    assert!(correction(&ticket(), most, LARGEST).is_ok());
    for (wh, minor) in [(one, 0), (i64::MAX, 0), (0, LARGEST + 1), (0, i64::MAX), (1, i64::MAX)] {
        let why = correction(&ticket(), wh, minor).unwrap_err();
        assert!(why.contains("no ticket comes to more than 1000000000000"), "{why}");
    }
    let before = Correction { energy_delta_wh: i64::MAX, settled_wh: u64::MAX, ..Correction::default() };
    let corrected = Ticket { corrections: vec![before.clone(), before], ..ticket() };
    assert!(correction(&corrected, 1, 0).is_err(), "nor where an earlier one did");
    assert!(settlement(&corrected, 1).is_err());
    assert!(correction(&corrected, -1, 0).is_ok(), "and that can be taken back");
}

/// With a ticket of 10 kWh and 3.95 EUR, and half a kilowatt-hour in dispute.
async fn central() -> TestCentral {
    let central = TestCentral::new(crate::settings::CentralSettings::default(), 10).await;
    central.charging_points(1).await;
    let of_it = Ticket { session_id: "s-1".into(), charging_point_id: "CP001".into(), amount_minor: 395, ..ticket() };
    let of_it = TicketRow::new(&of_it, 0);
    let (session_id, cp_id, currency) = (of_it.session_id.clone(), of_it.cp_id.clone(), of_it.currency.clone());
    let state = proto::link::v1::SessionState::Billed.into();
    let session = SessionRow { session_id, cp_id, currency, state, ..SessionRow::default() };
    central.write(vec![RowWrite::OpenSession(session), RowWrite::Ticket(of_it)]).await;
    central
}

/// Half a kilowatt-hour is owed.
async fn settle(corrections: &Corrections, request_id: String) -> Result<proto::central::v1::Ticket, Status> {
    let (session_id, reason) = ("s-1".into(), "meter fault".into());
    corrections.settle(SettleDisputeRequest { request_id, session_id, owed_wh: Some(500), reason }, ana()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispute_that_many_settle_at_once_is_settled_once_spec_3_8() {
    let central = central().await;
    let corrections = Corrections { shared: Arc::clone(&central.shared) };
    let answers = futures::future::join_all((0..10).map(|n| settle(&corrections, format!("r{n}")))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for refused in answers.iter().flat_map(|answer| answer.as_ref().err()) {
        assert!(refused.message().contains("nothing of this ticket is in dispute"), "{}", refused.message());
    }
    let ticket = corrections.ticket("s-1").await.unwrap();
    assert_eq!(ticket.corrections.iter().map(|c| c.settled_wh).sum::<u64>(), 500);
    assert_eq!(central.audited("DISPUTE_SETTLED").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_said_many_times_at_once_under_one_request_id_gets_one_answer_spec_7_3() {
    let central = central().await;
    let corrections = Corrections { shared: Arc::clone(&central.shared) };
    for answer in futures::future::join_all((0..10).map(|_| settle(&corrections, "r1".to_owned()))).await {
        assert_eq!(answer.unwrap().corrections.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_waive_at_once_leave_no_ticket_negative_spec_3_8() {
    let central = central().await;
    let corrections = Corrections { shared: Arc::clone(&central.shared) };
    let waive = |n: u32| {
        let (request_id, session_id, reason) = (format!("r{n}"), "s-1".into(), "meter fault".into());
        let (energy_delta_wh, amount_delta_minor) = (0, -200);
        let wanted = CorrectTicketRequest { request_id, session_id, energy_delta_wh, amount_delta_minor, reason };
        corrections.correct(wanted, ana())
    };
    let answers = futures::future::join_all((0..6).map(waive)).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "3.95 EUR is waived once by 2 EUR");
    assert_eq!(corrections.ticket("s-1").await.unwrap().corrections.len(), 1);
}
