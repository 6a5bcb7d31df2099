//! Registry's own audit, and how it is forwarded to Central.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use proto::central::v1::{
    AppendAuditRequest, AppendAuditResponse, AuditEntry, ListAuditRequest, ListAuditResponse, VerifyAuditRequest,
    VerifyAuditResponse, WatchAuditRequest, audit_server,
};
use store::{audit::verify, registry::AuditRow};
use tonic::{Request, Response};

use super::*;

pub(super) async fn rows(network: &RegistryNetwork) -> Vec<AuditRow> {
    network.database().await.read("test", |conn| AuditRow::after(conn, crate::chain::WRITER, 0, 1000)).await.unwrap()
}

pub(super) fn parameter(row: &AuditRow, name: &str) -> String {
    let parameters: serde_json::Value = serde_json::from_str(&row.parameters).unwrap();
    parameters[name].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_done_is_audited_with_who_and_from_where_and_no_secret_spec_8_1() {
    let network = RegistryNetwork::start().await;
    let token = network.token(1).await;
    let credential = network.enrolled("CP-1").await;
    let refused = EnrolRequest { request_id: request_id(), ..enrol_request("CP-1") };
    network.operator().enrol(refused).await.unwrap_err();
    let remove = RemoveRequest { request_id: request_id(), kind: Kind::ChargingPoint as i32, id: "CP-1".into() };
    network.operator().remove(remove).await.unwrap();
    network.stop().await;

    let rows = rows(&network).await;
    let (logins, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.action == "LOGIN");
    let told: Vec<_> =
        rows.iter().map(|row| (row.action.as_str(), row.object.as_str(), row.outcome.as_str())).collect();
    let token_id = token.parse::<proto::enrolment::EnrolmentToken>().unwrap().id;
    assert_eq!(
        told,
        [
            ("ROLE_STARTED", "registry", "ok"),
            ("TOKEN_CREATED", format!("token/{token_id}").as_str(), "ok"),
            ("ENROLLED", "charging-point/CP-1", "ok"),
            ("ORDER_REFUSED", "charging-point/CP-1", "ALREADY_ENROLLED"),
            ("REMOVED", "charging-point/CP-1", "ok"),
            ("ROLE_STOPPED", "registry", "ok"),
        ]
    );
    assert!(rows[1..5].iter().all(|row| row.actor == "operator/anna" && row.address.as_deref() == Some("127.0.0.1")));
    // Four connections: the first is an entry at once, the others are counted.
    let count = |row| parameter(row, "count").parse::<u32>().unwrap();
    assert_eq!(logins.iter().map(count).sum::<u32>(), 4);
    assert!(logins.iter().all(|row| row.object == "operator/anna" && row.address.as_deref() == Some("127.0.0.1")));
    let everything = format!("{rows:?}");
    let secrets = [credential.rsplit('.').nth(1).unwrap(), token.trim_start_matches("cmt1.")];
    assert!(secrets.iter().all(|secret| !everything.contains(secret)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_is_whole_and_checkpoints_in_a_file_cover_it_spec_8_2() {
    let network = RegistryNetwork::start().await;
    network.enrolled("CP-1").await;
    network.stop().await;
    let data = network.path("data");
    let key = store::audit::AuditKey::parse(&std::fs::read_to_string(data.join("audit.key")).unwrap()).unwrap();
    let found = verify(&network.database().await, &data.join("audit.checkpoints"), &[key.public()]).await.unwrap();
    assert_eq!(found.first_bad, None);
    assert!(found.entries >= 2 && found.checkpoints >= 1, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_fails_and_recovers_is_two_entries_spec_8_1() {
    let network = RegistryNetwork::start().await;
    let entries = async |count: usize| {
        let found = async {
            loop {
                let mut rows = rows(&network).await;
                rows.retain(|row| row.object == "component/disk");
                if rows.len() == count {
                    return rows;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.expect("the entry comes")
    };
    let disk = network.ctx.health.component("disk");
    disk.degraded("it is full");
    let failed = entries(1).await;
    assert_eq!(
        (failed[0].action.as_str(), parameter(&failed[0], "reason").as_str()),
        ("COMPONENT_FAILED", "it is full")
    );
    disk.ready();
    assert_eq!(entries(2).await[1].action, "COMPONENT_RECOVERED");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_audit_key_lies_beside_the_checkpoints_and_former_ones_stay_spec_8_2() {
    let mut network = RegistryNetwork::start().await;
    let public = network.path("data").join("audit.pub");
    let first = std::fs::read_to_string(&public).unwrap();
    network.restart().await;
    assert_eq!(std::fs::read_to_string(&public).unwrap(), first, "once");
    network.stop().await;
    std::fs::remove_file(network.path("data").join("audit.key")).unwrap();
    network.restart().await;
    let both = std::fs::read_to_string(&public).unwrap();
    assert!(both.starts_with(&first) && both.lines().count() == 2, "{both}");
}

/// A Central that stores audit entries, once per request id.
#[derive(Clone, Default)]
struct Central {
    batches: Arc<Mutex<BTreeMap<String, Vec<AuditEntry>>>>,
    /// Stores this many batches but answers with an error.
    fails: Arc<Mutex<u32>>,
    /// Refuses every batch.
    refuses: Arc<AtomicBool>,
}

impl Central {
    async fn start(&self, network: &RegistryNetwork, address: SocketAddr) -> (Context, SocketAddr) {
        let ctx = Context::detached("central");
        let identity = TlsIdentity::load(&network.path("central")).unwrap();
        let server = mesh::server::Server::new(&ctx, &identity, mesh::server::Limits::default());
        let server = server.add_service(audit_server::AuditServer::new(self.clone()));
        let address = server.start("grpc", address).await.unwrap();
        (ctx, address)
    }

    fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<_> = self.batches.lock().unwrap().values().flatten().map(|entry| entry.number).collect();
        numbers.sort_unstable();
        numbers
    }
}

#[tonic::async_trait]
impl audit_server::Audit for Central {
    type WatchStream = tokio_stream::Empty<Result<AuditEntry, Status>>;

    async fn append(&self, request: Request<AppendAuditRequest>) -> Result<Response<AppendAuditResponse>, Status> {
        let AppendAuditRequest { request_id, entries } = request.into_inner();
        if self.refuses.load(Ordering::Relaxed) {
            return Err(mesh::status::refuse(proto::link::v1::Reason::Invalid, "not like this"));
        }
        if self.batches.lock().unwrap().insert(request_id, entries.clone()).is_some_and(|first| first != entries) {
            return Err(mesh::status::refuse(proto::link::v1::Reason::Invalid, "other content under this request id"));
        }
        let mut fails = self.fails.lock().unwrap();
        if *fails > 0 {
            *fails -= 1;
            return Err(Status::deadline_exceeded("taken, but the answer is lost"));
        }
        Ok(Response::new(AppendAuditResponse {}))
    }

    async fn list(&self, _: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn watch(&self, _: Request<WatchAuditRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn verify(&self, _: Request<VerifyAuditRequest>) -> Result<Response<VerifyAuditResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A port on which nobody listens yet. It is below the range of ephemeral ports, so that no other socket gets it
/// meanwhile.
fn silent_port() -> SocketAddr {
    let random = || SocketAddr::from(([127, 0, 0, 1], rand::random_range(12_000..32_000)));
    std::iter::repeat_with(random).find(|port| std::net::TcpListener::bind(port).is_ok()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_reaches_central_whole_and_once_however_often_central_is_away_spec_8_1() {
    let dir = TempDir::new().unwrap();
    let url = format!("sqlite:{}", dir.path().join("registry.db").display());
    let port = silent_port();
    let mut network = RegistryNetwork::at(dir, url, &[], &port.to_string()).await;
    network.enrolled("CP-1").await;

    let central = Central::default();
    *central.fails.lock().unwrap() = 1;
    let (ctx, _) = central.start(&network, port).await;
    network.enrolled("CP-2").await;
    network.restart().await;
    network.enrolled("CP-3").await;
    let expected = rows(&network).await.len() as u64;
    let all = async {
        while central.numbers().len() < expected as usize {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("handed on in time");
    assert_eq!(central.numbers(), Vec::from_iter(1..=expected), "each once");
    let metrics = network.ctx.metrics.encode().unwrap();
    assert!(metrics.contains("chargemesh_registry_decisions_total{method=\"Enrol\",outcome=\"OK\"} 1"), "{metrics}");
    ctx.stop.cancel();
    ctx.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_of_a_new_database_reaches_central_and_a_refusal_shows_spec_8_1() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("registry.db");
    let url = format!("sqlite:{}", file.display());
    let port = silent_port();
    let mut network = RegistryNetwork::at(dir, url, &[], &port.to_string()).await;
    let central = Central::default();
    let (ctx, _) = central.start(&network, port).await;
    network.enrolled("CP-1").await;
    let has = |id: &str| {
        let object = format!("charging-point/{id}");
        central.batches.lock().unwrap().values().flatten().any(|entry| entry.object == object)
    };
    until(async || has("CP-1")).await;

    network.stop().await;
    for end in ["", "-wal", "-shm"] {
        let _where_it_is = std::fs::remove_file(format!("{}{end}", file.display()));
    }
    Database::migrate(&network.url, SCHEMA).await.unwrap();
    central.refuses.store(true, Ordering::Relaxed);
    network.restart().await;
    let state = |network: &RegistryNetwork| network.ctx.health.report().components.remove("audit at Central");
    let is_degraded = |state: Option<mesh::health::ComponentState>| {
        matches!(state, Some(mesh::health::ComponentState::Degraded { .. }))
    };
    until(async || is_degraded(state(&network))).await;

    central.refuses.store(false, Ordering::Relaxed);
    network.enrolled("CP-2").await;
    until(async || has("CP-2") && state(&network) == Some(mesh::health::ComponentState::Ready)).await;
    ctx.stop.cancel();
    ctx.ended().await.unwrap();
}
