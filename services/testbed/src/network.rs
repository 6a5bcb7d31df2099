//! A network of real processes in one temporary folder, with a handle of each process.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use mesh::{
    certs::Authority,
    control::{self, ControlRequest},
};
use proto::{
    Caller,
    central::v1::{ChargingPoint, ChargingPointState, Ticket},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    operator::Operator,
    process::{LaunchSpec, Process},
    wait::until,
};

/// Longest wait for anything that SPEC gives no time limit.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Central, Registry and an operator; charging points and drivers are started from here.
#[derive(Debug)]
pub struct Network {
    pub central: Process,
    pub registry: Process,
    pub operator: Operator,
    pub central_grpc: SocketAddr,
    pub central_link: SocketAddr,
    pub registry_https: SocketAddr,
    pub registry_grpc: SocketAddr,
    /// The last field, so that processes are dropped first and can still print their logs.
    folder: TempDir,
}

impl Network {
    /// Starts Registry and Central on free ports with embedded databases; `central` are further arguments of Central.
    pub async fn start(central: &[&str]) -> anyhow::Result<Self> {
        Self::start_under(central, |_| Vec::new()).await
    }

    /// The same, with Central's data on a disk of its own of this size.
    pub async fn start_on_small_disk(central: &[&str], mebibytes: u32) -> anyhow::Result<Self> {
        Self::start_under(central, |data| {
            let own = format!("mount -t tmpfs -o size={mebibytes}m tmpfs \"$0\"");
            small_disk(&format!("{own} && \"$1\" migrate central \"sqlite:$0/central.db\" && exec \"$@\""), data)
        })
        .await
    }

    async fn start_under(central: &[&str], under: impl FnOnce(&Path) -> Vec<String>) -> anyhow::Result<Self> {
        mesh::process::install_cryptography();
        let folder = tempfile::Builder::new().prefix("chargemesh-").tempdir()?;
        let (dir, logs) = (folder.path(), folder.path().join("logs"));
        let authority = Authority::create(&dir.join("certs"), "chargemesh.test", Duration::from_secs(86_400))?;
        let day = Duration::from_secs(86_000);
        authority.issue_role(Caller::Central, &dir.join("certs/central"), &[], day, false)?;
        authority.issue_role(Caller::Registry, &dir.join("certs/registry"), &[], day, false)?;
        let person = |role, name: &str| {
            authority.issue_person(role, &name.parse()?, &dir.join("certs").join(name), day, false)?;
            anyhow::Ok(())
        };
        person(Caller::Operator, "olga")?;
        person(Caller::Viewer, "victor")?;

        let [central_grpc, central_link, registry_grpc, registry_https] = free_addresses()?;
        for service in ["central", "registry"] {
            std::fs::create_dir_all(dir.join(service))?;
            let url = format!("sqlite:{}", dir.join(service).join(format!("{service}.db")).display());
            let (code, out, error) = crate::process::run(&["migrate", service, &url], &[]).await?;
            anyhow::ensure!(code == 0, "migrate {service}: {out}{error}");
        }
        let spec = |name: &str, args: Vec<String>| LaunchSpec {
            name: name.to_owned(),
            args: [name.to_owned()].into_iter().chain(args).collect(),
            env: Vec::new(),
            under: Vec::new(),
            folder: logs.clone(),
        };
        let path = |tail: &str| dir.join(tail).display().to_string();
        let registry = Process::start(spec(
            "registry",
            words(&[
                ("--data", path("registry")),
                ("--identity", path("certs/registry")),
                ("--grpc-address", registry_grpc.to_string()),
                ("--https-address", registry_https.to_string()),
                ("--central", central_grpc.to_string()),
                ("--addresses", path("registry.json")),
            ]),
        ))?;
        let mut arguments = words(&[
            ("--data", path("central")),
            ("--identity", path("certs/central")),
            ("--grpc-address", central_grpc.to_string()),
            ("--link-address", central_link.to_string()),
            ("--registry", registry_grpc.to_string()),
            ("--addresses", path("central.json")),
        ]);
        arguments.extend(central.iter().map(|&word| word.to_owned()));
        let central = Process::start(LaunchSpec { under: under(&dir.join("central")), ..spec("central", arguments) })?;
        let operator = Operator::new(&dir.join("certs/olga"), &central_grpc.to_string(), &registry_grpc.to_string())?;
        let network =
            Self { folder, central, registry, operator, central_grpc, central_link, registry_https, registry_grpc };
        network.until_ready().await?;
        Ok(network)
    }

