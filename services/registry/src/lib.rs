//! Registry: the service that knows identities (SPEC 1.2). It enrols and removes charging points, drivers and
//! operators, issues each credential once and keeps only its Argon2id hash, verifies credentials for Central, and
//! sends every change to Central.
//!
//! ```text
//!  operators, Central ─▶ grpc.rs ─┐                                               ┌─▶ store: change, answer, audit
//!  enrolling, HTTPS ───▶ http.rs ─┤ identity_service.rs ▶ enrolment.rs, token.rs ─┤
//!                                 │                       (pure)                  └─▶ watch.rs ─▶ Central's mirror
//!  every minute ──────────────────┘
//!  audit in the store ─▶ forward.rs ─▶ Central's audit
//! ```
//!
//! * `enrolment` and `token` decide, without clock and store.
//! * `credential` derives secrets and recognises its own; `hashing` limits what checking them costs.
//! * `identity_service` makes decisions durable, then announces them.
//!
//! A certificate makes an operator: every operator certificate of the mesh is accepted unless its name is on the list
//! of removed operators. So the first operator (SPEC 7.2) is created by `chargemesh certs issue operator NAME` and
//! needs no entry here; [`Config::first_operator`] only adds the name to the list of operators.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use mesh::{
    access_log::AccessLog,
    awaited::Awaited,
    identity::{IdentityConfig, TlsIdentity},
    policy::DenyList,
    process::{Context, Misuse},
};
use proto::{
    OperatorName,
    registry::v1::{identities_server::IdentitiesServer, operators_server::OperatorsServer},
};

mod audit;
mod chain;
mod checkpoints;
mod credential;
mod database;
mod enrolment;
mod error;
mod first_operator;
mod forward;
mod grpc;
mod hashing;
mod http;
mod identity_service;
mod lifecycle;
mod metrics;
mod rows;
mod secret;
mod token;

#[cfg(test)]
mod tests;

pub use hashing::HashConfig;
pub use identity_service::AttemptConfig;

use grpc::Grpc;
use identity_service::{Dependencies, IdentityService};

/// The texts of all actions that Registry's audit can contain.
pub const AUDIT_ACTIONS: &[&str] = audit::RegistryAction::TEXTS;

/// Registry's settings.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Data folder: the secret, the audit key and checkpoints, and the database if no other is given
    #[arg(long, env = "CHARGEMESH_REGISTRY_DATA", value_name = "DIR", default_value = "data/registry")]
    pub data: PathBuf,
    /// Database: sqlite:PATH or postgres://…; default: registry.db in the data folder
    #[arg(long, env = "CHARGEMESH_REGISTRY_DATABASE", value_name = "URL", hide_env_values = true)]
    pub database: Option<String>,
    /// Use a PostgreSQL server that runs with fsync off: what was committed is lost in a power failure
    #[arg(long, env = "CHARGEMESH_ALLOW_FSYNC_OFF")]
    pub allow_fsync_off: bool,
    /// Address on which gRPC is served (mutual TLS)
    #[arg(long, env = "CHARGEMESH_REGISTRY_GRPC_ADDRESS", value_name = "IP:PORT", default_value = "127.0.0.1:7543")]
    pub grpc_address: SocketAddr,
    /// Address on which enrolment is served (HTTPS)
    #[arg(long, env = "CHARGEMESH_REGISTRY_HTTPS_ADDRESS", value_name = "IP:PORT", default_value = "127.0.0.1:7580")]
    pub https_address: SocketAddr,
    /// File with the secret from which credentials are derived (64 hexadecimal digits); default: `secret` in the data
    /// folder, created if missing. If it is lost, every credential becomes invalid
    #[arg(long, env = "CHARGEMESH_REGISTRY_SECRET_FILE", value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Addresses of Central's gRPC, to which the audit is copied; an empty address keeps the audit here
    #[arg(
        long,
        env = "CHARGEMESH_CENTRAL",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        value_parser = address_or_none,
        default_value = "127.0.0.1:7443"
    )]
    pub central: Vec<String>,
    /// Name of the first operator, added to the list of operators; access itself comes from the operator's certificate
    #[arg(long, env = "CHARGEMESH_REGISTRY_FIRST_OPERATOR", value_name = "NAME")]
    pub first_operator: Option<OperatorName>,
    /// Longest time between two signed checkpoints of the audit
    #[arg(long, env = "CHARGEMESH_REGISTRY_CHECKPOINT_EVERY", value_name = "DURATION", default_value = "10s",
          value_parser = mesh::duration::parse_some)]
    pub checkpoint_every: Duration,
    /// Time between two deletions of what has expired (stored answers, nonces, tokens)
    #[arg(long, env = "CHARGEMESH_REGISTRY_TIDY_EVERY", value_name = "DURATION", default_value = "1m",
          value_parser = mesh::duration::parse_some)]
    pub tidy_every: Duration,
    #[command(flatten)]
    pub identity: IdentityConfig,
    #[command(flatten)]
    pub limits: mesh::server::Limits,
    #[command(flatten)]
    pub timeouts: mesh::http::HttpsTimeouts,
    #[command(flatten)]
    pub client: mesh::client::ClientConfig,
    #[command(flatten)]
    pub hash: HashConfig,
    #[command(flatten)]
    pub attempts: AttemptConfig,
}

