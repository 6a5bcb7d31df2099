//! Registry: the identity authority (SPEC 1.2). It enrols and removes charging points, drivers and operators, issues
//! credentials once and keeps only their Argon2id hashes, verifies credentials for Central, and pushes every change.
//!
//! ```text
//!  operators, Central ─▶ grpc.rs ─┐                                      ┌─▶ store: the change, its answer, its audit
//!  who enrols, HTTPS ──▶ http.rs ─┤ authority ▶ enrolment.rs, token.rs ──┤
//!                                 │             (pure)                   └─▶ watch.rs ─▶ Central's mirror
//!  every minute ──────────────────┘
//!  audit in the store ─▶ forward.rs ─▶ Central's audit
//! ```
//!
//! * `enrolment`, `token`, `attempts` decide, and touch neither clock nor store.
//! * `credential` makes secrets and tells ours from others'; `hashing` bounds what they cost.
//! * `authority` makes decisions durable, then tells.
//!
//! A person operates by his certificate: any operator certificate of the mesh is accepted unless its name is on the
//! list of the removed. So the first operator (SPEC 7.2) is made by the command that makes his certificate, `chargemesh
//! certs issue operator NAME`, and needs no entry here; [`Config::first_operator`] only has him listed.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use mesh::{
    awaited::Awaited,
    identity::{Identity, IdentityConfig},
    policy::DenyList,
    process::{Context, Misuse},
    visitors::Visitors,
};
use proto::{
    OperatorName,
    registry::v1::{identities_server::IdentitiesServer, operators_server::OperatorsServer},
};

mod attempts;
mod audit;
mod authority;
mod chain;
mod checkpoints;
mod credential;
mod database;
mod enrolment;
mod first;
mod forward;
mod grpc;
mod hashing;
mod http;
mod metrics;
mod refusal;
mod rows;
mod secret;
mod token;
mod watch;

#[cfg(test)]
mod tests;

pub use authority::AttemptConfig;
pub use hashing::HashConfig;

use authority::{Authority, Parts};
use grpc::Grpc;

/// What can stand in its audit as what was done.
pub const AUDIT_ACTIONS: &[&str] = audit::Action::TEXTS;

/// All that Registry can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Folder for what Registry keeps: its secret, its audit key and checkpoints, and its database if no other is given
    #[arg(long, env = "CHARGEMESH_REGISTRY_DATA", value_name = "DIR", default_value = "data/registry")]
    pub data: PathBuf,
    /// Database: sqlite:PATH or postgres://…; not given: registry.db in the data folder
    #[arg(long, env = "CHARGEMESH_REGISTRY_DATABASE", value_name = "URL", hide_env_values = true)]
    pub database: Option<String>,
    /// Where to serve gRPC (mutual TLS)
    #[arg(long, env = "CHARGEMESH_REGISTRY_GRPC_ADDRESS", value_name = "IP:PORT", default_value = "127.0.0.1:7543")]
    pub grpc_address: SocketAddr,
    /// Where to serve enrolment (HTTPS)
    #[arg(long, env = "CHARGEMESH_REGISTRY_HTTPS_ADDRESS", value_name = "IP:PORT", default_value = "127.0.0.1:7580")]
    pub https_address: SocketAddr,
    /// File with the secret that credentials are made with (64 hexadecimal digits); not given: `secret` in the data
    /// folder, made where missing. Without it no credential of this Registry is worth anything
    #[arg(long, env = "CHARGEMESH_REGISTRY_SECRET_FILE", value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Central's gRPC addresses, to which the audit is handed on; an empty one: the audit stays here
    #[arg(
        long,
        env = "CHARGEMESH_CENTRAL",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        value_parser = address_or_none,
        default_value = "127.0.0.1:7443"
    )]
    pub central: Vec<String>,
    /// Name of the first operator, to be listed; his certificate is what lets him operate
    #[arg(long, env = "CHARGEMESH_REGISTRY_FIRST_OPERATOR", value_name = "NAME")]
    pub first_operator: Option<OperatorName>,
    /// How often at least a signed checkpoint over the audit is written to a file
    #[arg(long, env = "CHARGEMESH_REGISTRY_CHECKPOINT_EVERY", value_name = "DURATION", default_value = "10s",
          value_parser = mesh::duration::parse_some)]
    pub checkpoint_every: Duration,
    /// How often what is past its time (answers, nonces, dead tokens) is forgotten
    #[arg(long, env = "CHARGEMESH_REGISTRY_TIDY_EVERY", value_name = "DURATION", default_value = "1m",
          value_parser = mesh::duration::parse_some)]
    pub tidy_every: Duration,
    #[command(flatten)]
    pub identity: IdentityConfig,
    #[command(flatten)]
    pub limits: mesh::server::Limits,
    #[command(flatten)]
    pub patience: mesh::http::Patience,
    #[command(flatten)]
    pub client: mesh::client::Settings,
    #[command(flatten)]
    pub hash: HashConfig,
    #[command(flatten)]
    pub attempts: AttemptConfig,
}