    /// Waits until Central and Registry answer and Registry has Central's link keys, which enrolment hands out.
    pub async fn until_ready(&self) -> anyhow::Result<()> {
        until("Registry to know Central's link keys", PATIENCE, async || {
            let pins = self.operator.identities.clone().pins(proto::registry::v1::PinsRequest {}).await;
            match pins {
                Ok(pins) if !pins.get_ref().pins.is_empty() => Ok(()),
                Ok(_) => Err("no pins yet".to_owned()),
                Err(status) => Err(status.to_string()),
            }
        })
        .await
    }

    pub fn path(&self, tail: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(tail)
    }

    /// The folder of an identity: `olga` is an operator, `victor` a viewer; `central` and `registry` are the servers.
    pub fn identity(&self, name: &str) -> PathBuf {
        self.path("certs").join(name)
    }

    /// Starts an engine and its monitor, enrolled and unplugged, and waits until AVAILABLE.
    pub async fn charging_point(&self, id: &str) -> anyhow::Result<TestPoint> {
        self.charging_point_at(id, self.central_link, &[], &[]).await
    }

    /// The same with further arguments, and with another address of Central (a proxy's).
    pub async fn charging_point_at(
        &self,
        id: &str,
        central: SocketAddr,
        engine: &[&str],
        monitor: &[&str],
    ) -> anyhow::Result<TestPoint> {
        let point = self.start_charging_point(id, central, engine, monitor).await?;
        self.until_state(id, ChargingPointState::Available).await?;
        Ok(point)
    }

    /// The same, without waiting.
    pub async fn start_charging_point(
        &self,
        id: &str,
        central: SocketAddr,
        engine: &[&str],
        monitor: &[&str],
    ) -> anyhow::Result<TestPoint> {
        let file = self.path(format!("{id}.token"));
        std::fs::write(&file, self.operator.token(1).await?)?;
        self.start_charging_point_with(id, central, &file, engine, monitor)
    }

    /// Starts an engine and its monitor with the token in this file, without waiting.
    pub fn start_charging_point_with(
        &self,
        id: &str,
        central: SocketAddr,
        token_file: &Path,
        engine: &[&str],
        monitor: &[&str],
    ) -> anyhow::Result<TestPoint> {
        let folder = self.path(id);
        std::fs::create_dir_all(&folder)?;
        let path = |tail: &str| folder.join(tail).display().to_string();
        let spec = |role: &str, arguments: Vec<String>, more: &[&str]| LaunchSpec {
            name: format!("{id}-{role}"),
            args: [role.to_owned()]
                .into_iter()
                .chain(arguments)
                .chain(more.iter().map(|&word| word.to_owned()))
                .collect(),
            env: Vec::new(),
            under: Vec::new(),
            folder: self.path("logs"),
        };
        let monitor = Process::start(spec(
            "monitor",
            words(&[
                ("--id", id.to_owned()),
                ("--token-file", token_file.display().to_string()),
                ("--city", "Valencia".to_owned()),
                ("--place", format!("Place of {id}")),
                ("--data", path("data")),
                ("--central", central.to_string()),
                ("--registry", self.registry_https.to_string()),
                ("--control-socket", path("monitor.sock")),
            ]),
            monitor,
        ))?;
        let engine = Process::start(spec(
            "engine",
            words(&[
                ("--data", path("engine")),
                ("--pairing", path("data/pairing.sock")),
                ("--control-socket", path("engine.sock")),
            ]),
            engine,
        ))?;
        Ok(TestPoint { id: id.to_owned(), engine, monitor, folder })
    }

    /// Starts a driver that is controlled by its control socket.
    pub async fn driver(&self, id: &str, more: &[&str]) -> anyhow::Result<TestDriver> {
        self.driver_at(id, self.central_link, more).await
    }

    pub async fn driver_at(&self, id: &str, central: SocketAddr, more: &[&str]) -> anyhow::Result<TestDriver> {
        self.driver_with(id, central, self.operator.token(1).await?, more)
    }

