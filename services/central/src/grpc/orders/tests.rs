//! Orders against the real loop and store.

use proto::central::v1::{
    CorrectTicketRequest, EndSessionRequest, Ids, OrderRequest, Selector, SettleDisputeRequest,
    charging_points_server::ChargingPoints as _,
    order::{Renew, Resume, Rotate, SetMaintenance, SetPrice, Stop},
    selector::Which,
    sessions_server::Sessions as _,
};
use proto::{
    central::v1::OrderState::{Cancelled, Done, Running},
    link::v1::{SessionState, Ticket},
};
use store::central::{SessionRow, TicketRow};
use tokio::sync::mpsc::{self, error::TryRecvError};

use super::*;
use crate::{
    grpc::charging_points::tests::service,
    testing::{TestCentral, ana, asked_by_ana},
};

fn these(ids: &[&str]) -> Scope {
    Scope::Ids(ids.iter().map(|id| id.parse().unwrap()).collect())
}

fn all() -> Scope {
    Scope::All
}

fn billed(session_id: &str) -> RowWrite {
    let (session_id, cp_id, currency) = (session_id.into(), "CP001".into(), "EUR".into());
    let state = SessionState::Billed.into();
    RowWrite::OpenSession(SessionRow { session_id, cp_id, currency, state, ..Default::default() })
}

fn ticket(session_id: &str) -> RowWrite {
    let ticket = Ticket {
        session_id: session_id.into(),
        charging_point_id: "CP001".into(),
        currency: "EUR".into(),
        energy_wh: 10_000,
        disputed_wh: 500,
        price_e4: 3_950,
        amount_minor: 395,
        ..Ticket::default()
    };
    RowWrite::Ticket(TicketRow::new(&ticket, 0))
}

async fn central(count: usize) -> TestCentral {
    let central = TestCentral::new(crate::settings::CentralSettings::default(), 10).await;
    central.charging_points(count).await;
    central
}

/// Action, object, method and outcome of each entry.
async fn refusals(central: &TestCentral) -> Vec<(String, String, String)> {
    let parsed = |row: store::central::AuditRow| {
        let said: serde_json::Value = serde_json::from_str(&row.parameters).unwrap();
        assert_eq!((row.actor.as_str(), said["reason"].as_str()), ("operator/ana", Some("works")));
        let code = row.outcome.split(':').next().unwrap().to_owned();
        (row.object, said["method"].as_str().unwrap().to_owned(), code)
    };
    central.audited("ORDER_REFUSED").await.into_iter().map(parsed).collect()
}

#[tokio::test]
async fn an_order_that_is_refused_is_an_entry_spec_8_1() {
    let central = central(51).await;
    let (give, entry) =
        (&central.orders, |object: &str, method: &str, code: &str| (object.into(), method.into(), code.into()));
    let refused = give.give("r1".into(), all(), None, Ordered::Renew(Renew {}), ana()).await.unwrap_err();
    assert!(refused.message().contains("expected = 51"), "{}", refused.message());
    let service = service(&central);
    let said = |ids: Option<&str>| {
        let which = ids.map(|id| Which::Ids(Ids { ids: vec![id.into()] }));
        let selector = which.map(|which| Selector { which: Some(which) });
        asked_by_ana(OrderRequest { request_id: "r2".into(), selector, reason: "works".into(), ..Default::default() })
    };
    service.stop(said(None)).await.unwrap_err();
    service.resume(said(Some("no id"))).await.unwrap_err();
    give.give("r4".into(), these(&["CP001"]), None, Ordered::Stop(Stop {}), ana()).await.unwrap();
    give.give("r4".into(), these(&["CP001"]), None, Ordered::Resume(Resume {}), ana()).await.unwrap_err();
    assert_eq!(
        refusals(&central).await,
        [
            entry("all charging points", "Renew", "EXPECTATION_FAILED"),
            entry("no charging point", "Stop", "INVALID"),
            entry("charging-point/no id", "Resume", "INVALID"),
            entry("charging-point/CP001", "Resume", "INVALID"),
        ]
    );
}

