//! The start-up shell of every role: logs, cryptography, runtime, admin port, signals, tasks, exit code.
//!
//! A role ends when its body and all its tasks have ended, when one of them fails, or on SIGTERM or SIGINT. Then it
//! reports that it is not ready, stops accepting, finishes its work, and is stopped hard after the grace time. A second
//! signal stops it at once. Exit codes: 0 success, 1 failure, 2 wrong use or configuration. An error is logged in one
//! line with all its causes.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use nix::sys::stat::{Mode, umask};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    clock::Clock,
    health::Health,
    logging::{self, LogFormat},
    metrics::Metrics,
    tasks::Tasks,
};

/// The settings that every role has as a process.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Process")]
#[group(skip)]
pub struct ProcessConfig {
    /// What to log: a level (error, warn, info, debug, trace), or levels by module such as `info,central=debug`
    #[arg(long, env = "CHARGEMESH_LOG_LEVEL", value_name = "LEVEL", default_value = "info",
          value_parser = logging::parse_filter)]
    pub log_level: String,
    /// Format of log lines: `text` for people, `json` for machines
    #[arg(long, env = "CHARGEMESH_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Address of /healthz, /readyz and /metrics, in plain HTTP; port 0 chooses a free port and logs it
    #[arg(long, env = "CHARGEMESH_ADMIN_ADDRESS", value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub admin_address: SocketAddr,
    /// Unix socket at which `chargemesh ctl` reaches this process; by default there is none
    #[arg(long, env = "CHARGEMESH_CONTROL_SOCKET", value_name = "PATH")]
    pub control_socket: Option<PathBuf>,
    /// File to which this process writes, as JSON, each address that it listens on
    #[arg(long, env = "CHARGEMESH_ADDRESSES", value_name = "FILE")]
    pub addresses: Option<PathBuf>,
    /// Time to finish running work after SIGTERM or Ctrl-C, before the process is stopped hard
    #[arg(long, env = "CHARGEMESH_GRACE", value_name = "DURATION", default_value = "10s",
          value_parser = crate::duration::parse)]
    pub grace: Duration,
    /// Time between reporting "not ready" and ceasing to accept, so that load balancers notice first
    #[arg(long, env = "CHARGEMESH_STOP_DELAY", value_name = "DURATION", default_value = "0s",
          value_parser = crate::duration::parse)]
    pub stop_delay: Duration,
    /// Number of threads for network work; by default half the cores, since more threads wake each other and make every
    /// message a little slower
    #[arg(long, env = "CHARGEMESH_WORKER_THREADS", value_name = "COUNT")]
    pub worker_threads: Option<NonZeroUsize>,
}

impl ProcessConfig {
    fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.worker_threads.map_or_else(|| (cores() / 2).max(1), NonZeroUsize::get)
    }
}

/// Wrong use or configuration, found after parsing the flags. Anywhere in an error's chain it causes exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(String);

impl Misuse {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// What the parts of a role share. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub role: &'static str,
    /// Cancelled when the role is to end; cancelling it ends the role.
    pub stop: CancellationToken,
    pub health: Health,
    pub metrics: Metrics,
    pub clock: Clock,
    /// Time from the stop to the hard stop.
    pub grace: Duration,
    control_socket: Option<PathBuf>,
    addresses: Arc<Addresses>,
    tasks: Tasks,
}

#[derive(Default)]
struct Addresses {
    file: Option<PathBuf>,
    known: Mutex<BTreeMap<String, String>>,
}

impl Context {
    fn new(role: &'static str, config: &ProcessConfig) -> Self {
        Self {
            control_socket: config.control_socket.clone(),
            addresses: Arc::new(Addresses { file: config.addresses.clone(), known: Mutex::default() }),
            grace: config.grace,
            ..Self::detached(role)
        }
    }

    /// A context without signals, admin port and log, for tests and for a fleet in one process.
    pub fn detached(role: &'static str) -> Self {
        Self {
            role,
            stop: CancellationToken::new(),
            health: Health::default(),
            metrics: Metrics::new(role),
            clock: Clock::system(),
            grace: Duration::from_secs(10),
            control_socket: None,
            addresses: Arc::default(),
            tasks: Tasks::default(),
        }
    }

