//! Logins of persons and refused callers, for the audit (SPEC 8.1, 8.2). Both are counted and written as counts, so
//! that no peer can fill the store: failures of unauthenticated peers per minute, reason and address prefix; failures
//! of callers with a certificate of the mesh by name; repeated logins of a person within a minute. Listeners report
//! without waiting; [`AccessLog::write_to`] hands the entries to the role, which writes them.

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

/// Wait between a failed write and the next attempt.
const AGAIN: Duration = Duration::from_secs(1);

/// The content of one audit entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessEntry {
    /// A person opened `count` connections since the last such entry.
    Login {
        who: String,
        from: IpAddr,
        count: u64,
    },
    Refused(RefusedAccess),
}

/// `count` failures of one kind and origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedAccess {
    /// What was attempted: a method, or the name of a listener or an action.
    pub what: &'static str,
    /// The code of the reason; one of a fixed set.
    pub reason: &'static str,
    /// The caller, such as `operator/anna`; `None` for unauthenticated peers.
    pub who: Option<String>,
    /// The address of an authenticated caller or the network of an unauthenticated peer; empty where unknown or beyond
    /// the maximum number of groups.
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
    /// `every`: how long occurrences of one kind are counted before they become one entry.
    pub fn new(clock: Clock, every: Duration) -> Self {
        Self(Arc::new(AccessLogState { clock, counters: Mutex::new(Counters::new(every)), reported: Notify::new() }))
    }

    /// Counts a failure of an unauthenticated peer. `what` and `reason` must each be one of a fixed set.
    pub fn unauthenticated(&self, what: &'static str, reason: &'static str, address: Option<IpAddr>) {
        let from = address.map(crate::principal::network_of).unwrap_or_default();
        self.refused(RefusedAccess { what, reason, who: None, from, count: 1 });
    }

    /// Counts a failure of a charging point or driver that has proven its key.
    pub fn peer(&self, what: &'static str, reason: &'static str, who: String, address: IpAddr) {
        let from = address.to_canonical().to_string();
        self.refused(RefusedAccess { what, reason, who: Some(who), from, count: 1 });
    }

    /// Counts a failure of a caller with a certificate of the mesh.
    pub(crate) fn authenticated(&self, what: &'static str, reason: &'static str, principal: &Principal) {
        let from = principal.address.ip().to_canonical().to_string();
        self.refused(RefusedAccess { what, reason, who: Some(principal.to_string()), from, count: 1 });
    }

    pub(crate) fn login(&self, principal: &Principal) {
        let from = principal.address.ip().to_canonical();
        self.counters().login(principal.to_string(), from, 1);
        self.0.reported.notify_one();
    }

    fn refused(&self, refused: RefusedAccess) {
        self.counters().refused(refused, self.0.clock.mono());
        self.0.reported.notify_one();
    }

    /// Hands due entries to `write` until `stop`, and then all that is left. Entries that could not be written keep
    /// their counts and are tried again.
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
                tracing::warn!(%error, "logins and refused callers could not be written to the audit; trying again");
                self.counters().give_back(entries, self.0.clock.mono());
                stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
            }
            if stopping {
                return;
            }
        }
    }

    /// Waits until there are entries to write.
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
