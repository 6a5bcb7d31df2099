//! What goes on beside the decisions: signed checkpoints over the audit, components that fail and recover, the audit in
//! a plain file, retention.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Write as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use mesh::{
    health::{Component, State},
    process::{Context, Misuse},
};
use store::{
    Abort, Conn, StoreError,
    central::{AuditRow, KeyRow, OrderRow, OutboxRow, RequestRow, Write, audit},
};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{
    audit::{Action, Entry},
    charge_point::Origin,
    config::Retention,
    rows,
    shared::Shared,
};

const PRUNE_EVERY: Duration = Duration::from_secs(3600);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Entries about components that may wait for the database.
const UNWRITTEN: usize = 100;

/// Writes checkpoints until the process stops, and one at the end. An address may only go once a checkpoint says so, so
/// they go here.
pub(crate) async fn checkpoints(
    mut file: audit::Checkpoints,
    every: Duration,
    keep_addresses: Duration,
    shared: Arc<Shared>,
    ctx: Context,
) {
    let component = ctx.health.component("audit checkpoints");
    component.ready();
    let mut prune_at = shared.clock.mono() + PRUNE_EVERY;
    while ctx.stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
        checkpoint(&mut file, &shared, &component).await;
        let now = shared.clock.now();
        if now.mono >= prune_at {
            prune_at = now.mono + PRUNE_EVERY;
            let gone = file.prune_addresses(&shared.ledger.database, before(now.wall_ms, keep_addresses), now.wall_ms);
            say_pruned(gone.await);
        }
    }
    crate::note_role(&shared, Action::RoleStopped).await;
    checkpoint(&mut file, &shared, &component).await;
}

async fn checkpoint(file: &mut audit::Checkpoints, shared: &Shared, component: &Component) {
    match file.write(&shared.ledger.database, shared.clock.wall_ms()).await {
        Ok(_) => component.ready(),
        Err(error) => component.degraded(format!("the audit has no fresh checkpoint: {error}")),
    }
}

/// Audits each component's failures and recoveries (SPEC 8.1), its database's too, as soon as that takes entries again.
pub(crate) async fn components(shared: Arc<Shared>, ctx: Context) {
    let (mut known, mut unwritten) = (BTreeMap::new(), VecDeque::new());
    while ctx.stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        let now = shared.clock.now();
        let present = ctx.health.report().components;
        for (name, state) in &present {
            if unwritten.len() < UNWRITTEN
                && let Some(entry) = changed(name, known.get(name), state)
            {
                unwritten.push_back(Write::Audit(rows::audit(&entry.by(&Origin::central(), now))));
            }
        }
        known = present;
        if !unwritten.is_empty() && shared.ledger.write("components", unwritten.iter().cloned().collect()).await.is_ok()
        {
            unwritten.clear();
        }
    }
}

fn changed(name: &str, before: Option<&State>, now: &State) -> Option<Entry> {
    let failed = |state: &State| matches!(state, State::Degraded { .. });
    match (before.is_some_and(failed), now) {
        (false, State::Degraded { reason }) => {
            Some(Entry::new(Action::ComponentFailed, format!("component/{name}")).with("reason", reason))
        }
        (true, State::Ready) => Some(Entry::new(Action::ComponentRecovered, format!("component/{name}"))),
        (true | false, State::Ready | State::Starting { .. } | State::Degraded { .. }) => None,
    }
}

/// The file that the audit is followed into.
///
/// # Errors
/// Where it cannot be opened.
pub(crate) fn audit_file(path: &PathBuf) -> anyhow::Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|error| Misuse::new(format!("cannot write the audit to {}: {error}", path.display())).into())
}

