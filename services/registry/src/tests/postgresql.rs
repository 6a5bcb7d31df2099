//! The same Registry on PostgreSQL, where transactions run concurrently.

use mesh::health::Readiness;
use store::testing::Postgres;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql_a_token_is_used_as_often_as_it_permits_and_every_change_is_followed() {
    let server = tokio::task::spawn_blocking(store::testing::postgres).await.unwrap();
    let url = tokio::task::spawn_blocking(|| server.create_database()).await.unwrap();
    let network = RegistryNetwork::at(TempDir::new().unwrap(), url, &[], "").await;
    let token = network.token(5).await;
    let mut following = watch::follow(&network, 0, vec![]).await;
    following.synchronised().await;
    let tries = (0..15).map(|n| {
        let (mut registry, request_id) = (network.operator(), request_id());
        let request = EnrolRequest { request_id, token: token.clone(), ..enrol_request(&format!("CP-{n}")) };
        tokio::spawn(async move { registry.enrol(request).await })
    });
    let mut credentials = Vec::new();
    for tried in tries.collect::<Vec<_>>() {
        match tried.await.unwrap() {
            Ok(enrolled) => credentials.push(enrolled.into_inner().credential),
            Err(status) => assert_eq!(reason(&status), "TOKEN_SPENT", "{status}"),
        }
    }
    assert_eq!(credentials.len(), 5);
    let mut revisions = Vec::new();
    for _ in 0..5 {
        revisions.push(following.next().await.revision);
    }
    assert!(revisions.is_sorted(), "{revisions:?}");
    let id = credentials[0].trim_start_matches("cmc1.cp-").split('.').next().unwrap();
    let verified = network.verify(id, &credentials[0]).await.unwrap();
    assert_eq!(verified.reason_code, proto::link::v1::Reason::Unspecified.public_code());
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_registry_says_so_and_goes_on_when_it_is_back_spec_9() {
    let start = || {
        let server = Postgres::start().unwrap();
        let url = server.create_database();
        (server, url)
    };
    let (mut server, url) = tokio::task::spawn_blocking(start).await.unwrap();
    let network = RegistryNetwork::at(TempDir::new().unwrap(), url, &[], "").await;
    let credential = network.enrolled("CP-1").await;
    let crash = move || {
        server.crash();
        server
    };
    let mut server = tokio::task::spawn_blocking(crash).await.unwrap();

    let request = EnrolRequest { request_id: request_id(), ..enrol_request("CP-2") };
    let refused = network.operator().enrol(request.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "UNAVAILABLE", "{refused}");
    assert_eq!(reason(&network.verify("CP-1", &credential).await.unwrap_err()), "UNAVAILABLE");
    assert_eq!(network.ctx.health.readiness(), Readiness::Degraded, "it still answers");

    let _server = tokio::task::spawn_blocking(move || server.restart().map(|()| server)).await.unwrap().unwrap();
    let enrolled = network.operator().enrol(request).await.unwrap().into_inner();
    assert_eq!(enrolled.identity.unwrap().incarnation, 1);
    assert_eq!(
        network.verify("CP-1", &credential).await.unwrap().reason_code,
        proto::link::v1::Reason::Unspecified.public_code()
    );
    // A look-up that was under way when the database went may still report that.
    let mut readiness = network.ctx.health.subscribe();
    let ready = readiness.wait_for(|readiness| *readiness == Readiness::Ready);
    tokio::time::timeout(std::time::Duration::from_secs(20), ready).await.expect("ready again").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_starts_before_its_database_refuses_in_words_and_serves_when_it_comes_spec_9_1() {
    let start = || {
        let server = Postgres::start().unwrap();
        let url = server.create_database();
        (server, url)
    };
    let (mut server, url) = tokio::task::spawn_blocking(start).await.unwrap();
    let mut network = RegistryNetwork::at(TempDir::new().unwrap(), url, &[], "").await;
    let credential = network.enrolled("CP-1").await;
    network.stop().await;
    let crash = move || {
        server.crash();
        server
    };
    let mut server = tokio::task::spawn_blocking(crash).await.unwrap();

    network.ctx = Context::detached("registry");
    let running = tokio::spawn(crate::run(network.config(), network.ctx.clone()));
    until(async || network.ctx.health.readiness() == Readiness::Degraded).await;
    let refused = network.verify("CP-1", &credential).await.unwrap_err();
    assert_eq!(reason(&refused), "UNAVAILABLE", "{refused}");
    assert!(refused.message().contains("cannot be used yet: cannot reach the database postgres://"), "{refused}");

    let _server = tokio::task::spawn_blocking(move || server.restart().map(|()| server)).await.unwrap().unwrap();
    until(async || network.verify("CP-1", &credential).await.is_ok()).await;
    assert_eq!(network.ctx.health.readiness(), Readiness::Ready);
    running.await.unwrap().unwrap();
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_is_noticed_while_idle_and_registry_goes_on_when_it_answers_spec_9_0() {
    let start = || {
        let server = Postgres::start().unwrap();
        let url = server.create_database();
        (server, url)
    };
    let (server, url) = tokio::task::spawn_blocking(start).await.unwrap();
    let network = RegistryNetwork::at(TempDir::new().unwrap(), url, &[], "").await;
    let credential = network.enrolled("CP-1").await;
    let mut readiness = network.ctx.health.subscribe();

    let frozen = server.freeze();
    let noticed = readiness.wait_for(|readiness| *readiness == Readiness::Degraded);
    // 2 s, and room for a busy machine.
    tokio::time::timeout(std::time::Duration::from_millis(3_500), noticed).await.expect("noticed").unwrap();
    assert_eq!(reason(&network.verify("CP-1", &credential).await.unwrap_err()), "UNAVAILABLE");

    drop(frozen);
    let ready = readiness.wait_for(|readiness| *readiness == Readiness::Ready);
    tokio::time::timeout(std::time::Duration::from_secs(20), ready).await.expect("ready again").unwrap();
    until(async || network.verify("CP-1", &credential).await.is_ok()).await;
    network.stop().await;
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}