    /// Spawns a task; if it fails or panics, the process stops with its error.
    pub fn spawn<F>(&self, name: impl Into<String>, work: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.tasks.spawn(name.into(), self.stop.clone(), work);
    }

    /// Runs `work` after every task has ended, unless the process is stopped hard. The work registered last runs first.
    /// Its failure is a failure of the process.
    pub fn finally<F>(&self, name: impl Into<String>, work: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.tasks.finally(name.into(), self.stop.clone(), work);
    }

    /// Spawns `work` and, as `finally` does, runs `last` with its result.
    pub fn spawn_and_finally<T, F, L>(&self, name: &'static str, work: F, last: impl FnOnce(T) -> L + Send + 'static)
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>> + Send + 'static,
        L: Future<Output = ()> + Send + 'static,
    {
        let (leave, left) = oneshot::channel();
        self.spawn(name, async move {
            // There is no receiver where the process is stopped hard.
            let _ = leave.send(work.await?);
            Ok(())
        });
        self.finally(name, async move {
            if let Ok(left) = left.await {
                last(left).await;
            }
            Ok(())
        });
    }

    /// Keeps `lock` until every task has ended.
    pub fn hold(&self, lock: std::fs::File) {
        self.finally("lock", async move {
            drop(lock);
            Ok(())
        });
    }

    /// Path of the control socket, if one is configured.
    pub fn control_socket(&self) -> Option<&Path> {
        self.control_socket.as_deref()
    }

    /// Logs that `listener` listens at `address`, and adds it to the file of `--addresses`.
    ///
    /// # Errors
    /// Where that file cannot be written.
    pub fn listening(&self, listener: &str, address: impl ToString) -> anyhow::Result<()> {
        let address = address.to_string();
        tracing::info!(listener, address, "listening");
        let mut known = self.addresses.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(listener.to_owned(), address);
        let Some(file) = &self.addresses.file else { return Ok(()) };
        let cannot = |why: String| Misuse::new(format!("cannot write the addresses to {}: {why}", file.display()));
        if !may_hold_addresses(file) {
            return Err(cannot("there is something else in it; give another file".into()).into());
        }
        let text = serde_json::to_string(&*known)?;
        Ok(crate::certs::files::replace(file, text.as_bytes(), 0o644).map_err(|error| cannot(error.to_string()))?)
    }

    /// The address that `listener` was announced with.
    pub fn address_of(&self, listener: &str) -> Option<String> {
        self.addresses.known.lock().unwrap_or_else(PoisonError::into_inner).get(listener).cloned()
    }

    /// Waits until all tasks and all `finally` work have ended.
    ///
    /// # Errors
    /// The first failure, which stopped the process.
    pub async fn ended(&self) -> anyhow::Result<()> {
        self.tasks.ended().await;
        self.tasks.take_failure().map_or(Ok(()), Err)
    }
}

/// Whether `file` can be replaced without losing data: it does not exist, is empty, or contains addresses.
fn may_hold_addresses(file: &Path) -> bool {
    match std::fs::symlink_metadata(file) {
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        Ok(there) if there.is_file() => std::fs::read_to_string(file).is_ok_and(|text| {
            text.trim().is_empty() || serde_json::from_str::<BTreeMap<String, String>>(&text).is_ok()
        }),
        Ok(_) => false,
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("role", &self.role).field("health", &self.health).finish_non_exhaustive()
    }
}

