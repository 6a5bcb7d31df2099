//! Makes decisions durable: a method reads what a pure rule needs, calls the rule, and writes the result together with
//! its audit entry in one transaction. It then notifies whoever follows the changes. gRPC and HTTPS convert requests
//! into calls of these methods and back.
//!
//! A change takes the store's lock, checks whether the request was answered before, decides, writes and commits. A
//! refused request has changed nothing, so a repeat of it is decided anew.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh::{
    access_log::AccessLog,
    clock::{Clock, Now},
    health::Health,
    policy::DenyList,
    rate::{KeyedBuckets, RateLimit},
};
use proto::{PeerId, enrolment::PeerKind, link::v1::Reason};
use store::{
    Abort, Conn, Database, StoreError,
    registry::{IdentityRow, head},
};
use tokio::sync::{Notify, watch};

use crate::{
    audit::RegistryEntry,
    credential::SecretIssuer,
    enrolment::IdentityRecord,
    error::{Error, refuse},
    hashing::Hashing,
    metrics::RegistryMetrics,
    rows,
};

mod enrol;
mod housekeeping;
mod identities;
mod once;
mod operators;
mod pins;
mod tokens;
mod verify;

pub(crate) use enrol::Enroller;
use once::DecidedAnswer;
pub(crate) use once::IdempotentCall;
pub(crate) use operators::told;
pub(crate) use pins::LinkPin;

/// The most pairs of address and id whose failed attempts are remembered at a time.
const REMEMBERED: usize = 20_000;

/// How often a caller may present a wrong credential or token.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Credentials")]
pub struct AttemptConfig {
    /// Maximum number of wrong credentials or tokens per address and id at once
    #[arg(long, env = "CHARGEMESH_REGISTRY_ATTEMPTS", value_name = "N", default_value_t = 10)]
    pub attempts: u32,
    /// Time after which all attempts are available again; they come back one by one
    #[arg(long, env = "CHARGEMESH_REGISTRY_ATTEMPTS_WINDOW", value_name = "DURATION", default_value = "1m",
          value_parser = mesh::duration::parse)]
    pub attempts_window: Duration,
}

impl AttemptConfig {
    fn limit(&self) -> RateLimit {
        RateLimit { burst: self.attempts, every: self.attempts_window / self.attempts.max(1) }
    }
}

/// The address of a caller, and the id that it claims.
type AttemptKey = (IpAddr, String);

/// Returns the current root certificates (DER) that Registry's HTTPS certificate descends from.
pub(crate) type Roots = Arc<dyn Fn() -> Vec<Vec<u8>> + Send + Sync>;

/// What the service is built from.
pub(crate) struct Dependencies {
    pub(crate) database: Database,
    pub(crate) secret_issuer: SecretIssuer,
    pub(crate) hashing: Hashing,
    pub(crate) attempts: AttemptConfig,
    pub(crate) clock: Clock,
    pub(crate) metrics: RegistryMetrics,
    /// The names of removed operators; Registry's own gRPC server refuses them at once.
    pub(crate) denied: DenyList,
    pub(crate) roots: Roots,
    /// Counts logins and refused callers; the counts become audit entries.
    pub(crate) access_log: AccessLog,
    pub(crate) health: Health,
}

/// The identity service. A clone is cheap and shares all state.
#[derive(Clone)]
pub(crate) struct IdentityService(Arc<ServiceState>);

struct ServiceState {
    parts: Dependencies,
    attempts: Mutex<KeyedBuckets<AttemptKey>>,
    /// The revision of the last change made by this process.
    head: watch::Sender<i64>,
    pins: watch::Sender<Vec<LinkPin>>,
    /// The revision at which the list of removed operators was last read.
    denied_as_of: Mutex<i64>,
    /// Wakes the task that forwards the audit to Central.
    appended: Notify,
}

impl fmt::Debug for IdentityService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityService(head {})", *self.0.head.borrow())
    }
}

