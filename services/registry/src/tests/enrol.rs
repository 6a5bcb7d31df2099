//! Enrolment over gRPC and HTTPS, first answers, and what a token permits.

use proto::{
    enrolment::{EnrolBody, Enrolled, EnrolmentToken, RefusalBody, SecretText},
    link::v1::Reason,
};
use store::OnceRow;

use super::*;

pub(super) fn body(id: &str, token: &str) -> EnrolBody {
    EnrolBody { request_id: request_id(), id: id.into(), token: SecretText::new(token), ..Default::default() }
}

pub(super) async fn post(door: &Https, body: &EnrolBody) -> Result<Enrolled, RefusalBody> {
    let response = door.post("/v1/charging-points").json(body).send().await.unwrap();
    if response.status() == 201 { Ok(response.json().await.unwrap()) } else { Err(response.json().await.unwrap()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_and_an_address_are_all_that_a_monitor_needs_to_enrol_spec_7_4() {
    let network = RegistryNetwork::start().await;
    let pin = vec![7; 32];
    super::watch::report(&network, vec![pin.clone()]).await;
    let text = network.token(1).await;
    let token: EnrolmentToken = text.parse().unwrap();
    assert_eq!(token.pins, [[7; 32]]);

    let door = network.door(&token.roots_pem());
    let request = EnrolBody { city: "Oslo".into(), place: "Quay 1".into(), price_e4: 3950, ..body("CP-1", &text) };
    let enrolled = post(&door, &request).await.unwrap();
    assert_eq!((enrolled.status.incarnation, enrolled.status.city.as_str()), (1, "Oslo"));
    assert_eq!(enrolled.status.trust.pins[0].0, pin);
    assert_eq!(enrolled.status.trust.roots[0].0, token.roots[0]);

    let verified = network.verify("CP-1", enrolled.credential.expose()).await.unwrap();
    assert_eq!(verified.reason_code, Reason::Unspecified.public_code());
    let identity = verified.identity.unwrap();
    assert_eq!((identity.place.as_str(), identity.price_e4, identity.incarnation), ("Quay 1", Some(3950), 1));

    let spent = post(&door, &body("CP-2", &text)).await.unwrap_err();
    assert_eq!(spent.reason, "TOKEN_SPENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_given_again_even_by_a_registry_that_was_restarted() {
    let mut network = RegistryNetwork::start().await;
    let text = network.token(1).await;
    let request = body("CP-1", &text);
    let first = post(&network.own_door(), &request).await.unwrap();
    network.restart().await;
    let again = post(&network.own_door(), &request).await.unwrap();
    assert_eq!(first.credential.expose(), again.credential.expose());
    assert_eq!(again.status.incarnation, 1, "enrolled once");

    let other = EnrolBody { id: "CP-2".into(), ..request.clone() };
    assert_eq!(post(&network.own_door(), &other).await.unwrap_err().reason, "INVALID");

    // As the housekeeping does after ten minutes.
    let database = network.database().await;
    let erased = database.transaction("test", |conn| Ok::<_, store::Abort<()>>(OnceRow::erase_nonces(conn, i64::MAX)?));
    assert!(erased.await.unwrap().unwrap() >= 1);
    let late = post(&network.own_door(), &request).await.unwrap_err();
    assert_eq!(late.reason, "ALREADY_ENROLLED");
    assert_eq!(
        network.verify("CP-1", first.credential.expose()).await.unwrap().reason_code,
        Reason::Unspecified.public_code()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_lost_on_the_way_is_shown_again_and_only_one_is_made() {
    let network = RegistryNetwork::start().await;
    let request = CreateTokenRequest { request_id: "once".into(), uses: Some(3), ..token_request() };
    let first = network.operator().create_token(request.clone()).await.unwrap().into_inner();
    let again = network.operator().create_token(request.clone()).await.unwrap().into_inner();
    assert_eq!(first, again);
    let listed = network.operator().list_tokens(ListTokensRequest::default()).await.unwrap().into_inner().tokens;
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].uses_left, listed[0].created_by.as_str()), (3, "operator/anna"));
    let changed = CreateTokenRequest { uses: Some(4), ..request };
    assert_eq!(reason(&network.operator().create_token(changed).await.unwrap_err()), "INVALID");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_limited_in_kind_id_city_and_time_and_can_be_revoked_spec_7_4() {
    let network = RegistryNetwork::start().await;
    let request = CreateTokenRequest {
        request_id: request_id(),
        kinds: vec![Kind::ChargingPoint as i32],
        id_pattern: "CP-*".into(),
        city: "Oslo".into(),
        uses: Some(10),
        lifetime: Some(proto::Duration { seconds: 3600, nanos: 0 }),
    };
    let created = network.operator().create_token(request).await.unwrap().into_inner();
    let door = network.own_door();
    assert_eq!(post(&door, &body("X-1", &created.token)).await.unwrap_err().reason, "TOKEN_INVALID");
    let rome = EnrolBody { city: "Rome".into(), ..body("CP-1", &created.token) };
    assert_eq!(post(&door, &rome).await.unwrap_err().reason, "TOKEN_INVALID");
    let driver = door.post("/v1/drivers").json(&body("CP-1", &created.token)).send().await.unwrap();
    assert_eq!(driver.json::<RefusalBody>().await.unwrap().reason, "TOKEN_INVALID");
    let enrolled = post(&door, &body("CP-1", &created.token)).await.unwrap();
    assert_eq!(enrolled.status.city, "Oslo", "the token's city where none is named");

    let revoke = RevokeTokenRequest { request_id: request_id(), token_id: created.token_id };
    assert!(network.operator().revoke_token(revoke).await.unwrap().into_inner().changed);
    assert_eq!(post(&door, &body("CP-2", &created.token)).await.unwrap_err().reason, "TOKEN_INVALID");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_show_a_one_use_token_at_once_exactly_one_is_enrolled_spec_7_4() {
    let network = RegistryNetwork::start().await;
    let text = network.token(1).await;
    let door = network.own_door();
    let tries = (0..12).map(|n| {
        let (door, request) = (door.clone(), body(&format!("CP-{n}"), &text));
        tokio::spawn(async move { post(&door, &request).await })
    });
    let mut enrolled = 0;
    for tried in tries.collect::<Vec<_>>() {
        match tried.await.unwrap() {
            Ok(_) => enrolled += 1,
            Err(refusal) => assert_eq!(refusal.reason, "TOKEN_SPENT", "{}", refusal.message),
        }
    }
    assert_eq!(enrolled, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_that_is_said_many_times_at_once_gets_one_answer_spec_7_3() {
    let network = RegistryNetwork::start().await;
    let door = network.own_door();
    for n in 0..4 {
        let request = body(&format!("CP-{n}"), &network.token(1).await);
        let mut tries = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (door, request) = (door.clone(), request.clone());
            tries.spawn(async move { post(&door, &request).await.unwrap().credential.expose().to_owned() });
        }
        let credentials: std::collections::BTreeSet<_> = tries.join_all().await.into_iter().collect();
        assert_eq!(credentials.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_enrolled_twice_only_by_its_credential_or_an_operators_token_for_it_spec_7_4() {
    let network = RegistryNetwork::start().await;
    let first = network.enrolled("CP-1").await;
    let door = network.own_door();
    let token = network.token(5).await;
    assert_eq!(post(&door, &body("CP-1", &token)).await.unwrap_err().reason, "ALREADY_ENROLLED");
    let refused =
        network.operator().enrol(EnrolRequest { request_id: request_id(), ..enrol_request("CP-1") }).await.unwrap_err();
    assert_eq!(reason(&refused), "ALREADY_ENROLLED");

    let by_credential = EnrolBody { old_credential: SecretText::new(&first), ..body("CP-1", "") };
    let both = EnrolBody { request_id: request_id(), token: SecretText::new(&token), ..by_credential.clone() };
    assert_eq!(post(&door, &both).await.unwrap_err().reason, "INVALID");
    let second = post(&door, &by_credential).await.unwrap();
    assert_eq!((second.status.incarnation, second.status.place.as_str()), (2, "Quay 1"));
    let again = post(&door, &by_credential).await.unwrap();
    assert_eq!(again.credential.expose(), second.credential.expose(), "the first answer, though the old one is dead");
    assert_eq!(network.verify("CP-1", &first).await.unwrap().reason_code, Reason::WrongCredential.public_code());

    let reissue = ReissueRequest { request_id: request_id(), kind: Kind::ChargingPoint as i32, id: "CP-1".into() };
    let one = network.operator().reissue(reissue).await.unwrap().into_inner().token;
    assert_eq!(post(&door, &body("CP-2", &one)).await.unwrap_err().reason, "TOKEN_INVALID");
    let third = post(&door, &body("CP-1", &one)).await.unwrap();
    assert_eq!(third.status.incarnation, 3);
    assert_eq!(post(&door, &body("CP-1", &one)).await.unwrap_err().reason, "TOKEN_SPENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_credential_is_void_until_a_one_use_token_restores_it_spec_4_7() {
    let network = RegistryNetwork::start().await;
    let credential = network.enrolled("CP-1").await;
    let void = VoidRequest { request_id: request_id(), kind: Kind::ChargingPoint as i32, id: "CP-1".into() };
    assert!(network.central().void(void.clone()).await.unwrap().into_inner().changed);
    let again = network.central().void(void.clone()).await.unwrap().into_inner();
    assert!(again.changed, "the first answer");
    assert_eq!(again.identity.unwrap().state(), IdentityState::Void);

    let verified = network.verify("CP-1", &credential).await.unwrap();
    assert_eq!(verified.reason_code, Reason::CredentialVoid.public_code());
    assert_eq!(verified.identity.unwrap().state(), IdentityState::Void);
    let door = network.own_door();
    let by_credential = EnrolBody { old_credential: SecretText::new(&credential), ..body("CP-1", "") };
    assert_eq!(post(&door, &by_credential).await.unwrap_err().reason, "CREDENTIAL_VOID");

    let restore = || ReissueRequest { request_id: request_id(), kind: Kind::ChargingPoint as i32, id: "CP-1".into() };
    let former = network.central().reissue(restore()).await.unwrap().into_inner().token;
    let token = network.central().reissue(restore()).await.unwrap().into_inner().token;
    let refused = post(&door, &body("CP-1", &former)).await.unwrap_err();
    assert_eq!(refused.reason, "TOKEN_INVALID", "a second one makes the first void");
    let restored = post(&door, &body("CP-1", &token)).await.unwrap();
    assert_eq!(restored.status.incarnation, 2);
    assert_eq!(
        network.verify("CP-1", restored.credential.expose()).await.unwrap().reason_code,
        Reason::Unspecified.public_code()
    );
    // Central may have missed the answer. The repeat tells it the current state, and makes nothing void again.
    let now = network.central().void(void).await.unwrap().into_inner().identity.unwrap();
    assert_eq!((now.state(), now.incarnation), (IdentityState::Enrolled, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_id_is_enrolled_again_only_when_an_operator_readmits_it_spec_7_4() {
    let network = RegistryNetwork::start().await;
    let credential = network.enrolled("CP-1").await;
    let kind = Kind::ChargingPoint as i32;
    let remove = RemoveRequest { request_id: request_id(), kind, id: "CP-1".into() };
    assert!(network.operator().remove(remove).await.unwrap().into_inner().changed);
    let remove = RemoveRequest { request_id: request_id(), kind, id: "CP-1".into() };
    assert!(!network.operator().remove(remove).await.unwrap().into_inner().changed);
    assert_eq!(network.verify("CP-1", &credential).await.unwrap().reason_code, Reason::NotEnrolled.public_code());

    let enrol = || EnrolRequest { request_id: request_id(), ..enrol_request("CP-1") };
    assert_eq!(reason(&network.operator().enrol(enrol()).await.unwrap_err()), "NOT_READMITTED");
    let readmit = ReadmitRequest { request_id: request_id(), kind, id: "CP-1".into() };
    let may_enrol = async || {
        let all = network.operator().list(ListIdentitiesRequest::default()).await.unwrap().into_inner().identities;
        all.iter().map(|identity| (identity.state(), identity.may_enrol)).collect::<Vec<_>>()
    };
    assert_eq!(may_enrol().await, [(IdentityState::Removed, false)]);
    assert!(network.operator().readmit(readmit).await.unwrap().into_inner().changed);
    assert_eq!(may_enrol().await, [(IdentityState::Removed, true)]);
    let back = network.operator().enrol(enrol()).await.unwrap().into_inner();
    assert_eq!(back.identity.unwrap().incarnation, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_are_listed_in_pages_of_both_kinds_spec_7_1() {
    let network = RegistryNetwork::start().await;
    for id in ["CP-2", "CP-1", "CP-3"] {
        network.enrolled(id).await;
    }
    let driver =
        EnrolRequest { request_id: request_id(), kind: Kind::Driver as i32, id: "D-1".into(), ..Default::default() };
    network.operator().enrol(driver).await.unwrap();
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListIdentitiesRequest { kind: 0, page_size: 2, page_token };
        let page = network.operator().list(request).await.unwrap().into_inner();
        ids.extend(page.identities.into_iter().map(|identity| identity.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(ids, ["CP-1", "CP-2", "CP-3", "D-1"]);
}
