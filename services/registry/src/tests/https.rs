//! The HTTPS API, for callers with a credential and against callers without one.

use proto::enrolment::{CredentialState, EnrolmentStatus, RefusalBody};
use reqwest::{Method, StatusCode};

use super::*;

async fn with(door: &Https, method: Method, path: &str, credential: &str) -> reqwest::Response {
    door.request(method, path).bearer_auth(credential).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charging_point_that_missed_pins_fetches_them_with_its_credential_spec_4_4() {
    let network = RegistryNetwork::start().await;
    let credential = network.enrolled("CP-1").await;
    super::watch::report(&network, vec![vec![9; 32]]).await;
    let response = with(&network.own_door(), Method::GET, "/v1/charging-points/CP-1", &credential).await;
    assert_eq!(response.headers()["cache-control"], "no-store");
    let status: EnrolmentStatus = response.json().await.unwrap();
    assert_eq!((status.state, status.id.as_str()), (CredentialState::Enrolled, "CP-1"));
    assert_eq!(status.trust.pins[0].0, [9; 32]);
    assert_eq!(status.trust.roots_pem().trim(), network.certificates.roots_pem().unwrap().trim());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_credential_can_leave_and_nobody_else_spec_7_4() {
    let network = RegistryNetwork::start().await;
    let (mine, other) = (network.enrolled("CP-1").await, network.enrolled("CP-2").await);
    let door = network.own_door();
    let path = "/v1/charging-points/CP-1";
    assert_eq!(with(&door, Method::DELETE, path, &other).await.status(), StatusCode::UNAUTHORIZED);
    let left = with(&door, Method::DELETE, path, &mine).await;
    assert_eq!(left.json::<EnrolmentStatus>().await.unwrap().state, CredentialState::Removed);
    assert_eq!(with(&door, Method::GET, path, &mine).await.status(), StatusCode::NOT_FOUND);

    let void = VoidRequest { request_id: request_id(), kind: Kind::ChargingPoint as i32, id: "CP-2".into() };
    network.central().void(void).await.unwrap();
    let refused = with(&door, Method::DELETE, "/v1/charging-points/CP-2", &other).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert_eq!(refused.json::<RefusalBody>().await.unwrap().reason, "CREDENTIAL_VOID");
    let seen = with(&door, Method::GET, "/v1/charging-points/CP-2", &other).await;
    assert_eq!(seen.json::<EnrolmentStatus>().await.unwrap().state, CredentialState::Void);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_wish_to_enrol_is_refused_in_words_and_without_echo() {
    let network = RegistryNetwork::start().await;
    let door = network.own_door();
    let post = |body: String| door.post("/v1/charging-points").header("content-type", "application/json").body(body);
    for (request, status) in [
        (post("{".into()), StatusCode::BAD_REQUEST),
        (post(r#"{"request_id":"r","id":"CP-1","sekret":"hush"}"#.into()), StatusCode::BAD_REQUEST),
        (post(r#"{"request_id":"r","id":"CP-1","price_e4":"hush"}"#.into()), StatusCode::BAD_REQUEST),
        (post(r#"{"request_id":"","id":"CP-1","token":"hush"}"#.into()), StatusCode::FORBIDDEN),
        (post(r#"{"request_id":"r","id":"no id"}"#.into()), StatusCode::BAD_REQUEST),
        (post(r#"{"request_id":"r","id":"CP-1"}"#.into()), StatusCode::FORBIDDEN),
        (post("x".repeat(40_000)), StatusCode::PAYLOAD_TOO_LARGE),
        (door.post("/v1/charging-points").body("{}"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (door.post("/v1/spaceships").json(&1), StatusCode::NOT_FOUND),
        (door.get("/"), StatusCode::NOT_FOUND),
        (door.get("/v1/charging-points"), StatusCode::METHOD_NOT_ALLOWED),
        (door.get("/v1/charging-points/CP-1"), StatusCode::UNAUTHORIZED),
        (door.get("/v1/drivers/no%20id"), StatusCode::BAD_REQUEST),
    ] {
        let response = request.send().await.unwrap();
        let (got, url) = (response.status(), response.url().to_string());
        let refusal: RefusalBody = response.json().await.unwrap();
        assert_eq!(got, status, "{url}: {refusal:?}");
        assert!(!refusal.message.contains("hush") && !refusal.reason.is_empty(), "{refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_wrong_tokens_are_refused_and_counted_and_none_is_hashed_spec_8_2() {
    let network = RegistryNetwork::with(&[
        "--attempts",
        "5",
        "--attempts-window",
        "1h",
        "--hashes-at-once",
        "1",
        "--hashes-waiting",
        "0",
    ])
    .await;
    let door = network.own_door();
    let token: proto::enrolment::EnrolmentToken = network.token(1).await.parse().unwrap();
    let secret = proto::enrolment::Secret::from_bytes([0; 32]);
    let wrong = proto::enrolment::EnrolmentToken { secret, ..token }.to_text();
    let mut reasons = std::collections::BTreeMap::new();
    for n in 0..1000 {
        let body = serde_json::json!({"request_id": format!("r{n}"), "id": "CP-1", "token": wrong.as_str()});
        let refusal: RefusalBody =
            door.post("/v1/charging-points").json(&body).send().await.unwrap().json().await.unwrap();
        *reasons.entry(refusal.reason).or_insert(0) += 1;
    }
    assert_eq!(Vec::from_iter(reasons), [("TOKEN_INVALID".into(), 5), ("TOO_MANY_ATTEMPTS".into(), 995)]);
    network.stop().await;
    let rows = super::audit::rows(&network).await;
    let counted: Vec<_> = rows.iter().filter(|row| row.action == "UNAUTHENTICATED_REFUSED").collect();
    let total: u64 = counted.iter().map(|row| super::audit::parameter(row, "count").parse::<u64>().unwrap()).sum();
    assert_eq!(total, 1000);
    assert!(counted.len() <= 4, "counted, not written one by one");
    assert_eq!(super::audit::parameter(counted[0], "from"), "127.0.0.0/24");
}