#[tokio::test]
async fn an_order_that_is_said_again_before_it_is_done_is_answered_with_what_it_did_spec_7_3() {
    let central = central(1).await;
    let give = || {
        central.orders.give(
            "r1".into(),
            these(&["CP001"]),
            None,
            Ordered::SetMaintenance(SetMaintenance { on: true }),
            ana(),
        )
    };
    let answers = futures::future::join_all((0..20).map(|_| give())).await;
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!((answer.state(), answer.done, answer.unchanged), (Done, 1, 0), "{answer:?}");
    }
}

#[tokio::test]
async fn each_charging_point_at_which_an_order_failed_is_an_entry_spec_8_1() {
    let central = central(1).await;
    let given = central
        .orders
        .give("r1".into(), these(&["CP001", "CP999"]), None, Ordered::Rotate(Rotate {}), ana())
        .await
        .unwrap();
    assert_eq!((given.matched, given.done, given.failures.len()), (1, 0, 2));
    let entry = |object: &str, code: &str| (object.into(), "Rotate".into(), code.into());
    let expected = [entry("charging-point/CP999", "UNKNOWN_CHARGING_POINT"), entry("charging-point/CP001", "NO_KEY")];
    assert_eq!(refusals(&central).await, expected);
}

#[tokio::test]
async fn who_asks_for_a_charging_point_finds_every_order_and_correction_that_concerned_it_spec_8_3() {
    let central = central(3).await;
    let city = || Scope::City("Alicante".into());
    let stopped = central.orders.give("r1".into(), city(), None, Ordered::Stop(Stop {}), ana()).await.unwrap();
    let again = central.orders.give("r2".into(), city(), None, Ordered::Stop(Stop {}), ana()).await.unwrap();
    let failed = central.orders.give("r3".into(), all(), None, Ordered::Rotate(Rotate {}), ana()).await.unwrap();
    central.write(vec![billed("s-1"), ticket("s-1")]).await;
    let (session_id, reason) = ("s-1".to_owned(), "meter fault".to_owned());
    let correct = CorrectTicketRequest { session_id, reason, amount_delta_minor: -1, ..Default::default() };
    central.sessions.correct_ticket(asked_by_ana(correct)).await.unwrap();
    let found = |id: &str| {
        let object = format!("charging-point/{id}");
        central.audit(store::central::AuditFilter { actor: "operator/ana".into(), object, ..Default::default() })
    };
    let said = |rows: Vec<store::central::AuditRow>| {
        let order = |row: &store::central::AuditRow| {
            let said: serde_json::Value = serde_json::from_str(&row.parameters).unwrap();
            said["order"].as_str().or(said["session"].as_str()).unwrap().to_owned()
        };
        rows.iter().map(|row| (row.action.clone(), order(row))).collect::<Vec<_>>()
    };
    let expected = [
        ("STOPPED".to_owned(), stopped.order_id),
        ("ORDER_UNCHANGED".to_owned(), again.order_id),
        ("ORDER_REFUSED".to_owned(), failed.order_id),
    ];
    assert_eq!(said(found("CP002").await), expected);
    let corrected = ("TICKET_CORRECTED".to_owned(), "s-1".to_owned());
    assert_eq!(said(found("CP001").await), [&expected[..], &[corrected]].concat());
}

