//! `up --detach` and `down`: running a network in the background, and ending it.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use mesh::{
    control::{self, ControlError, ControlRequest},
    process::Misuse,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::status::{self, FolderLock, NetworkStatus};
use crate::{
    failure,
    output::{Output, line, note},
};

const LOG: &str = "up.log";
const READY_WITHIN: Duration = Duration::from_secs(120);
const DOWN_WITHIN: Duration = Duration::from_secs(90);
/// A network that is ending has ended within this time; longer means that its control socket was deleted while it runs.
const SOCKET_GONE: Duration = Duration::from_secs(45);

/// Starts the same command again in the background and returns when the network is up.
pub(super) fn detach(data: &Path) -> ExitCode {
    failure::exit(begin(data))
}

fn begin(data: &Path) -> anyhow::Result<()> {
    // Taken for a moment, so that a folder in use is reported on this terminal and not in the log.
    drop(FolderLock::take(data)?);
    let path = data.join(LOG);
    let cannot = |error: io::Error| Misuse::new(format!("cannot write {}: {error}", path.display()));
    let log = File::options().create(true).append(true).open(&path).map_err(cannot)?;
    let start = log.metadata().map_err(cannot)?.len();
    let args = std::env::args_os().skip(1).filter(|arg| arg != "--detach");
    let mut child = Command::new(std::env::current_exe()?)
        .args(args)
        .env_remove("CHARGEMESH_DETACH")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A process group of its own, so that neither this terminal's Ctrl-C nor its end reaches it.
        .group_of_its_own()
        .spawn()
        .context("cannot start in the background")?;
    let pause = Duration::from_millis(100);
    for _ in 0..READY_WITHIN.as_millis() / pause.as_millis() {
        if let Some(ended) = child.try_wait()? {
            let said = std::fs::read(&path).unwrap_or_default();
            let said = said.get(usize::try_from(start).unwrap_or(0)..).unwrap_or_default();
            let tail: Vec<_> = String::from_utf8_lossy(said).lines().rev().take(15).map(str::to_owned).collect();
            tail.iter().rev().for_each(|line| note(line));
            let text = format!("the network did not start ({ended}); its whole output is in {}", path.display());
            return Err(if ended.code() == Some(2) { Misuse::new(text).into() } else { anyhow::anyhow!(text) });
        }
        let of_child = |s: &NetworkStatus| s.pid == child.id() && s.ready && !s.is_starting();
        if let Some(status) = status::read(data)?.filter(of_child) {
            return show(&status, data);
        }
        std::thread::sleep(pause);
    }
    anyhow::bail!("the network is not up after {READY_WITHIN:?}; see {}", path.display())
}

trait Background {
    fn group_of_its_own(&mut self) -> &mut Self;
}

impl Background for Command {
    fn group_of_its_own(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::process_group(self, 0)
    }
}

fn show(status: &NetworkStatus, data: &Path) -> anyhow::Result<()> {
    line(&format!(
        "the network is up, supervised by process {}; its output is in {}",
        status.pid,
        data.join(LOG).display()
    ))?;
    for process in &status.processes {
        line(&format!("  {:<20} {}", process.name, process.describe()))?;
    }
    line(&format!("operator API (mutual TLS gRPC): {}", status.central_grpc))?;
    line(&format!("look at it:  chargemesh charging-points list --data {}", data.display()))?;
    line(&format!("stop it:     chargemesh down --data {}", data.display()))
}

/// End the network that `chargemesh up` runs in a data folder
#[derive(Debug, Args)]
pub(crate) struct DownCommand {
    /// Data folder of the network
    #[arg(long, env = "CHARGEMESH_DATA", value_name = "DIR", default_value = "data")]
    data: PathBuf,
    #[command(flatten)]
    output: Output,
}

impl DownCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Some(network) = status::read(&self.data)?.filter(NetworkStatus::is_running) else {
            return self
                .output
                .sentence(&format!("no network runs in {}", self.data.display()), &json!({ "stopped": false }));
        };
        let asked = control::ask(&network.control_socket, &ControlRequest::new("stop", Value::Null)).await;
        match (asked, status::holder(&self.data)) {
            (Ok(_), _) => {}
            // `up` listens from when it is ready until it is stopped; a replay has no control socket.
            (Err(ControlError::NotThere { .. }), Some(pid)) if network.is_ending(pid) => {
                if self.ends_within(&network, SOCKET_GONE).await {
                    return self.ended();
                }
                self.signal(pid)?;
            }
            (Err(ControlError::NotThere { .. }), Some(pid)) => self.signal(pid)?,
            (Err(error), _) => return Err(error.into()),
        }
        if self.ends_within(&network, DOWN_WITHIN).await {
            return self.ended();
        }
        anyhow::bail!("process {} has not ended after {DOWN_WITHIN:?}", network.pid)
    }

    async fn ends_within(&self, network: &NetworkStatus, limit: Duration) -> bool {
        let ended = async {
            while network.is_running() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(limit, ended).await.is_ok()
    }

    fn ended(&self) -> anyhow::Result<()> {
        self.output.sentence("the network has ended", &json!({ "stopped": true }))
    }

    fn signal(&self, pid: Pid) -> anyhow::Result<()> {
        let signalled = status::signal_once(&self.data, pid, || kill(pid, Signal::SIGTERM).map_err(Into::into));
        signalled.with_context(|| format!("cannot end process {pid}"))
    }
}
