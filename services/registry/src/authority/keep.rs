//! What happens by itself each minute: nonces are erased, old rows forgotten, strangers' failures written down.

use std::time::Duration;

use store::{
    Conn, StoreError,
    registry::{IdentityRow, RequestRow, TokenRow},
};
use tokio_util::sync::CancellationToken;

use super::Authority;
use crate::{
    audit::{Entry, stopped},
    refusal::Refusal,
};

const EVERY: Duration = Duration::from_secs(60);
/// How long a lost answer that held a secret can be asked for again.
pub(crate) const SHOWN_AGAIN_MS: i64 = 10 * 60 * 1000;
/// How long any answer can be asked for again.
const ANSWERS_KEPT_MS: i64 = 7 * 24 * 3600 * 1000;
/// How long a dead token is listed.
const TOKENS_KEPT_MS: i64 = 35 * 24 * 3600 * 1000;

impl Authority {
    /// Until the process stops; what the last minute gathered is written at the end.
    pub(crate) async fn keep(&self, stop: CancellationToken) {
        loop {
            let stopping = stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none();
            if let Err(error) = self.tidy().await {
                tracing::warn!(error = error.to_string(), "could not tidy up; tried again in a minute");
            }
            if stopping {
                if let Err(error) = self.write(vec![stopped(self.now().wall_ms)]).await {
                    tracing::warn!(error = error.to_string(), "the stop is missing in the audit");
                }
                return;
            }
        }
    }

    pub(crate) async fn tidy(&self) -> Result<(), StoreError> {
        let now_ms = self.now().wall_ms;
        let failures = self.strangers().take();
        let entries = failures.iter().cloned().map(|failures| Entry::strangers(now_ms, failures)).collect();
        if let Err(error) = self.write(entries).await {
            self.strangers().give_back(failures);
            return Err(error);
        }
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