    /// Starts a driver that enrols with this token.
    pub fn driver_with(
        &self,
        id: &str,
        central: SocketAddr,
        token: String,
        more: &[&str],
    ) -> anyhow::Result<TestDriver> {
        let folder = self.path(format!("driver-{id}"));
        std::fs::create_dir_all(&folder)?;
        let path = |tail: &str| folder.join(tail).display().to_string();
        let mut args = vec!["driver".to_owned()];
        args.extend(words(&[
            ("--id", id.to_owned()),
            ("--token", token),
            ("--data", path("data")),
            ("--central", central.to_string()),
            ("--registry", format!("https://{}", self.registry_https)),
            ("--control-socket", path("driver.sock")),
        ]));
        args.push("--json".to_owned());
        args.extend(more.iter().map(|&word| word.to_owned()));
        let process = Process::start(LaunchSpec {
            name: format!("driver-{id}"),
            args,
            env: Vec::new(),
            under: Vec::new(),
            folder: self.path("logs"),
        })?;
        Ok(TestDriver { id: id.to_owned(), process, folder })
    }

    /// The charging point as Central shows it.
    pub async fn shown(&self, id: &str) -> anyhow::Result<ChargingPoint> {
        Ok(self.operator.charging_point(id).await?)
    }

    /// Waits until Central shows this state.
    pub async fn until_state(&self, id: &str, state: ChargingPointState) -> anyhow::Result<ChargingPoint> {
        self.until_shown(id, format!("{state:?}"), PATIENCE, |cp| cp.state() == state).await
    }

    /// Waits until what Central shows is as wanted, at most for the time that a rule allows.
    pub async fn until_shown(
        &self,
        id: &str,
        what: impl std::fmt::Display,
        limit: Duration,
        mut wanted: impl FnMut(&ChargingPoint) -> bool,
    ) -> anyhow::Result<ChargingPoint> {
        until(format_args!("{id} to be shown as {what}"), limit, async || {
            match self.operator.charging_point(id).await {
                Ok(cp) if wanted(&cp) => Ok(cp),
                Ok(cp) => Err(format!("{cp:?}")),
                Err(status) => Err(status.to_string()),
            }
        })
        .await
    }

    /// Waits until a charging point has `count` tickets; answers all of them.
    pub async fn until_tickets(&self, charging_point: &str, count: usize) -> anyhow::Result<Vec<Ticket>> {
        until(format_args!("{count} tickets of {charging_point}"), PATIENCE, async || {
            let tickets = self.operator.all_tickets().await.map_err(|error| format!("{error:#}"))?;
            let own: Vec<Ticket> =
                tickets.into_iter().filter(|ticket| ticket.charging_point_id == charging_point).collect();
            if own.len() >= count { Ok(own) } else { Err(format!("{} tickets", own.len())) }
        })
        .await
    }

    /// Kills Central and starts it again.
    pub async fn restart_central(&mut self) -> anyhow::Result<()> {
        self.central.restart()?;
        self.until_ready().await
    }
}

/// A charging point: an engine and a monitor process.
#[derive(Debug)]
pub struct TestPoint {
    pub id: String,
    pub engine: Process,
    pub monitor: Process,
    folder: PathBuf,
}

impl TestPoint {
    /// The file in which the monitor keeps its identity.
    pub fn identity(&self) -> PathBuf {
        self.folder.join("data/identity.json")
    }

    /// Sends a command to the engine's control socket.
    pub async fn engine(&self, command: &str, args: Value) -> anyhow::Result<Value> {
        ask(&self.folder.join("engine.sock"), command, args).await
    }

    /// Sends a command to the monitor's control socket.
    pub async fn monitor(&self, command: &str, args: Value) -> anyhow::Result<Value> {
        ask(&self.folder.join("monitor.sock"), command, args).await
    }

    /// Waits until the engine's status is as wanted.
    pub async fn until_engine(
        &self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        until_status(&self.folder.join("engine.sock"), what, limit, &mut wanted).await
    }

    /// Waits until the monitor's status is as wanted.
    pub async fn until_monitor(
        &self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        until_status(&self.folder.join("monitor.sock"), what, limit, &mut wanted).await
    }

    /// The lifetime register in Wh.
    pub async fn meter_wh(&self) -> anyhow::Result<u64> {
        let status = self.engine("status", Value::Null).await?;
        status["meter_wh"].as_u64().with_context(|| format!("no meter_wh in {status}"))
    }
}

/// A driver's process.
#[derive(Debug)]
pub struct TestDriver {
    pub id: String,
    pub process: Process,
    folder: PathBuf,
}