fn address_or_none(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { mesh::client::host_and_port(text) }
}

impl Config {
    /// Where the database is.
    pub fn database_url(&self) -> String {
        self.database.clone().unwrap_or_else(|| format!("sqlite:{}", self.data.join("registry.db").display()))
    }
}

/// What stands behind the doors.
pub(crate) struct Behind {
    authority: Authority,
    grpc: Grpc,
}

/// Builds, connects and spawns, in the order in which data flows; behind open doors, since the database may be awaited.
///
/// # Errors
/// A sentence that names what cannot be used.
pub async fn run(config: Config, ctx: Context) -> anyhow::Result<()> {
    mesh::control::serve_status(&ctx).await?;
    ctx.hold(mesh::process::lock(&config.data, "Registry")?);
    let identity = Identity::open(&ctx, &config.identity)?;
    let (denied, visitors) = (DenyList::default(), Visitors::new(ctx.clock, config.limits.visitors_counted_for));
    let awaited = open_doors(&config, &ctx, &identity, &denied, &visitors).await?;
    let Some(database) = database::open(&ctx, &config.database_url(), &awaited).await? else { return Ok(()) };
    let mint = database::mint(&database, &config).await?;
    let parts = Parts {
        database: database.clone(),
        mint,
        hashing: hashing::Hashing::new(&config.hash).map_err(|error| Misuse::new(error.to_string()))?,
        attempts: config.attempts.clone(),
        clock: ctx.clock,
        metrics: metrics::Metrics::new(&ctx.metrics),
        denied,
        roots: roots(&identity),
        visitors,
        health: ctx.health.clone(),
    };
    let authority = Authority::open(parts).await.context("cannot read the database")?;
    if let Some(name) = &config.first_operator {
        first::make_known(&authority, name).await?;
    }
    audit::started(&authority).await?;

    let grpc = Grpc { authority: authority.clone(), stop: ctx.stop.clone() };
    awaited.arrived(Behind { authority: authority.clone(), grpc });

    checkpoints::start(&ctx, &config, &authority)?;
    if let Some(central) = central(&config, &ctx, &identity) {
        let (authority, stop) = (authority.clone(), ctx.stop.clone());
        ctx.spawn("audit forwarding", async move {
            forward::forward(authority, central, stop).await;
            Ok(())
        });
    }
    let (stop, every) = (ctx.stop.clone(), config.tidy_every);
    ctx.spawn("keeping", async move {
        authority.keep(every, stop).await;
        Ok(())
    });
    Ok(())
}

/// From the start, so that whoever knocks while the database is awaited hears so (SPEC 9.1).
async fn open_doors(
    config: &Config,
    ctx: &Context,
    identity: &Identity,
    denied: &DenyList,
    visitors: &Visitors,
) -> anyhow::Result<Awaited<Behind>> {
    let awaited = Awaited::<Behind>::new(&ctx.health, "database");
    mesh::server::Server::new(ctx, identity, config.limits.clone())
        .deny_list(denied)
        .visitors(visitors)
        .add_service(awaited.service(|behind| IdentitiesServer::new(behind.grpc.clone())))
        .add_service(awaited.service(|behind| OperatorsServer::new(behind.grpc.clone())))
        .start("grpc", config.grpc_address)
        .await?;
    let (limits, patience) = (config.limits.clone(), config.patience.clone());
    let settings = mesh::http::Settings { limits, patience, visitors: visitors.clone() };
    let door = http::router(awaited.clone());
    mesh::http::start(ctx, identity, settings, "https", config.https_address, door).await?;
    Ok(awaited)
}

fn central(config: &Config, ctx: &Context, identity: &Identity) -> Option<mesh::client::Channel> {
    let addresses: Vec<_> = config.central.iter().filter(|address| !address.is_empty()).cloned().collect();
    let target = (!addresses.is_empty()).then(|| mesh::client::Target::new("central", addresses))?;
    Some(mesh::client::channel(identity, target, &config.client).watched_by(&ctx.health))
}

/// The roots as they are when they are asked for, so that a token carries a rolled authority too.
fn roots(identity: &Identity) -> authority::Roots {
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};
    let identity = identity.clone();
    Arc::new(move || {
        let Ok(pem) = identity.roots_pem() else { return Vec::new() };
        CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().map(|root| root.to_vec()).collect()
    })
}
