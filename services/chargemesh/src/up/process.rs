//! One supervised process: starts it, relays its output, restarts it when it dies, and ends it in order.

use std::{
    ffi::OsString,
    os::unix::{fs::MetadataExt as _, process::ExitStatusExt as _},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use mesh::clock::Clock;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, oneshot, watch},
};

use super::{backoff::RestartBackoff, log_stream::LogStream};

/// The environment variable that names a child's supervisor: the child ends when the supervisor does, even by SIGKILL.
pub(crate) const SUPERVISOR: &str = "CHARGEMESH_SUPERVISOR_PID";

/// Environment variables that make sense for one process only. Every other variable reaches all processes, so that each
/// setting of a role can be given to `up`.
const NOT_INHERITED: [&str; 8] = [
    "CHARGEMESH_TOKEN",
    "CHARGEMESH_TOKEN_FILE",
    "CHARGEMESH_FILE",
    "CHARGEMESH_RANDOM_REQUESTS",
    "CHARGEMESH_EXIT_WHEN_DONE",
    "CHARGEMESH_DRIVER_ID",
    "CHARGEMESH_CHARGING_POINT_ID",
    "CHARGEMESH_STOP_DELAY",
];

/// How a process is started, at first and after each death.
#[derive(Clone, Debug)]
pub(crate) struct ProcessSpec {
    pub(crate) name: Arc<str>,
    /// Arguments of this binary.
    pub(crate) args: Vec<OsString>,
    pub(crate) control_socket: Option<PathBuf>,
    /// The file to which the process writes its listen addresses.
    pub(crate) addresses: Option<PathBuf>,
    /// How long an orderly end may take before SIGKILL.
    pub(crate) grace: Duration,
    /// Whether exit code 0 means that its work is done, as for a driver with a file; any other end leads to a restart.
    pub(crate) finite: bool,
}

/// The state of a process, as `up.json` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessState {
    pub(crate) phase: ProcessPhase,
    pub(crate) pid: Option<u32>,
    pub(crate) restarts: u32,
    pub(crate) last_end: Option<String>,
    /// While its disk is full: the size in bytes past which none of its files may grow.
    pub(crate) disk_full_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ProcessPhase {
    #[default]
    Starting,
    Running,
    /// Stopped on purpose (SIGSTOP).
    Paused,
    /// Dead, waiting for its restart.
    Waiting,
    /// Ended for good: it was asked to, or its work was done.
    Ended,
}

impl ProcessPhase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Waiting => "waiting",
            Self::Ended => "ended",
        }
    }
}

/// What a supervised process can be made to do.
#[derive(Debug)]
pub(crate) enum ProcessCommand {
    /// SIGKILL, and a restart.
    Kill,
    /// SIGTERM, and a restart when it has ended.
    Restart,
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Continue,
    /// Writes past so many bytes of a file fail from now on, also after a restart.
    FillDisk(u64),
    /// Undoes `FillDisk`.
    FreeDisk,
    /// Ends the process for good; answered when it has ended.
    End(oneshot::Sender<()>),
}

/// The supervisor's handle of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SupervisedProcess {
    pub(crate) spec: ProcessSpec,
    commands: mpsc::Sender<ProcessCommand>,
    pub(crate) state: watch::Receiver<ProcessState>,
}

impl SupervisedProcess {
    /// Starts the process and a task that supervises it.
    pub(crate) fn start(spec: ProcessSpec, stream: LogStream, clock: Clock, changed: mpsc::Sender<()>) -> Self {
        let (commands, received) = mpsc::channel(16);
        let (states, state) = watch::channel(ProcessState::default());
        let supervisor = ProcessSupervisor { spec: spec.clone(), stream, clock, states, changed };
        tokio::spawn(supervisor.supervise(received));
        Self { spec, commands, state }
    }

    pub(crate) async fn command(&self, command: ProcessCommand) -> Result<(), String> {
        self.commands.send(command).await.map_err(|_| format!("{} has ended", self.spec.name))
    }

    /// Ends the process in order; returns when it has ended.
    pub(crate) async fn end(&self) {
        let (ended, wait) = oneshot::channel();
        if self.commands.send(ProcessCommand::End(ended)).await.is_ok() {
            drop(wait.await);
        }
    }
}

struct ProcessSupervisor {
    spec: ProcessSpec,
    stream: LogStream,
    clock: Clock,
    states: watch::Sender<ProcessState>,
    changed: mpsc::Sender<()>,
}

