//! The status file of a network, `up.json` in its data folder: its processes with pids and addresses, and how to reach it
//! as an operator. Also the lock of that folder.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use mesh::{kafka::KafkaConfig, process::Misuse};
use nix::{
    fcntl::{Flock, FlockArg},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::output::{Columns, escaped};

/// A network as `up.json` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkStatus {
    /// The supervisor's process id.
    pub(crate) pid: u32,
    pub(crate) started_at_ms: i64,
    /// Whether Registry and Central answer and every simulated process has been started.
    pub(crate) ready: bool,
    pub(crate) central_grpc: String,
    pub(crate) central_link: String,
    pub(crate) registry_grpc: String,
    pub(crate) registry_https: String,
    /// Folder of the operator's certificate.
    pub(crate) operator_identity: PathBuf,
    pub(crate) control_socket: PathBuf,
    /// Where its readings and events are published.
    #[serde(default)]
    pub(crate) kafka: KafkaConfig,
    pub(crate) processes: Vec<ProcessStatus>,
    #[serde(skip)]
    pub(crate) folder: PathBuf,
}

/// One supervised process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessStatus {
    pub(crate) name: String,
    pub(crate) pid: Option<u32>,
    pub(crate) state: String,
    pub(crate) restarts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) control_socket: Option<PathBuf>,
    /// Its listen addresses by name, as the process wrote them; null before.
    pub(crate) addresses: serde_json::Value,
    /// Its health; absent in the file, present where the process was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<ProcessHealth>,
}

/// The health of a process by its own report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessHealth {
    /// `ready`, `degraded`, `starting`, `stopping`, or `silent` where it does not answer.
    pub(crate) status: String,
    /// Each component that is not ready, with its reason.
    pub(crate) reasons: Vec<String>,
}

impl ProcessStatus {
    /// Its process id, or its state where it has none.
    pub(crate) fn describe(&self) -> String {
        self.pid.map_or_else(|| self.state.clone(), |pid| format!("process {pid}"))
    }
}

impl Columns for ProcessStatus {
    const HEADERS: &'static [&'static str] = &["process", "pid", "state", "health", "restarts", "why"];
    fn cells(&self) -> Vec<String> {
        let health = self.health.as_ref();
        let reasons = health.map(|health| escaped(&health.reasons.join("; "))).unwrap_or_default();
        let ended = self.last_end.as_ref().filter(|_| self.pid.is_none());
        vec![
            self.name.clone(),
            self.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            self.state.clone(),
            health.map(|health| health.status.clone()).unwrap_or_default(),
            self.restarts.to_string(),
            ended.map(|how| escaped(how)).unwrap_or(reasons),
        ]
    }
}

const STATUS: &str = "up.json";
const LOCK: &str = "lock";
/// Holds the id of the process that got SIGTERM: a second one would end it without its orderly end.
const SIGNALLED: &str = "sigterm-sent";

impl NetworkStatus {
    /// Whether a process has not been started yet.
    pub(crate) fn is_starting(&self) -> bool {
        self.processes
            .iter()
            .any(|process| process.pid.is_none() && process.restarts == 0 && process.last_end.is_none())
    }

    /// Whether a supervisor holds the folder's lock now.
    pub(crate) fn is_running(&self) -> bool {
        is_locked(&self.folder)
    }

    /// Whether the supervisor `pid` was ready and had a control socket, so that a missing socket means that it is ending.
    pub(crate) fn is_ending(&self, pid: Pid) -> bool {
        self.ready && !self.control_socket.as_os_str().is_empty() && i32::try_from(self.pid) == Ok(pid.as_raw())
    }

    pub(crate) fn write(&self, data: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        let path = data.join(STATUS);
        replace(&path, &text, 0o644).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The status file of this folder; `None` where there is none.
pub(crate) fn read(data: &Path) -> anyhow::Result<Option<NetworkStatus>> {
    let path = data.join(STATUS);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Misuse::new(format!("cannot read {}: {error}", path.display())).into()),
    };
    let status: NetworkStatus = serde_json::from_slice(&text)
        .map_err(|error| Misuse::new(format!("{} is damaged: {error}; remove it", path.display())))?;
    Ok(Some(NetworkStatus { folder: data.to_owned(), ..status }))
}

