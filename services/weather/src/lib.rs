//! Weather: watches the temperature of every city that has a charging point, and reports frost and its end to Central
//! (SPEC 1.3, 6).
//!
//! ```text
//!  OpenWeather, Open-Meteo ◀▶ provider.rs ─┐                           ┌─▶ central.rs ─▶ Central: the state of all cities
//!  operators ──────────────▶ grpc.rs ──────┤ event_loop.rs ▶ cities.rs ┼─▶ grpc.rs: lists and streams
//!  Central's list of cities ▶ central.rs ──┘                 (pure)    └─▶ state_file.rs, before an order is answered
//! ```
//!
//! * `cities` and `frost` decide, and touch no clock, socket or file.
//! * What Central has to learn is a state and no event: it is reported until it is acknowledged, and again and again.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use mesh::{
    access_log::AccessLog,
    identity::{IdentityConfig, TlsIdentity},
    process::Context,
};
use proto::weather::v1::weather_server::WeatherServer;

mod audit;
mod central;
mod cities;
mod convert;
mod event_loop;
mod frost;
mod grpc;
mod key;
mod metrics;
mod provider;
mod state_file;

#[cfg(test)]
mod tests;

pub use cities::CityPolicy;
pub use frost::{FrostRule, Temperature};

/// The texts of all actions that Weather's audit can contain.
pub const AUDIT_ACTIONS: &[&str] = audit::ACTIONS;

/// Weather's settings.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Data folder: which cities operators added and removed, drills, policies
    #[arg(long, env = "CHARGEMESH_WEATHER_DATA", value_name = "DIR", default_value = "data/weather")]
    pub data: PathBuf,
    /// Address on which gRPC is served (mutual TLS)
    #[arg(long, env = "CHARGEMESH_WEATHER_GRPC_ADDRESS", value_name = "IP:PORT", default_value = "127.0.0.1:7643")]
    pub grpc_address: SocketAddr,
    /// Addresses of Central's gRPC, to which the state of the cities is reported
    #[arg(long, env = "CHARGEMESH_CENTRAL", value_name = "HOST:PORT", value_delimiter = ',',
          value_parser = mesh::client::host_and_port, default_value = "127.0.0.1:7443")]
    pub central: Vec<String>,
    /// Longest time between two reports to Central, which takes Weather for lost after two of its own such times
    #[arg(long, env = "CHARGEMESH_WEATHER_REPORT_EVERY", value_name = "DURATION", default_value = "4s",
          value_parser = mesh::duration::parse_some)]
    pub report_every: Duration,
    /// What frost does to the charging points of a city, unless an operator has set another policy for it
    #[arg(long, env = "CHARGEMESH_WEATHER_POLICY", value_enum, default_value = "stop-now")]
    pub policy: CityPolicy,
    #[command(flatten)]
    pub provider: ProviderConfig,
    #[command(flatten)]
    pub frost: FrostRule,
    #[command(flatten)]
    pub identity: IdentityConfig,
    #[command(flatten)]
    pub limits: mesh::server::Limits,
    #[command(flatten)]
    pub client: mesh::client::ClientConfig,
}

/// Who is asked for temperatures, and how often.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Provider")]
#[group(skip)]
pub struct ProviderConfig {
    /// Provider of temperatures; openweather needs a key, the others none
    #[arg(long, env = "CHARGEMESH_WEATHER_PROVIDER", value_enum, default_value = "openweather")]
    pub provider: ProviderKind,
    /// Address of the provider instead of its own, such as http://127.0.0.1:8080
    #[arg(long, env = "CHARGEMESH_WEATHER_URL", value_name = "URL", value_parser = url)]
    pub weather_url: Option<String>,
    /// File with OpenWeather's key; a changed file is in use at the next request. Without it the variable
    /// CHARGEMESH_WEATHER_KEY is used
    #[arg(long, env = "CHARGEMESH_WEATHER_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Time between two temperatures of a city, as long as the budget allows it
    #[arg(long, env = "CHARGEMESH_WEATHER_EVERY", value_name = "DURATION", default_value = "4s",
          value_parser = mesh::duration::parse_some)]
    pub every: Duration,
    /// Maximum number of requests to the provider per minute; with many cities each is asked for less often
    #[arg(long, env = "CHARGEMESH_WEATHER_REQUESTS_PER_MINUTE", value_name = "N", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub requests_per_minute: u32,
    /// Time limit of a request to the provider
    #[arg(long, env = "CHARGEMESH_WEATHER_PROVIDER_TIMEOUT", value_name = "DURATION", default_value = "3s",
          value_parser = mesh::duration::parse_some)]
    pub provider_timeout: Duration,
}

/// A provider of temperatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ProviderKind {
    #[value(name = "openweather")]
    OpenWeather,
    OpenMeteo,
    /// Invented temperatures, without frost
    Simulated,
}

impl ProviderKind {
    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenWeather => "openweather",
            Self::OpenMeteo => "open-meteo",
            Self::Simulated => "simulated",
        }
    }
}

fn url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).ok().filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
    url.map(|_| text.to_owned()).ok_or_else(|| format!("{text:?} is no URL such as https://host or http://host:port"))
}

/// Builds, connects and spawns everything, in the order in which data flows.
///
/// # Errors
/// A sentence that names the setting or file that cannot be used.
pub async fn run(config: Config, ctx: Context) -> anyhow::Result<()> {
    mesh::control::serve_status(&ctx).await?;
    ctx.hold(mesh::data_folder::lock(&config.data, "Weather")?);
    let identity = TlsIdentity::open(&ctx, &config.identity)?;
    let file = state_file::StateFile::new(&config.data);
    let saved = file.read()?;
    let given = std::env::var("CHARGEMESH_WEATHER_KEY").ok();
    let key = Arc::new(key::ApiKey::new(config.provider.key_file.clone(), given.as_deref()));
    let provider = provider::of(&config.provider, Arc::clone(&key))?;

    let target = mesh::client::RoleAddress::new("central", config.central.clone());
    let channel = mesh::client::channel(&identity, target, &config.client).watched_by(&ctx.health);
    let audit = audit::start(&ctx, channel.clone());

    let (running, handle) = event_loop::WeatherLoop::new(&config, &ctx, saved, (file, provider, key));
    let stop = ctx.stop.clone();
    ctx.spawn("event_loop", async move {
        running.run(stop).await;
        Ok(())
    });
    let report = central::ConditionsReporter::new(channel, handle.clone(), config.report_every, &ctx);
    let stop = ctx.stop.clone();
    ctx.spawn("reports", async move {
        stop.run_until_cancelled(report.run()).await;
        Ok(())
    });

    let access_log = AccessLog::new(ctx.clock, config.limits.access_log_interval);
    mesh::server::Server::new(&ctx, &identity, config.limits.clone())
        .access_log(&access_log)
        .add_service(WeatherServer::new(grpc::WeatherService { handle, audit, clock: ctx.clock }))
        .start("grpc", config.grpc_address)
        .await?;
    Ok(())
}
