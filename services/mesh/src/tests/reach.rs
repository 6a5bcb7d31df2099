//! What a client does when a server is not there, comes back, or struggles.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::Router;
use proto::Caller;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};
use tonic::Code;

use super::network::{LOCAL, MeshNetwork, NOT_IDEMPOTENT, READ, answer, call, counting, until};
use crate::{
    client::{self, ClientConfig, RoleAddress},
    health::{Health, Readiness},
    server::Limits,
};

/// Says UNAVAILABLE `times` times, then OK.
fn failing(times: u32) -> (Router, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let router = Router::new().fallback(async move || {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        answer(if number < times { Code::Unavailable } else { Code::Ok })
    });
    (router, calls)
}

#[tokio::test]
async fn a_call_is_repeated_only_where_the_contract_calls_it_idempotent() {
    let network = MeshNetwork::new();
    for (path, expected) in [(READ, Ok(3)), (NOT_IDEMPOTENT, Err(1))] {
        let (router, calls) = failing(2);
        let central = network.central(router).await;
        let result = call(&network.channel(Caller::Operator, central.address), path).await;
        let calls = calls.load(Ordering::SeqCst);
        assert_eq!(result.map(|()| calls).map_err(|_| calls), expected, "{path}");
    }
}

#[tokio::test]
async fn repetitions_have_a_budget_so_that_a_struggling_server_is_not_beaten_down() {
    let network = MeshNetwork::new();
    let (router, calls) = failing(u32::MAX);
    let central = network.central(router).await;
    let channel = network.channel(Caller::Operator, central.address);
    for _ in 0..100 {
        call(&channel, READ).await.unwrap_err();
    }
    let calls = calls.load(Ordering::SeqCst);
    // 100 and a fifth, and the reserve of two a second for ten seconds.
    assert!((101..=160).contains(&calls), "{calls}");
}

#[tokio::test]
async fn a_channel_says_why_it_cannot_reach_and_works_again_by_itself_spec_1_7() {
    let network = MeshNetwork::new();
    let first = network.central(counting().0).await;
    let (address, health) = (first.address, Health::default());
    let channel = network.channel(Caller::Operator, address).watched_by(&health);
    call(&channel, READ).await.unwrap();
    assert_eq!(health.readiness(), Readiness::Ready);

    first.stop().await;
    let gone = call(&channel, READ).await.unwrap_err();
    let words = format!("central cannot be reached: {address}: connection refused; is it running?");
    assert_eq!((gone.code(), gone.message()), (Code::Unavailable, words.as_str()));
    assert_eq!(health.readiness(), Readiness::Degraded, "never unready (SPEC 9.1)");
    let report = serde_json::to_value(health.report()).unwrap();
    assert_eq!(report["components"]["central"]["reason"], words);

    let _second = network.central_with(counting().0, Limits::default(), address).await;
    call(&channel, READ).await.unwrap();
    assert_eq!(health.readiness(), Readiness::Ready);
}

#[tokio::test]
async fn of_several_addresses_one_that_works_is_found() {
    let network = MeshNetwork::new();
    let central = network.central(counting().0).await;
    let dead = TcpListener::bind(LOCAL).await.unwrap().local_addr().unwrap();
    let addresses = [dead.to_string(), format!("localhost:{}", central.address.port())];
    for _ in 0..4 {
        let target = RoleAddress::new("central", addresses.clone());
        let channel = client::channel(&network.identity(Caller::Operator), target, &ClientConfig::default());
        call(&channel, READ).await.unwrap();
    }
    let target = RoleAddress::new("central", [dead.to_string(), "no-such-host.invalid:1".into()]);
    let channel = client::channel(&network.identity(Caller::Operator), target, &ClientConfig::default());
    let gone = call(&channel, READ).await.unwrap_err();
    assert!(gone.message().contains(&format!("{dead}: connection refused")), "{}", gone.message());
    assert!(gone.message().contains("no-such-host.invalid:1: the name does not resolve"), "{}", gone.message());
}

#[tokio::test]
async fn what_speaks_no_tls_is_named_and_what_says_nothing_is_given_up() {
    let network = MeshNetwork::new();
    let plain = TcpListener::bind(LOCAL).await.unwrap();
    let address = plain.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
        }
    });
    let gone = call(&network.channel(Caller::Operator, address), READ).await.unwrap_err();
    assert!(gone.message().contains("what listens there does not speak TLS"), "{}", gone.message());

    let silent = TcpListener::bind(LOCAL).await.unwrap();
    let settings = ClientConfig { connect_timeout: Duration::from_millis(100), ..ClientConfig::default() };
    let target = RoleAddress::new("central", [silent.local_addr().unwrap().to_string()]);
    let gone = call(&client::channel(&network.identity(Caller::Operator), target, &settings), READ).await.unwrap_err();
    assert!(gone.message().contains("no answer within 100 ms"), "{}", gone.message());
}

#[tokio::test]
async fn a_server_without_an_identity_refuses_until_it_has_one() {
    let network = MeshNetwork::new();
    let ctx = crate::process::Context::detached("central");
    let folder = network.dir.path().join("central");
    let config = crate::identity::IdentityConfig { identity: folder.clone() };
    let identity = crate::identity::TlsIdentity::open(&ctx, &config).unwrap();
    assert_eq!(ctx.health.readiness(), Readiness::Starting);
    let server = crate::server::Server::new(&ctx, &identity, Limits::default());
    let server = server.with_routes(tonic::service::Routes::from(counting().0));
    let address = server.start("grpc", LOCAL.parse().unwrap()).await.unwrap();
    let channel = network.channel(Caller::Operator, address);
    let refused = call(&channel, READ).await.unwrap_err();
    assert!(refused.message().contains("it may have no identity yet"), "{}", refused.message());

    network.issue(Caller::Central, "", &folder, super::network::DAY * 90);
    until("calls are answered", async || call(&channel, READ).await.is_ok()).await;
    assert_eq!(ctx.health.readiness(), Readiness::Ready);
}
