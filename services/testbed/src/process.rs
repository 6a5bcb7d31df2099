//! Real processes of the chargemesh binary, with their output in log files.

use std::{
    fs::{self, File},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait;

/// The binary under test: that beside the test binary, or the one at `CHARGEMESH_BINARY`.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("CHARGEMESH_BINARY") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    own.ancestors().skip(1).take(3).map(|folder| folder.join("chargemesh")).find(|path| path.is_file()).with_context(
        || {
            format!(
                "no chargemesh binary near {}: run `cargo build -p chargemesh` first, as `make test` does",
                own.display()
            )
        },
    )
}

/// How a process is started, at first and after each kill.
#[derive(Clone, Debug)]
pub struct LaunchSpec {
    pub name: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// A program with arguments that runs the binary, which follows with its own arguments; empty to run it directly.
    pub under: Vec<String>,
    /// Output is appended to `<folder>/<name>.log`.
    pub folder: PathBuf,
}

/// A process that runs or was killed; killed when dropped.
#[derive(Debug)]
pub struct Process {
    spec: LaunchSpec,
    child: Option<Child>,
}

impl Process {
    pub fn start(spec: LaunchSpec) -> anyhow::Result<Self> {
        let mut process = Self { spec, child: None };
        process.restart()?;
        Ok(process)
    }

    /// Kills the process where it still runs, and starts it again in the same way.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        let binary = binary()?;
        fs::create_dir_all(&self.spec.folder)?;
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = match self.spec.under.split_first() {
            None => Command::new(&binary),
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(&binary);
                command
            }
        };
        let child = command
            .args(&self.spec.args)
            .envs(self.spec.env.iter().map(|(name, value)| (name, value)))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A process group of its own, so that Ctrl-C on the terminal of the tests does not reach it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {} ({})", self.spec.name, binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn spec_mut(&mut self) -> &mut LaunchSpec {
        &mut self.spec
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.spec.name))?;
        kill(Pid::from_raw(pid.try_into()?), signal).with_context(|| format!("send {signal} to {}", self.spec.name))
    }

    /// SIGSTOP: the process lives but does nothing.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Waits for its end; answers its exit code, or minus the number of the signal that ended it.
    pub async fn exit_code(&mut self, limit: Duration) -> anyhow::Result<i32> {
        let name = self.spec.name.clone();
        let Some(child) = self.child.as_mut() else { anyhow::bail!("{name} does not run") };
        let status = wait::until(format_args!("{name} to end"), limit, async || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await?;
        self.child = None;
        Ok(status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)))
    }

    /// All that it has printed, over all restarts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.spec.folder.join(format!("{}.log", self.spec.name))
    }
}

impl Drop for Process {
    #[expect(clippy::print_stdout, reason = "captured by the test runner")]
    fn drop(&mut self) {
        self.kill();
        // The test runner shows this output only where the test failed; a benchmark does not need it.
        if std::thread::current().name() == Some("main") {
            return;
        }
        let log = self.log();
        let tail: Vec<&str> = log.lines().rev().take(30).collect();
        println!("--- end of {}'s log", self.spec.name);
        tail.iter().rev().for_each(|line| println!("{line}"));
    }
}

/// Runs the binary to its end; answers exit code, standard output and standard error.
pub async fn run(args: &[&str], env: &[(&str, &Path)]) -> anyhow::Result<(i32, String, String)> {
    let mut command = tokio::process::Command::new(binary()?);
    command.args(args).envs(env.iter().copied()).env("NO_COLOR", "1").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(120), command.output())
        .await
        .with_context(|| format!("chargemesh {} did not end within two minutes", args.join(" ")))??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
}
