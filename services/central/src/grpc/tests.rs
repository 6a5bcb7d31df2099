//! What is wrong in a request is answered with the code that gRPC has for it, and names each field (SPEC 7.3).

use std::{path::PathBuf, sync::Arc};

use mesh::status::reason_of;
use proto::{
    Timestamp,
    central::v1::{
        audit_server::Audit as _, charging_points_server::ChargingPoints as _, sessions_server::Sessions as _, *,
    },
    link::v1::Reason,
    timestamp,
};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use super::{AuditService, ChargingPointsService, charging_points::tests::service};
use crate::{
    settings::CentralSettings,
    testing::{TestCentral, asked_by_ana},
};

async fn central() -> (TestCentral, ChargingPointsService, AuditService) {
    let central = TestCentral::new(CentralSettings::default(), 10).await;
    central.charging_points(3).await;
    let points = service(&central);
    let audit = AuditService { shared: Arc::clone(&central.shared), checkpoints: PathBuf::new(), trusted: Vec::new() };
    (central, points, audit)
}

/// The fields that an answer says are wrong.
fn wrong<T>(answer: Result<Response<T>, Status>) -> Vec<String> {
    let Err(status) = answer else { panic!("it was answered") };
    assert_eq!((status.code(), reason_of(&status)), (Code::InvalidArgument, Some(Reason::Invalid)), "{status}");
    let violations = status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

fn these(ids: &[&str]) -> Option<Selector> {
    let ids = Ids { ids: ids.iter().map(ToString::to_string).collect() };
    Some(Selector { which: Some(selector::Which::Ids(ids)) })
}

fn turned() -> (Option<Timestamp>, Option<Timestamp>) {
    (timestamp(1_551_421_200_000), timestamp(1_551_421_199_999))
}

#[tokio::test]
async fn an_unknown_value_of_an_enumeration_is_never_taken_for_none_spec_7_3() {
    let (central, points, _) = central().await;
    let list = ListChargingPointsRequest { state: 99, ..Default::default() };
    assert_eq!(wrong(points.list(asked_by_ana(list)).await), ["state"]);
    let list = ListSessionsRequest { state: 99, ..Default::default() };
    assert_eq!(wrong(central.sessions.list(asked_by_ana(list)).await), ["state"]);
    for by in [99, 0] {
        let request = StatisticsRequest { by, ..Default::default() };
        let fields = wrong(central.sessions.statistics(asked_by_ana(request)).await);
        assert_eq!(fields, ["by"], "{by}");
    }
}

#[tokio::test]
async fn a_page_that_is_too_large_foreign_or_broken_is_refused_by_every_list_spec_7_3() {
    let (central, points, audit) = central().await;
    let first = ListChargingPointsRequest { page_size: 1, ..Default::default() };
    let foreign = points.list(asked_by_ana(first)).await.unwrap().into_inner().next_page_token;
    assert!(!foreign.is_empty());
    for (page_size, token, field) in
        [(10_001, "", "page_size"), (0, "broken", "page_token"), (0, foreign.as_str(), "page_token")]
    {
        let page_token = || token.to_owned();
        let sessions = &central.sessions;
        let answers = [
            wrong(points.list_orders(asked_by_ana(ListOrdersRequest { page_size, page_token: page_token() })).await),
            wrong(
                points
                    .list(asked_by_ana(ListChargingPointsRequest {
                        city: "another filter".into(),
                        page_size,
                        page_token: page_token(),
                        ..Default::default()
                    }))
                    .await,
            ),
            wrong(
                sessions
                    .list(asked_by_ana(ListSessionsRequest {
                        page_size,
                        page_token: page_token(),
                        ..Default::default()
                    }))
                    .await,
            ),
            wrong(
                sessions
                    .list_tickets(asked_by_ana(ListTicketsRequest {
                        page_size,
                        page_token: page_token(),
                        ..Default::default()
                    }))
                    .await,
            ),
            wrong(
                sessions
                    .statistics(asked_by_ana(StatisticsRequest {
                        by: statistics_request::By::Driver.into(),
                        page_size,
                        page_token: page_token(),
                        ..Default::default()
                    }))
                    .await,
            ),
            wrong(
                audit
                    .list(asked_by_ana(ListAuditRequest { page_size, page_token: page_token(), ..Default::default() }))
                    .await,
            ),
        ];
        assert!(answers.iter().all(|fields| fields == &[field]), "{field}: {answers:?}");
    }
}

#[tokio::test]
async fn pages_follow_one_another_and_miss_nothing_spec_7_3() {
    let (_central, points, _) = central().await;
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListChargingPointsRequest { page_size: 2, page_token, ..Default::default() };
        let page = points.list(asked_by_ana(request)).await.unwrap().into_inner();
        ids.extend(page.charging_points.into_iter().map(|point| point.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(ids, ["CP001", "CP002", "CP003"]);
}

#[tokio::test]
async fn a_turned_time_span_is_refused_everywhere_spec_7_3() {
    let (central, _, audit) = central().await;
    let (from_time, until_time) = turned();
    let tickets = ListTicketsRequest { from_time, until_time, ..Default::default() };
    assert_eq!(wrong(central.sessions.list_tickets(asked_by_ana(tickets)).await), ["until_time"]);
    let by = statistics_request::By::ChargingPoint.into();
    let statistics = StatisticsRequest { by, from_time, until_time, ..Default::default() };
    assert_eq!(wrong(central.sessions.statistics(asked_by_ana(statistics)).await), ["until_time"]);
    let filter = || Some(AuditFilter { from_time, until_time, ..Default::default() });
    let list = ListAuditRequest { filter: filter(), ..Default::default() };
    assert_eq!(wrong(audit.list(asked_by_ana(list)).await), ["filter.until_time"]);
    let watched = audit.watch(asked_by_ana(WatchAuditRequest { filter: filter() })).await;
    assert_eq!(wrong(watched), ["filter.until_time"]);
}

#[tokio::test]
async fn a_field_that_is_left_out_is_an_error_and_never_a_zero_spec_7_3() {
    let (central, points, _) = central().await;
    let (request_id, selector) = (|| "r1".to_owned(), || these(&["CP001"]));
    let nobody = OrderRequest { request_id: request_id(), ..Default::default() };
    assert_eq!(wrong(points.stop(asked_by_ana(nobody)).await), ["selector"]);
    let request = SetPriceRequest { request_id: request_id(), selector: selector(), ..Default::default() };
    assert_eq!(wrong(points.set_price(asked_by_ana(request)).await), ["price_e4"]);
    let request = SetMaintenanceRequest { request_id: request_id(), selector: selector(), ..Default::default() };
    assert_eq!(wrong(points.set_maintenance(asked_by_ana(request)).await), ["on"]);
    let request = SetRatedPowerRequest { request_id: request_id(), ..Default::default() };
    assert_eq!(wrong(points.set_rated_power(asked_by_ana(request)).await), ["rated_power_w", "selector"]);
    let request = MoveRequest { request_id: request_id(), id: "CP001".into(), ..Default::default() };
    assert_eq!(wrong(points.r#move(asked_by_ana(request)).await), ["city"]);
    assert_eq!(wrong(points.restore(asked_by_ana(RestoreRequest::default())).await), ["id"]);
    assert_eq!(wrong(points.get(asked_by_ana(GetChargingPointRequest::default())).await), ["id"]);
    assert_eq!(wrong(points.get_order(asked_by_ana(GetOrderRequest::default())).await), ["order_id"]);
    assert_eq!(wrong(points.cancel_order(asked_by_ana(CancelOrderRequest::default())).await), ["order_id"]);
    let sessions = &central.sessions;
    let (session_id, reason) = (|| "s-1".to_owned(), || "meter fault".to_owned());
    let settle = SettleDisputeRequest { session_id: session_id(), reason: reason(), ..Default::default() };
    assert_eq!(wrong(sessions.settle_dispute(asked_by_ana(settle)).await), ["owed_wh"]);
    let correct = CorrectTicketRequest { session_id: session_id(), reason: reason(), ..Default::default() };
    assert_eq!(wrong(sessions.correct_ticket(asked_by_ana(correct)).await), ["amount_delta_minor"]);
    let fields = wrong(sessions.correct_ticket(asked_by_ana(CorrectTicketRequest::default())).await);
    assert_eq!(fields, ["session_id", "reason", "amount_delta_minor"], "all that is wrong, at once");
    assert_eq!(wrong(sessions.end(asked_by_ana(EndSessionRequest::default())).await), ["session_id"]);
    assert_eq!(wrong(sessions.get(asked_by_ana(GetSessionRequest::default())).await), ["id"]);
    assert_eq!(wrong(sessions.get_ticket(asked_by_ana(GetTicketRequest::default())).await), ["session_id"]);
    assert!(points.orders.list(Default::default()).await.unwrap().0.is_empty(), "none of them was given");
}

#[tokio::test]
async fn what_a_state_forbids_and_what_is_not_there_have_codes_of_their_own_spec_13() {
    let (central, points, _) = central().await;
    let restore = RestoreRequest { request_id: "r1".into(), id: "CP001".into() };
    let refused = points.restore(asked_by_ana(restore)).await.unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused)), (Code::FailedPrecondition, Some(Reason::WrongState)));
    let about = |status: &Status| status.get_details_error_info().unwrap().metadata;
    assert_eq!(about(&refused).get("id").map(String::as_str), Some("CP001"));
    let missing = points.get(asked_by_ana(GetChargingPointRequest { id: "CP404".into() })).await.unwrap_err();
    assert_eq!((missing.code(), reason_of(&missing)), (Code::NotFound, Some(Reason::UnknownChargingPoint)));
    assert_eq!(about(&missing)["id"], "CP404");
    let missing = central.sessions.get(asked_by_ana(GetSessionRequest { id: "none".into() })).await.unwrap_err();
    assert_eq!((missing.code(), about(&missing)["session_id"].as_str()), (Code::NotFound, "none"));
    let order =
        OrderRequest { request_id: "r2".into(), selector: these(&["CP001"]), expected: Some(0), ..Default::default() };
    let refused = points.stop(asked_by_ana(order)).await.unwrap_err();
    assert_eq!((refused.code(), about(&refused)["matched"].as_str()), (Code::FailedPrecondition, "1"), "{refused}");
}
