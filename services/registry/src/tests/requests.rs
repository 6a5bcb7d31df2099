//! What is wrong in a request is answered with each field that is (SPEC 7.3).

use proto::link::v1::Reason;
use tonic::{Code, Response};
use tonic_types::StatusExt as _;

use super::*;

/// The fields that an answer says are wrong.
fn wrong<T>(answer: Result<Response<T>, Status>) -> Vec<String> {
    let Err(status) = answer else { panic!("it was answered") };
    let said = (status.code(), mesh::status::reason_of(&status));
    assert_eq!(said, (Code::InvalidArgument, Some(Reason::Invalid)), "{status}");
    let violations = status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_for_nobody_who_is_not_said_spec_7_3() {
    let network = RegistryNetwork::start().await;
    let mut client = network.operator();
    let mut create = async |request: CreateTokenRequest| {
        wrong(client.create_token(CreateTokenRequest { request_id: request_id(), ..request }).await)
    };
    let nothing = create(CreateTokenRequest::default()).await;
    assert_eq!(nothing, ["kinds", "id_pattern", "uses", "lifetime"]);
    assert_eq!(create(CreateTokenRequest { kinds: vec![1, 99, 0], ..token_request() }).await, ["kinds[1]", "kinds[2]"]);
    assert_eq!(create(CreateTokenRequest { uses: Some(0), ..token_request() }).await, ["uses"]);
    for (seconds, nanos) in [(0, 0), (-1, 0), (1, 500_000_000), (i64::MAX, 0)] {
        let lifetime = Some(proto::Duration { seconds, nanos });
        assert_eq!(create(CreateTokenRequest { lifetime, ..token_request() }).await, ["lifetime"], "{seconds} {nanos}");
    }
    let made = network.operator().list_tokens(ListTokensRequest::default()).await.unwrap().into_inner();
    assert_eq!(made.tokens, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_an_id_and_a_role_are_known_and_said_spec_7_3() {
    let network = RegistryNetwork::start().await;
    let mut client = network.operator();
    for (kind, id, fields) in [
        (0, "CP-1", &["kind"][..]),
        (99, "CP-1", &["kind"]),
        (1, "", &["id"]),
        (1, "no id", &["id"]),
        (0, "", &["kind", "id"]),
    ] {
        let remove = RemoveRequest { request_id: request_id(), kind, id: id.into() };
        assert_eq!(wrong(client.remove(remove).await), fields, "{kind} {id:?}");
        let enrol = EnrolRequest { request_id: request_id(), kind, id: id.into(), ..Default::default() };
        assert_eq!(wrong(client.enrol(enrol).await), fields, "{kind} {id:?}");
    }
    let free = EnrolRequest { request_id: request_id(), price_e4: Some(0), ..enrol_request("CP-1") };
    assert_eq!(wrong(client.enrol(free).await), ["price_e4"]);
    let list = ListIdentitiesRequest { kind: 99, ..Default::default() };
    assert_eq!(wrong(client.list(list).await), ["kind"]);
    for role in [0, 99] {
        let add = AddOperatorRequest { request_id: request_id(), name: "bob".into(), role };
        assert_eq!(wrong(network.operators().add(add).await), ["role"], "{role}");
    }
    let remove = RemoveOperatorRequest { request_id: request_id(), name: "no way".into(), force: false };
    assert_eq!(wrong(network.operators().remove(remove).await), ["name"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_has_pages_that_follow_one_another_spec_7_3() {
    let network = RegistryNetwork::start().await;
    for _ in 0..3 {
        network.token(1).await;
    }
    let (mut tokens, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTokensRequest { page_size: 2, page_token };
        let page = network.operator().list_tokens(request).await.unwrap().into_inner();
        assert!(page.tokens.len() <= 2);
        tokens.extend(page.tokens.into_iter().map(|token| token.token_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let all = network.operator().list_tokens(ListTokensRequest::default()).await.unwrap().into_inner().tokens;
    assert_eq!(tokens, all.into_iter().map(|token| token.token_id).collect::<Vec<_>>());
    assert_eq!(tokens.len(), 3);

    let first = ListTokensRequest { page_size: 1, ..Default::default() };
    let foreign = network.operator().list_tokens(first).await.unwrap().into_inner().next_page_token;
    for (page_size, token, field) in
        [(10_001, "", "page_size"), (0, "broken", "page_token"), (0, foreign.as_str(), "page_token")]
    {
        let page_token = || token.to_owned();
        let request = ListIdentitiesRequest { page_size, page_token: page_token(), ..Default::default() };
        assert_eq!(wrong(network.operator().list(request).await), [field]);
        let request = ListOperatorsRequest { page_size, page_token: page_token() };
        assert_eq!(wrong(network.operators().list(request).await), [field]);
    }
    let broken = ListTokensRequest { page_size: 0, page_token: "broken".into() };
    assert_eq!(wrong(network.operator().list_tokens(broken).await), ["page_token"]);
}
