//! Operators: added, removed, refused at once.

use tonic::Code;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_operator_is_refused_at_once_whatever_his_certificate_says_spec_7_3() {
    let mut network = RegistryNetwork::start().await;
    let bob = network.person(Caller::Operator, "bob");
    let mut identities = IdentitiesClient::new(bob.clone());
    identities.list(ListIdentitiesRequest::default()).await.unwrap();

    let remove = || RemoveOperatorRequest { request_id: request_id(), name: "bob".into(), force: false };
    assert!(network.operators().remove(remove()).await.unwrap().into_inner().changed);
    assert!(!network.operators().remove(remove()).await.unwrap().into_inner().changed);
    let mut refused = identities.list(ListIdentitiesRequest::default()).await.unwrap_err();
    if refused.code() == Code::Unavailable {
        // The connection was cut during this call; the next call gets the reason.
        refused = identities.list(ListIdentitiesRequest::default()).await.unwrap_err();
    }
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    network.restart().await;
    let mut identities = IdentitiesClient::new(network.person(Caller::Operator, "bob"));
    identities.list(ListIdentitiesRequest::default()).await.unwrap_err();

    let role = OperatorRole::Operator as i32;
    let add = AddOperatorRequest { request_id: request_id(), name: "bob".into(), role };
    let added = network.operators().add(add).await.unwrap().into_inner();
    assert_eq!(added, Operator { name: "bob".into(), role, removed: false });
    identities.list(ListIdentitiesRequest::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_who_are_removed_at_once_are_all_refused_spec_7_3() {
    let network = RegistryNetwork::start().await;
    let names: Vec<_> = (0..8).map(|n| format!("op{n}")).collect();
    let mut removals = tokio::task::JoinSet::new();
    for name in names.clone() {
        let mut operators = network.operators();
        let remove = RemoveOperatorRequest { request_id: request_id(), name, force: false };
        removals.spawn(async move { operators.remove(remove).await.unwrap() });
    }
    removals.join_all().await;
    for name in &names {
        let mut his = IdentitiesClient::new(network.person(Caller::Operator, name));
        his.list(ListIdentitiesRequest::default()).await.expect_err(name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_operator_operates_by_his_certificate_and_is_listed_by_a_flag_spec_7_2() {
    let mut network = RegistryNetwork::with(&["--first-operator", "anna"]).await;
    let listed = async |network: &RegistryNetwork| {
        network.operators().list(ListOperatorsRequest::default()).await.unwrap().into_inner()
    };
    assert_eq!(listed(&network).await.operators.len(), 1);
    // The operator is known now, so the flag does not add it again, also not after a removal.
    network.restart().await;
    assert_eq!(listed(&network).await.operators.len(), 1);
    let mut bob = OperatorsClient::new(network.person(Caller::Operator, "bob"));
    let remove = RemoveOperatorRequest { request_id: request_id(), name: "anna".into(), force: true };
    assert!(bob.remove(remove).await.unwrap().into_inner().changed);
    network.restart().await;
    network.operators().list(ListOperatorsRequest::default()).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_may_see_the_pins_and_order_nothing_spec_7_2() {
    let network = RegistryNetwork::start().await;
    let mut viewer = IdentitiesClient::new(network.person(Caller::Viewer, "vera"));
    viewer.pins(PinsRequest {}).await.unwrap();
    let request = token_request();
    assert_eq!(viewer.create_token(request).await.unwrap_err().code(), Code::PermissionDenied);
    let enrol = EnrolRequest { request_id: request_id(), ..enrol_request("CP-1") };
    assert_eq!(viewer.enrol(enrol).await.unwrap_err().code(), Code::PermissionDenied);
    let request = ListOperatorsRequest::default();
    let mut central = OperatorsClient::new(network.channel("central"));
    assert_eq!(central.list(request).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_serves_one_registry_at_a_time_spec_1_7() {
    let network = RegistryNetwork::start().await;
    let error = crate::run(network.config(), Context::detached("registry")).await.unwrap_err();
    assert_eq!(mesh::process::exit_code(&error), 2);
    let words = format!("another Registry uses {}", network.path("data").display());
    assert!(error.to_string().starts_with(&words), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_secret_than_the_databases_own_is_refused_with_its_file() {
    let network = RegistryNetwork::start().await;
    network.stop().await;
    let file = network.path("data").join("secret");
    std::fs::write(&file, hex::encode([1; 32])).unwrap();
    let error = crate::run(network.config(), Context::detached("registry")).await.unwrap_err();
    assert_eq!(mesh::process::exit_code(&error), 2);
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}