impl IdentityService {
    /// Reads the pins and the removed operators, which are kept in memory.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(crate) async fn open(parts: Dependencies) -> Result<Self, StoreError> {
        let attempts = KeyedBuckets::new(parts.attempts.limit(), REMEMBERED);
        let head = parts.database.read("head", head).await?;
        let service = Self(Arc::new(ServiceState {
            attempts: Mutex::new(attempts),
            head: watch::channel(head).0,
            pins: watch::channel(Vec::new()).0,
            denied_as_of: Mutex::default(),
            appended: Notify::new(),
            parts,
        }));
        service.load_pins().await?;
        service.load_denied().await?;
        Ok(service)
    }

    pub(crate) fn database(&self) -> &Database {
        &self.0.parts.database
    }

    pub(crate) fn health(&self) -> &Health {
        &self.0.parts.health
    }

    pub(crate) fn metrics(&self) -> &RegistryMetrics {
        &self.0.parts.metrics
    }

    /// A new value means that there are changes that have not been read yet.
    pub(crate) fn head(&self) -> watch::Receiver<i64> {
        self.0.head.subscribe()
    }

    pub(crate) fn now(&self) -> Now {
        self.0.parts.clock.now()
    }

    pub(crate) fn roots(&self) -> Vec<Vec<u8>> {
        (self.0.parts.roots)()
    }

    fn secret_issuer(&self) -> &SecretIssuer {
        &self.0.parts.secret_issuer
    }

    fn hashing(&self) -> &Hashing {
        &self.0.parts.hashing
    }

    fn attempts(&self) -> MutexGuard<'_, KeyedBuckets<AttemptKey>> {
        self.0.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a failure of an unauthenticated caller. The count becomes one audit entry, so that nobody can flood the
    /// audit.
    fn count_unauthenticated(&self, action: &'static str, address: Option<IpAddr>, why: Error) -> Error {
        self.0.parts.access_log.unauthenticated(action, why.reason.code(), address);
        why
    }

    async fn read<T, F>(&self, name: &'static str, queries: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T, Abort<Error>> + Send + 'static,
    {
        let answer = self.database().look_up(name, |conn| match queries(conn) {
            Ok(value) => Ok(Ok(value)),
            Err(Abort::Refused(refusal)) => Ok(Err(refusal)),
            Err(Abort::Store(error)) => Err(error),
        });
        answer.await.map_err(unavailable)?
    }

    /// Writes an audit entry about the refusal of an authenticated caller. The refusal stands even if the entry cannot
    /// be written.
    async fn refused(&self, call: &IdempotentCall, why: &Error) {
        let entry = RegistryEntry::refused(self.now().wall_ms, &call.actor, call.method, call.object.clone(), why);
        if let Err(error) = self.write(vec![entry]).await {
            tracing::warn!(
                error = error.to_string(),
                method = call.method,
                "the audit entry of a refusal could not be written"
            );
        }
    }

    /// Writes entries that belong to no change.
    pub(crate) async fn write(&self, entries: Vec<RegistryEntry>) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let work = move |conn: &mut Conn| -> Result<(), Abort<Error>> { Ok(crate::chain::append(conn, &entries)?) };
        // The closure never refuses.
        self.database().transaction("audit", work).await.map(drop)?;
        self.0.appended.notify_one();
        Ok(())
    }

    /// Waits until the audit may have grown since the last return.
    pub(crate) async fn appended(&self) {
        self.0.appended.notified().await;
    }

    /// A read that refuses nothing.
    pub(crate) async fn query<T, F>(&self, name: &'static str, queries: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T, StoreError> + Send + 'static,
    {
        self.database().read(name, queries).await.map_err(unavailable)
    }

    /// The current identity and the hash of its credential.
    async fn known(&self, peer: &PeerId) -> Result<Option<(IdentityRecord, Option<String>)>, Error> {
        let peer = peer.clone();
        self.read("identity", move |conn| Ok(known(conn, &peer)?)).await
    }

    pub(crate) fn understood<T>(&self, row: Result<T, StoreError>) -> Result<T, Error> {
        row.map_err(unavailable)
    }
}

/// The identity and the hash of its credential, from its row.
fn known(conn: &mut Conn, peer: &PeerId) -> Result<Option<(IdentityRecord, Option<String>)>, StoreError> {
    let row = IdentityRow::find(conn, rows::kind_no(PeerKind::of(peer)), peer.as_str())?;
    row.map(|row| Ok((rows::identity(&row)?, row.credential_hash))).transpose()
}

/// Runs `work` to its end even if the caller stops waiting: a change that is durable must be announced (SPEC 1.2,
/// 7.3).
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let broken = |error: tokio::task::JoinError| {
        tracing::error!(error = error.to_string(), "a request was not completed");
        Err(refuse(Reason::Unavailable, "the request was not completed; try again"))
    };
    tokio::spawn(work).await.unwrap_or_else(broken)
}

/// Hides the details of a database error from the caller and logs them.
fn unavailable(error: StoreError) -> Error {
    tracing::warn!(error = error.to_string(), "the database cannot be used now");
    refuse(Reason::Unavailable, "Registry's database cannot be used now; try again")
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(clippy::disallowed_methods, reason = "draws nonces and token ids")]
    rand::Rng::fill(&mut rand::rng(), bytes.as_mut_slice());
    bytes
}
