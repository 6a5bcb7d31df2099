//! Signed checkpoints over Registry's own chain leave its database for a file (SPEC 8.2).

use std::{io::Write as _, path::Path};

use mesh::{
    health::Component,
    process::{Context, Misuse},
};
use store::audit::{AuditKey, Checkpoints};

use crate::{Config, audit, authority::Authority, secret};

/// Opens the file and writes to it until the process stops, and once more when nobody else writes any more.
///
/// # Errors
/// Where the key or the file cannot be used.
pub(crate) fn start(ctx: &Context, config: &Config, authority: &Authority) -> anyhow::Result<()> {
    let key = secret::read_or_make(&config.data.join("audit.key"), AuditKey::generate)?;
    let key = AuditKey::parse(&key).map_err(|error| Misuse::new(error.to_string()))?;
    publish(&config.data.join("audit.pub"), &key.public())?;
    tracing::info!(public_key = key.public(), "audit checkpoints are signed");
    let file = config.data.join("audit.checkpoints");
    let mut checkpoints = Checkpoints::open(&file, key).map_err(|error| Misuse::new(error.to_string()))?;
    let (every, stop) = (config.checkpoint_every, ctx.stop.clone());
    let component = ctx.health.component("audit checkpoints");
    component.ready();
    let (authority, ending, last_component) = (authority.clone(), authority.clone(), component.clone());
    let work = async move {
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            write(&mut checkpoints, &authority, &component).await;
        }
        Ok(checkpoints)
    };
    ctx.spawn_and_finally("audit checkpoints", work, async move |mut checkpoints| {
        audit::stopped(&ending).await;
        write(&mut checkpoints, &ending, &last_component).await;
    });
    Ok(())
}

/// Beside the secret, for whoever verifies without it; former keys stay in it.
fn publish(path: &Path, public: &str) -> anyhow::Result<()> {
    let known = std::fs::read_to_string(path).unwrap_or_default();
    if known.lines().any(|line| line.trim() == public) {
        return Ok(());
    }
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| writeln!(file, "{public}").and_then(|()| file.sync_all()))
        .map_err(|error| Misuse::new(format!("cannot write {}: {error}", path.display())).into())
}

async fn write(checkpoints: &mut Checkpoints, authority: &Authority, component: &Component) {
    match checkpoints.write(authority.database(), authority.now().wall_ms).await {
        Ok(_) => component.ready(),
        Err(error) => component.degraded(error.to_string()),
    }
}
