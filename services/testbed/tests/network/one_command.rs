//! A whole network by one command (SPEC 9.2, 10.1): `up`, `down`, `ctl` and `replay`.

mod events;
mod orders;
mod replays;
mod weather;

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testbed::{network::free_addresses, process::binary, wait::until};

const PATIENCE: Duration = Duration::from_secs(60);

/// The output and exit status of a command.
struct CommandOutput {
    status: ExitStatus,
    out: String,
    err: String,
}

impl CommandOutput {
    fn lines(&self) -> Vec<Value> {
        self.out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

async fn chargemesh(args: &[&str]) -> anyhow::Result<CommandOutput> {
    let output = tokio::process::Command::new(binary()?)
        .args(args)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(CommandOutput { status: output.status, out: text(&output.stdout), err: text(&output.stderr) })
}

/// `up --detach` on ports of its own; the network is ended when this is dropped.
struct DetachedNetwork {
    data: tempfile::TempDir,
}

impl DetachedNetwork {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { data: tempfile::Builder::new().prefix("cm-up-").tempdir()? })
    }

    fn data(&self) -> &str {
        self.data.path().to_str().unwrap_or_default()
    }

    async fn start(&self, more: &[&str]) -> anyhow::Result<()> {
        let [a, b, c, d] = free_addresses::<4>()?.map(|address| address.to_string());
        let mut args = vec!["up", "--data", self.data(), "--detach", "--speed", "600", "--pause", "200ms"];
        args.extend(["--central-grpc", &a, "--central-link", &b, "--registry-grpc", &c, "--registry-https", &d]);
        args.extend(more);
        let said = chargemesh(&args).await?;
        anyhow::ensure!(said.status.success(), "{}\n{}", said.out, said.err);
        Ok(())
    }

    /// The output of an operator's `list` command.
    async fn list(&self, what: &str) -> anyhow::Result<Vec<Value>> {
        let said = chargemesh(&[what, "list", "--json", "--data", self.data()]).await?;
        anyhow::ensure!(said.status.success(), "{}", said.err);
        Ok(said.lines())
    }

    async fn ctl(&self, args: &[&str]) -> anyhow::Result<Value> {
        let socket = self.data.path().join("run/up.sock");
        let mut all = vec!["ctl", socket.to_str().unwrap_or_default(), "--json"];
        all.extend(args);
        let said = chargemesh(&all).await?;
        anyhow::ensure!(said.status.success(), "{}", said.err);
        Ok(serde_json::from_str(&said.out)?)
    }

    async fn process(&self, name: &str) -> anyhow::Result<Value> {
        let status = self.ctl(&["status"]).await?;
        let processes = status["processes"].as_array().context("no processes")?;
        processes
            .iter()
            .find(|process| process["name"] == json!(name))
            .cloned()
            .with_context(|| format!("no process {name}"))
    }

    async fn until_available(&self, count: usize) -> anyhow::Result<()> {
        until(format_args!("{count} charging points that work"), PATIENCE, async || {
            let all = self.list("charging-points").await.map_err(|error| format!("{error:#}"))?;
            let works = |cp: &&Value| ["AVAILABLE", "RESERVED", "SUPPLYING"].iter().any(|state| is_in(cp, state));
            if all.iter().filter(works).count() == count { Ok(()) } else { Err(format!("{all:?}")) }
        })
        .await
    }

    /// Waits for a state of the only charging point.
    async fn until_state(&self, state: &str) -> anyhow::Result<()> {
        until(format_args!("a charging point that is {state}"), PATIENCE, async || {
            let all = self.list("charging-points").await.map_err(|error| format!("{error:#}"))?;
            if all.iter().all(|cp| is_in(cp, state)) { Ok(()) } else { Err(format!("{all:?}")) }
        })
        .await
    }

    async fn until_tickets(&self, more_than: usize) -> anyhow::Result<usize> {
        until(format_args!("more than {more_than} tickets"), PATIENCE, async || {
            let count = self.list("tickets").await.map_err(|error| format!("{error:#}"))?.len();
            if count > more_than { Ok(count) } else { Err(format!("{count} tickets")) }
        })
        .await
    }

    async fn down(&self) -> anyhow::Result<()> {
        let said = chargemesh(&["down", "--data", self.data()]).await?;
        anyhow::ensure!(said.status.success(), "{}", said.err);
        Ok(())
    }

