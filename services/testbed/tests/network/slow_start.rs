//! Central and Registry without their databases (SPEC 9.1, 1.7): their servers refuse calls with a reason, and work without
//! a restart once the databases are there.

use std::{net::TcpListener, time::Duration};

use mesh::{
    client::{ClientConfig, Https, https},
    health::{Readiness, Report},
    identity::TlsIdentity,
    status::reason_of,
};
use proto::{
    central::v1::ChargingPointState, enrolment::RefusalBody, link::v1::Reason, registry::v1::ListTokensRequest,
};
use testbed::{
    network::{Network, PATIENCE},
    process::{self, Process},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, Status};

use crate::refused::{Failures, RefusedCommand, StoppedNetwork, with};

const ROLES: [&str; 2] = ["central", "registry"];

#[tokio::test(flavor = "multi_thread")]
async fn each_server_refuses_with_a_reason_before_the_migration_and_serves_after_it_spec_9_1() -> anyhow::Result<()> {
    let network = waiting().await?;
    for role in ROLES {
        let report = until_it_waits(&network, role).await?;
        assert_eq!(report.status, Readiness::Degraded, "{role} stays in its Service: {report:?}");
    }
    says_why(&network.operator.charging_point("CP-1").await.expect_err("no database"));
    let tokens = network.operator.identities.clone().list_tokens(ListTokensRequest::default()).await;
    says_why(&tokens.expect_err("no database"));
    for (role, address) in [("central", network.central_grpc), ("registry", network.registry_grpc)] {
        let heard = stranger(&network, role, &address.to_string())?.get("/").send().await;
        assert!(heard.is_err(), "without a certificate nothing is heard: {heard:?}");
    }
    let door = stranger(&network, "registry", &network.registry_https.to_string())?;
    let response = door.get("/v1/charging-points/CP-1").send().await?;
    assert_eq!(response.status().as_u16(), 503);
    let refusal: RefusalBody = response.json().await?;
    assert_eq!(refusal.reason, Reason::Unavailable.code());
    assert!(refusal.message.contains("database cannot be used yet"), "{refusal:?}");
    let busy = enquire(&network).await?;
    assert!(busy.starts_with(&[0x15, 0]) && busy.ends_with(&[0x04]), "NACK, a busy frame, EOT: {busy:02x?}");

    let before = (network.central.pid(), network.registry.pid());
    for role in ROLES {
        let url = format!("sqlite:{}", network.path(fresh(role)).join(format!("{role}.db")).display());
        let (code, out, error) = process::run(&["migrate", role, &url], &[]).await?;
        anyhow::ensure!(code == 0, "{out}{error}");
    }
    network.until_ready().await?;
    let point = network.charging_point("CP-1").await?;
    network.until_state(&point.id, ChargingPointState::Available).await?;
    assert_eq!((network.central.pid(), network.registry.pid()), before, "neither was started again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_waits_for_its_database_ends_in_order_spec_9() -> anyhow::Result<()> {
    let mut network = waiting().await?;
    for role in ROLES {
        until_it_waits(&network, role).await?;
    }
    ends_in_order(&mut network.central).await?;
    ends_in_order(&mut network.registry).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_although_the_database_is_awaited_spec_1_7() -> anyhow::Result<()> {
    let (mut faults, ground) = (Failures::default(), StoppedNetwork::new().await?);
    let held = TcpListener::bind("127.0.0.1:0")?;
    let address = held.local_addr()?.to_string();
    let nowhere = format!("sqlite:{}", ground.path("none.db"));
    for (role, flag) in [
        (ground.central(), "--grpc-address"),
        (ground.central(), "--link-address"),
        (ground.registry(), "--grpc-address"),
        (ground.registry(), "--https-address"),
    ] {
        let says = format!("cannot listen on {address}");
        let bad = RefusedCommand::flag(with(role, "--database", &nowhere), flag, &address);
        faults.note(bad.says(&[&says, "another port"]).refused(2).await);
    }
    faults.none()
}

/// A network whose Central and Registry were restarted without their data: Central's database has no tables, Registry's
/// does not exist.
async fn waiting() -> anyhow::Result<Network> {
    let mut network = Network::start(&[]).await?;
    std::fs::create_dir(network.path(fresh("central")))?;
    std::fs::write(network.path(fresh("central")).join("central.db"), "")?;
    for role in ROLES {
        let data = network.path(fresh(role)).display().to_string();
        let process = if role == "central" { &mut network.central } else { &mut network.registry };
        let spec = process.spec_mut();
        spec.args = with(std::mem::take(&mut spec.args), "--data", &data);
        process.restart()?;
    }
    Ok(network)
}

fn fresh(role: &str) -> String {
    format!("{role}-fresh")
}

/// Waits until its readiness report says that the database is awaited, and why.
async fn until_it_waits(network: &Network, role: &str) -> anyhow::Result<Report> {
    until(format_args!("{role} to say that it waits"), PATIENCE, async || {
        let file = std::fs::read(network.path(format!("{role}.json"))).map_err(|error| error.to_string())?;
        let known: serde_json::Value = serde_json::from_slice(&file).map_err(|error| error.to_string())?;
        let admin = known["admin"].as_str().and_then(|address| address.parse().ok()).ok_or("no admin port")?;
        let report = mesh::admin::report_of(admin, Duration::from_secs(1)).await?;
        let said = format!("{:?}", report.components.get("database"));
        if said.contains("waits: ") && said.contains("chargemesh migrate") { Ok(report) } else { Err(said) }
    })
    .await
}

fn says_why(refused: &Status) {
    assert_eq!((refused.code(), reason_of(refused)), (Code::Unavailable, Some(Reason::Unavailable)), "{refused}");
    let words = refused.message();
    assert!(words.starts_with("the database cannot be used yet: ") && words.contains("chargemesh migrate"), "{words}");
}

/// An HTTPS client that trusts the mesh's roots and has no certificate.
fn stranger(network: &Network, role: &'static str, address: &str) -> anyhow::Result<Https> {
    let roots = TlsIdentity::load(&network.identity("olga"))?.roots_pem()?;
    https(role, address, &roots, &ClientConfig::default())
}

/// All bytes that a caller at the link receives until the connection is closed.
async fn enquire(network: &Network) -> anyhow::Result<Vec<u8>> {
    let (mut stream, mut heard) = (TcpStream::connect(network.central_link).await?, Vec::new());
    stream.write_all(&[0x05]).await?;
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard)).await??;
    Ok(heard)
}

async fn ends_in_order(process: &mut Process) -> anyhow::Result<()> {
    process.signal(nix::sys::signal::Signal::SIGTERM)?;
    let code = process.exit_code(PATIENCE).await?;
    anyhow::ensure!(code == 0, "{} ended with {code}", process.name());
    Ok(())
}
