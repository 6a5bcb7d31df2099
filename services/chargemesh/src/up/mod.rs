//! `chargemesh up`: a whole network on this machine by one command (SPEC 10.1). Every role is a real process of its
//! own; `up` supervises them, restarts the ones that die, and ends all of them in order.
//!
//! ```text
//!  up ── network: certificates, databases, registry, central ── supervisor ─▶ process ─▶ process
//!     ├─ simulated: charging points (engine + monitor), drivers ──────┘          ├─▶ log_stream: one log
//!     ├─ fault_proxy: cuts and silences connections between processes            └─▶ up.json: pids, addresses
//!     ├─ control: add, remove, kill, pause, cut, …
//!     └─ chaos_runner (--chaos): random faults, then a check of the invariants
//! ```

mod backoff;
mod chaos;
mod chaos_runner;
mod control;
mod detach;
mod fault_proxy;
pub(crate) mod health;
mod invariants;
pub(crate) mod layout;
pub(crate) mod log_stream;
pub(crate) mod network;
pub(crate) mod plan;
mod ports;
pub(crate) mod process;
mod simulated;
pub(crate) mod status;
mod supervisor;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use mesh::process::{Context, Misuse, ProcessConfig};
use tokio::sync::Mutex;

pub(crate) use detach::DownCommand;
use layout::{Layout, RequestedAddresses, flags};
use log_stream::{LogSink, LogStream};
use network::{LocalNetwork, NetworkOptions};
use plan::Plan;
use status::FolderLock;

/// Run a whole network on this machine: every role a process of its own, nothing else to install
///
/// State is kept in the data folder, so that a second start continues the same network. Ctrl-C ends all processes in
/// order. While it runs, the operator's commands (chargemesh charging-points list, …) find it by its data folder.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  chargemesh up
  chargemesh up --charging-points 20 --drivers 10 --data /tmp/net
  chargemesh up --kafka 127.0.0.1:9092; chargemesh events tail
  chargemesh up --detach; chargemesh charging-points list; chargemesh down
  chargemesh ctl data/run/up.sock add-charging-point city=Valencia
  chargemesh ctl data/run/up.sock kill central
  chargemesh up --data /tmp/chaos --chaos 7 --chaos-for 2m")]