    fn pid(&self) -> anyhow::Result<i32> {
        let status: Value = serde_json::from_slice(&std::fs::read(self.data.path().join("up.json"))?)?;
        status["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).context("no pid")
    }
}

impl Drop for DetachedNetwork {
    fn drop(&mut self) {
        // Its processes end when the supervisor does.
        if let (Ok(pid), Ok(text)) = (self.pid(), std::fs::read_to_string(self.data.path().join("up.json")))
            && !text.contains("\"processes\": []")
        {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn is_alive(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

fn pid_of(process: &Value) -> anyhow::Result<i32> {
    process["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).context("no pid")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_started_by_one_command_and_continues_at_the_next_start_spec_10_1() -> anyhow::Result<()> {
    let up = DetachedNetwork::new()?;
    up.start(&["--charging-points", "2", "--drivers", "1"]).await?;
    up.until_available(2).await?;
    let tickets = up.until_tickets(0).await?;

    let second = chargemesh(&["up", "--data", up.data()]).await?;
    assert_eq!(second.status.code(), Some(2), "{}", second.err);
    assert!(second.err.contains("another network runs in"), "{}", second.err);

    // Only the dead process is restarted.
    let (central, registry) = (pid_of(&up.process("central").await?)?, pid_of(&up.process("registry").await?)?);
    kill(Pid::from_raw(central), Signal::SIGKILL)?;
    until("another Central", PATIENCE, async || {
        let process = up.process("central").await.map_err(|error| format!("{error:#}"))?;
        let pid = pid_of(&process).map_err(|error| format!("{error:#}"))?;
        if pid != central && process["restarts"] == json!(1) { Ok(()) } else { Err(process.to_string()) }
    })
    .await?;
    assert_eq!(pid_of(&up.process("registry").await?)?, registry);
    up.until_available(2).await?;

    // While it runs, by one command (SPEC 1.8).
    up.ctl(&["add-charging-point", "id=NEW-1", "city=Paris"]).await?;
    up.ctl(&["add-driver"]).await?;
    up.until_available(3).await?;
    up.until_tickets(tickets).await?;
    up.ctl(&["remove-charging-point", "NEW-1"]).await?;
    up.until_available(2).await?;

    let processes = up.ctl(&["status"]).await?;
    let pids: Vec<i32> =
        processes["processes"].as_array().context("no processes")?.iter().filter_map(|p| pid_of(p).ok()).collect();
    let before = up.list("tickets").await?.len();
    up.down().await?;
    assert!(!pids.iter().any(|pid| is_alive(*pid)), "ended with everything it had started");

    up.start(&[]).await?;
    up.until_available(2).await?;
    up.until_tickets(before).await?;
    let verify = chargemesh(&["audit", "verify", "--data", up.data()]).await?;
    assert!(verify.status.success(), "{}{}", verify.out, verify.err);
    up.down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_killed_leaves_no_process_behind_spec_10_1() -> anyhow::Result<()> {
    let up = DetachedNetwork::new()?;
    up.start(&["--charging-points", "1", "--drivers", "0"]).await?;
    let processes = up.ctl(&["status"]).await?;
    let pids: Vec<i32> =
        processes["processes"].as_array().context("no processes")?.iter().filter_map(|p| pid_of(p).ok()).collect();
    assert_eq!(pids.len(), 4);
    kill(Pid::from_raw(up.pid()?), Signal::SIGKILL)?;
    until("every process to end", PATIENCE, async || {
        let left: Vec<_> = pids.iter().filter(|pid| is_alive(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await?;
    up.start(&[]).await?;
    up.until_available(1).await?;
    up.down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_invariant_holds_after_a_chaos_spec_9_2() -> anyhow::Result<()> {
    let data = tempfile::Builder::new().prefix("cm-chaos-").tempdir()?;
    let [a, b, c, d] = free_addresses::<4>()?.map(|address| address.to_string());
    let mut args =
        vec!["up", "--data", data.path().to_str().unwrap_or_default(), "--chaos", "3282", "--chaos-for", "20s"];
    args.extend(["--charging-points", "2", "--drivers", "2", "--speed", "600", "--pause", "200ms", "--json"]);
    args.extend(["--central-grpc", &a, "--central-link", &b, "--registry-grpc", &c, "--registry-https", &d]);
    let said = chargemesh(&args).await?;
    let findings = said.lines().pop().with_context(|| format!("no findings\n{}", said.err))?;
    assert_eq!(findings["violations"], json!([]), "{}", said.err);
    assert!(said.status.success());
    assert!(findings["sessions"].as_u64().is_some_and(|n| n > 0), "nothing happened: {findings}");
    for kind in ["kills", "powers off", "restarts", "freezes", "cuts", "silences", "fills the disk"] {
        assert!(said.err.contains(&format!(" chaos {kind} ")), "another seed is needed: it never {kind}\n{}", said.err);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_recovers_from_connections_cut_and_disks_filled_by_commands_spec_1_9_9() -> anyhow::Result<()> {
    let up = DetachedNetwork::new()?;
    up.start(&["--charging-points", "1", "--drivers", "0", "--drills"]).await?;
    up.until_available(1).await?;
    for fault in ["cut", "silence"] {
        up.ctl(&[fault, "CP-1/engine"]).await?;
        up.until_state("DISCONNECTED").await?;
        up.ctl(&["mend", "CP-1/engine"]).await?;
        up.until_available(1).await?;
    }

    let central = up.process("central").await?;
    up.ctl(&["fill-disk", "central"]).await?;
    let stop = ["charging-points", "stop", "CP-1", "--data", up.data()];
    let refused = chargemesh(&stop).await?;
    assert_eq!(refused.status.code(), Some(1), "{}", refused.out);
    assert!(refused.err.contains("cannot be made durable"), "{}", refused.err);
    up.ctl(&["free-disk", "central"]).await?;
    let stopped = chargemesh(&stop).await?;
    assert!(stopped.status.success(), "{}", stopped.err);
    up.until_state("OUT_OF_ORDER").await?;
    assert_eq!(up.process("central").await?["pid"], central["pid"], "a full disk is nobody's death");
    up.down().await
}

/// Whether a charging point is shown in this state.
fn is_in(cp: &Value, state: &str) -> bool {
    cp["state"] == json!(format!("CHARGING_POINT_STATE_{state}"))
}
