//! Waiting for a condition instead of sleeping for a fixed time.

use std::{fmt::Display, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// Polls `condition` until it gives a value. The error says what was waited for and what was seen last.
///
/// Limits are long on purpose: one is reached only where the condition would never come true.
pub async fn until<T, F>(what: impl Display, limit: Duration, mut condition: F) -> anyhow::Result<T>
where
    F: AsyncFnMut() -> Result<T, String>,
{
    let deadline = Instant::now() + limit;
    let mut seen = String::from("nothing yet");
    loop {
        match timeout_at(deadline, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(now)) => seen = now,
            Err(_) => anyhow::bail!("waited {limit:?} for {what}; the last look did not end; before: {seen}"),
        }
        if Instant::now() >= deadline {
            anyhow::bail!("waited {limit:?} for {what}; last seen: {seen}");
        }
        sleep(Duration::from_millis(20)).await;
    }
}
