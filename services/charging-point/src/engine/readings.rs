//! Readings for Central: a bounded number waits while Central cannot be reached, and is sent in small portions once it
//! can be (SPEC 5.2, 5.4).

use std::time::Instant;

use mesh::clock::Now;
use proto::link::v1::{Reading, up};

use crate::meter::Sample;

use super::Engine;

impl Engine {
    pub(super) fn record_idle_reading(&mut self, now: Now) {
        let meter_wh = self.register_wh();
        let sample = Sample { voltage_mv: 230_000, temperature_dc: 250, ..Sample::default() };
        self.record_reading(String::new(), meter_wh, sample, now);
    }

    pub(super) fn record_reading(&mut self, session_id: String, meter_wh: u64, sample: Sample, now: Now) {
        if self.identity.is_none() {
            return;
        }
        self.sequence += 1;
        if self.readings.len() >= self.settings.readings_kept.max(1) {
            self.readings.pop_front();
        }
        self.readings.push_back(Reading {
            sequence: self.sequence,
            at_ms: now.wall_ms,
            session_id,
            meter_wh,
            power_w: sample.power_w,
            current_ma: sample.current_ma,
            voltage_mv: sample.voltage_mv,
            state_of_charge_permille: sample.charge_permille,
            temperature_dc: sample.temperature_dc,
        });
        self.send_readings(now);
    }

    /// Sends one portion, so that the readings of an outage do not delay the messages that decide something. A reading is
    /// sealed when it is sent, under the key that Central uses at that time.
    pub(super) fn send_readings(&mut self, now: Now) {
        self.readings_at = now.mono + self.settings.meter_value;
        for _ in 0..self.settings.readings_at_once.max(1) {
            let (Some(sealer), true) = (&mut self.sealer, self.uplink.is_reachable()) else { return };
            let Some(reading) = self.readings.pop_front() else { return };
            match sealer.seal(&reading) {
                Ok(sealed) => {
                    self.uplink.sample(up::Body::Reading(sealed));
                }
                Err(error) => tracing::warn!(%error, "a reading could not be sealed"),
            }
        }
    }

    /// When to send the next portion; nothing while no reading waits or Central cannot be reached.
    pub(super) fn readings_due(&self) -> Option<Instant> {
        let can_go = !self.readings.is_empty() && self.sealer.is_some() && self.uplink.is_reachable();
        can_go.then_some(self.readings_at)
    }

    pub(super) fn send_waiting_readings(&mut self, now: Now) {
        if self.readings_due().is_some_and(|at| at <= now.mono) {
            self.send_readings(now);
        }
    }
}