/// Keeps a second supervisor out of a data folder. Released when dropped or when the process ends, even by SIGKILL.
#[derive(Debug)]
pub(crate) struct FolderLock(#[expect(dead_code, reason = "holds the lock")] Flock<File>);

impl FolderLock {
    pub(crate) fn take(data: &Path) -> anyhow::Result<Self> {
        let cannot = |error: io::Error| {
            Misuse::new(format!(
                "cannot use {} as data folder: {error}; choose a writable one with --data",
                data.display()
            ))
        };
        fs::create_dir_all(data).map_err(cannot)?;
        let path = data.join(LOCK);
        let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(cannot)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                // `down` reads the pid here, since the status file may still be that of the supervisor before.
                lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())).map_err(cannot)?;
                drop(fs::remove_file(data.join(SIGNALLED)));
                Ok(Self(lock))
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let who = read(data)?.map_or_else(String::new, |s| format!(" (process {})", s.pid));
                let text = format!(
                    "another network runs in {}{who}; stop it with `chargemesh down --data {}`, or choose another folder",
                    data.display(),
                    data.display()
                );
                Err(Misuse::new(text).into())
            }
            Err((_, errno)) => Err(cannot(io::Error::from(errno)).into()),
        }
    }
}

/// The process that holds the lock of a data folder.
pub(crate) fn holder(data: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data.join(LOCK)).ok()?;
    text.parse().ok().filter(|pid| *pid > 1 && is_locked(data)).map(Pid::from_raw)
}

/// Calls `end`, which sends SIGTERM to `pid`, unless an earlier call for this process succeeded.
pub(crate) fn signal_once(data: &Path, pid: Pid, end: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let mark = data.join(SIGNALLED);
    if fs::read_to_string(&mark).is_ok_and(|signalled| signalled == pid.to_string()) {
        return Ok(());
    }
    end()?;
    replace(&mark, pid.to_string().as_bytes(), 0o644)
}

pub(crate) fn is_locked(data: &Path) -> bool {
    let Ok(file) = File::options().write(true).open(data.join(LOCK)) else { return false };
    Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err()
}

/// Writes a temporary file, syncs it, and renames it over `path`: a reader sees the old content or the new one.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension(format!("{:08x}", rand::random::<u32>()));
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    let written = write();
    if written.is_err() {
        drop(fs::remove_file(&beside));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_networks_cannot_share_a_folder_and_a_dead_one_leaves_it_free() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        assert!(is_locked(folder.path()));
        let error = FolderLock::take(folder.path()).unwrap_err();
        assert!(error.to_string().contains("another network runs in"), "{error}");
        assert_eq!(mesh::process::exit_code(&error), 2);
        assert_eq!(holder(folder.path()), Some(Pid::this()), "so that `down` can end it before it listens");
        drop(lock);
        assert!(!is_locked(folder.path()));
        assert_eq!(holder(folder.path()), None, "a pid that was left behind belongs to no supervisor");
    }

    #[test]
    fn a_process_gets_sigterm_once_however_often_down_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let signals = std::cell::Cell::new(0);
        let end = || {
            signals.set(signals.get() + 1);
            Ok(())
        };
        let denied = || Err(io::ErrorKind::PermissionDenied.into());
        assert!(signal_once(folder.path(), Pid::from_raw(7), denied).is_err(), "a failed signal does not count");
        for _ in 0..3 {
            signal_once(folder.path(), Pid::from_raw(7), end).unwrap();
        }
        assert_eq!(signals.get(), 1);
        let lock = FolderLock::take(folder.path()).unwrap();
        signal_once(folder.path(), Pid::from_raw(7), end).unwrap();
        assert_eq!(signals.get(), 2, "the next supervisor gets its own");
        drop(lock);
    }

    #[test]
    fn a_process_without_a_pid_is_shown_as_starting() {
        let process = |pid, restarts, state: &str| ProcessStatus {
            name: "driver/D-1".into(),
            pid,
            state: state.into(),
            restarts,
            last_end: None,
            control_socket: None,
            addresses: serde_json::Value::Null,
            health: None,
        };
        let of = |process| NetworkStatus { processes: vec![process], ..NetworkStatus::default() };
        assert!(of(process(None, 0, "starting")).is_starting());
        assert!(!of(process(Some(7), 0, "running")).is_starting());
        assert!(!of(process(None, 1, "waiting")).is_starting(), "one that died is restarted, which is not starting");
        assert_eq!(process(None, 0, "starting").describe(), "starting");
        assert_eq!(process(Some(7), 0, "running").describe(), "process 7");
    }

    #[test]
    fn a_status_file_is_read_as_it_was_written_and_a_damaged_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        let status = NetworkStatus { pid: 7, central_grpc: "127.0.0.1:1".into(), ..NetworkStatus::default() };
        status.write(folder.path()).unwrap();
        let found = read(folder.path()).unwrap().unwrap();
        assert_eq!((found.pid, found.central_grpc.as_str(), found.is_running()), (7, "127.0.0.1:1", false));
        fs::write(folder.path().join(STATUS), "{").unwrap();
        assert!(read(folder.path()).unwrap_err().to_string().contains("is damaged"));
    }
}
