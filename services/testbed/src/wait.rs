//! Waiting for conditions, never for luck.

use std::{fmt::Display, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// Polls `condition` until it gives a value, and says what it waited for, and what it saw last, when it does not.
///
/// The limit is generous on purpose: it is met only where the condition would never come true.
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