pub(crate) struct UpCommand {
    /// Folder for all state of this network
    #[arg(long, env = "CHARGEMESH_DATA", value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Number of simulated charging points [default: as at the last start, at first 2]
    #[arg(long, env = "CHARGEMESH_CHARGING_POINTS", value_name = "N", value_parser = simulated::count)]
    charging_points: Option<usize>,
    /// Run Weather with this provider of temperatures; simulated needs no internet [default: openweather where a key file
    /// or an address is given, else there is no Weather]
    #[arg(long, env = "CHARGEMESH_WEATHER_PROVIDER", value_enum)]
    weather_provider: Option<weather::ProviderKind>,
    /// Address of the provider of temperatures instead of its own
    #[arg(long, env = "CHARGEMESH_WEATHER_URL", value_name = "URL")]
    weather_url: Option<String>,
    /// File with OpenWeather's key
    #[arg(long, env = "CHARGEMESH_WEATHER_KEY_FILE", value_name = "FILE")]
    weather_key_file: Option<PathBuf>,
    /// Number of simulated drivers [default: as at the last start, at first 1]
    #[arg(long, env = "CHARGEMESH_DRIVERS", value_name = "N", value_parser = simulated::count)]
    drivers: Option<usize>,
    /// Operator whose identity `up` and the commands with this data folder use [default: as at the last start, at first
    /// admin]
    #[arg(long, env = "CHARGEMESH_UP_OPERATOR", value_name = "NAME")]
    operator: Option<proto::OperatorName>,
    /// Address of Central's gRPC API [default: as at the last start, at first 127.0.0.1:7443 or a free port]
    #[arg(long, env = "CHARGEMESH_UP_CENTRAL_GRPC", value_name = "IP:PORT")]
    central_grpc: Option<SocketAddr>,
    /// Address of Central's links with charging points and drivers [default: as at the last start, at first
    /// 127.0.0.1:7400 or a free port]
    #[arg(long, env = "CHARGEMESH_UP_CENTRAL_LINK", value_name = "IP:PORT")]
    central_link: Option<SocketAddr>,
    /// Address of Registry's gRPC API [default: as at the last start, at first 127.0.0.1:7543 or a free port]
    #[arg(long, env = "CHARGEMESH_UP_REGISTRY_GRPC", value_name = "IP:PORT")]
    registry_grpc: Option<SocketAddr>,
    /// Address of Registry's HTTPS enrolment [default: as at the last start, at first 127.0.0.1:7580 or a free port]
    #[arg(long, env = "CHARGEMESH_UP_REGISTRY_HTTPS", value_name = "IP:PORT")]
    registry_https: Option<SocketAddr>,
    /// How many times faster than real time simulated meters run
    #[arg(long, env = "CHARGEMESH_SPEED", value_name = "FACTOR", default_value = "60")]
    speed: charging_point::meter::Speed,
    /// Time from the end of a simulated driver's supply to its next request
    #[arg(long, env = "CHARGEMESH_PAUSE", value_name = "DURATION", default_value = "4s",
          value_parser = mesh::duration::parse)]
    pause: Duration,
    /// Time from a reservation to the plug-in at simulated charging points
    #[arg(long, env = "CHARGEMESH_PLUG_IN_AFTER", value_name = "DURATION", default_value = "1s",
          value_parser = mesh::duration::parse)]
    plug_in_after: Duration,
    /// Allow drills: the commands that spoil keys at simulated charging points and those that cut or silence connections,
    /// which then all pass through a proxy in this process
    #[arg(long, env = "CHARGEMESH_DRILLS")]
    drills: bool,
    /// Kill, restart and freeze processes, cut and silence their connections and fill their disks at random, from this
    /// seed; then check the invariants and end. Implies --drills
    #[arg(long, env = "CHARGEMESH_CHAOS", value_name = "SEED")]
    chaos: Option<u64>,
    /// How long faults are injected with --chaos
    #[arg(long, env = "CHARGEMESH_CHAOS_FOR", value_name = "DURATION", default_value = "60s",
          value_parser = mesh::duration::parse)]
    chaos_for: Duration,
    /// Print the findings of --chaos as JSON
    #[arg(long, env = "CHARGEMESH_JSON")]
    json: bool,
    /// Run in the background: return once everything runs, and write the output to up.log in the data folder
    #[arg(long, env = "CHARGEMESH_DETACH", conflicts_with = "chaos")]
    detach: bool,
    /// Log level of the roles: error, warn, info, debug or trace, or levels by module
    #[arg(long, env = "CHARGEMESH_LOG_LEVEL", value_name = "LEVEL", default_value = "info",
          value_parser = mesh::logging::parse_filter)]
    log_level: String,
    /// Address of the supervisor's own /healthz, /readyz and /metrics
    #[arg(long, env = "CHARGEMESH_UP_ADMIN_ADDRESS", value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    admin_address: SocketAddr,
    #[command(flatten)]
    kafka: mesh::kafka::KafkaConfig,
}

/// A running network, shared by the tasks of `up`.
#[derive(Debug)]
pub(crate) struct RunningNetwork {
    pub(crate) config: UpCommand,
    pub(crate) network: LocalNetwork,
    pub(crate) plan: Mutex<Plan>,
}

impl UpCommand {
    pub(crate) fn run(self) -> ExitCode {
        if self.detach {
            return detach::detach(&self.data);
        }
        let config = process_config(self.log_level.clone(), self.admin_address);
        mesh::process::run("up", config, |ctx| async move { self.print_and_run(ctx).await })
    }

    /// Weather's own arguments, where a provider, its address or its key is given.
    fn weather(&self) -> Option<Vec<std::ffi::OsString>> {
        let is_real = self.weather_url.is_some() || self.weather_key_file.is_some();
        let provider = self.weather_provider.or(is_real.then_some(weather::ProviderKind::OpenWeather))?;
        let mut own = flags([("--provider", &provider.name())]);
        own.extend(self.weather_url.iter().flat_map(|url| flags([("--weather-url", url)])));
        own.extend(self.weather_key_file.iter().flat_map(|file| flags([("--key-file", file)])));
        Some(own)
    }

    fn has_drills(&self) -> bool {
        self.drills || self.chaos.is_some()
    }

