//! The status file of a network, `up.json` in its data folder: which processes run, with process ids and addresses, and how
//! to reach it as an operator.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use mesh::process::Misuse;
use nix::{
    fcntl::{Flock, FlockArg},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::health::ProcessHealth;
use crate::output::{Columns, escaped};

/// Of a network in a data folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkStatus {
    /// The supervisor's.
    pub(crate) pid: u32,
    pub(crate) started_at_ms: i64,
    /// Registry and Central answer, and every simulated process has been started.
    pub(crate) ready: bool,
    pub(crate) central_grpc: String,
    pub(crate) central_link: String,
    pub(crate) registry_grpc: String,
    pub(crate) registry_https: String,
    /// Folder of the operator's certificate.
    pub(crate) operator_identity: PathBuf,
    pub(crate) control_socket: PathBuf,
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
    /// What it listens on, as it says itself.
    #[serde(default)]
    pub(crate) addresses: serde_json::Value,
    /// What it says of itself; only where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<ProcessHealth>,
}

impl ProcessStatus {
    /// Its process, or what it is doing without one.
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
/// The process that was told to end by a signal: a second one would end it at once.
const TOLD: &str = "told-to-end";

impl NetworkStatus {
    /// Whether a process has no process yet, and none that ended.
    pub(crate) fn is_starting(&self) -> bool {
        self.processes
            .iter()
            .any(|process| process.pid.is_none() && process.restarts == 0 && process.last_end.is_none())
    }

    /// Whether a supervisor holds the folder now.
    pub(crate) fn is_running(&self) -> bool {
        is_locked(&self.folder)
    }

    /// Whether `pid` supervises it, was ready, and listens no more.
    pub(crate) fn is_ending(&self, pid: Pid) -> bool {
        self.ready && !self.control_socket.as_os_str().is_empty() && i32::try_from(self.pid) == Ok(pid.as_raw())
    }

    pub(crate) fn write(&self, data: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        let path = data.join(STATUS);
        replace(&path, &text, 0o644).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The status file of this folder, if it has one.
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

/// Holds a data folder against a second supervisor; let go when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct FolderLock(#[expect(dead_code, reason = "holds the lock")] Flock<File>);

impl FolderLock {
    pub(crate) fn take(data: &Path) -> anyhow::Result<Self> {
        let cannot = |error: io::Error| {
            Misuse::new(format!(
                "cannot use {} as data folder: {error}; give a writable one with --data",
                data.display()
            ))
        };
        fs::create_dir_all(data).map_err(cannot)?;
        let path = data.join(LOCK);
        let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(cannot)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                // Who holds it, for `down`; the status file may still be of the one before.
                lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())).map_err(cannot)?;
                drop(fs::remove_file(data.join(TOLD)));
                Ok(Self(lock))
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let who = read(data)?.map_or_else(String::new, |s| format!(" (process {})", s.pid));
                let text = format!(
                    "another network runs in {}{who}; stop it with `chargemesh down --data {}`, or give another folder",
                    data.display(),
                    data.display()
                );
                Err(Misuse::new(text).into())
            }
            Err((_, errno)) => Err(cannot(io::Error::from(errno)).into()),
        }
    }
}

/// The process that holds a data folder.
pub(crate) fn holder(data: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data.join(LOCK)).ok()?;
    text.parse().ok().filter(|pid| *pid > 1 && is_locked(data)).map(Pid::from_raw)
}

/// Does what ends `pid`, unless it was done before.
pub(crate) fn once(data: &Path, pid: Pid, end: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let mark = data.join(TOLD);
    if fs::read_to_string(&mark).is_ok_and(|told| told == pid.to_string()) {
        return Ok(());
    }
    end()?;
    replace(&mark, pid.to_string().as_bytes(), 0o644)
}

pub(crate) fn is_locked(data: &Path) -> bool {
    let Ok(file) = File::options().write(true).open(data.join(LOCK)) else { return false };
    Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err()
}

/// Written beside, synced, and renamed over: a reader sees the old content or the new one.
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
        assert_eq!(holder(folder.path()), Some(Pid::this()), "so that it can be told to end before it listens");
        drop(lock);
        assert!(!is_locked(folder.path()));
        assert_eq!(holder(folder.path()), None, "a number that was left behind is nobody's");
    }

    #[test]
    fn a_process_is_told_to_end_by_one_signal_however_often_it_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let told = std::cell::Cell::new(0);
        let end = || {
            told.set(told.get() + 1);
            Ok(())
        };
        let denied = || Err(io::ErrorKind::PermissionDenied.into());
        assert!(once(folder.path(), Pid::from_raw(7), denied).is_err(), "and one that failed is none");
        for _ in 0..3 {
            once(folder.path(), Pid::from_raw(7), end).unwrap();
        }
        assert_eq!(told.get(), 1);
        let lock = FolderLock::take(folder.path()).unwrap();
        once(folder.path(), Pid::from_raw(7), end).unwrap();
        assert_eq!(told.get(), 2, "the next one that holds the folder");
        drop(lock);
    }

    #[test]
    fn a_part_without_a_process_is_said_to_be_starting() {
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
        assert!(!of(process(None, 1, "waiting")).is_starting(), "one that died is started again and again");
        assert_eq!(process(None, 0, "starting").describe(), "starting");
        assert_eq!(process(Some(7), 0, "running").describe(), "process 7");
    }

    #[test]
    fn a_status_survives_and_a_damaged_one_is_named() {
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
