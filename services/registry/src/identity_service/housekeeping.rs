//! Periodic work: audits logins, refused callers and failed components, erases nonces and deletes expired rows.

use std::time::Duration;

use mesh::{access_log::AccessEntry, health::ComponentFailures};
use store::{
    Conn, OnceRow, StoreError,
    registry::{IdentityRow, TokenRow},
};
use tokio_util::sync::CancellationToken;

use super::IdentityService;
use crate::{audit::RegistryEntry, error::Error};

/// Time between two looks at the components' health.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Maximum number of entries about components that wait for the database.
const UNWRITTEN: usize = 100;
/// How long a lost answer that contained a secret can be fetched by repeating the request.
pub(crate) const SHOWN_AGAIN_MS: i64 = 10 * 60 * 1000;
/// How long any answer is stored for repeated requests.
const ANSWERS_KEPT_MS: i64 = 7 * 24 * 3600 * 1000;
/// How long an expired token stays in the list.
const TOKENS_KEPT_MS: i64 = 35 * 24 * 3600 * 1000;

impl IdentityService {
    /// Runs until the process stops; the last counts are written at the end.
    pub(crate) async fn keep(&self, every: Duration, stop: CancellationToken) {
        let write = async |entries: Vec<AccessEntry>| {
            let now_ms = self.now().wall_ms;
            self.write(entries.into_iter().map(|access| RegistryEntry::access(now_ms, access)).collect()).await
        };
        let tidying = async {
            while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                if let Err(error) = self.tidy().await {
                    tracing::warn!(error = error.to_string(), "expired rows could not be deleted; retrying later");
                }
            }
        };
        tokio::join!(self.0.parts.access_log.write_to(stop.clone(), write), self.watch_components(&stop), tidying);
    }

    /// Audits each component that fails or recovers. Entries about the database itself are written as soon as it
    /// accepts them.
    async fn watch_components(&self, stop: &CancellationToken) {
        let (mut failures, mut unwritten) = (ComponentFailures::default(), Vec::new());
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let now_ms = self.now().wall_ms;
            for (name, turn) in failures.since(&self.0.parts.health) {
                if unwritten.len() < UNWRITTEN {
                    unwritten.push(RegistryEntry::component(now_ms, &name, turn));
                }
            }
            if !unwritten.is_empty() && self.write(unwritten.clone()).await.is_ok() {
                unwritten.clear();
            }
        }
    }

    pub(crate) async fn tidy(&self) -> Result<(), StoreError> {
        let now_ms = self.now().wall_ms;
        let work = move |conn: &mut Conn| {
            OnceRow::erase_nonces(conn, now_ms - SHOWN_AGAIN_MS)?;
            OnceRow::prune(conn, now_ms - ANSWERS_KEPT_MS)?;
            TokenRow::prune(conn, now_ms - TOKENS_KEPT_MS)?;
            Ok::<_, store::Abort<Error>>(IdentityRow::count(conn)?)
        };
        if let Ok(counts) = self.database().transaction("tidy", work).await? {
            self.metrics().identities(&counts);
        }
        Ok(())
    }
}
