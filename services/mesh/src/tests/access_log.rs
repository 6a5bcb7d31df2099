//! What the access log records of connections and calls.

use std::time::Duration;

use proto::Caller;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::network::{MeshNetwork, NOT_IDEMPOTENT, READ, anna, call, channel, counting};
use crate::{
    access_log::{AccessEntry, RefusedAccess},
    certs::Authority,
    identity::TlsIdentity,
};

fn refused(what: &'static str, reason: &'static str, who: Option<&str>, count: u64) -> AccessEntry {
    let from = if who.is_some() { "127.0.0.1" } else { "127.0.0.0/24" };
    AccessEntry::Refused(RefusedAccess { what, reason, who: who.map(str::to_owned), from: from.to_owned(), count })
}

fn login(who: &str, count: u64) -> AccessEntry {
    AccessEntry::Login { who: who.to_owned(), from: [127, 0, 0, 1].into(), count }
}

#[tokio::test]
async fn a_persons_connections_are_logins_and_a_roles_are_not_spec_8_1() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    for caller in [Caller::Operator, Caller::Operator, Caller::Registry] {
        drop(call(&network.channel(caller, central.address), READ).await);
    }
    let told = central.told().await;
    assert!(told.contains(&login("operator/anna", 2)), "{told:?}");
    let logins = told.iter().filter(|entry| matches!(entry, AccessEntry::Login { .. })).count();
    assert_eq!(logins, 1, "{told:?}");
}

#[tokio::test]
async fn who_is_refused_by_policy_is_named_and_counted_spec_8_2() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    let viewer = network.channel(Caller::Viewer, central.address);
    for _ in 0..3 {
        call(&viewer, NOT_IDEMPOTENT).await.unwrap_err();
        call(&viewer, "/chosen/by-whoever-calls").await.unwrap_err();
    }
    let told = central.told().await;
    let expected = [
        login("viewer/anna", 1),
        refused(NOT_IDEMPOTENT, "NOT_ALLOWED", Some("viewer/anna"), 3),
        refused("unknown method", "NOT_ALLOWED", Some("viewer/anna"), 3),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_removed_operator_does_not_log_in_and_is_named_spec_7_3() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    central.denied.deny(&anna());
    call(&network.channel(Caller::Operator, central.address), READ).await.unwrap_err();
    assert_eq!(central.told().await, [refused(READ, "REMOVED", Some("operator/anna"), 1)]);
}

#[tokio::test]
async fn who_shows_no_good_certificate_is_counted_by_its_fault_spec_8_1() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    let roots = network.authority.roots_pem().unwrap();

    let mut tls = crate::identity::anonymous_client(&roots).unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = tokio::net::TcpStream::connect(central.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls));
    if let Ok(mut stream) = connector.connect("central".try_into().unwrap(), tcp).await {
        stream.read(&mut [0; 64]).await.unwrap_err();
    }

    let other = Authority::create(&network.dir.path().join("other"), "mesh.test", Duration::from_secs(3600)).unwrap();
    let out = network.dir.path().join("foreigner");
    other.issue_person(Caller::Operator, &anna(), &out, Duration::from_secs(3600), false).unwrap();
    std::fs::write(out.join("ca.pem"), format!("{}{roots}", other.roots_pem().unwrap())).unwrap();
    call(&channel(&TlsIdentity::load(&out).unwrap(), central.address), READ).await.unwrap_err();

    let out = network.dir.path().join("short");
    network.issue(Caller::Operator, "anna", &out, Duration::from_secs(1));
    let identity = TlsIdentity::load(&out).unwrap();
    let expired = async || matches!(TlsIdentity::load(&out), Err(crate::identity::TlsIdentityError::Expired { .. }));
    super::network::until("the certificate expires", expired).await;
    call(&channel(&identity, central.address), READ).await.unwrap_err();

    let mut tcp = tokio::net::TcpStream::connect(central.address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    drop(tcp.read_to_end(&mut Vec::new()).await);

    let reasons = ["CERTIFICATE_EXPIRED", "CERTIFICATE_FOREIGN", "CERTIFICATE_MISSING", "HANDSHAKE_FAILED"];
    let told = central.told().await;
    // A client tries more than once, so the counts vary.
    let all = told.iter().filter_map(|entry| match entry {
        AccessEntry::Refused(refused) => Some((refused.what, refused.reason, refused.from.as_str())),
        AccessEntry::Login { .. } => None,
    });
    let expected = reasons.map(|reason| ("grpc", reason, "127.0.0.0/24"));
    assert!(all.eq(expected), "{told:?}");
}
