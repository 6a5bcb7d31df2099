//! Who came to the doors of a role, as its audit tells it (SPEC 8.1, 8.2): persons who connect, and whoever is turned
//! away. Both are counted, so that nobody can fill the store: failures of those who proved nothing per minute, reason
//! and address prefix; those of somebody with a certificate of the mesh by his name; a person's connections after the
//! first within a minute. The doors report without waiting; the role writes when [`AccessLog::write_to`] hands it something.

use std::{
    fmt,
    future::Future,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, principal::Principal};

mod counters;

use counters::Counters;

/// From a failed write to the next try.
const AGAIN: Duration = Duration::from_secs(1);

/// What one entry of the audit is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessEntry {
    /// A person's certificate opened a connection, or `count` of them since the last such entry.
    Login {
        who: String,
        from: IpAddr,
        count: u64,
    },
    Refused(RefusedAccess),
}

/// One group of failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedAccess {
    /// What was tried: a listener, a method, or what else a door calls it.
    pub what: &'static str,
    /// The code of a reason; one of a fixed set.
    pub reason: &'static str,
    /// `operator/anna`; nothing for those who proved nothing.
    pub who: Option<String>,
    /// An address of somebody known; the network of a stranger's; nothing where unknown or past the bound.
    pub from: String,
    pub count: u64,
}

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct AccessLog(Arc<AccessLogState>);

struct AccessLogState {
    clock: Clock,
    counters: Mutex<Counters>,
    reported: Notify,
}

impl AccessLog {
    /// `every`: for how long entries of one kind are counted before they become one entry.
    pub fn new(clock: Clock, every: Duration) -> Self {
        Self(Arc::new(AccessLogState { clock, counters: Mutex::new(Counters::new(every)), reported: Notify::new() }))
    }

    /// A failure of somebody who proved nothing. `what` and `reason` are each one of a fixed set.
    pub fn unauthenticated(&self, what: &'static str, reason: &'static str, address: Option<IpAddr>) {
        let from = address.map(crate::principal::network_of).unwrap_or_default();
        self.refused(RefusedAccess { what, reason, who: None, from, count: 1 });
    }

    /// A failure of a charging point or a driver that proved its key.
    pub fn peer(&self, what: &'static str, reason: &'static str, who: String, address: IpAddr) {
        let from = address.to_canonical().to_string();
        self.refused(RefusedAccess { what, reason, who: Some(who), from, count: 1 });
    }

    /// A failure of somebody whose certificate is of the mesh.
    pub(crate) fn authenticated(&self, what: &'static str, reason: &'static str, principal: &Principal) {
        let from = principal.address.ip().to_canonical().to_string();
        self.refused(RefusedAccess { what, reason, who: Some(principal.to_string()), from, count: 1 });
    }

    pub(crate) fn login(&self, principal: &Principal) {
        let from = principal.address.ip().to_canonical();
        self.counters().login(principal.to_string(), from, 1, self.0.clock.mono());
        self.0.reported.notify_one();
    }

    fn refused(&self, refused: RefusedAccess) {
        self.counters().refused(refused, self.0.clock.mono());
        self.0.reported.notify_one();
    }

    /// Hands `write` what is due until the process stops, and the rest then. What could not be written is kept, with
    /// its count, and tried again.
    pub async fn write_to<W, F, E>(&self, stop: CancellationToken, write: W)
    where
        W: Fn(Vec<AccessEntry>) -> F,
        F: Future<Output = Result<(), E>>,
        E: fmt::Display,
    {
        loop {
            let due = stop.run_until_cancelled(self.due()).await;
            let stopping = due.is_none();
            let entries = due.unwrap_or_else(|| self.counters().all());
            if !entries.is_empty()
                && let Err(error) = write(entries.clone()).await
            {
                tracing::warn!(%error, "who was refused or logged in could not be noted; tried again");
                self.counters().give_back(entries, self.0.clock.mono());
                stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
            }
            if stopping {
                return;
            }
        }
    }

    /// Waits until there is something to be written.
    async fn due(&self) -> Vec<AccessEntry> {
        loop {
            let (due, next) = self.counters().due(self.0.clock.mono());
            if !due.is_empty() {
                return due;
            }
            let later = async {
                match next {
                    Some(at) => self.0.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! { () = self.0.reported.notified() => {}, () = later => {} }
        }
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.0.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessLog")
    }
}
