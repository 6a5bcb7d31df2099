//! Frost in the whole network: how much of it is blocked, and whether Weather is heard (SPEC 6.4, 6.5).

use std::{sync::Arc, time::Duration};

use mesh::process::Context;
use prometheus_client::metrics::gauge::Gauge;
use proto::central::v1::Cause;

use crate::{
    audit::{AuditAction, AuditRecord},
    origin::Origin,
    shared::SharedState,
};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many charging points are blocked by frost, and how many there are.
pub(crate) fn blocked(shared: &SharedState) -> (usize, usize) {
    let all = shared.points.all();
    let frozen = all.iter().filter(|(_, point)| point.causes.contains(&i32::from(Cause::Weather))).count();
    (frozen, all.len())
}

/// Says whether Weather is silent, and raises the alarm where frost blocks more than half of the network.
pub(crate) async fn watch_frost(shared: Arc<SharedState>, ctx: Context) {
    let gauge = ctx.metrics.register(
        "charging_points_blocked_by_weather",
        "Charging points that frost blocks",
        Gauge::<i64>::default(),
    );
    let (component, mut alarmed) = (ctx.health.component("weather"), false);
    while ctx.stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        let now = shared.clock.now();
        let trouble = shared.conditions.lock().trouble(shared.settings.weather_silence, now);
        let (frozen, all) = blocked(&shared);
        gauge.set(i64::try_from(frozen).unwrap_or(i64::MAX));
        let alarm = (frozen * 2 > all).then(|| format!("ALARM: frost blocks {frozen} of {all} charging points"));
        if let Some(alarm) = alarm.as_ref().filter(|_| !alarmed) {
            tracing::error!(alarm = true, "{alarm}");
            let entry = AuditRecord::new(AuditAction::WeatherAlarm, "weather").with("blocked", frozen).with("of", all);
            shared.audit(None, &entry.by(&Origin::central(), now));
        }
        alarmed = alarm.is_some();
        let said: Vec<_> = alarm.into_iter().chain(trouble).collect();
        if said.is_empty() { component.ready() } else { component.degraded(said.join("; ")) }
    }
}
