//! Carries decisions out: reads what they need, makes them durable with their audit in one transaction, then tells.
//! It decides nothing; gRPC and HTTPS convert into and out of it.
//!
//! A change takes the store's lock, looks whether the request was answered before, decides on what is there, writes,
//! and commits. Whatever was refused has changed nothing and is decided anew when it comes again.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mesh::{
    clock::{Clock, Now},
    health::Health,
    policy::DenyList,
    visitors::Visitors,
};
use proto::{PeerId, enrolment::Kind, link::v1::Reason};
use store::{
    Abort, Conn, Database, StoreError,
    registry::{IdentityRow, head},
};
use tokio::sync::{Notify, watch};

use crate::{
    attempts::Attempts,
    audit::Entry,
    credential::Mint,
    enrolment::Identity,
    hashing::Hashing,
    metrics::Metrics,
    refusal::{Refusal, refuse},
    rows,
};

mod answer;
mod enrol;
mod identities;
mod keep;
mod operators;
mod pins;
mod prove;
mod tokens;

pub(crate) use answer::Asked;
use answer::Decided;
pub(crate) use enrol::Asker;
pub(crate) use operators::told;
pub(crate) use pins::Pin;

/// Most addresses and ids whose errors are remembered at a time.
const REMEMBERED: usize = 20_000;

/// How often somebody may show a wrong credential or token.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Credentials")]
pub struct AttemptConfig {
    /// Wrong credentials or tokens that one address may show for one id within the window
    #[arg(long, env = "CHARGEMESH_REGISTRY_ATTEMPTS", value_name = "N", default_value_t = 10)]
    pub attempts: u32,
    /// The window of the above
    #[arg(long, env = "CHARGEMESH_REGISTRY_ATTEMPTS_WINDOW", value_name = "DURATION", default_value = "1m",
          value_parser = mesh::duration::parse)]
    pub attempts_window: Duration,
}

/// The roots that Registry's HTTPS certificate descends from, as DER, as they are now.
pub(crate) type Roots = Arc<dyn Fn() -> Vec<Vec<u8>> + Send + Sync>;

/// What the authority works with.
pub(crate) struct Parts {
    pub(crate) database: Database,
    pub(crate) mint: Mint,
    pub(crate) hashing: Hashing,
    pub(crate) attempts: AttemptConfig,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    /// Removed operators, whom our own server refuses at once.
    pub(crate) denied: DenyList,
    pub(crate) roots: Roots,
    /// Whom the audit tells of: those who log in and those who are turned away.
    pub(crate) visitors: Visitors,
    pub(crate) health: Health,
}

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Authority(Arc<Inner>);

struct Inner {
    parts: Parts,
    started: Instant,
    attempts: Mutex<Attempts>,
    /// The revision of the last change that was made here.
    head: watch::Sender<i64>,
    pins: watch::Sender<Vec<Pin>>,
    /// After which change the operators were removed who are turned away.
    denied_as_of: Mutex<i64>,
    /// Wakes whoever hands the audit on.
    appended: Notify,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority(head {})", *self.0.head.borrow())
    }
}

