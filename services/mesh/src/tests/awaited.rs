//! A role that listens while it waits for its database.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use proto::{
    Caller,
    link::v1::Reason,
    registry::v1::{
        AddOperatorRequest, ListOperatorsRequest, operators_client::OperatorsClient, operators_server::OperatorsServer,
    },
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{
    network::{LOCAL, MeshNetwork, READ, call, until},
    services::FakeOperators,
};
use crate::{
    awaited::Awaited,
    client::{ClientConfig, https},
    health::{ComponentState, Health},
    process::{Context, exit_code},
    server::{Limits, Server},
    status::reason_of,
};

/// Not there before the third look.
fn slow() -> (Arc<AtomicU32>, impl Fn() -> std::future::Ready<Result<&'static str, &'static str>>) {
    let looks = Arc::new(AtomicU32::new(0));
    let counted = looks.clone();
    let open = move || {
        let looked = counted.fetch_add(1, Ordering::SeqCst) + 1;
        std::future::ready(if looked < 3 { Err("nobody listens at db:5432") } else { Ok("opened") })
    };
    (looks, open)
}

#[tokio::test]
async fn while_a_role_waits_who_may_call_hears_why_and_nobody_else_anything_spec_9_1() {
    let network = MeshNetwork::new();
    let ctx = Context::detached("central");
    let awaited = Awaited::<()>::new(&ctx.health, "database");
    let service = awaited.service(|()| OperatorsServer::new(FakeOperators));
    let server = Server::new(&ctx, &network.identity(Caller::Central), Limits::default()).add_service(service);
    let address = server.start("grpc", LOCAL.parse().unwrap()).await.unwrap();
    let (stop, never) = (ctx.stop.clone(), || std::future::ready(Err::<(), _>("nobody listens at db:5432")));
    let waiting = tokio::spawn({
        let awaited = awaited.clone();
        async move { awaited.opened(&stop, never, |_| true).await }
    });

    let channel = network.channel(Caller::Operator, address);
    let mut operators = OperatorsClient::new(channel.clone());
    until("it has looked once", async || awaited.get().is_err_and(|why| why.contains("nobody listens"))).await;
    let refused = operators.list(ListOperatorsRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused)), (Code::Unavailable, Some(Reason::Unavailable)));
    assert_eq!(refused.message(), "the database cannot be used yet: nobody listens at db:5432");

    let mut viewer = OperatorsClient::new(network.channel(Caller::Viewer, address));
    let add = AddOperatorRequest { request_id: "r".into(), ..Default::default() };
    assert_eq!(viewer.add(add.clone()).await.unwrap_err().code(), Code::PermissionDenied, "policy stands before");
    assert_eq!(call(&channel, "/no.such/Method").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(call(&channel, READ).await.unwrap_err().code(), Code::Unimplemented, "another role's");
    let (roots, settings) = (network.authority.roots_pem().unwrap(), ClientConfig::default());
    let nobody = https("central", &address.to_string(), &roots, &settings).unwrap();
    nobody.post(READ).send().await.expect_err("without a certificate nothing is heard");
    let metrics = ctx.metrics.encode().unwrap();
    assert!(metrics.contains(r#"chargemesh_grpc_server_calls_total{method="unknown",code="PermissionDenied"} 1"#));
    let health = HealthCheckRequest { service: "chargemesh.registry.v1.Operators".into() };
    let health = HealthClient::new(channel).check(health).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving, "degraded, and in its Service");

    awaited.arrived(());
    assert_eq!(operators.add(add).await.unwrap().into_inner().name, "operator/anna", "on the same connection");
    ctx.stop.cancel();
    assert_eq!(waiting.await.unwrap().unwrap(), None);
    ctx.ended().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_awaited_is_looked_for_until_it_is_there_and_why_is_told_meanwhile_spec_1_7() {
    let (health, stop) = (Health::default(), tokio_util::sync::CancellationToken::new());
    let awaited = Awaited::<u32>::new(&health, "database");
    assert_eq!(awaited.get().unwrap_err(), "the database cannot be used yet: it is being opened");
    let (looks, open) = slow();
    let began = tokio::time::Instant::now();
    assert_eq!(awaited.opened(&stop, open, |_| true).await.unwrap(), Some("opened"));
    assert_eq!((looks.load(Ordering::SeqCst), began.elapsed().as_secs()), (3, 2), "once a second");
    let reason = "waits: nobody listens at db:5432".to_owned();
    assert_eq!(health.report().components["database"], ComponentState::Degraded { reason });
    assert_eq!(awaited.get().unwrap_err(), "the database cannot be used yet: it is being read");
    awaited.arrived(7);
    assert_eq!((awaited.get(), &health.report().components["database"]), (Ok(&7), &ComponentState::Ready));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_at_once_where_it_cannot_help_or_the_process_stops_spec_1_7() {
    let (health, stop) = (Health::default(), tokio_util::sync::CancellationToken::new());
    let awaited = Awaited::<()>::new(&health, "database");
    let wrong = awaited.opened(&stop, slow().1, |_| false).await.unwrap_err();
    assert_eq!(wrong.to_string(), "nobody listens at db:5432");
    assert_eq!(exit_code(&wrong.into()), 2);

    let stuck = std::future::pending::<Result<(), &str>>;
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        stopping.cancel();
    });
    assert_eq!(awaited.opened(&stop, stuck, |_| true).await.unwrap(), None);
    assert_eq!(awaited.opened(&stop, slow().1, |_| true).await.unwrap(), None);
}
