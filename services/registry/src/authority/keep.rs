//! What happens by itself: who logged in or was turned away and which component failed is written down, and now and
//! then nonces are erased and old rows forgotten.

use std::time::Duration;

use mesh::{health::Failures, visitors::Visit};
use store::{
    Conn, StoreError,
    registry::{IdentityRow, RequestRow, TokenRow},
};
use tokio_util::sync::CancellationToken;

use super::Authority;
use crate::{audit::Entry, refusal::Refusal};

/// How often the components are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Entries about components that may wait for the database.
const UNWRITTEN: usize = 100;
/// How long a lost answer that held a secret can be asked for again.
pub(crate) const SHOWN_AGAIN_MS: i64 = 10 * 60 * 1000;
/// How long any answer can be asked for again.
const ANSWERS_KEPT_MS: i64 = 7 * 24 * 3600 * 1000;
/// How long a dead token is listed.
const TOKENS_KEPT_MS: i64 = 35 * 24 * 3600 * 1000;

impl Authority {
    /// Until the process stops; what is left to tell is written at the end.
    pub(crate) async fn keep(&self, every: Duration, stop: CancellationToken) {
        let write = async |visits: Vec<Visit>| {
            let now_ms = self.now().wall_ms;
            self.write(visits.into_iter().map(|visit| Entry::visit(now_ms, visit)).collect()).await
        };
        let tidying = async {
            while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                if let Err(error) = self.tidy().await {
                    tracing::warn!(error = error.to_string(), "could not tidy up; tried again later");
                }
            }
        };
        tokio::join!(self.0.parts.visitors.tell(stop.clone(), write), self.watch_components(&stop), tidying);
    }

    /// Notes each component that fails or recovers, the database too, as soon as it takes entries again.
    async fn watch_components(&self, stop: &CancellationToken) {
        let (mut failures, mut unwritten) = (Failures::default(), Vec::new());
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let now_ms = self.now().wall_ms;
            for (name, turn) in failures.since(&self.0.parts.health) {
                if unwritten.len() < UNWRITTEN {
                    unwritten.push(Entry::component(now_ms, &name, turn));
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
            RequestRow::erase_nonces(conn, now_ms - SHOWN_AGAIN_MS)?;
            RequestRow::prune(conn, now_ms - ANSWERS_KEPT_MS)?;
            TokenRow::prune(conn, now_ms - TOKENS_KEPT_MS)?;
            Ok::<_, store::Abort<Refusal>>(IdentityRow::count(conn)?)
        };
        if let Ok(counts) = self.database().transaction("tidy", work).await? {
            self.metrics().identities(&counts);
        }
        Ok(())
    }
}
