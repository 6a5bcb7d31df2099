//! `--chaos SEED` (SPEC 9.2): what `chaos` decides is done to the running network; then everything comes to rest, and
//! the invariants are asked for.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use mesh::{
    control::{self, Request},
    process::Context,
};
use proto::central::v1::VerifyAuditRequest;
use serde_json::Value;

use super::{
    Running,
    chaos::{Act, Chaos, both_of},
    invariants::{self, Findings, Seen},
    part::Deed,
    supervisor::is_driver,
};
use crate::{
    failure::of_status,
    operator::{charging_points, sessions, tickets},
    output::line,
};

/// Settling takes 15 minutes where an engine never reports; here each comes back.
const REST_WITHIN: Duration = Duration::from_secs(180);

pub(super) async fn run(running: &Running, ctx: &Context, seed: u64) -> anyhow::Result<()> {
    let stream = &running.network.supervisor.stream;
    stream.up(format!("chaos with seed {seed} for {:?}", running.config.chaos_for));
    let until = ctx.clock.mono() + running.config.chaos_for;
    let mut chaos = Chaos::seeded(seed);
    let mut deeds = 0;
    // In an order of their own, so that the same seed does the same.
    let parts: Vec<String> = running.network.supervisor.names(|_| true).await.iter().map(ToString::to_string).collect();
    while ctx.clock.mono() < until && !ctx.stop.is_cancelled() {
        let Some(deed) = chaos.next(&parts) else { break };
        if ctx.stop.run_until_cancelled(tokio::time::sleep(deed.after)).await.is_none() {
            break;
        }
        deeds += 1;
        stream.up(format!("chaos: {:?} {}", deed.act, deed.part));
        act(running, &deed.part, deed.act).await;
    }
    if ctx.stop.is_cancelled() {
        return Ok(());
    }
    stream.up(format!("chaos is over after {deeds} deeds; waiting until everything is settled"));
    let findings = rest(running, ctx).await?;
    report(running, &findings)
}

async fn act(running: &Running, part: &str, act: Act) {
    let supervisor = &running.network.supervisor;
    let done = match act {
        Act::Kill => supervisor.deed(part, Deed::Kill).await,
        Act::KillBoth => {
            let [engine, monitor] = both_of(part);
            let (engine, monitor) =
                tokio::join!(supervisor.deed(&engine, Deed::Kill), supervisor.deed(&monitor, Deed::Kill));
            engine.and(monitor)
        }
        Act::Restart => supervisor.deed(part, Deed::Restart).await,
        Act::Freeze(how_long) => {
            let frozen = supervisor.deed(part, Deed::Pause).await;
            let (supervisor, part) = (supervisor.clone(), part.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(how_long).await;
                drop(supervisor.deed(&part, Deed::Continue).await);
            });
            frozen
        }
    };
    if let Err(why) = done {
        supervisor.stream.up(why);
    }
}

/// Drivers ask for nothing new; what runs ends; then the books are read.
async fn rest(running: &Running, ctx: &Context) -> anyhow::Result<Findings> {
    // The longest freeze and the back-off of what died last.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let drivers = running.network.supervisor.names(is_driver).await;
    running.network.supervisor.end(&drivers, false).await;
    let until = ctx.clock.mono() + REST_WITHIN;
    let mut findings = Findings::default();
    while ctx.clock.mono() < until && !ctx.stop.is_cancelled() {
        match look(running).await {
            Ok(seen) if invariants::at_rest(&seen.sessions) => {
                findings = invariants::check(&seen);
                if findings.wrong.is_empty() {
                    return Ok(findings);
                }
            }
            Ok(seen) => {
                let open = seen.sessions.iter().filter(|s| !invariants::at_rest(std::slice::from_ref(*s)));
                findings.wrong =
                    open.map(|s| format!("session {} at {} never ended", s.id, s.charging_point_id)).collect();
            }
            // Something is still coming back.
            Err(error) => findings.wrong = vec![format!("{error:#}")],
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(findings)
}

async fn look(running: &Running) -> anyhow::Result<Seen> {
    let connection = &running.network.connection;
    let mut meters_wh = BTreeMap::new();
    for point in &running.plan.lock().await.charging_points {
        let socket = running.network.layout.socket(&format!("{}/engine", point.id));
        let status = control::ask(&socket, &Request::new("status", Value::Null)).await;
        let status = status.with_context(|| format!("the engine of {} does not answer", point.id))?;
        let unsettled = status.get("unsettled").and_then(Value::as_u64).unwrap_or(0);
        anyhow::ensure!(unsettled == 0, "{} has {unsettled} sessions that Central has not settled", point.id);
        let meter = status.get("meter_wh").and_then(Value::as_u64).context("an engine without a meter")?;
        meters_wh.insert(point.id.to_string(), meter);
    }
    let verified = connection.audit()?.verify(VerifyAuditRequest {}).await.map_err(|s| of_status(&s))?.into_inner();
    Ok(Seen {
        sessions: sessions::list(connection, sessions::Of::default(), None).await?,
        tickets: tickets::list(connection, tickets::Filter::default()).await?,
        charging_points: charging_points::list(connection, String::new(), None).await?,
        meters_wh,
        audit_intact: verified.intact,
    })
}

fn report(running: &Running, findings: &Findings) -> anyhow::Result<()> {
    if running.config.json {
        line(&serde_json::to_string(findings)?)?;
    } else {
        let stream = &running.network.supervisor.stream;
        stream.up(format!(
            "{} sessions, {} tickets: {} Wh billed + {} Wh disputed + {} Wh discrepancies; meters {} Wh",
            findings.sessions,
            findings.tickets,
            findings.billed_wh,
            findings.disputed_wh,
            findings.discrepancy_wh,
            findings.meters_wh
        ));
        for wrong in &findings.wrong {
            stream.up(format!("WRONG: {wrong}"));
        }
    }
    anyhow::ensure!(findings.wrong.is_empty(), "the books do not hold after the chaos: {}", findings.wrong.join("; "));
    running.network.supervisor.stream.up("every invariant holds");
    Ok(())
}