/// Why a process is not running any more.
enum ProcessEnd {
    Died(String),
    /// Its work was done.
    Done,
    Ended(oneshot::Sender<()>),
    /// The last handle was dropped.
    Dropped,
}

impl ProcessSupervisor {
    async fn supervise(self, mut commands: mpsc::Receiver<ProcessCommand>) {
        let mut backoff = RestartBackoff::default();
        loop {
            let started = self.clock.mono();
            let end = match self.spawn() {
                Ok(child) => self.run(child, &mut commands).await,
                Err(error) => ProcessEnd::Died(format!("cannot be started: {error}")),
            };
            let run = self.clock.mono().saturating_duration_since(started);
            match end {
                ProcessEnd::Died(how) => {
                    let wait = backoff.after(run);
                    self.stream.up(format!("{} {how}; restarting it in {} ms", self.spec.name, wait.as_millis()));
                    self.set(|s| {
                        (s.phase, s.pid, s.last_end) = (ProcessPhase::Waiting, None, Some(how));
                        s.restarts += 1;
                    });
                    if let Some(ended) = self.wait(wait, &mut commands).await {
                        return self.ended(Some(ended));
                    }
                }
                ProcessEnd::Done => {
                    self.stream.up(format!("{} has done its work", self.spec.name));
                    return self.ended(None);
                }
                ProcessEnd::Ended(ended) => return self.ended(Some(ended)),
                ProcessEnd::Dropped => return self.ended(None),
            }
        }
    }

    fn ended(&self, answer: Option<oneshot::Sender<()>>) {
        self.set(|s| (s.phase, s.pid) = (ProcessPhase::Ended, None));
        if let Some(answer) = answer {
            let _gone = answer.send(());
        }
    }

    /// Waits for the restart; a command to end is obeyed at once.
    async fn wait(&self, wait: Duration, commands: &mut mpsc::Receiver<ProcessCommand>) -> Option<oneshot::Sender<()>> {
        let at = self.clock.mono() + wait;
        loop {
            tokio::select! {
                () = self.clock.sleep_until(at) => return None,
                command = commands.recv() => match command {
                    Some(ProcessCommand::End(ended)) => return Some(ended),
                    Some(ProcessCommand::Restart) => return None,
                    Some(ProcessCommand::FillDisk(room)) => self.set(|s| s.disk_full_at = Some(room)),
                    Some(ProcessCommand::FreeDisk) => self.set(|s| s.disk_full_at = None),
                    Some(ProcessCommand::Kill | ProcessCommand::Pause | ProcessCommand::Continue) => {}
                    None => return Some(oneshot::channel().0),
                },
            }
        }
    }

    fn spawn(&self) -> std::io::Result<Child> {
        if let Some(file) = &self.spec.addresses {
            drop(std::fs::remove_file(file));
        }
        let (program, name) = own_program()?;
        let mut command = Command::new(program);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        let mut child = command
            .arg0(name)
            .args(&self.spec.args)
            .env(SUPERVISOR, std::process::id().to_string())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: Ctrl-C reaches the supervisor, which ends the processes in order.
            .process_group(0)
            .spawn()?;
        let pid = child.id();
        self.set(|s| (s.phase, s.pid) = (ProcessPhase::Running, pid));
        self.stream.up(format!("{} started, process {}", self.spec.name, pid.unwrap_or_default()));
        if let Some(room) = self.states.borrow().disk_full_at {
            self.limit_files(&child, Some(room));
        }
        if let Some(output) = child.stdout.take() {
            let (stream, name) = (self.stream.clone(), Arc::clone(&self.spec.name));
            tokio::spawn(async move { stream.follow(name, output).await });
        }
        if let Some(output) = child.stderr.take() {
            let (stream, name) = (self.stream.clone(), Arc::clone(&self.spec.name));
            tokio::spawn(async move { stream.follow(name, output).await });
        }
        Ok(child)
    }