fn address_or_none(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { mesh::client::host_and_port(text) }
}

impl Config {
    /// The configured database, or the default in the data folder.
    pub fn database_url(&self) -> String {
        self.database.clone().unwrap_or_else(|| format!("sqlite:{}", self.data.join("registry.db").display()))
    }
}

/// What requests are served with, once the database is open.
pub(crate) struct RegistryServices {
    service: IdentityService,
    grpc: Grpc,
}

/// Builds, connects and spawns everything, in the order in which data flows. The servers start first, because the
/// database may not be reachable yet.
///
/// # Errors
/// A sentence that names the setting or file that cannot be used.
pub async fn run(config: Config, ctx: Context) -> anyhow::Result<()> {
    mesh::control::serve_status(&ctx).await?;
    ctx.hold(mesh::data_folder::lock(&config.data, "Registry")?);
    let identity = TlsIdentity::open(&ctx, &config.identity)?;
    let (denied, access_log) = (DenyList::default(), AccessLog::new(ctx.clock, config.limits.access_log_interval));
    let awaited = open_doors(&config, &ctx, &identity, &denied, &access_log).await?;
    let Some(database) = database::open(&ctx, &config, &awaited).await? else { return Ok(()) };
    let secret_issuer = database::secret_issuer(&database, &config).await?;
    let parts = Dependencies {
        database: database.clone(),
        secret_issuer,
        hashing: hashing::Hashing::new(&config.hash).map_err(|error| Misuse::new(error.to_string()))?,
        attempts: config.attempts.clone(),
        clock: ctx.clock,
        metrics: metrics::RegistryMetrics::new(&ctx.metrics),
        denied,
        roots: roots(&identity),
        access_log,
        health: ctx.health.clone(),
    };
    let service = IdentityService::open(parts).await.context("cannot read the database")?;
    if let Some(name) = &config.first_operator {
        first_operator::add_if_unknown(&service, name).await?;
    }
    lifecycle::started(&service).await?;

    let grpc = Grpc { service: service.clone(), stop: ctx.stop.clone() };
    awaited.arrived(RegistryServices { service: service.clone(), grpc });

    database::watch(&ctx, database);
    checkpoints::start(&ctx, &config, &service)?;
    if let Some(central) = central(&config, &ctx, &identity) {
        let (service, stop) = (service.clone(), ctx.stop.clone());
        ctx.spawn("audit forwarding", async move {
            forward::forward(service, central, stop).await;
            Ok(())
        });
    }
    let (stop, every) = (ctx.stop.clone(), config.tidy_every);
    ctx.spawn("keeping", async move {
        service.keep(every, stop).await;
        Ok(())
    });
    Ok(())
}

/// Starts both servers at once, so that a caller is told that the database is not reachable yet (SPEC 9.1).
async fn open_doors(
    config: &Config,
    ctx: &Context,
    identity: &TlsIdentity,
    denied: &DenyList,
    access_log: &AccessLog,
) -> anyhow::Result<Awaited<RegistryServices>> {
    let awaited = Awaited::<RegistryServices>::new(&ctx.health, "database");
    mesh::server::Server::new(ctx, identity, config.limits.clone())
        .deny_list(denied)
        .access_log(access_log)
        .add_service(awaited.service(|behind| IdentitiesServer::new(behind.grpc.clone())))
        .add_service(awaited.service(|behind| OperatorsServer::new(behind.grpc.clone())))
        .start("grpc", config.grpc_address)
        .await?;
    let (limits, timeouts) = (config.limits.clone(), config.timeouts.clone());
    let settings = mesh::http::HttpsSettings { limits, timeouts, access_log: access_log.clone() };
    let door = http::router(awaited.clone());
    mesh::http::start(ctx, identity, settings, "https", config.https_address, door).await?;
    Ok(awaited)
}

fn central(config: &Config, ctx: &Context, identity: &TlsIdentity) -> Option<mesh::client::Channel> {
    let addresses: Vec<_> = config.central.iter().filter(|address| !address.is_empty()).cloned().collect();
    let target = (!addresses.is_empty()).then(|| mesh::client::RoleAddress::new("central", addresses))?;
    Some(mesh::client::channel(identity, target, &config.client).watched_by(&ctx.health))
}

/// Reads the roots at every call, so that a token also carries the root of a rolled certificate authority.
fn roots(identity: &TlsIdentity) -> identity_service::Roots {
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};
    let identity = identity.clone();
    Arc::new(move || {
        let Ok(pem) = identity.roots_pem() else { return Vec::new() };
        CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().map(|root| root.to_vec()).collect()
    })
}
