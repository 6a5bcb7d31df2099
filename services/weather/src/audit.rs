//! What operators ordered of Weather, handed on to Central's audit (SPEC 8.1). Entries wait while Central is away.

use std::time::Duration;

use mesh::{client::Channel, process::Context};
use proto::{
    central::v1::{AppendAuditRequest, AuditEntry, audit_client::AuditClient},
    struct_of, timestamp,
};
use tokio::sync::mpsc;

/// The texts of the actions.
pub(crate) const ACTIONS: &[&str] =
    &[CITY_ADDED, CITY_REMOVED, DRILL_BEGUN, DRILL_ENDED, POLICY_SET, SUSPENDED, RESUMED];
pub(crate) const CITY_ADDED: &str = "WEATHER_CITY_ADDED";
pub(crate) const CITY_REMOVED: &str = "WEATHER_CITY_REMOVED";
pub(crate) const DRILL_BEGUN: &str = "WEATHER_DRILL_BEGUN";
pub(crate) const DRILL_ENDED: &str = "WEATHER_DRILL_ENDED";
pub(crate) const POLICY_SET: &str = "WEATHER_POLICY_SET";
pub(crate) const SUSPENDED: &str = "WEATHER_SUSPENDED";
pub(crate) const RESUMED: &str = "WEATHER_RESUMED";

/// Entries that may wait for Central; further orders are refused until there is room.
const WAITING: usize = 1_000;
const BATCH: usize = 100;
const AGAIN: Duration = Duration::from_secs(1);

/// Where an order that was carried out is noted.
#[derive(Clone, Debug)]
pub(crate) struct WeatherAudit(mpsc::Sender<AuditEntry>);

impl WeatherAudit {
    /// Room for one entry, taken before the order is carried out; nothing where too many wait.
    pub(crate) fn room(&self) -> Option<mpsc::Permit<'_, AuditEntry>> {
        self.0.try_reserve().ok()
    }
}

/// Starts to hand entries on.
pub(crate) fn start(ctx: &Context, central: Channel) -> WeatherAudit {
    let (sender, mut inbox) = mpsc::channel(WAITING);
    let (mut central, stop) = (AuditClient::new(central), ctx.stop.clone());
    // Numbers of this process, told apart from those of any other by its start.
    let start = ctx.clock.wall_ms();
    ctx.spawn("audit", async move {
        let mut batch = Vec::new();
        let forward = async {
            for number in 0_u64.. {
                if inbox.recv_many(&mut batch, BATCH).await == 0 {
                    return;
                }
                let request_id = format!("weather/{start}-{}/{number}", std::process::id());
                let request = AppendAuditRequest { request_id, entries: std::mem::take(&mut batch) };
                while let Err(status) = central.append(request.clone()).await {
                    tracing::debug!(why = status.message(), "audit entries wait for Central");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        stop.run_until_cancelled(forward).await;
        Ok(())
    });
    WeatherAudit(sender)
}

/// An entry about an order that was carried out.
pub(crate) fn entry(
    (actor, address): (&str, &str),
    (action, object): (&str, String),
    parameters: &serde_json::Value,
    now_ms: i64,
) -> AuditEntry {
    AuditEntry {
        time: timestamp(now_ms),
        actor: actor.to_owned(),
        address: address.to_owned(),
        action: action.to_owned(),
        object,
        parameters: Some(struct_of(&parameters.to_string())),
        outcome: "ok".to_owned(),
        ..AuditEntry::default()
    }
}
