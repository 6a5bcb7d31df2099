//! Which caller may call which method.

use std::{path::Path, time::Duration};

use proto::{Caller, link::v1::Reason};
use tokio::io::AsyncReadExt as _;
use tonic::Code;

use super::network::{
    MeshNetwork, NOT_IDEMPOTENT, READ, STREAM, anna, call, channel, counting, endless, send, trailers, until, with_body,
};
use crate::{certs::Authority, client, client::RoleAddress, identity::TlsIdentity, policy, status::reason_of};

const EVERYBODY: [Caller; 6] =
    [Caller::Viewer, Caller::Operator, Caller::Central, Caller::Registry, Caller::Weather, Caller::Dashboard];

#[tokio::test]
async fn each_caller_reaches_the_methods_of_his_policy_and_no_other_spec_13() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    let mut checked = 0;
    for caller in EVERYBODY {
        let channel = network.channel(caller, central.address);
        let ours = policy::rules().filter(|rule| rule.path.starts_with("/chargemesh."));
        for rule in ours {
            let result = call(&channel, rule.path).await;
            let refused = result.as_ref().err().map(|status| (status.code(), reason_of(status)));
            let expected =
                (!rule.callers.contains(&caller)).then_some((Code::PermissionDenied, Some(Reason::NotAllowed)));
            assert_eq!(refused, expected, "{caller:?} calls {}", rule.path);
            checked += 1;
        }
        let unknown = call(&channel, "/chargemesh.central.v1.Sessions/Forget").await.unwrap_err();
        assert_eq!(unknown.code(), Code::PermissionDenied, "default deny");
    }
    assert_eq!(checked, EVERYBODY.len() * proto::POLICIES.len());
}

#[tokio::test]
async fn without_a_certificate_no_call_is_answered() {
    let network = MeshNetwork::new();
    let (router, calls) = counting();
    let central = network.central(router).await;
    let roots = network.authority.roots_pem().unwrap();
    let mut tls = crate::identity::anonymous_client(&roots).unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = tokio::net::TcpStream::connect(central.address).await.unwrap();
    let name = "central".try_into().unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls));
    let error = match connector.connect(name, tcp).await {
        Ok(mut stream) => stream.read(&mut [0; 64]).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 0);
}

/// The identity of `caller`, by another authority, that trusts both.
fn foreigner(network: &MeshNetwork, out: &Path) -> TlsIdentity {
    let other = Authority::create(&network.dir.path().join("other"), "mesh.test", Duration::from_secs(86_400)).unwrap();
    other.issue_person(Caller::Operator, &anna(), out, Duration::from_secs(86_400), false).unwrap();
    let roots = format!("{}{}", other.roots_pem().unwrap(), network.authority.roots_pem().unwrap());
    std::fs::write(out.join("ca.pem"), roots).unwrap();
    TlsIdentity::load(out).unwrap()
}

#[tokio::test]
async fn a_foreign_certificate_is_refused_and_both_ends_say_so() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    let out = network.dir.path().join("foreigner");
    let refused = call(&channel(&foreigner(&network, &out), central.address), READ).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(
        refused.message(),
        format!("central cannot be reached: {}: it refuses our certificate: foreign to its roots", central.address)
    );

    let other = Authority::open(&network.dir.path().join("other")).unwrap();
    std::fs::write(out.join("ca.pem"), other.roots_pem().unwrap()).unwrap();
    let refused = call(&channel(&TlsIdentity::load(&out).unwrap(), central.address), READ).await.unwrap_err();
    assert!(refused.message().contains("its certificate is foreign: none of our roots"), "{}", refused.message());
}

#[tokio::test]
async fn an_expired_certificate_is_refused_with_its_cause() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    let out = network.dir.path().join("short");
    network.issue(Caller::Operator, "anna", &out, Duration::from_secs(1));
    let identity = TlsIdentity::load(&out).unwrap();
    let expired = async || matches!(TlsIdentity::load(&out), Err(crate::identity::TlsIdentityError::Expired { .. }));
    until("the certificate expires", expired).await;
    let refused = call(&channel(&identity, central.address), READ).await.unwrap_err();
    assert!(refused.message().ends_with("it refuses our certificate: expired"), "{}", refused.message());
}

#[tokio::test]
async fn another_role_behind_the_address_is_not_taken_for_the_one_asked_for() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    let target = RoleAddress::new("registry", [central.address.to_string()]);
    let channel = client::channel(&network.identity(Caller::Operator), target, &client::ClientConfig::default());
    let refused = call(&channel, READ).await.unwrap_err();
    assert!(refused.message().contains("its certificate is not for \"registry\""), "{}", refused.message());
}