    async fn print_and_run(self, ctx: Context) -> anyhow::Result<()> {
        let sink = if self.json && self.chaos.is_some() { LogSink::Stderr } else { LogSink::Stdout };
        let (stream, printed) = LogStream::start(sink);
        let result = self.run_network(&ctx, &stream).await;
        drop(stream);
        // The last lines are printed, but a reader that does not read cannot hold up the end.
        drop(tokio::time::timeout(Duration::from_secs(1), printed).await);
        result
    }

    async fn run_network(self, ctx: &Context, stream: &LogStream) -> anyhow::Result<()> {
        let lock = FolderLock::take(&self.data)?;
        refuse_a_replay(&self.data)?;
        let layout = Layout::new(&self.data)?;
        let mut plan = Plan::read(&layout.data)?;
        let fresh = plan == Plan::default();
        let at_first = |given: Option<usize>, usual: usize| given.or(fresh.then_some(usual));
        let resized = plan.resize(at_first(self.charging_points, 2), at_first(self.drivers, 1));
        resized.map_err(Misuse::new)?;
        plan.operator = self.operator.clone().or(plan.operator);
        let options = NetworkOptions {
            requested: RequestedAddresses {
                usual: true,
                central_grpc: self.central_grpc,
                central_link: self.central_link,
                registry_grpc: self.registry_grpc,
                registry_https: self.registry_https,
            },
            log_level: self.log_level.clone(),
            control_socket: Some(layout.socket("up")),
            relayed: self.has_drills(),
            kafka: self.kafka.clone(),
            of_weather: self.weather(),
            of_central: flags([("--simulated-speed", &self.speed.rounded_up().to_string())]),
        };
        let network = LocalNetwork::start(ctx, lock, layout, &mut plan, options, stream.clone()).await?;
        let running = Arc::new(RunningNetwork { config: self, network, plan: Mutex::new(plan) });
        let result = running.run_until_stopped(ctx).await;
        ctx.stop.cancel();
        stream.up("ending all processes in order");
        match Arc::try_unwrap(running) {
            Ok(running) => running.network.end().await,
            // A command on the control socket still holds it; the processes end all the same.
            Err(running) => running.network.supervisor.end_all().await,
        }
        result
    }
}

impl RunningNetwork {
    async fn run_until_stopped(self: &Arc<Self>, ctx: &Context) -> anyhow::Result<()> {
        let control = self.network.layout.socket("up");
        let weak = Arc::downgrade(self);
        let stop = ctx.stop.clone();
        mesh::control::serve(ctx, &control, move |request| control::answer(weak.clone(), stop.clone(), request))
            .await?;
        // A stop may come while they start; then the ones that run are ended in order.
        if let Some(started) = ctx.stop.run_until_cancelled(self.start_simulated()).await {
            started?;
            self.network.set_ready();
            self.print_summary().await;
        }
        match self.config.chaos {
            Some(seed) => chaos_runner::run(self, ctx, seed).await,
            None => {
                ctx.stop.cancelled().await;
                Ok(())
            }
        }
    }

    async fn print_summary(&self) {
        let (a, stream) = (&self.network.addresses, &self.network.supervisor.stream);
        for process in self.network.supervisor.status().await {
            stream.up(format!("{:<20} {}", process.name, process.describe()));
        }
        stream.up(format!("operator API (mutual TLS gRPC): {}", a.central_grpc));
        stream.up(format!("charging points and drivers: {}; enrolment: https://{}", a.central_link, a.registry_https));
        stream.up(format!(
            "the network is up; look at it with: chargemesh charging-points watch --data {}",
            self.network.layout.data.display()
        ));
    }
}

/// A replay compares everything that Central billed with its recording, so nothing else may be billed in its folder.
fn refuse_a_replay(data: &std::path::Path) -> Result<(), Misuse> {
    if !crate::replay::is_replay(data) {
        return Ok(());
    }
    let data = data.display();
    Err(Misuse::new(format!("{data} holds the state of `chargemesh replay`; choose another folder with --data")))
}

/// The process settings of a supervisor; its grace time covers those of its processes.
pub(crate) fn process_config(log_level: String, admin_address: SocketAddr) -> ProcessConfig {
    ProcessConfig {
        log_level: if log_level == "info" { "warn".to_owned() } else { log_level },
        log_format: mesh::logging::LogFormat::Text,
        admin_address,
        control_socket: None,
        addresses: None,
        grace: Duration::from_secs(90),
        stop_delay: Duration::ZERO,
        worker_threads: None,
    }
}