/// Follows the audit into a plain file until the process stops (SPEC 8.3).
pub(crate) async fn follow(mut from: Receiver<Arc<AuditRow>>, mut file: std::fs::File, ctx: Context) {
    let component = ctx.health.component("audit file");
    component.ready();
    loop {
        let row = tokio::select! {
            biased;
            row = from.recv() => row,
            // What is written while the process ends comes first.
            () = ctx.stop.cancelled(), if from.is_empty() => return,
        };
        let line = match row {
            Ok(row) => line(&row),
            Err(RecvError::Lagged(missed)) => {
                format!("# {missed} entries came faster than this file was written: see `chargemesh audit list`\n")
            }
            Err(RecvError::Closed) => return,
        };
        match file.write_all(line.as_bytes()) {
            Ok(()) => component.ready(),
            Err(error) => component.degraded(format!("the audit cannot be written to its file: {error}")),
        }
    }
}

/// `time | address | who | ACTION | k=v, …`. What came from outside cannot break the line.
fn line(row: &AuditRow) -> String {
    let parameters = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&row.parameters);
    let parameters = parameters.unwrap_or_default();
    let said = parameters.iter().map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        format!("{name}={text}")
    });
    let all: Vec<_> = [format!("object={}", row.object)]
        .into_iter()
        .chain(said)
        .chain([format!("outcome={}", row.outcome)])
        .map(|part| plain(&part))
        .collect();
    let address = row.address.as_deref().filter(|address| !address.is_empty()).unwrap_or("-");
    let time = mesh::clock::in_words(row.at_ms.div_euclid(1000));
    let time = format!("{}.{:03}Z", time.trim_end_matches('Z'), row.at_ms.rem_euclid(1000));
    format!("{time} | {} | {} | {} | {}\n", plain(address), plain(&row.actor), plain(&row.action), all.join(", "))
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if mesh::screen::is_unseen(c) || c == '|' { ' ' } else { c }).collect()
}

/// Forgets what is past its retention, once an hour; but for the audit's addresses, which wait for a checkpoint.
pub(crate) async fn prune(retention: Retention, shared: Arc<Shared>, ctx: Context) {
    while ctx.stop.run_until_cancelled(tokio::time::sleep(PRUNE_EVERY)).await.is_some() {
        let now = shared.clock.wall_ms();
        let (events, answers) = (before(now, retention.keep_events), before(now, retention.keep_answers));
        let keys = before(now, retention.keep_keys);
        let work = move |conn: &mut Conn| -> Result<usize, Abort<()>> {
            // No broker is set: what nobody fetches goes too.
            let gone = OutboxRow::prune(conn, events, true)?
                + RequestRow::prune(conn, answers)?
                + OrderRow::prune(conn, answers)?
                + KeyRow::prune(conn, keys)?;
            Ok(gone)
        };
        match shared.ledger.database.transaction("prune", work).await {
            Ok(Ok(gone)) => say_pruned::<StoreError>(Ok(gone)),
            Ok(Err(())) => {}
            Err(error) => say_pruned(Err(error)),
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
        let down = State::Degraded { reason: "refused".into() };
        let action = |before: Option<&State>, now: &State| changed("registry", before, now).map(|entry| entry.action);
        assert_eq!(action(None, &down), Some(Action::ComponentFailed));
        assert_eq!(action(Some(&State::Ready), &down), Some(Action::ComponentFailed));
        assert_eq!(action(Some(&down), &State::Degraded { reason: "other words".into() }), None);
        assert_eq!(action(Some(&down), &State::Ready), Some(Action::ComponentRecovered));
        assert_eq!(action(None, &State::Ready), None);
    }

    #[test]
    fn an_entry_is_one_line_whatever_it_says_spec_8_3() {
        let row = AuditRow {
            at_ms: 1_763_694_305_007,
            address: Some("192.0.2.1:7".into()),
            actor: "driver/D1".into(),
            action: "SUPPLY_REFUSED".into(),
            object: "charging-point/CP1".into(),
            parameters: r#"{"detail":"a\nb | c\u202ed","count":3}"#.into(),
            outcome: "BROKEN".into(),
            ..AuditRow::default()
        };
        assert_eq!(
            line(&row),
            "2025-11-21T03:05:05.007Z | 192.0.2.1:7 | driver/D1 | SUPPLY_REFUSED | object=charging-point/CP1, \
             count=3, detail=a b   c d, outcome=BROKEN\n"
        );
    }
}