impl TestDriver {
    pub async fn ask(&self, command: &str, args: Value) -> anyhow::Result<Value> {
        ask(&self.folder.join("driver.sock"), command, args).await
    }

    pub async fn until(
        &self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        until_status(&self.folder.join("driver.sock"), what, limit, &mut wanted).await
    }

    /// The JSON objects (steps, tickets) that it has printed, over all restarts.
    pub fn printed(&self) -> Vec<Value> {
        self.process.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// Sends a command to a control socket; waits until it is there.
pub async fn ask(socket: &Path, command: &str, args: Value) -> anyhow::Result<Value> {
    let request = ControlRequest::new(command, args);
    until(format_args!("{} to answer", socket.display()), PATIENCE, async || {
        match control::ask(socket, &request).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(control::ControlError::Refused(text)) => Ok(Err(anyhow::anyhow!(text))),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?
}

async fn until_status(
    socket: &Path,
    what: &str,
    limit: Duration,
    wanted: &mut impl FnMut(&Value) -> bool,
) -> anyhow::Result<Value> {
    let request = ControlRequest::new("status", Value::Null);
    until(format_args!("the status of {}: {what}", socket.display()), limit, async || {
        match control::ask(socket, &request).await {
            Ok(status) if wanted(&status) => Ok(status),
            Ok(status) => Err(status.to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
}

/// Command words that run a script in a mount namespace of its own; `$0` is the folder, `$@` the program to run.
fn small_disk(script: &str, folder: &Path) -> Vec<String> {
    ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
        .map(str::to_owned)
        .into_iter()
        .chain([folder.display().to_string()])
        .collect()
}

/// From its next start on, gives a process a disk of its own of this size at `folder`, with a copy of the folder's present
/// content at each start.
pub fn on_small_disk(process: &mut Process, folder: &Path, mebibytes: u32) {
    let own = format!("mount -t tmpfs -o size={mebibytes}m tmpfs \"$0\"");
    let script = format!("cp -a \"$0\" \"$0.$$\" && {own} && cp -a \"$0.$$/.\" \"$0\" && exec \"$@\"");
    process.spec_mut().under = small_disk(&script, folder);
}

/// The path by which a test reaches a file on the small disk of a process.
pub fn on_its_disk(process: &Process, path: &Path) -> anyhow::Result<PathBuf> {
    let pid = process.pid().context("it does not run")?;
    Ok(PathBuf::from(format!("/proc/{pid}/root{}", path.display())))
}

/// Fills the small disk of a process at `folder` to the last byte, until the guard is dropped.
pub async fn fill(process: &Process, folder: &Path) -> anyhow::Result<Filled> {
    let seen = on_its_disk(process, folder)?;
    // The process may not have mounted its small disk yet; this machine's own disk must not be filled.
    let bytes = until(format_args!("{} to be a small disk", seen.display()), PATIENCE, async || {
        let disk = nix::sys::statvfs::statvfs(&seen).map_err(|error| error.to_string())?;
        let bytes = disk.blocks() * disk.fragment_size();
        if bytes <= SMALL_DISK { Ok(bytes) } else { Err(format!("{bytes} bytes")) }
    })
    .await?;
    let path = seen.join("filler");
    let mut file = std::fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let filled = Filled(path);
    // Smaller and smaller pieces, until no byte fits.
    let mut left = bytes;
    for size in [1 << 16, 4096, 256, 1] {
        while left >= size && std::io::Write::write_all(&mut file, &vec![0; usize::try_from(size)?]).is_ok() {
            left -= size;
        }
    }
    Ok(filled)
}

/// A larger disk is no small disk of a test.
const SMALL_DISK: u64 = 64 << 20;

/// Keeps a disk full until dropped.
#[derive(Debug)]
pub struct Filled(PathBuf);

impl Drop for Filled {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn words(pairs: &[(&str, String)]) -> Vec<String> {
    pairs.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()]).collect()
}

/// Ports that are free now and that no other network of this test process was given, whose server may be restarting.
/// Below the range of ephemeral ports, so that no outgoing connection can take one of them.
pub fn free_addresses<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut addresses = Vec::new();
    while addresses.len() < N {
        let port = rand::random_range(12_000..32_000);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port))
            && given.insert(port)
        {
            addresses.push(listener.local_addr()?);
        }
    }
    drop(given);
    addresses.try_into().map_err(|_| anyhow::anyhow!("counted wrong"))
}
