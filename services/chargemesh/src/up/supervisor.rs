//! All parts of a network: started, looked after, shown in the status file, and ended in order.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh::clock::Clock;
use tokio::sync::{Mutex, mpsc};

use super::{
    part::{Deed, Part, Phase, Recipe},
    status::{NetworkStatus, PartStatus},
    stream::Stream,
};

/// Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Supervisor {
    parts: Arc<Mutex<BTreeMap<Arc<str>, Part>>>,
    pub(crate) stream: Stream,
    clock: Clock,
    changed: mpsc::Sender<()>,
}

impl Supervisor {
    /// The receiver gets a word whenever a part's state changes.
    pub(crate) fn new(stream: Stream, clock: Clock) -> (Self, mpsc::Receiver<()>) {
        let (changed, changes) = mpsc::channel(1);
        (Self { parts: Arc::default(), stream, clock, changed }, changes)
    }

    /// Starts a part; one of that name that runs already stays.
    pub(crate) async fn start(&self, recipe: Recipe) -> Result<(), String> {
        let mut parts = self.parts.lock().await;
        if parts.get(&recipe.name).is_some_and(|part| part.state.borrow().phase != Phase::Ended) {
            return Err(format!("{} runs already", recipe.name));
        }
        let name = Arc::clone(&recipe.name);
        let part = Part::start(recipe, self.stream.clone(), self.clock, self.changed.clone());
        parts.insert(name, part);
        Ok(())
    }

    pub(crate) async fn deed(&self, name: &str, deed: Deed) -> Result<(), String> {
        let part = self.part(name).await?;
        part.deed(deed).await
    }

    /// Ends the parts of these names, all at once, and forgets them if told to.
    pub(crate) async fn end(&self, names: &[Arc<str>], forget: bool) {
        let parts: Vec<Part> = {
            let parts = self.parts.lock().await;
            names.iter().filter_map(|name| parts.get(name).cloned()).collect()
        };
        futures::future::join_all(parts.iter().map(Part::end)).await;
        if forget {
            let mut parts = self.parts.lock().await;
            for name in names {
                parts.remove(name);
            }
        }
        let _full = self.changed.try_send(());
    }

    pub(crate) async fn names(&self, which: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        self.parts.lock().await.keys().filter(|name| which(name)).cloned().collect()
    }

    pub(crate) async fn part(&self, name: &str) -> Result<Part, String> {
        let parts = self.parts.lock().await;
        parts.get(name).cloned().ok_or_else(|| {
            let names: Vec<&str> = parts.keys().map(|name| &**name).collect();
            format!("there is no part {name:?}; there are {}", names.join(", "))
        })
    }

    /// Every part, in the order of their names.
    pub(crate) async fn status(&self) -> Vec<PartStatus> {
        let parts: Vec<Part> = self.parts.lock().await.values().cloned().collect();
        parts
            .into_iter()
            .map(|part| {
                let state = part.state.borrow().clone();
                let addresses = part.recipe.addresses.as_ref().and_then(|file| std::fs::read(file).ok());
                PartStatus {
                    name: part.recipe.name.to_string(),
                    pid: state.pid,
                    state: state.phase.name().to_owned(),
                    restarts: state.restarts,
                    last_end: state.last_end,
                    control_socket: part.recipe.control_socket,
                    addresses: addresses.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default(),
                    health: None,
                }
            })
            .collect()
    }

    /// Drivers first, then charging points, so that what runs can still be settled; Central and Registry last.
    pub(crate) async fn end_all(&self) {
        for group in [is_driver as fn(&str) -> bool, is_charging_point, is_central, |_: &str| true] {
            let names = self.names(group).await;
            self.end(&names, false).await;
        }
    }

    /// Keeps the status file true, until everything has ended.
    pub(crate) async fn keep_status(
        self,
        base: tokio::sync::watch::Receiver<NetworkStatus>,
        data: std::path::PathBuf,
        mut changes: mpsc::Receiver<()>,
        stop: tokio_util::sync::CancellationToken,
    ) {
        let mut written = None;
        loop {
            let status = NetworkStatus { parts: self.status().await, ..base.borrow().clone() };
            if written.as_ref() != Some(&status) {
                if let Err(error) = status.write(&data) {
                    self.stream.up(format!("{error:#}"));
                }
                written = Some(status);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                _ = changes.recv() => {}
                // A part that starts writes its addresses a little later.
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            // Several changes at once are one line of the file.
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
