//! Requests with wrong fields, over the real gRPC of both services (SPEC 7.3).

use mesh::status::reason_of;
use proto::{
    central::v1::{
        AuditFilter, ListAuditRequest, ListChargingPointsRequest, ListSessionsRequest, ListTicketsRequest,
        RestoreRequest, SetPriceRequest, SettleDisputeRequest,
    },
    link::v1::Reason,
    registry::v1::{CreateTokenRequest, ListIdentitiesRequest, ListTokensRequest},
};
use testbed::{
    network::Network,
    operator::{fresh_id, select},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_a_request_is_answered_field_by_field_and_what_a_state_forbids_with_its_own_code_spec_7_3()
-> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let _point = network.charging_point("CP-1").await?;
    let (points, sessions) = (network.operator.charging_points.clone(), network.operator.sessions.clone());
    let (audit, identities) = (network.operator.audit.clone(), network.operator.identities.clone());

    let unknown = ListChargingPointsRequest { state: 99, ..Default::default() };
    assert_wrong(points.clone().list(unknown).await, &["state"]);
    let unknown = ListIdentitiesRequest { kind: 99, ..Default::default() };
    assert_wrong(identities.clone().list(unknown).await, &["kind"]);

    // The audit has many entries by now, so there is a second page; its token is good for nothing else.
    let page =
        |page_token: &str| ListAuditRequest { page_size: 1, page_token: page_token.into(), ..Default::default() };
    let first = audit.clone().list(page("")).await?.into_inner();
    let second = audit.clone().list(page(&first.next_page_token)).await?.into_inner();
    assert_ne!(first.entries, second.entries);
    for page_token in [first.next_page_token.as_str(), "broken"] {
        let foreign = ListSessionsRequest { page_token: page_token.into(), ..Default::default() };
        assert_wrong(sessions.clone().list(foreign).await, &["page_token"]);
    }
    let filter = Some(AuditFilter { actor: "operator/olga".into(), ..Default::default() });
    let other_filter = ListAuditRequest { filter, ..page(&first.next_page_token) };
    assert_wrong(audit.clone().list(other_filter).await, &["page_token"]);
    let too_large = ListTokensRequest { page_size: 10_001, ..Default::default() };
    assert_wrong(identities.clone().list_tokens(too_large).await, &["page_size"]);

    let (from_time, until_time) = (proto::timestamp(2_000), proto::timestamp(1_000));
    let turned = ListTicketsRequest { from_time, until_time, ..Default::default() };
    assert_wrong(sessions.clone().list_tickets(turned).await, &["until_time"]);

    let left_out = SetPriceRequest { request_id: fresh_id(), selector: Some(select(&["CP-1"])), ..Default::default() };
    assert_wrong(points.clone().set_price(left_out).await, &["price_e4"]);
    let left_out = CreateTokenRequest { request_id: fresh_id(), ..Default::default() };
    assert_wrong(identities.clone().create_token(left_out).await, &["kinds", "id_pattern", "uses", "lifetime"]);

    let restore = RestoreRequest { request_id: fresh_id(), id: "CP-1".into() };
    let refused = points.clone().restore(restore).await.expect_err("it is not revoked");
    assert_eq!((refused.code(), reason_of(&refused)), (Code::FailedPrecondition, Some(Reason::WrongState)));
    let settle = SettleDisputeRequest { request_id: fresh_id(), session_id: "none".into(), ..Default::default() };
    assert_wrong(sessions.clone().settle_dispute(settle).await, &["reason", "owed_wh"]);
    Ok(())
}

/// INVALID_ARGUMENT with a violation for each of these fields.
fn assert_wrong<T>(answer: Result<tonic::Response<T>, Status>, fields: &[&str]) {
    let Err(status) = answer else { panic!("it was answered, though {fields:?} are wrong") };
    assert_eq!((status.code(), reason_of(&status)), (Code::InvalidArgument, Some(Reason::Invalid)), "{status}");
    let violations = status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
    let named: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(named, fields, "{status}");
}
