//! What goes on beside the decisions: signed checkpoints over the audit, components that fail and recover, the audit in
//! a plain file, retention.

mod audit_file;
mod frost;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh::{
    health::{Component, ComponentState},
    process::Context,
};
use store::{
    Abort, Conn, StoreError,
    central::{KeyRow, OnceRow, OrderRow, OutboxRow, RowWrite, audit},
};

pub(crate) use self::{
    audit_file::AuditFile,
    frost::{blocked, watch_frost},
};
use crate::{
    audit::{AuditAction, AuditRecord},
    config::Retention,
    origin::Origin,
    shared::SharedState,
};

const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// So much of it is lost at most when the process is killed.
const RUNNING_TIME_SAVED_EVERY: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Writes checkpoints until the process stops, and one at the end, when nobody else writes any more. An address may only
/// go once a checkpoint says so, so they go here.
pub(crate) fn checkpoint(
    mut file: audit::Checkpoints,
    (every, keep_addresses): (Duration, Duration),
    shared: Arc<SharedState>,
    ctx: &Context,
) {
    let component = ctx.health.component("audit checkpoints");
    component.ready();
    let (of_last, last_component, stop) = (Arc::clone(&shared), component.clone(), ctx.stop.clone());
    let work = async move {
        // At once: what a process that was killed left is covered before anything else follows.
        write_checkpoint(&mut file, &shared, &component).await;
        let mut prune_at = shared.clock.mono() + PRUNE_EVERY;
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            write_checkpoint(&mut file, &shared, &component).await;
            let now = shared.clock.now();
            if now.mono >= prune_at {
                prune_at = now.mono + PRUNE_EVERY;
                let until = before(now.wall_ms, keep_addresses);
                say_pruned(file.prune_addresses(&shared.store.database, until, now.wall_ms).await);
            }
        }
        Ok(file)
    };
    ctx.spawn_and_finally("checkpoints", work, async move |mut file| {
        crate::note_role(&of_last, AuditAction::RoleStopped).await;
        write_checkpoint(&mut file, &of_last, &last_component).await;
    });
}

async fn write_checkpoint(file: &mut audit::Checkpoints, shared: &SharedState, component: &Component) {
    match file.write(&shared.store.database, shared.clock.wall_ms()).await {
        Ok(_) => file.doubt().map_or_else(|| component.ready(), |doubt| component.degraded(doubt)),
        Err(error) => component.degraded(format!("the audit has no fresh checkpoint: {error}")),
    }
}

/// Follows the audit into its file until the last entry of this process is there.
pub(crate) fn follow_audit(file: AuditFile, shared: &Arc<SharedState>, ctx: &Context) {
    // On a thread of its own: it waits for a disk.
    let (runtime, follow) = (tokio::runtime::Handle::current(), file.follow(Arc::clone(shared), ctx.clone()));
    let work = async move { Ok(tokio::task::spawn_blocking(move || runtime.block_on(follow)).await?) };
    let shared = Arc::clone(shared);
    ctx.spawn_and_finally("audit file", work, async move |file: AuditFile| file.end(&shared).await);
}

/// Audits each component's failures and recoveries (SPEC 8.1), its database's too, as soon as that takes entries again.
pub(crate) async fn components(shared: Arc<SharedState>, ctx: Context) {
    let mut known = BTreeMap::new();
    while ctx.stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        let now = shared.clock.now();
        let present = ctx.health.report().components;
        for (name, state) in &present {
            if let Some(entry) = changed(name, known.get(name), state) {
                shared.audit(None, &entry.by(&Origin::central(), now));
            }
        }
        known = present;
    }
}

fn changed(name: &str, before: Option<&ComponentState>, now: &ComponentState) -> Option<AuditRecord> {
    let failed = |state: &ComponentState| matches!(state, ComponentState::Degraded { .. });
    match (before.is_some_and(failed), now) {
        (false, ComponentState::Degraded { reason }) => {
            Some(AuditRecord::new(AuditAction::ComponentFailed, format!("component/{name}")).with("reason", reason))
        }
        (true, ComponentState::Ready) => {
            Some(AuditRecord::new(AuditAction::ComponentRecovered, format!("component/{name}")))
        }
        (true | false, ComponentState::Ready | ComponentState::Starting { .. } | ComponentState::Degraded { .. }) => {
            None
        }
    }
}

/// Forgets what is past its retention, once an hour; but for the audit's addresses, which wait for a checkpoint. Events
/// that wait to be published are forgotten `waiting_too`: where no Kafka is set.
pub(crate) async fn prune(retention: Retention, waiting_too: bool, shared: Arc<SharedState>, ctx: Context) {
    while ctx.stop.run_until_cancelled(tokio::time::sleep(PRUNE_EVERY)).await.is_some() {
        let now = shared.clock.wall_ms();
        let (events, answers) = (before(now, retention.keep_events), before(now, retention.keep_answers));
        let keys = before(now, retention.keep_keys);
        let work = move |conn: &mut Conn| -> Result<usize, Abort<()>> {
            let gone = OutboxRow::prune(conn, events, waiting_too)?
                + OnceRow::prune(conn, answers)?
                + OrderRow::prune(conn, answers)?
                + KeyRow::prune(conn, keys)?;
            Ok(gone)
        };
        match shared.store.database.transaction("prune", work).await {
            Ok(Ok(gone)) => say_pruned::<StoreError>(Ok(gone)),
            Ok(Err(())) => {}
            Err(error) => say_pruned(Err(error)),
        }
    }
}

/// Saves how long Central has run until the process stops, and once more then.
pub(crate) async fn save_running_time(shared: Arc<SharedState>, ctx: Context) {
    loop {
        let goes_on = ctx.stop.run_until_cancelled(tokio::time::sleep(RUNNING_TIME_SAVED_EVERY)).await.is_some();
        let total_ms = shared.key_encryption.running.total_ms(shared.clock.now());
        if let Err(error) = shared.store.write("running time", vec![RowWrite::RunningTime(total_ms)]).await {
            tracing::debug!(%error, "the running time could not be saved");
        }
        if !goes_on {
            return;
        }
    }
}

fn before(now: i64, keep: Duration) -> i64 {
    now.saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX))
}

fn say_pruned<E: std::fmt::Display>(gone: Result<usize, E>) {
    match gone {
        Ok(0) => {}
        Ok(gone) => tracing::info!(rows = gone, "what is past its retention was forgotten"),
        Err(error) => tracing::warn!(%error, "nothing could be pruned"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_that_fails_and_recovers_is_two_entries_spec_8_1() {
        let down = ComponentState::Degraded { reason: "refused".into() };
        let action = |before: Option<&ComponentState>, now: &ComponentState| {
            changed("registry", before, now).map(|entry| entry.action)
        };
        assert_eq!(action(None, &down), Some(AuditAction::ComponentFailed));
        assert_eq!(action(Some(&ComponentState::Ready), &down), Some(AuditAction::ComponentFailed));
        assert_eq!(action(Some(&down), &ComponentState::Degraded { reason: "other words".into() }), None);
        assert_eq!(action(Some(&down), &ComponentState::Ready), Some(AuditAction::ComponentRecovered));
        assert_eq!(action(None, &ComponentState::Ready), None);
    }
}
