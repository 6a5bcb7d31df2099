//! Writes signed checkpoints of Registry's audit chain to a file outside the database (SPEC 8.2).

use std::{io::Write as _, path::Path};

use mesh::{
    health::Component,
    process::{Context, Misuse},
};
use store::audit::{AuditKey, Checkpoints};

use crate::{Config, identity_service::IdentityService, lifecycle, secret};

/// Opens the file, then writes checkpoints until the process stops, and a last one after all other tasks have ended.
///
/// # Errors
/// If the key or the file cannot be used.
pub(crate) fn start(ctx: &Context, config: &Config, service: &IdentityService) -> anyhow::Result<()> {
    let key = secret::read_or_make(&config.data.join("audit.key"), AuditKey::generate)?;
    let key = AuditKey::parse(&key).map_err(|error| Misuse::new(error.to_string()))?;
    publish(&config.data.join("audit.pub"), &key.public())?;
    tracing::info!(public_key = key.public(), "audit checkpoints are signed");
    let file = config.data.join("audit.checkpoints");
    let mut checkpoints = Checkpoints::open(&file, key).map_err(|error| Misuse::new(error.to_string()))?;
    let (every, stop) = (config.checkpoint_every, ctx.stop.clone());
    let component = ctx.health.component("audit checkpoints");
    component.ready();
    let (service, ending, last_component) = (service.clone(), service.clone(), component.clone());
    let work = async move {
        write(&mut checkpoints, &service, &component).await;
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            write(&mut checkpoints, &service, &component).await;
        }
        Ok(checkpoints)
    };
    ctx.spawn_and_finally("audit checkpoints", work, async move |mut checkpoints| {
        lifecycle::stopped(&ending).await;
        write(&mut checkpoints, &ending, &last_component).await;
    });
    Ok(())
}

/// Appends the public key to the file of public keys, for verification without the secret key. Earlier keys stay in
/// the file.
fn publish(path: &Path, public: &str) -> anyhow::Result<()> {
    let known = std::fs::read_to_string(path).unwrap_or_default();
    if known.lines().any(|line| line.trim() == public) {
        return Ok(());
    }
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| writeln!(file, "{public}").and_then(|()| file.sync_all()))
        .map_err(|error| Misuse::new(format!("cannot write {}: {error}", path.display())).into())
}

async fn write(checkpoints: &mut Checkpoints, service: &IdentityService, component: &Component) {
    match checkpoints.write(service.database(), service.now().wall_ms).await {
        Ok(_) => checkpoints.doubt().map_or_else(|| component.ready(), |doubt| component.degraded(doubt)),
        Err(error) => component.degraded(error.to_string()),
    }
}