#[tokio::test]
async fn a_certificate_of_our_roots_for_another_trust_domain_is_nobody() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    let out = network.folder(Caller::Operator);
    let strange = r#"{"uri":"spiffe://other.test/operator/anna","names":[],"lifetime_s":3600}"#;
    std::fs::write(out.join("identity.json"), strange).unwrap();
    network.authority.renew(&out).unwrap();
    let refused = call(&channel(&TlsIdentity::load(&out).unwrap(), central.address), READ).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("spiffe://other.test/operator/anna"), "{}", refused.message());
}

#[tokio::test]
async fn a_removed_operator_is_refused_at_once_and_his_streams_end_spec_7_3() {
    let network = MeshNetwork::new();
    let central = network.central(endless()).await;
    let out = network.dir.path().join("bert");
    network.issue(Caller::Operator, "bert", &out, Duration::from_secs(3600));
    let (anna_s, bert_s) = (network.channel(Caller::Operator, central.address), TlsIdentity::load(&out).unwrap());
    let bert_s = channel(&bert_s, central.address);
    let watch = tower::Service::call(&mut anna_s.clone(), super::network::request(STREAM)).await.unwrap();
    let others = tower::Service::call(&mut bert_s.clone(), super::network::request(STREAM)).await.unwrap();

    central.denied.deny(&anna());
    let ended = trailers(watch.into_body()).await.unwrap();
    assert_eq!((ended.code(), reason_of(&ended)), (Code::PermissionDenied, Some(Reason::Removed)));
    for _ in 0..20 {
        let refused = call(&anna_s, READ).await.unwrap_err();
        assert_eq!((refused.code(), reason_of(&refused)), (Code::PermissionDenied, Some(Reason::Removed)));
    }

    let going_on = tokio::time::timeout(Duration::from_millis(50), trailers(others.into_body())).await;
    assert!(going_on.is_err(), "another operator's stream goes on");
    central.denied.allow(&anna());
    let answered = tower::Service::call(&mut anna_s.clone(), super::network::request(STREAM)).await.unwrap();
    assert!(tonic::Status::from_header_map(answered.headers()).is_none(), "added again, he is answered");
}

#[tokio::test]
async fn an_expired_certificate_does_nothing_on_a_connection_of_before_spec_10_8() {
    let network = MeshNetwork::new();
    let (router, calls) = counting();
    let (central, streams) = (network.central(router).await, network.central(endless()).await);
    let out = network.dir.path().join("short");
    network.issue(Caller::Operator, "anna", &out, Duration::from_secs(2));
    let identity = TlsIdentity::load(&out).unwrap();
    let (calling, watching) = (channel(&identity, central.address), channel(&identity, streams.address));
    call(&calling, READ).await.unwrap();
    let watch = tower::Service::call(&mut watching.clone(), super::network::request(STREAM)).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), trailers(watch.into_body())).await.unwrap().unwrap();
    assert!(ended.message().contains("operator/anna expired on 20"), "{ended}");
    let before = calls.load(std::sync::atomic::Ordering::SeqCst);
    let refused = call(&calling, NOT_IDEMPOTENT).await.unwrap_err();
    assert!(refused.message().contains("expired"), "{refused}");
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_certificate_of_a_retired_root_does_nothing_on_a_connection_of_before_spec_10_8() {
    let network = MeshNetwork::new();
    let central = network.central(endless()).await;
    let (operator, folders) = (network.channel(Caller::Operator, central.address), [network.folder(Caller::Central)]);
    let watch = tower::Service::call(&mut operator.clone(), super::network::request(STREAM)).await.unwrap();
    network.authority.roll(365 * super::network::DAY, &folders).unwrap();
    network.authority.renew(&folders[0]).unwrap();
    network.authority.retire(&folders).unwrap();
    // At once; or it has noticed by itself, and the next handshake is refused.
    call(&operator, NOT_IDEMPOTENT).await.unwrap_err();
    let ended = trailers(watch.into_body()).await.unwrap();
    assert!(ended.message().contains("signed by a root that is retired"), "{ended}");
}

#[tokio::test]
async fn an_order_without_a_request_id_does_not_run() {
    let network = MeshNetwork::new();
    let (router, calls) = counting();
    let central = network.central(router).await;
    let channel = network.channel(Caller::Operator, central.address);
    for body in [&[0, 0, 0, 0, 0][..], &[0, 0, 0, 0, 2, 0x0a, 0], b"", &[1, 0, 0, 0, 3, 0x0a, 1, b'r']] {
        let refused = send(&channel, with_body(NOT_IDEMPOTENT, body)).await.unwrap_err();
        assert_eq!((refused.code(), reason_of(&refused)), (Code::InvalidArgument, Some(Reason::RequestIdMissing)));
    }
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 0);
    call(&channel, NOT_IDEMPOTENT).await.unwrap();
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1);
}