/// Runs `body` as the role `role` to its end. The body builds and spawns; it may return while its tasks run on.
pub fn run<F, Fut>(role: &'static str, config: ProcessConfig, body: F) -> ExitCode
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    logging::start(&config.log_level, config.log_format);
    // Every file that this process creates is for its user alone (SPEC 10.8).
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    install_cryptography();
    crate::descriptors::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(config.workers()).enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(shell(role, &config, body));
            // Stuck blocking work must not keep the process alive.
            runtime.shutdown_timeout(Duration::from_millis(500));
            result
        }
        Err(error) => Err(anyhow::Error::new(error).context("cannot start the runtime")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(role, "{error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Installs the cryptography of TLS; needed once, before the first TLS connection. [`run`] does it.
pub fn install_cryptography() {
    // Fails only where one is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// 2 where the user can correct the error by other flags, files or variables, else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let misuse = error.downcast_ref::<Misuse>().is_some() || error.chain().any(|cause| cause.is::<Misuse>());
    if misuse { 2 } else { 1 }
}

async fn shell<F, Fut>(role: &'static str, config: &ProcessConfig, body: F) -> anyhow::Result<()>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let ctx = Context::new(role, config);
    let mut signals = Signals::new()?;
    let admin = open_admin(&ctx, config.admin_address).await?;
    let mut work = std::pin::pin!(supervise(&ctx, body));
    let result = tokio::select! {
        result = &mut work => result,
        () = ctx.stop.cancelled() => drain(&ctx, work, &mut signals).await,
        name = signals.next() => {
            tracing::info!(signal = name, "stopping");
            ctx.health.stopping();
            tokio::select! { () = tokio::time::sleep(config.stop_delay) => {}, _ = signals.next() => {} }
            ctx.stop.cancel();
            drain(&ctx, work, &mut signals).await
        }
    };
    admin.cancel();
    result
}

/// Waits until body and tasks have ended. A failing body stops the tasks.
async fn supervise<F, Fut>(ctx: &Context, body: F) -> anyhow::Result<()>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    if let Err(error) = body(ctx.clone()).await {
        ctx.tasks.fail(error);
        ctx.stop.cancel();
    }
    ctx.ended().await
}

async fn drain(
    ctx: &Context,
    work: impl Future<Output = anyhow::Result<()>>,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    ctx.health.stopping();
    let why = tokio::select! {
        result = work => return result,
        () = tokio::time::sleep(ctx.grace) => "the grace time is over",
        name = signals.next() => name,
    };
    let unfinished = ctx.tasks.abort().join(", ");
    match ctx.tasks.take_failure() {
        Some(error) => Err(error.context(format!("stopped hard ({why}) with unfinished: {unfinished}"))),
        None => Err(anyhow::anyhow!("stopped hard ({why}) with unfinished: {unfinished}")),
    }
}

async fn open_admin(ctx: &Context, address: SocketAddr) -> anyhow::Result<CancellationToken> {
    let listener = bind("admin", address).await?;
    ctx.listening("admin", listener.local_addr()?)?;
    // Not one of the process's tasks: it answers until the very end and does not keep the process alive.
    let stop = CancellationToken::new();
    tokio::spawn(admin::serve(listener, ctx.health.clone(), ctx.metrics.clone(), stop.clone()));
    Ok(stop)
}

/// Binds a listener.
///
/// # Errors
/// A sentence that names the address and what to do.
pub async fn bind(listener: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| {
        let known = [
            (AddrInUse, "another process listens there; stop it or give another port"),
            (AddrNotAvailable, "this host has no such address; give one of its own, or 0.0.0.0 for all"),
            (PermissionDenied, "this user may not; give a port above 1023"),
        ];
        let advice = known.iter().find(|(kind, _)| *kind == error.kind()).map_or("give another address", |(_, a)| *a);
        let text = format!("cannot listen on {address} for {listener}: {advice}");
        anyhow::Error::new(error).context(Misuse::new(text))
    })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let take = |kind| signal(kind).context("cannot take signals");
        // By default this signal kills the process. Exceeding a file-size limit must be a failing write, like a full
        // disk (SPEC 9).
        drop(take(SignalKind::from_raw(nix::libc::SIGXFSZ))?);
        Ok(Self { terminate: take(SignalKind::terminate())?, interrupt: take(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! { _ = self.terminate.recv() => "SIGTERM", _ = self.interrupt.recv() => "SIGINT" }
    }
}
