//! Carries out `up --chaos SEED` (SPEC 9.2): injects the faults that `chaos` decides, undoes each when its time is over,
//! waits until every session is settled, and checks the invariants.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use mesh::{
    control::{self, ControlRequest},
    process::Context,
};
use proto::central::v1::VerifyAuditRequest;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    RunningNetwork,
    chaos::{Chaos, Fault, FaultKind, both_of},
    fault_proxy::{FaultProxy, ProxyMode},
    invariants::{self, Findings, NetworkSnapshot},
    process::ProcessCommand,
    supervisor::{Supervisor, is_driver},
};
use crate::{
    failure::of_status,
    operator::{charging_points, sessions, tickets},
    output::line,
};

/// Every engine comes back here; only one that never reported again would make Central wait for its 15 minutes.
const SETTLED_WITHIN: Duration = Duration::from_secs(180);

pub(super) async fn run(running: &RunningNetwork, ctx: &Context, seed: u64) -> anyhow::Result<()> {
    let stream = &running.network.supervisor.stream;
    stream.up(format!("chaos with seed {seed} for {:?}", running.config.chaos_for));
    let until = ctx.clock.mono() + running.config.chaos_for;
    let mut chaos = Chaos::seeded(seed);
    let mut count = 0;
    let injector = FaultInjector {
        supervisor: running.network.supervisor.clone(),
        fault_proxy: running.network.fault_proxy.clone(),
    };
    let mut undoing = JoinSet::new();
    // The supervisor names them in a fixed order, so that the same seed gives the same faults.
    let processes: Vec<String> =
        running.network.supervisor.names(|_| true).await.iter().map(ToString::to_string).collect();
    while ctx.clock.mono() < until && !ctx.stop.is_cancelled() {
        let Some(fault) = chaos.next(&processes) else { break };
        if ctx.stop.run_until_cancelled(tokio::time::sleep(fault.after)).await.is_none() {
            break;
        }
        count += 1;
        stream.up(format!("chaos {fault}"));
        if let Err(why) = injector.inject(&fault).await {
            stream.up(why);
        } else if let Some(time) = fault.kind.duration() {
            undoing.spawn(injector.clone().undo_after(time, fault));
        }
    }
    if ctx.stop.run_until_cancelled(undoing.join_all()).await.is_none() {
        return Ok(());
    }
    stream.up(format!("chaos is over after {count} faults; waiting until everything is settled"));
    let findings = settle(running, ctx).await?;
    report(running, &findings)
}

/// What faults are injected with: signals to processes, and the proxy between them.
#[derive(Clone)]
struct FaultInjector {
    supervisor: Supervisor,
    fault_proxy: FaultProxy,
}

impl FaultInjector {
    async fn inject(&self, Fault { process, kind, .. }: &Fault) -> Result<(), String> {
        let command = match *kind {
            FaultKind::Kill => ProcessCommand::Kill,
            FaultKind::KillBoth => {
                let [engine, monitor] = both_of(process);
                let both = tokio::join!(
                    self.supervisor.command(&engine, ProcessCommand::Kill),
                    self.supervisor.command(&monitor, ProcessCommand::Kill)
                );
                return both.0.and(both.1);
            }
            FaultKind::Restart => ProcessCommand::Restart,
            FaultKind::Freeze(_) => ProcessCommand::Pause,
            FaultKind::Cut(_) => return self.fault_proxy.set(process, ProxyMode::Cut),
            FaultKind::Silence(_) => return self.fault_proxy.set(process, ProxyMode::Silent),
            FaultKind::FillDisk(_, room) => ProcessCommand::FillDisk(room),
        };
        self.supervisor.command(process, command).await
    }

    async fn undo_after(self, time: Duration, Fault { process, kind, .. }: Fault) {
        tokio::time::sleep(time).await;
        let ended = match kind {
            FaultKind::Kill | FaultKind::KillBoth | FaultKind::Restart => Ok(()),
            FaultKind::Freeze(_) => self.supervisor.command(&process, ProcessCommand::Continue).await,
            FaultKind::Cut(_) | FaultKind::Silence(_) => self.fault_proxy.set(&process, ProxyMode::Open),
            FaultKind::FillDisk(..) => self.supervisor.command(&process, ProcessCommand::FreeDisk).await,
        };
        if let Err(why) = ended {
            self.supervisor.stream.up(why);
        }
    }
}

/// Ends the drivers, so that nothing new is requested, waits until every session is settled, and reads the books.
async fn settle(running: &RunningNetwork, ctx: &Context) -> anyhow::Result<Findings> {
    // The longest back-off: the process that died last has restarted, and drivers have their answers.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let drivers = running.network.supervisor.names(is_driver).await;
    running.network.supervisor.end(&drivers, false).await;
    let until = ctx.clock.mono() + SETTLED_WITHIN;
    let mut findings = Findings::default();
    while ctx.clock.mono() < until && !ctx.stop.is_cancelled() {
        match snapshot(running).await {
            Ok(seen) if invariants::is_settled(&seen.sessions) => {
                findings = invariants::check(&seen);
                if findings.violations.is_empty() {
                    return Ok(findings);
                }
            }
            Ok(seen) => {
                let open = seen.sessions.iter().filter(|s| !invariants::is_settled(std::slice::from_ref(*s)));
                findings.violations =
                    open.map(|s| format!("session {} at {} never ended", s.id, s.charging_point_id)).collect();
            }
            // A process is still restarting.
            Err(error) => findings.violations = vec![format!("{error:#}")],
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(findings)
}

async fn snapshot(running: &RunningNetwork) -> anyhow::Result<NetworkSnapshot> {
    let connection = &running.network.connection;
    let mut meters_wh = BTreeMap::new();
    for point in &running.plan.lock().await.charging_points {
        let socket = running.network.layout.socket(&format!("{}/engine", point.id));
        let status = control::ask(&socket, &ControlRequest::new("status", Value::Null)).await;
        let status = status.with_context(|| format!("the engine of {} does not answer", point.id))?;
        let unsettled = status.get("unsettled").and_then(Value::as_u64).unwrap_or(0);
        anyhow::ensure!(unsettled == 0, "{} has {unsettled} sessions that Central has not settled", point.id);
        let meter = status.get("meter_wh").and_then(Value::as_u64).context("an engine without a meter")?;
        meters_wh.insert(point.id.to_string(), meter);
    }
    let verified = connection.audit()?.verify(VerifyAuditRequest {}).await.map_err(|s| of_status(&s))?.into_inner();
    Ok(NetworkSnapshot {
        sessions: sessions::list(connection, sessions::WhoseArgs::default(), None).await?,
        tickets: tickets::list(connection, tickets::TicketFilterArgs::default()).await?,
        charging_points: charging_points::list(connection, String::new(), None).await?,
        meters_wh,
        audit_intact: verified.intact,
    })
}

fn report(running: &RunningNetwork, findings: &Findings) -> anyhow::Result<()> {
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
        for violation in &findings.violations {
            stream.up(format!("VIOLATED: {violation}"));
        }
    }
    anyhow::ensure!(
        findings.violations.is_empty(),
        "the invariants do not hold after the chaos: {}",
        findings.violations.join("; ")
    );
    running.network.supervisor.stream.up("every invariant holds");
    Ok(())
}
