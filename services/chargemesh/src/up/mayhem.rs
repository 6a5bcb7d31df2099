//! `--chaos SEED` (SPEC 9.2): what `chaos` decides is done to the running network; what lasts is ended again; then
//! everything comes to rest, and the invariants are asked for.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use mesh::{
    control::{self, Request},
    process::Context,
};
use proto::central::v1::VerifyAuditRequest;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    Running,
    chaos::{self, Act, Chaos, both_of},
    invariants::{self, Findings, Seen},
    lines::{Condition, Lines},
    part::Deed,
    supervisor::{Supervisor, is_driver},
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
    let hands = Hands { supervisor: running.network.supervisor.clone(), lines: running.network.lines.clone() };
    let mut lasting = JoinSet::new();
    // In an order of their own, so that the same seed does the same.
    let parts: Vec<String> = running.network.supervisor.names(|_| true).await.iter().map(ToString::to_string).collect();
    while ctx.clock.mono() < until && !ctx.stop.is_cancelled() {
        let Some(deed) = chaos.next(&parts) else { break };
        if ctx.stop.run_until_cancelled(tokio::time::sleep(deed.after)).await.is_none() {
            break;
        }
        deeds += 1;
        stream.up(format!("chaos {deed}"));
        if let Err(why) = hands.act(&deed).await {
            stream.up(why);
        } else if let Some(how_long) = deed.act.lasts() {
            lasting.spawn(hands.clone().end_after(how_long, deed));
        }
    }
    if ctx.stop.run_until_cancelled(lasting.join_all()).await.is_none() {
        return Ok(());
    }
    stream.up(format!("chaos is over after {deeds} deeds; waiting until everything is settled"));
    let findings = rest(running, ctx).await?;
    report(running, &findings)
}

/// What the deeds are done with.
#[derive(Clone)]
struct Hands {
    supervisor: Supervisor,
    lines: Lines,
}

impl Hands {
    async fn act(&self, chaos::Deed { part, act, .. }: &chaos::Deed) -> Result<(), String> {
        let deed = match *act {
            Act::Kill => Deed::Kill,
            Act::KillBoth => {
                let [engine, monitor] = both_of(part);
                let both =
                    tokio::join!(self.supervisor.deed(&engine, Deed::Kill), self.supervisor.deed(&monitor, Deed::Kill));
                return both.0.and(both.1);
            }
            Act::Restart => Deed::Restart,
            Act::Freeze(_) => Deed::Pause,
            Act::Cut(_) => return self.lines.set(part, Condition::Cut),
            Act::Silence(_) => return self.lines.set(part, Condition::Silent),
            Act::FillDisk(_, room) => Deed::FillDisk(room),
        };
        self.supervisor.deed(part, deed).await
    }

    async fn end_after(self, how_long: Duration, chaos::Deed { part, act, .. }: chaos::Deed) {
        tokio::time::sleep(how_long).await;
        let ended = match act {
            Act::Kill | Act::KillBoth | Act::Restart => Ok(()),
            Act::Freeze(_) => self.supervisor.deed(&part, Deed::Continue).await,
            Act::Cut(_) | Act::Silence(_) => self.lines.set(&part, Condition::Sound),
            Act::FillDisk(..) => self.supervisor.deed(&part, Deed::FreeDisk).await,
        };
        if let Err(why) = ended {
            self.supervisor.stream.up(why);
        }
    }
}

/// Drivers ask for nothing new; what runs ends; then the books are read.
async fn rest(running: &Running, ctx: &Context) -> anyhow::Result<Findings> {
    // The longest back-off: what died last is back, and drivers have heard what they asked for.
    tokio::time::sleep(Duration::from_secs(5)).await;
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
