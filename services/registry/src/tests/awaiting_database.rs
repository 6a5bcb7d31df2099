//! Registry while its database is not migrated yet.

use proto::{enrolment::RefusalBody, link::v1::Reason};
use reqwest::StatusCode;
use tonic::Code;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_awaited_both_doors_refuse_in_words_and_then_serve_on_the_same_ports_spec_9_1() {
    let network = RegistryNetwork::unmigrated();
    let running = tokio::spawn(crate::run(network.config(), network.ctx.clone()));
    let waits = |state: &mesh::health::ComponentState| matches!(state, mesh::health::ComponentState::Degraded { .. });
    until(async || {
        let open = network.ctx.address_of("https").is_some();
        open && network.ctx.health.report().components.get("database").is_some_and(waits)
    })
    .await;
    let before = (network.ctx.address_of("grpc"), network.ctx.address_of("https"));

    let mut anna = network.operator();
    let refused = anna.list(ListIdentitiesRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, Reason::Unavailable.code()));
    let words = refused.message();
    assert!(words.starts_with("the database cannot be used yet: ") && words.contains("chargemesh migrate"), "{words}");
    let viewer = IdentitiesClient::new(network.person(Caller::Viewer, "victor"));
    let create = token_request();
    let stranger = viewer.clone().create_token(create).await.unwrap_err();
    assert_eq!(stranger.code(), Code::PermissionDenied, "who may not call does not hear why");

    let door = network.own_door();
    for request in [door.post("/v1/charging-points").body("{"), door.get("/v1/charging-points/CP-1")] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "5");
        let refusal: RefusalBody = response.json().await.unwrap();
        assert_eq!(refusal.reason, Reason::Unavailable.code());
        assert!(refusal.message.contains("Registry's database cannot be used yet"), "{refusal:?}");
        assert!(!refusal.message.contains("registry.db"), "a stranger does not hear where it is: {refusal:?}");
    }

    Database::migrate(&network.url, SCHEMA).await.unwrap();
    until(async || anna.clone().list(ListIdentitiesRequest::default()).await.is_ok()).await;
    assert_eq!((network.ctx.address_of("grpc"), network.ctx.address_of("https")), before);
    let response = door.get("/v1/charging-points/CP-1").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "now it asks for the credential");
    running.await.unwrap().unwrap();
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_registry_that_waits_in_order_spec_9() {
    let network = RegistryNetwork::unmigrated();
    let running = tokio::spawn(crate::run(network.config(), network.ctx.clone()));
    until(async || network.ctx.address_of("https").is_some()).await;
    network.stop().await;
    running.await.unwrap().unwrap();
}