    async fn run(&self, mut child: Child, commands: &mut mpsc::Receiver<ProcessCommand>) -> ProcessEnd {
        loop {
            tokio::select! {
                status = child.wait() => return match status {
                    Ok(status) if status.success() && self.spec.finite => ProcessEnd::Done,
                    Ok(status) => ProcessEnd::Died(describe(status)),
                    Err(error) => ProcessEnd::Died(format!("was lost: {error}")),
                },
                command = commands.recv() => match command {
                    Some(ProcessCommand::Kill) => signal(&child, Signal::SIGKILL),
                    Some(ProcessCommand::Restart) => {
                        self.terminate(&mut child).await;
                        return ProcessEnd::Died("was restarted on command".to_owned());
                    }
                    Some(ProcessCommand::Pause) => {
                        signal(&child, Signal::SIGSTOP);
                        self.set(|s| s.phase = ProcessPhase::Paused);
                    }
                    Some(ProcessCommand::Continue) => {
                        signal(&child, Signal::SIGCONT);
                        self.set(|s| s.phase = ProcessPhase::Running);
                    }
                    Some(ProcessCommand::FillDisk(room)) => {
                        self.limit_files(&child, Some(room));
                        self.set(|s| s.disk_full_at = Some(room));
                    }
                    Some(ProcessCommand::FreeDisk) => {
                        self.limit_files(&child, None);
                        self.set(|s| s.disk_full_at = None);
                    }
                    Some(ProcessCommand::End(ended)) => {
                        self.terminate(&mut child).await;
                        return ProcessEnd::Ended(ended);
                    }
                    None => {
                        self.terminate(&mut child).await;
                        return ProcessEnd::Dropped;
                    }
                },
            }
        }
    }

    /// Limits the size of the process's files (RLIMIT_FSIZE); `None` restores the supervisor's own limit. Its output goes
    /// through pipes, which have no such limit.
    fn limit_files(&self, child: &Child, room: Option<u64>) {
        use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
        let own = getrlimit(Resource::Fsize);
        let limit = Rlimit { current: room.or(own.current), ..own };
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        // Without a pid the process has just died, which is about to be noticed.
        let limited = pid.map_or(Ok(()), |pid| prlimit(Some(pid), Resource::Fsize, limit).map(drop));
        if let Err(error) = limited {
            self.stream.up(format!("cannot change the file size limit of {}: {error}", self.spec.name));
        }
    }

    /// SIGTERM, then SIGKILL after the grace time. SIGCONT as well, since a stopped process handles no SIGTERM.
    async fn terminate(&self, child: &mut Child) {
        signal(child, Signal::SIGTERM);
        signal(child, Signal::SIGCONT);
        if tokio::time::timeout(self.spec.grace, child.wait()).await.is_err() {
            self.stream.up(format!("{} did not end within {:?}: killed", self.spec.name, self.spec.grace));
            drop(child.kill().await);
        }
    }

    fn set(&self, change: impl FnOnce(&mut ProcessState)) {
        self.states.send_modify(change);
        // A full channel means that a change is about to be seen anyway.
        let _full = self.changed.try_send(());
    }
}

/// The file of the running program, and the name to start it under. Where that file was replaced meanwhile (an upgrade,
/// a rebuild), it is the running image in `/proc`, so that all processes of a network are of one version.
fn own_program() -> std::io::Result<(PathBuf, PathBuf)> {
    let image = PathBuf::from("/proc/self/exe");
    let named = std::env::current_exe()?;
    let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (std::fs::metadata(&image), std::fs::metadata(&named)) {
        (Ok(running), Ok(file)) if same(&running, &file) => Ok((named.clone(), named)),
        (Ok(_), _) => Ok((image, "chargemesh".into())),
        (Err(_), _) => Ok((named.clone(), named)),
    }
}

fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // A failure means that the process has just died, which is about to be noticed.
        let _gone = kill(Pid::from_raw(pid), signal);
    }
}

fn describe(status: std::process::ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended".to_owned(),
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(number)) => {
            let name = Signal::try_from(number).map_or("a signal", Signal::as_str);
            format!("was killed by {name}")
        }
        (None, None) => "ended".to_owned(),
    }
}

/// Ties this process to the supervisor that started it, if any: when the supervisor dies, this process gets SIGTERM.
/// Every role calls it first.
pub(crate) fn follow_supervisor() {
    let supervisor = std::env::var(SUPERVISOR).ok().and_then(|pid| pid.parse::<i32>().ok());
    let Some(supervisor) = supervisor else { return };
    if nix::unistd::getppid().as_raw() != supervisor {
        return; // A grandchild inherited the variable.
    }
    let _unsupported = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
    if nix::unistd::getppid().as_raw() != supervisor {
        // The supervisor died before the signal was set up, so none will come.
        std::process::exit(1);
    }
}
