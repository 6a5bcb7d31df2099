//! How much can have been supplied, and how much of it is paid for (SPEC 3.8a). Time is Central's own, so that neither an
//! engine's clock nor a wall clock that jumps changes a bill.

use std::time::{Duration, Instant};

use mesh::clock::Now;
use proto::Energy;

use super::Session;
use crate::settings::CentralSettings;

/// A value may come so much later than it was measured: two signs of life are missed before a link is given up.
const LATE: Duration = Duration::from_secs(5);
/// What is rounded, by the meter and by the clocks.
const ROUNDED: Duration = Duration::from_secs(1);

/// When something happened to a session, on Central's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CentralTimes {
    /// No energy flowed before.
    pub authorised: Instant,
    /// When the last accepted value came. As early as `authorised` where no value came to this process.
    pub metered: Instant,
    /// When it began to settle.
    pub settled: Option<Instant>,
}

impl CentralTimes {
    pub fn authorised(at: Instant) -> Self {
        Self { authorised: at, metered: at, settled: None }
    }

    /// Authorised by an earlier process, whose wall clock said so: its own clock does not run here.
    pub fn of_earlier_process(authorised_ms: i64, now: Now) -> Self {
        Self::authorised(ago(now.wall_ms.saturating_sub(authorised_ms), now))
    }

    /// It began to settle when the wall clock of an earlier process said so.
    pub fn settled_ago(self, ms: i64, now: Now) -> Self {
        Self { settled: Some(ago(ms, now)), ..self }
    }
}

/// So long before now.
fn ago(ms: i64, now: Now) -> Instant {
    now.mono.checked_sub(Duration::from_millis(ms.max(0).unsigned_abs())).unwrap_or(now.mono)
}

/// What a charging point can supply.
#[derive(Clone, Copy, Debug)]
pub struct EnergyLimit {
    power_w: u64,
    /// Within which a stop reaches its engine.
    grace: Duration,
}

impl EnergyLimit {
    /// `rated_w`: the charging point's rated power, 0 where none is set.
    pub fn new(rated_w: u32, settings: &CentralSettings) -> Self {
        let power_w = if rated_w == 0 { settings.max_power_w } else { rated_w };
        let power_w = u64::from(power_w).saturating_mul(settings.simulated_speed.into());
        Self { power_w, grace: settings.stop_timeout }
    }

    pub fn power_w(self) -> u32 {
        u32::try_from(self.power_w).unwrap_or(u32::MAX)
    }

    /// Rounded down: in the driver's favour by less than a watt-hour.
    fn within(self, time: Duration) -> Energy {
        let wh = u128::from(self.power_w) * time.as_millis() / 3_600_000;
        Energy::from_wh(u64::try_from(wh).unwrap_or(u64::MAX))
    }
}

impl Session {
    /// The highest value that the register can have reached by `until`, having begun at `start`.
    pub(super) fn reachable(&self, start: Energy, limit: EnergyLimit, until: Instant) -> Energy {
        let since = |at: Instant, more| limit.within(until.saturating_duration_since(at) + more);
        let from = |meter: Energy, energy: Energy| Energy::from_wh(meter.wh().saturating_add(energy.wh()));
        let since_start = from(start, since(self.times.authorised, ROUNDED));
        since_start.min(from(start.max(self.meter_last), since(self.times.metered, LATE)))
    }

    /// Until when energy flowed that anybody wanted: until a stop that was ordered had reached the engine.
    pub(super) fn wanted_until(&self, limit: EnergyLimit, now: Now) -> Instant {
        let stopped = self.times.settled.filter(|_| self.was_ordered()).map(|settled| settled + limit.grace);
        stopped.map_or(now.mono, |stopped| stopped.min(now.mono))
    }

    /// The most that is paid for: what was asked for, and 2 % of it, at least 100 Wh, since no stop is exact.
    pub(super) fn most_billed(&self) -> Energy {
        let requested = self.requested.wh();
        let tolerance = (requested / 50).max(100);
        Energy::from_wh(if requested == 0 { u64::MAX } else { requested.saturating_add(tolerance) })
    }
}
