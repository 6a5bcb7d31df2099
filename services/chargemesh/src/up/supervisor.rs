//! The supervisor of a network: starts its processes, keeps the status file up to date, and ends them in order.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh::clock::Clock;
use tokio::sync::{Mutex, mpsc};

use super::{
    log_stream::LogStream,
    process::{ProcessCommand, ProcessPhase, ProcessSpec, SupervisedProcess},
    status::{NetworkStatus, ProcessStatus},
};

/// Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Supervisor {
    processes: Arc<Mutex<BTreeMap<Arc<str>, SupervisedProcess>>>,
    pub(crate) stream: LogStream,
    clock: Clock,
    changed: mpsc::Sender<()>,
}

impl Supervisor {
    /// The receiver gets a message whenever the state of a process changes.
    pub(crate) fn new(stream: LogStream, clock: Clock) -> (Self, mpsc::Receiver<()>) {
        let (changed, changes) = mpsc::channel(1);
        (Self { processes: Arc::default(), stream, clock, changed }, changes)
    }

    /// Starts a process.
    ///
    /// # Errors
    /// Where one of that name runs already; it stays as it is.
    pub(crate) async fn start(&self, spec: ProcessSpec) -> Result<(), String> {
        let mut processes = self.processes.lock().await;
        if processes.get(&spec.name).is_some_and(|process| process.state.borrow().phase != ProcessPhase::Ended) {
            return Err(format!("{} runs already", spec.name));
        }
        let name = Arc::clone(&spec.name);
        let process = SupervisedProcess::start(spec, self.stream.clone(), self.clock, self.changed.clone());
        processes.insert(name, process);
        Ok(())
    }

    pub(crate) async fn command(&self, name: &str, command: ProcessCommand) -> Result<(), String> {
        let process = self.process(name).await?;
        process.command(command).await
    }

    /// Ends the processes of these names, all at the same time; with `forget` they are shown no more.
    pub(crate) async fn end(&self, names: &[Arc<str>], forget: bool) {
        let processes: Vec<SupervisedProcess> = {
            let processes = self.processes.lock().await;
            names.iter().filter_map(|name| processes.get(name).cloned()).collect()
        };
        futures::future::join_all(processes.iter().map(SupervisedProcess::end)).await;
        if forget {
            let mut processes = self.processes.lock().await;
            for name in names {
                processes.remove(name);
            }
        }
        let _full = self.changed.try_send(());
    }

    pub(crate) async fn names(&self, which: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        self.processes.lock().await.keys().filter(|name| which(name)).cloned().collect()
    }

    pub(crate) async fn process(&self, name: &str) -> Result<SupervisedProcess, String> {
        let processes = self.processes.lock().await;
        processes.get(name).cloned().ok_or_else(|| {
            let names: Vec<&str> = processes.keys().map(|name| &**name).collect();
            format!("there is no process {name:?}; there are {}", names.join(", "))
        })
    }

    /// Every process, in the order of their names.
    pub(crate) async fn status(&self) -> Vec<ProcessStatus> {
        let processes: Vec<SupervisedProcess> = self.processes.lock().await.values().cloned().collect();
        processes
            .into_iter()
            .map(|process| {
                let state = process.state.borrow().clone();
                let addresses = process.spec.addresses.as_ref().and_then(|file| std::fs::read(file).ok());
                ProcessStatus {
                    name: process.spec.name.to_string(),
                    pid: state.pid,
                    state: state.phase.name().to_owned(),
                    restarts: state.restarts,
                    last_end: state.last_end,
                    control_socket: process.spec.control_socket,
                    addresses: addresses.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default(),
                    health: None,
                }
            })
            .collect()
    }

    /// Ends drivers first, then charging points, so that running supplies can still be settled; Central and Registry last.
    pub(crate) async fn end_all(&self) {
        for group in [is_driver as fn(&str) -> bool, is_charging_point, is_central, |_: &str| true] {
            let names = self.names(group).await;
            self.end(&names, false).await;
        }
    }

    /// Writes the status file whenever something has changed, until `stop`.
    pub(crate) async fn keep_status(
        self,
        base: tokio::sync::watch::Receiver<NetworkStatus>,
        data: std::path::PathBuf,
        mut changes: mpsc::Receiver<()>,
        stop: tokio_util::sync::CancellationToken,
    ) {
        let mut written = None;
        loop {
            let status = NetworkStatus { processes: self.status().await, ..base.borrow().clone() };
            if written.as_ref() != Some(&status) {
                if let Err(error) = status.write(&data) {
                    self.stream.up(format!("{error:#}"));
                }
                written = Some(status);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                _ = changes.recv() => {}
                // A process writes its addresses some time after its start, which is no change of state.
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            // Several changes at the same time lead to one write.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) fn is_driver(name: &str) -> bool {
    name.starts_with("driver/")
}

pub(crate) fn is_charging_point(name: &str) -> bool {
    name.ends_with("/engine") || name.ends_with("/monitor")
}

pub(crate) fn is_central(name: &str) -> bool {
    name == "central"
}