impl Authority {
    /// Reads what is kept in memory: pins and removed operators.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub(crate) async fn open(parts: Parts) -> Result<Self, StoreError> {
        let attempts = Attempts::new(parts.attempts.attempts, parts.attempts.attempts_window, REMEMBERED);
        let head = parts.database.read("head", head).await?;
        let authority = Self(Arc::new(Inner {
            started: parts.clock.mono(),
            attempts: Mutex::new(attempts),
            head: watch::channel(head).0,
            pins: watch::channel(Vec::new()).0,
            denied_as_of: Mutex::default(),
            appended: Notify::new(),
            parts,
        }));
        authority.load_pins().await?;
        authority.load_denied().await?;
        Ok(authority)
    }

    pub(crate) fn database(&self) -> &Database {
        &self.0.parts.database
    }

    pub(crate) fn health(&self) -> &Health {
        &self.0.parts.health
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.parts.metrics
    }

    /// Follows the last change; a new value says that there is more to read.
    pub(crate) fn head(&self) -> watch::Receiver<i64> {
        self.0.head.subscribe()
    }

    pub(crate) fn now(&self) -> Now {
        self.0.parts.clock.now()
    }

    pub(crate) fn roots(&self) -> Vec<Vec<u8>> {
        (self.0.parts.roots)()
    }

    fn mint(&self) -> &Mint {
        &self.0.parts.mint
    }

    fn hashing(&self) -> &Hashing {
        &self.0.parts.hashing
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.0.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A failure of somebody who proved nothing; counted, not written one by one.
    fn stranger(&self, action: &'static str, address: Option<IpAddr>, why: Refusal) -> Refusal {
        self.0.parts.visitors.stranger(action, why.reason.code(), address);
        why
    }

    async fn read<T, F>(&self, name: &'static str, queries: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T, Abort<Refusal>> + Send + 'static,
    {
        let answer = self.database().read(name, |conn| match queries(conn) {
            Ok(value) => Ok(Ok(value)),
            Err(Abort::Refused(refusal)) => Ok(Err(refusal)),
            Err(Abort::Store(error)) => Err(error),
        });
        answer.await.map_err(unavailable)?
    }

    /// An order that was refused to somebody who had proved who he is. The refusal stands whether or not its entry
    /// could be written.
    async fn refused(&self, asked: &Asked, why: &Refusal) {
        let entry = Entry::refused(self.now().wall_ms, &asked.actor, asked.order, asked.object.clone(), why);
        if let Err(error) = self.write(vec![entry]).await {
            tracing::warn!(error = error.to_string(), order = asked.order, "a refusal is missing in the audit");
        }
    }

    /// Writes entries that belong to no change.
    pub(crate) async fn write(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let work = move |conn: &mut Conn| -> Result<(), Abort<Refusal>> { Ok(crate::chain::append(conn, &entries)?) };
        // Nothing in it refuses.
        self.database().transaction("audit", work).await.map(drop)?;
        self.0.appended.notify_one();
        Ok(())
    }

    /// Returns when there may be more in the audit than at the last return.
    pub(crate) async fn appended(&self) {
        self.0.appended.notified().await;
    }

    /// A read in which nothing is refused.
    pub(crate) async fn query<T, F>(&self, name: &'static str, queries: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T, StoreError> + Send + 'static,
    {
        self.database().read(name, queries).await.map_err(unavailable)
    }

    /// An identity as it stands, and the hash of its credential.
    async fn known(&self, peer: &PeerId) -> Result<Option<(Identity, Option<String>)>, Refusal> {
        let peer = peer.clone();
        self.read("identity", move |conn| Ok(known(conn, &peer)?)).await
    }

    pub(crate) fn understood<T>(&self, row: Result<T, StoreError>) -> Result<T, Refusal> {
        row.map_err(unavailable)
    }
}

/// The row and the identity it tells of.
fn known(conn: &mut Conn, peer: &PeerId) -> Result<Option<(Identity, Option<String>)>, StoreError> {
    let row = IdentityRow::find(conn, rows::kind_no(Kind::of(peer)), peer.as_str())?;
    row.map(|row| Ok((rows::identity(&row)?, row.credential_hash))).transpose()
}

/// Carries `work` out to its end, whether or not whoever asked still waits: what has become durable must be told, and
/// it is the caller who says how long he waits (SPEC 1.2, 7.3).
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let broken = |error: tokio::task::JoinError| {
        tracing::error!(error = error.to_string(), "an order was not carried out to its end");
        Err(refuse(Reason::Unavailable, "the order was not carried out to its end; try again"))
    };
    tokio::spawn(work).await.unwrap_or_else(broken)
}

/// The store's troubles in words for the caller; what they were goes to the log.
fn unavailable(error: StoreError) -> Refusal {
    tracing::warn!(error = error.to_string(), "the database cannot be used now");
    refuse(Reason::Unavailable, "Registry's database cannot be used now; try again")
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(clippy::disallowed_methods, reason = "the rim that draws nonces and token ids")]
    rand::Rng::fill(&mut rand::rng(), bytes.as_mut_slice());
    bytes
}
