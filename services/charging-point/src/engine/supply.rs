//! From the plug to the final value: what a person does at the charging point, and what time does to a session.

use mesh::{clock::Now, peer::Slot};
use proto::{
    Energy,
    link::v1::{ManualSupply, MeterValue, Reason, SupplyEnded, SupplyStarted, up},
};
use rand::Rng as _;

use crate::{
    journal_state::{EndEntry, JournalEntry, RegisterEntry, StartEntry},
    meter::{Meter, Profile, Sample},
};

use super::{
    Engine, EngineCommand, Manual,
    session::{MeteredSupply, SessionPhase},
};

impl Engine {
    // ---- A person

    pub(super) fn plug(&mut self, now: Now) -> Result<(), String> {
        if self.plugged {
            return Err("it is plugged in already".to_owned());
        }
        self.plugged = true;
        self.begin_if_plugged(now);
        match &self.session {
            Some(session) if matches!(session.phase, SessionPhase::Reserved { .. }) => {
                self.may_begin().map_err(|why| format!("plugged in, but nothing flows: {why}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn unplug(&mut self, now: Now) -> Result<(), String> {
        if !self.plugged {
            return Err("it is not plugged in".to_owned());
        }
        self.plugged = false;
        if !self.is_reserved() {
            self.end_session(Reason::Unplugged, now);
        }
        Ok(())
    }

    pub(super) fn manual_supply(&mut self, driver: String, energy: Energy, now: Now) -> Result<(), String> {
        self.may_begin()?;
        if let Some(session) = &self.session {
            return Err(format!("session {} is not over yet", session.id));
        }
        if self.manual.is_some() {
            return Err("a manual supply waits for Central's answer already".to_owned());
        }
        if !driver.is_empty() && driver.parse::<proto::DriverId>().is_err() {
            return Err(format!("{driver:?} is not a driver's id"));
        }
        let request_id = format!("manual-{:x}-{:08x}", now.wall_ms, self.rng.random::<u32>());
        self.manual = Some(Manual { request_id: request_id.clone(), until: now.mono + self.settings.manual_wait });
        let supply = ManualSupply { request_id, driver_id: driver, energy_wh: energy.wh() };
        self.uplink.request(up::Body::ManualSupply(supply), now.mono);
        Ok(())
    }

    pub(super) fn break_down(&mut self, why: &str, now: Now) -> Result<(), String> {
        if self.fault.is_some() {
            return Err("it is broken already".to_owned());
        }
        self.fault = Some(why.to_owned());
        if !self.is_reserved() {
            self.end_session(Reason::Fault, now);
        }
        Ok(())
    }

    pub(super) fn repair(&mut self, now: Now) -> Result<(), String> {
        if self.fault.take().is_none() {
            return Err("it is not broken".to_owned());
        }
        self.begin_if_plugged(now);
        Ok(())
    }

    pub(super) fn spoil(&mut self, on: bool, now: Now) -> Result<(), String> {
        if !self.settings.drills {
            return Err("drills are off; start the engine with --drills".to_owned());
        }
        if self.spoiled == on {
            return Err(if on { "the keys are spoiled already" } else { "the keys are not spoiled" }.to_owned());
        }
        self.spoiled = on;
        match (&mut self.sealer, on) {
            (Some(sealer), true) => sealer.spoil(),
            (Some(sealer), false) => sealer.repair(),
            (None, _) => {}
        }
        if let Some(link) = self.uplink.link() {
            self.out.push_back(EngineCommand::Spoil { link, on });
        }
        if !on {
            // Its answer shows both ends that they read each other again.
            self.uplink.owe(Slot::JournalReport, now.mono);
        }
        Ok(())
    }

    // ---- Begin

    /// Why nothing can begin now.
    pub(super) fn may_begin(&self) -> Result<(), String> {
        if let Some(why) = self.fault_reason() {
            return Err(format!("the charging point is broken: {why}"));
        }
        if !self.paired {
            return Err(format!("the monitor is gone: {}", self.unpaired));
        }
        if let Some(withdrawn) = &self.withdrawn {
            return Err(format!("there is no valid key: {}", withdrawn.reason().in_words()));
        }
        if !self.uplink.is_reachable() {
            return Err("cannot reach Central".to_owned());
        }
        Ok(())
    }

    pub(super) fn begin_if_plugged(&mut self, now: Now) {
        if !self.plugged || self.may_begin().is_err() {
            return;
        }
        let register = self.register_wh();
        let charging_point_id = self.identity.as_ref().map(|i| i.id.clone()).unwrap_or_default();
        let Some(session) = self.session.as_ref().filter(|s| matches!(s.phase, SessionPhase::Reserved { .. })) else {
            return;
        };
        let started = StartEntry {
            session_id: session.id.clone(),
            charging_point_id,
            driver_id: session.driver.clone(),
            meter_start_wh: register,
            at_ms: now.wall_ms,
            authorisation: session.authorisation.clone(),
        };
        let body = SupplyStarted { session_id: session.id.clone(), meter_start_wh: register, at_ms: now.wall_ms };
        let number = self.record(JournalEntry::Started(started), true);
        self.journal.hold_until_written(number, up::Body::SupplyStarted(body));
        if let Some(session) = &mut self.session {
            session.phase = SessionPhase::Starting { number, meter_start_wh: register, at_ms: now.wall_ms };
        }
    }

    pub(super) fn written(&mut self, upto: u64, now: Now) {
        self.journal.written(upto);
        if self.journal.interrupted_end_written() {
            // A link that was faster than the disk has heard of a supply that goes on.
            self.uplink.owe(Slot::JournalReport, now.mono);
        }
        self.start_energy(now);
        self.begin_if_plugged(now);
    }

    /// The start is in the journal: energy flows.
    fn start_energy(&mut self, now: Now) {
        let settings = &self.settings;
        let Some(session) = &mut self.session else { return };
        let SessionPhase::Starting { number, meter_start_wh, at_ms } = session.phase else { return };
        if !self.journal.is_written(number) {
            return;
        }
        let profile = self.next_profile.take().unwrap_or_else(|| Profile::Battery(settings.battery.clone()));
        let meter = Meter::start(profile, session.limit, settings.speed, now.mono);
        let unplug_at = settings
            .unattended
            .filter(|_| session.limit == Energy::ZERO && meter.ends_at().is_none())
            .map(|u| now.mono + settings.speed.real(u.charge_for));
        session.phase = SessionPhase::Supplying(Box::new(MeteredSupply {
            meter,
            meter_start_wh,
            at_ms,
            sample: Sample::default(),
            unplug_at,
            tick_at: now.mono,
            value_at: now.mono + settings.meter_value,
            register_at: now.mono + settings.register,
            sync_at: now.mono + settings.register_sync,
        }));
    }

    // ---- Time

    pub(super) fn advance_session(&mut self, now: Now) {
        match self.session.as_mut().map(|s| &mut s.phase) {
            Some(SessionPhase::Reserved { until, plug_at }) => {
                if *until <= now.mono {
                    return self.expire_reservation();
                }
                if plug_at.is_some_and(|at| at <= now.mono) {
                    *plug_at = None;
                    self.plugged = true;
                    self.begin_if_plugged(now);
                }
            }
            Some(SessionPhase::Supplying(_)) => self.read_meter(now),
            Some(SessionPhase::Starting { .. }) | None => {}
        }
    }

    fn expire_reservation(&mut self) {
        self.session = None;
        self.notice = Some("the reservation expired".to_owned());
        self.unplug_if_unattended();
    }

    /// One look at the meter: the value for Central, the register for the journal, and whether it is over.
    fn read_meter(&mut self, now: Now) {
        let (value, register, sync) = (self.settings.meter_value, self.settings.register, self.settings.register_sync);
        let Some(session) = &mut self.session else { return };
        let limit = session.limit;
        let SessionPhase::Supplying(running) = &mut session.phase else { return };
        running.sample = running.meter.advance(now.mono);
        running.tick_at = now.mono;
        let over = if running.meter.limit_met() {
            Some(Reason::EnergyReached)
        } else if running.meter.ends_at().is_some_and(|at| at <= now.mono) {
            Some(if limit > Energy::ZERO { Reason::TimeReached } else { Reason::Unplugged })
        } else {
            running.unplug_at.filter(|at| *at <= now.mono).map(|_| Reason::TimeReached)
        };
        if let Some(reason) = over {
            return self.end_session(reason, now);
        }
        let meter_wh = running.meter_start_wh + running.sample.energy.wh();
        let (session_id, power_w) = (session.id.clone(), running.sample.power_w);
        let says = running.value_at <= now.mono;
        if says {
            running.value_at = (running.value_at + value).max(now.mono);
        }
        // What is said is kept first, or a killed engine would come back with less than Central has accepted.
        let (keeps, syncs) = (says || running.register_at <= now.mono, running.sync_at <= now.mono);
        if keeps {
            running.register_at = (running.register_at + register).max(now.mono);
        }
        if syncs {
            running.sync_at = (running.sync_at + sync).max(now.mono);
        }
        let sample = running.sample;
        if !keeps {
            return;
        }
        let number = self.record(JournalEntry::Register(RegisterEntry { meter_wh, at_ms: now.wall_ms }), syncs);
        if says {
            let value = MeterValue { session_id: session_id.clone(), meter_wh, power_w };
            self.journal.hold_value_until_written(number, up::Body::MeterValue(value));
            self.record_reading(session_id, meter_wh, sample, now);
            self.reported = None;
        }
    }

    // ---- End

    /// Ends what there is: a reservation without a trace, a supply with its final value.
    pub(super) fn end_session(&mut self, reason: Reason, now: Now) {
        let Some(session) = self.session.take() else { return };
        self.journal.discard_values();
        let (meter_start_wh, meter_end_wh, started_at_ms, last) = match session.phase {
            SessionPhase::Reserved { .. } => {
                return self.unplug_if_unattended();
            }
            SessionPhase::Starting { meter_start_wh, at_ms, .. } => (meter_start_wh, meter_start_wh, at_ms, None),
            SessionPhase::Supplying(mut running) => {
                let sample = running.meter.advance(now.mono);
                let end = running.meter_start_wh + sample.energy.wh();
                (running.meter_start_wh, end, running.at_ms, Some(sample))
            }
        };
        if let Some(sample) = last {
            self.record_reading(session.id.clone(), meter_end_wh, sample, now);
        }
        // The clock on the wall may have been set back meanwhile; an end is never before its start.
        let at_ms = now.wall_ms.max(started_at_ms);
        let session_id = session.id;
        let ended = EndEntry { session_id: session_id.clone(), meter_end_wh, reason: reason.into(), at_ms };
        let number = self.record(JournalEntry::Ended(ended), true);
        let body = SupplyEnded {
            session_id,
            meter_start_wh,
            meter_end_wh,
            reason: reason.into(),
            started_at_ms,
            ended_at_ms: at_ms,
        };
        self.journal.hold_until_written(number, up::Body::SupplyEnded(body));
        self.notice = Some(format!("supply over: {}", reason.in_words()));
        self.unplug_if_unattended();
    }

    /// An unattended vehicle does not stay.
    fn unplug_if_unattended(&mut self) {
        if self.settings.unattended.is_some() {
            self.plugged = false;
        }
    }

    // ---- Looks

    /// Authorised and not begun: that is Central's to release.
    fn is_reserved(&self) -> bool {
        matches!(self.session.as_ref().map(|s| &s.phase), Some(SessionPhase::Reserved { .. }))
    }

    pub(super) fn supplying(&self) -> Option<&MeteredSupply> {
        match self.session.as_ref().map(|s| &s.phase) {
            Some(SessionPhase::Supplying(running)) => Some(running),
            Some(SessionPhase::Reserved { .. } | SessionPhase::Starting { .. }) | None => None,
        }
    }

    /// The lifetime register now.
    pub(super) fn register_wh(&self) -> u64 {
        self.supplying().map_or(self.journal.state().register.meter_wh, |r| r.meter_start_wh + r.sample.energy.wh())
    }
}