#[tokio::test]
async fn how_far_a_staggered_order_has_come_is_seen_without_cancelling_it_spec_7_3() {
    let central = central(60).await;
    let given = central
        .orders
        .give("r1".into(), all(), Some(60), Ordered::SetMaintenance(SetMaintenance { on: true }), ana())
        .await
        .unwrap();
    assert_eq!((given.state(), given.matched), (Running, 60));
    let seen = central.orders.get(&given.order_id).await.unwrap();
    assert_eq!((seen.state(), seen.done + seen.left), (Running, 60), "ten a second: {seen:?}");
    central.orders.cancel(&given.order_id, &ana()).await.unwrap();
    let cancelled = central.orders.get(&given.order_id).await.unwrap();
    assert!(cancelled.state() == Cancelled && cancelled.left > 0, "{cancelled:?}");

    let few = central.orders.give("r2".into(), these(&["CP001"]), None, Ordered::Stop(Stop {}), ana()).await.unwrap();
    let said = (few.state(), few.done, few.left, few.reason.as_str(), few.request_id.as_str());
    assert_eq!(said, (Done, 1, 0, "works", "r2"));
    let which = Some(Which::Ids(Ids { ids: vec!["CP001".into()] }));
    assert_eq!((few.ordered.clone(), few.selector.clone()), (Some(Ordered::Stop(Stop {})), Some(Selector { which })));
    let page = |size, token: &str| central.orders.list(PageRequest { size, token: token.to_owned() });
    let (first, next) = page(1, "").await.unwrap();
    let (second, end) = page(1, &next).await.unwrap();
    assert_eq!((first, second[0].order_id.clone(), end), (vec![few], given.order_id, String::new()));
    assert_eq!(central.orders.get("o-none").await.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn corrections_and_ends_that_are_refused_are_entries_spec_8_1() {
    let central = central(1).await;
    let session_id = "s-none".to_owned();
    let end = EndSessionRequest { session_id: session_id.clone(), ..Default::default() };
    assert_eq!(central.sessions.end(asked_by_ana(end)).await.unwrap_err().code(), tonic::Code::NotFound);
    let reason = "meter fault".to_owned();
    let correct = CorrectTicketRequest { session_id, reason, amount_delta_minor: -1, ..Default::default() };
    assert_eq!(central.sessions.correct_ticket(asked_by_ana(correct)).await.unwrap_err().code(), tonic::Code::NotFound);
    let objects: Vec<_> = central.audited("ORDER_REFUSED").await.into_iter().map(|row| row.object).collect();
    assert_eq!(objects, ["session/s-none", "ticket/s-none"]);
}

#[tokio::test]
async fn a_correction_under_a_request_id_that_was_used_is_refused_and_not_lost_spec_7_3() {
    let central = central(1).await;
    central.write(vec![billed("s-1"), billed("s-2"), ticket("s-1"), ticket("s-2")]).await;
    central.orders.give("used".into(), all(), None, Ordered::Resume(Resume {}), ana()).await.unwrap();
    let correct = |request_id: &str, session_id: &str, amount_delta_minor| {
        let (request_id, session_id, reason) = (request_id.into(), session_id.into(), "meter fault".into());
        let energy_delta_wh = 0;
        let wanted = CorrectTicketRequest { request_id, session_id, energy_delta_wh, amount_delta_minor, reason };
        central.sessions.correct_ticket(asked_by_ana(wanted))
    };
    let corrected = correct("c1", "s-1", -100).await.unwrap().into_inner();
    assert_eq!(corrected.corrections.len(), 1);
    assert_eq!(correct("c1", "s-1", -100).await.unwrap().into_inner(), corrected, "the same again changes nothing");
    for other in [correct("c1", "s-2", -100), correct("c1", "s-1", -200), correct("used", "s-1", -100)] {
        let refused = other.await.unwrap_err();
        assert!(refused.message().contains("was used for"), "{}", refused.message());
    }
    let settle = |request_id: &str, reason: &str| {
        let (request_id, session_id, reason) = (request_id.into(), "s-1".into(), reason.into());
        central.sessions.settle_dispute(asked_by_ana(SettleDisputeRequest {
            request_id,
            session_id,
            owed_wh: Some(500),
            reason,
        }))
    };
    assert!(settle("c1", "works").await.unwrap_err().message().contains("was used for"));
    assert!(settle("c2", "").await.unwrap_err().message().contains("reason"));
    assert_eq!(settle("c2", "works").await.unwrap().into_inner().corrections.len(), 2);
    assert_eq!(settle("c2", "works").await.unwrap().into_inner().corrections.len(), 2);
}

/// Orders whose charging points answer when the test says so. One that is left alone is as good as killed.
struct SlowOrders {
    orders: Orders,
    store: crate::database::Store,
    asked: mpsc::Receiver<Message>,
}

/// One charging point that was asked.
struct AskedPoint {
    at: ChargingPointId,
    order: PointOrder,
    order_id: Arc<str>,
    answer: oneshot::Sender<OrderOutcome>,
}

impl SlowOrders {
    fn new(central: &TestCentral) -> Self {
        let ((event_loop, asked), patience) = (crate::event_loop::channel(), Duration::from_millis(50));
        let orders = Orders::with_patience(Arc::clone(&central.shared), event_loop, &central.ctx, (10, patience));
        Self { orders, store: central.shared.store.clone(), asked }
    }

    async fn next(&mut self) -> AskedPoint {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(60), self.asked.recv()).await.unwrap().unwrap();
            if let Message::Order { at, order, by, answer } = next {
                return AskedPoint { at, order, order_id: by.order, answer };
            }
        }
    }

    async fn these(&mut self, count: usize) -> Vec<AskedPoint> {
        let mut all = Vec::new();
        while all.len() < count {
            all.push(self.next().await);
        }
        all.sort_by(|one, other| one.at.cmp(&other.at));
        all
    }

    /// As the charging point's turn does: what it did is on disk before it is told.
    async fn answer(&self, asked: AskedPoint, outcome: OrderOutcome) {
        let item = rows::order_item(asked.at.to_string(), &asked.order_id, &outcome);
        let settled = self.store.write("test", vec![RowWrite::OrderItem(item)]).await;
        assert!(matches!(settled, Ok(_) | Err(CommitRefusal::OrderItemSettled)), "{settled:?}");
        // The order may have ended meanwhile.
        drop(asked.answer.send(outcome));
    }

    async fn ended(&self, order_id: &str) -> Answer {
        loop {
            let answer = self.orders.get(order_id).await.unwrap();
            if answer.state() != Running {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The charging points that a restart has still to reach.
    async fn remaining(&self, order_id: &str) -> Vec<String> {
        let order_id = order_id.to_owned();
        let read = move |conn: &mut store::Conn| OrderItemRow::pending(conn, &order_id);
        self.store.read("order items", read).await.unwrap()
    }
}

fn price(order: &PointOrder) -> u32 {
    let PointOrder::SetPrice(price) = order else { panic!("{order:?} sets no price") };
    price.e4()
}

fn p(price_e4: u32) -> Ordered {
    Ordered::SetPrice(SetPrice { price_e4 })
}

#[tokio::test]
async fn a_restart_goes_on_with_who_was_not_reached_and_not_with_who_was_spec_7_3() {
    let central = central(3).await;
    let mut before = SlowOrders::new(&central);
    let given = before.orders.give("r1".into(), all(), None, p(1), ana()).await.unwrap();
    assert_eq!((given.state(), given.left), (Running, 3), "nobody has answered, which is no failure");
    let mut asked = before.these(3).await;
    before.answer(asked.remove(0), OrderOutcome::Done).await;
    assert_eq!(before.remaining(&given.order_id).await, ["CP002", "CP003"], "kept before the order has ended");
    let mut after = SlowOrders::new(&central);
    after.orders.resume().await.unwrap();
    for asked in after.these(2).await {
        assert!(asked.at.as_str() != "CP001" && price(&asked.order) == 1, "{}", asked.at);
        after.answer(asked, OrderOutcome::Done).await;
    }
    let done = after.ended(&given.order_id).await;
    assert_eq!((done.state(), done.done, done.left), (Done, 3, 0));
    assert!(matches!(after.asked.try_recv(), Err(TryRecvError::Empty)));
}

#[tokio::test]
async fn a_stop_keeps_what_was_asked_before_and_asks_nobody_else_spec_7_3() {
    let central = central(60).await;
    let mut before = SlowOrders::new(&central);
    let given = before.orders.give("r1".into(), all(), Some(60), p(1), ana()).await.unwrap();
    let asked = before.these(10).await;
    central.ctx.stop.cancel();
    // The loop ends with its turns in flight: nine are done, the tenth was not taken up.
    for (n, asked) in asked.into_iter().enumerate() {
        match n {
            0..5 => before.answer(asked, OrderOutcome::Done).await,
            5..9 => before.answer(asked, OrderOutcome::Unchanged).await,
            _ => drop(asked),
        }
    }
    tokio::time::timeout(Duration::from_secs(60), central.ctx.ended()).await.expect("it ends").unwrap();
    assert!(matches!(before.asked.try_recv(), Err(TryRecvError::Empty)), "no portion is begun any more");
    let kept = before.orders.get(&given.order_id).await.unwrap();
    assert_eq!((kept.state(), kept.done, kept.unchanged, kept.failed, kept.left), (Running, 5, 4, 0, 51));
    let remaining = before.remaining(&given.order_id).await;
    assert_eq!((remaining.len(), remaining[0].as_str()), (51, "CP010"), "what may have been asked comes first");
}

#[tokio::test]
async fn a_restart_sets_no_older_price_over_a_newer_one_spec_7_3() {
    let central = central(3).await;
    let mut before = SlowOrders::new(&central);
    let older = before.orders.give("r1".into(), all(), None, p(1), ana()).await.unwrap();
    let _of_older = before.these(3).await;
    let newer = before.orders.give("r2".into(), these(&["CP001"]), None, p(2), ana()).await.unwrap();
    let asked = before.next().await;
    assert_eq!((asked.at.as_str(), price(&asked.order)), ("CP001", 2));
    before.answer(asked, OrderOutcome::Done).await;
    before.ended(&newer.order_id).await;
    // Killed with every outcome of the older one unwritten.
    let mut after = SlowOrders::new(&central);
    after.orders.resume().await.unwrap();
    for asked in after.these(2).await {
        assert!(asked.at.as_str() != "CP001" && price(&asked.order) == 1, "{}", asked.at);
        after.answer(asked, OrderOutcome::Done).await;
    }
    let done = after.ended(&older.order_id).await;
    assert_eq!((done.state(), done.matched, done.done, done.left), (Done, 3, 2, 1), "one is left to the newer");
    assert!(matches!(after.asked.try_recv(), Err(TryRecvError::Empty)));
    let overtaken = central.audited("ORDER_OVERTAKEN").await;
    assert_eq!(overtaken.iter().map(|row| row.object.as_str()).collect::<Vec<_>>(), ["charging-point/CP001"]);
    assert!(overtaken[0].parameters.contains(&newer.order_id), "{}", overtaken[0].parameters);
}

#[tokio::test]
async fn a_staggered_order_leaves_to_a_later_one_whom_it_has_not_reached_spec_7_3() {
    let central = central(60).await;
    let mut slow = SlowOrders::new(&central);
    slow.orders.give("r1".into(), all(), Some(60), Ordered::Resume(Resume {}), ana()).await.unwrap();
    let first = slow.these(10).await;
    slow.orders.give("r2".into(), these(&["CP060"]), None, Ordered::Stop(Stop {}), ana()).await.unwrap();
    let asked = slow.next().await;
    assert!(asked.at.as_str() == "CP060" && matches!(asked.order, PointOrder::Stop), "{}: {:?}", asked.at, asked.order);
    slow.answer(asked, OrderOutcome::Done).await;
    for asked in first {
        slow.answer(asked, OrderOutcome::Unchanged).await;
    }
    let mut resumed = 10;
    while resumed < 59 {
        let asked = slow.next().await;
        assert_ne!(asked.at.as_str(), "CP060", "it was stopped later");
        slow.answer(asked, OrderOutcome::Unchanged).await;
        resumed += 1;
    }
}

#[tokio::test]
async fn one_that_takes_long_is_under_way_and_holds_up_nobody_spec_7_3() {
    let central = central(2).await;
    let mut slow = SlowOrders::new(&central);
    let orders = slow.orders.clone();
    let give = || orders.give("r1".into(), all(), None, Ordered::Renew(Renew {}), ana());
    let answered = async {
        let mut asked = slow.these(2).await;
        slow.answer(asked.remove(0), OrderOutcome::Done).await;
        asked
    };
    let (given, mut late) = futures::join!(give(), answered);
    let given = given.unwrap();
    assert_eq!((given.state(), given.failed), (Running, 0), "{given:?}");
    slow.answer(late.remove(0), OrderOutcome::Done).await;
    slow.ended(&given.order_id).await;
    let again = give().await.unwrap();
    assert_eq!((again.state(), again.done, again.failed, again.left), (Done, 2, 0, 0));
}

#[tokio::test]
async fn a_charging_point_that_could_not_write_its_turn_is_asked_again_spec_9() {
    let central = central(1).await;
    let mut slow = SlowOrders::new(&central);
    let given = slow.orders.give("r1".into(), all(), None, p(1), ana()).await.unwrap();
    let unwritten = OrderOutcome::Failed(Reason::Unavailable, "the disk is full".to_owned());
    slow.next().await.answer.send(unwritten).unwrap();
    let again = slow.next().await;
    slow.answer(again, OrderOutcome::Done).await;
    let done = slow.ended(&given.order_id).await;
    assert_eq!((done.state(), done.done, done.failed), (Done, 1, 0));
}

#[tokio::test]
async fn a_charging_point_that_was_removed_meanwhile_has_failed_and_is_not_asked_for_ever_spec_7_3() {
    let central = central(1).await;
    let mut slow = SlowOrders::new(&central);
    let given = slow.orders.give("r1".into(), all(), None, p(1), ana()).await.unwrap();
    let gone = OrderOutcome::Failed(Reason::UnknownChargingPoint, "CP001".to_owned());
    slow.next().await.answer.send(gone).unwrap();
    let done = slow.ended(&given.order_id).await;
    assert_eq!((done.state(), done.matched, done.failed, done.left), (Done, 1, 1, 0));
    assert_eq!(central.audited("ORDER_REFUSED").await.len(), 1);
}

#[tokio::test]
async fn another_order_under_a_request_id_that_was_used_is_refused_spec_7_3() {
    let central = central(2).await;
    let one = || these(&["CP001"]);
    central.orders.give("r1".into(), one(), Some(1), p(1_234), ana()).await.unwrap();
    let again = central.orders.give("r1".into(), one(), Some(1), p(1_234), ana()).await.unwrap();
    assert_eq!((again.state(), again.done), (Done, 1));
    let (expected, not_said) = (Some(1), None);
    let other = [
        (one(), expected, p(5_678)),
        (all(), expected, p(1_234)),
        (one(), not_said, p(1_234)),
        (one(), expected, Ordered::Stop(Stop {})),
    ];
    for (selector, expected, kind) in other {
        let refused = central.orders.give("r1".into(), selector, expected, kind, ana()).await.unwrap_err();
        assert!(refused.message().contains("was used for SetPrice"), "{}", refused.message());
    }
    let why = central.orders.give("r1".into(), one(), Some(1), p(1_234), ana().because("other")).await.unwrap_err();
    assert!(why.message().contains("with other content"), "{}", why.message());
}

#[tokio::test]
async fn an_order_is_cancelled_with_its_entry_or_not_at_all_spec_8_1() {
    let central = central(60).await;
    let mut before = SlowOrders::new(&central);
    let given = before.orders.give("r1".into(), all(), Some(60), Ordered::Rotate(Rotate {}), ana()).await.unwrap();
    let _asked = before.these(10).await;
    before.orders.cancel(&given.order_id, &ana()).await.unwrap();
    before.orders.cancel(&given.order_id, &ana()).await.unwrap();
    assert_eq!(central.audited("ORDER_CANCELLED").await.len(), 1);
    let mut after = SlowOrders::new(&central);
    after.orders.resume().await.unwrap();
    let cancelled = after.ended(&given.order_id).await;
    assert_eq!((cancelled.state(), cancelled.left), (Cancelled, 60), "whoever had not answered is not asked again");
    assert!(matches!(after.asked.try_recv(), Err(TryRecvError::Empty)));
}

#[tokio::test]
async fn the_entry_of_an_order_says_why_it_was_given_spec_8_1() {
    let central = central(2).await;
    central.orders.give("r1".into(), all(), None, Ordered::Renew(Renew {}), ana()).await.unwrap();
    let given = &central.audited("ORDER_GIVEN").await[0];
    assert!(given.parameters.contains(r#""reason":"works""#), "{}", given.parameters);
}
