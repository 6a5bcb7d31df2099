//! The engine's rules: plug, meter, supply, fault, and what Central and the monitor may ask of it (SPEC 1.4, 3, 4.9).
//!
//! Pure: inputs and the time go in, commands come out.
//!
//! Guarantees: energy flows only for a session that Central authorised, and only once its start is in the journal; the
//! final value of a session is in the journal before it is sent, and is sent until answered; a running supply needs
//! neither monitor nor Central to finish; nothing new begins without both.

pub mod event_loop;
mod journal_queue;
mod orders;
mod readings;
mod session;
mod status;
mod supply;
#[cfg(test)]
mod tests;

pub use journal_queue::JournalQueue;
pub use status::{EngineMetrics, EngineStatus};

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mesh::{
    clock::Now,
    peer::{LinkCommand, LinkEvent, LinkNo, LinkTarget, Peer, PeerEvent, PeerSettings, StoredKey, public_keys},
};
use proto::{
    Energy,
    link::v1::{
        Assignment, EngineReport, FromEngine, FromMonitor, KeyState, KeyStored, KeyWithdrawn, Part, Reading, Reason,
        SessionState, View, from_engine, from_monitor, up,
    },
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use wire::telemetry::Sealer;

use crate::{
    journal_state::{JournalEntry, JournalRecord, JournalState},
    meter::{Battery, Profile, Speed},
};
use session::EngineSession;

/// What an engine is told before it starts.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    pub unattended: Option<Unattended>,
    pub battery: Battery,
    /// Of meter and plug alone.
    pub speed: Speed,
    /// How often the meter is looked at, so how late an end is noticed.
    pub tick: Duration,
    /// How often the meter value goes to Central while supplying.
    pub meter_value: Duration,
    /// How often a reading is sent while nothing is supplied.
    pub idle_reading: Option<Duration>,
    /// How often the register is journalled while supplying.
    pub register: Duration,
    /// How often that is synced, so that it survives a loss of power as well.
    pub register_sync: Duration,
    /// Readings kept while Central cannot be reached.
    pub readings_kept: usize,
    /// Of them, sent at a time when it is back; the next as many after `meter_value`.
    pub readings_at_once: usize,
    /// Whether keys may be spoiled on purpose.
    pub drills: bool,
    /// How long a manual supply waits for Central's word.
    pub manual_wait: Duration,
    pub peer: PeerSettings,
    pub software: String,
}

/// Plugging in and out without a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unattended {
    pub plug_in_after: Duration,
    /// Where no energy was asked for.
    pub charge_for: Duration,
}

/// What a person at the charging point does, or a program for him.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineAction {
    Plug,
    Unplug,
    /// A manual supply: without a driver on the charging point's own account; zero energy: until unplugged.
    Supply {
        driver: String,
        energy: Energy,
    },
    Break,
    Repair,
    SpoilKey,
    RepairKey,
    /// What the next supply delivers, in place of a battery.
    Next(Profile),
}

#[derive(Debug)]
pub enum EngineInput {
    /// Paired with the monitor.
    Paired,
    /// The monitor is gone, or cannot be reached.
    Unpaired(String),
    Monitor(Box<FromMonitor>),
    Link(LinkNo, LinkEvent),
    /// Everything up to this number is in the journal.
    Written(u64),
    WriteFailed(String),
    Timeout,
}

#[derive(Debug)]
pub enum EngineCommand {
    Link(LinkCommand),
    /// To the monitor, if paired.
    Report(Box<FromEngine>),
    /// Append, answer with [`EngineInput::Written`] of `upto` or [`EngineInput::WriteFailed`]. One at a time.
    Write {
        records: Vec<JournalRecord>,
        upto: u64,
        durable: bool,
    },
    /// Spoils or repairs a link to Central.
    Spoil {
        link: LinkNo,
        on: bool,
    },
}

#[derive(Clone, Debug)]
struct Identity {
    id: String,
    key_no: u64,
    life_sign: Duration,
}

#[derive(Clone, Debug)]
struct Manual {
    request_id: String,
    until: Instant,
}

/// One engine.
#[derive(Debug)]
pub struct Engine {
    settings: EngineSettings,
    journal: JournalQueue,
    uplink: Peer,
    rng: StdRng,
    identity: Option<Identity>,
    withdrawn: Option<KeyWithdrawn>,
    paired: bool,
    /// Why it is not paired.
    unpaired: String,
    plugged: bool,
    fault: Option<String>,
    session: Option<EngineSession>,
    manual: Option<Manual>,
    next_profile: Option<Profile>,
    view: Option<View>,
    notice: Option<String>,
    /// As the monitor has it.
    reported: Option<EngineReport>,
    spoiled: bool,
    sealer: Option<Sealer>,
    stream_id: [u8; 16],
    sequence: u64,
    readings: VecDeque<Reading>,
    /// When the next portion of those that wait may go.
    readings_at: Instant,
    idle_reading_at: Option<Instant>,
    out: VecDeque<EngineCommand>,
}

impl Engine {
    /// `journal_state`: what the journal says. A session that it shows as running was cut off by the end of the process
    /// before; it ends here with what is known of it (SPEC 9, engine). `stream_id`: random, new at each start.
    pub fn new(
        settings: EngineSettings,
        journal_state: JournalState,
        stream_id: [u8; 16],
        mut rng: StdRng,
        now: Now,
    ) -> Self {
        let peer_rng = StdRng::seed_from_u64(rng.random());
        let uplink = Peer::new(Part::Engine, &settings.peer, journal_state.highest_epoch, peer_rng, now);
        let idle_reading_at = settings.idle_reading.map(|every| now.mono + every);
        let mut engine = Self {
            settings,
            journal: JournalQueue::new(journal_state),
            uplink,
            rng,
            identity: None,
            withdrawn: None,
            paired: false,
            unpaired: "not paired yet".to_owned(),
            plugged: false,
            fault: None,
            session: None,
            manual: None,
            next_profile: None,
            view: None,
            notice: None,
            reported: None,
            spoiled: false,
            sealer: None,
            stream_id,
            sequence: 0,
            readings: VecDeque::new(),
            readings_at: now.mono,
            idle_reading_at,
            out: VecDeque::new(),
        };
        engine.journal.end_interrupted_session(now.wall_ms);
        engine.flush(now);
        engine
    }

    pub fn handle(&mut self, input: EngineInput, now: Now) {
        match input {
            EngineInput::Paired => {
                self.paired = true;
                self.reported = None;
                self.begin_if_plugged(now);
            }
            EngineInput::Unpaired(why) => {
                self.paired = false;
                self.unpaired = why;
            }
            EngineInput::Monitor(message) => match message.body {
                Some(from_monitor::Body::Assignment(assignment)) => self.assigned(assignment, now),
                Some(from_monitor::Body::KeyWithdrawn(withdrawn)) => self.key_withdrawn(withdrawn, now),
                None => {}
            },
            EngineInput::Link(link, event) => self.uplink.handle(link, event, now),
            EngineInput::Written(upto) => self.written(upto, now),
            EngineInput::WriteFailed(why) => self.journal.write_failed(why, now.mono),
            EngineInput::Timeout => self.timeout(now),
        }
        self.heed_uplink(now);
        self.flush(now);
    }

    /// What a person wants, at once or not at all.
    pub fn act(&mut self, action: EngineAction, now: Now) -> Result<(), String> {
        let done = match action {
            EngineAction::Plug => self.plug(now),
            EngineAction::Unplug => self.unplug(now),
            EngineAction::Supply { driver, energy } => self.manual_supply(driver, energy, now),
            EngineAction::Break => self.break_down("broken by hand", now),
            EngineAction::Repair => self.repair(now),
            EngineAction::SpoilKey => self.spoil(true, now),
            EngineAction::RepairKey => self.spoil(false, now),
            EngineAction::Next(profile) => {
                self.next_profile = Some(profile);
                Ok(())
            }
        };
        self.heed_uplink(now);
        self.flush(now);
        done
    }

    /// The process is to end: the supply that runs ends with it.
    pub fn stop(&mut self, now: Now) {
        drop(self.break_down("the engine is being stopped", now));
        self.heed_uplink(now);
        self.flush(now);
    }

    pub fn next_command(&mut self) -> Option<EngineCommand> {
        self.out.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let session = self.session.as_ref().and_then(|s| s.next_at(self.settings.tick));
        let manual = self.manual.as_ref().map(|m| m.until);
        let readings = [self.idle_reading_at, self.readings_due()];
        [self.uplink.poll_timeout(), session, manual, self.journal.retry_at()]
            .into_iter()
            .chain(readings)
            .flatten()
            .min()
    }

    // ---- Time

    fn timeout(&mut self, now: Now) {
        self.uplink.handle_timeout(now);
        self.expire_manual_supply(now);
        self.idle(now);
        self.send_waiting_readings(now);
        self.advance_session(now);
    }

    fn idle(&mut self, now: Now) {
        let (Some(every), Some(at)) = (self.settings.idle_reading, self.idle_reading_at) else { return };
        if at <= now.mono {
            self.idle_reading_at = Some((at + every).max(now.mono));
            if self.supplying().is_none() {
                self.record_idle_reading(now);
            }
        }
    }

    // ---- The monitor

    fn assigned(&mut self, assignment: Assignment, now: Now) {
        let Some(grant) = assignment.key else { return };
        let Some(StoredKey { key_no, key, .. }) = StoredKey::new(&grant) else {
            self.notice = Some("the monitor gave a key that is not one".to_owned());
            return;
        };
        let id = assignment.charging_point_id;
        if self.identity.as_ref().is_some_and(|i| i.id != id) {
            self.end_session(Reason::Removed, now);
            self.uplink.forget_epoch();
        }
        let life_sign = Duration::from_millis(u64::from(assignment.life_sign_ms.max(1)));
        // Made anew even for a key number that is known: a Central that was restored may have granted it again, with
        // another key (SPEC 10.5). The sequence goes on, so no nonce comes twice.
        let mut sealer = Sealer::new(&key, key_no, &id, self.stream_id);
        if self.spoiled {
            sealer.spoil();
        }
        self.sealer = Some(sealer);
        self.withdrawn = None;
        self.identity = Some(Identity { id: id.clone(), key_no, life_sign });
        let pins = public_keys(grant.pins.iter().map(Vec::as_slice));
        let target = LinkTarget { id, central: assignment.central, pins, key: Some((key_no, key)), life_sign };
        self.uplink.connect_to(target, now.mono);
        self.tell_monitor(from_engine::Body::KeyStored(KeyStored { key_no }));
    }

    /// A running supply stops and settles (SPEC 4.7); what it has to report waits for the next key.
    fn key_withdrawn(&mut self, withdrawn: KeyWithdrawn, now: Now) {
        let reason = if withdrawn.reason().ends_a_supply() {
            withdrawn.reason()
        } else if withdrawn.key_state() == KeyState::Revoked {
            Reason::KeyRevoked
        } else {
            Reason::KeyRenewed
        };
        self.end_session(reason, now);
        self.uplink.disconnect(now.mono);
        self.sealer = None;
        self.view = None;
        self.withdrawn = Some(withdrawn);
    }

    fn tell_monitor(&mut self, body: from_engine::Body) {
        self.out.push_back(EngineCommand::Report(Box::new(FromEngine { body: Some(body) })));
    }

    /// The monitor has the engine's state at every change, and the meter's value as often as Central.
    fn report(&mut self) {
        let report = self.state_report();
        let is_news = self.reported.as_ref().is_none_or(|known| {
            let meter = EngineReport { energy_wh: known.energy_wh, power_w: known.power_w, ..report.clone() };
            meter != *known
        });
        if self.paired && is_news {
            self.reported = Some(report.clone());
            self.tell_monitor(from_engine::Body::Report(report));
        }
    }

    fn state_report(&self) -> EngineReport {
        let session = self.session.as_ref();
        EngineReport {
            healthy: self.fault_reason().is_none(),
            detail: self.fault_reason().unwrap_or_default(),
            session_id: session.map(|s| s.id.clone()).unwrap_or_default(),
            driver_id: session.map(|s| s.driver.clone()).unwrap_or_default(),
            session_state: session.map_or(SessionState::Unspecified, EngineSession::state).into(),
            energy_wh: session.map_or(0, |s| s.energy().wh()),
            power_w: session.map_or(0, |s| s.sample().power_w),
            central_reachable: self.uplink.is_reachable(),
            unintelligible: self.uplink.unintelligible(),
            unread: self.uplink.cannot_read() || self.uplink.is_not_read(),
        }
    }

    /// What makes it unfit. A journal that cannot be written makes it so only once nothing runs any more: what runs is
    /// metered in memory and written when the disk allows (SPEC 9, disk full).
    fn fault_reason(&self) -> Option<String> {
        let journal = self.journal.trouble().filter(|_| self.supplying().is_none());
        self.fault.clone().or_else(|| journal.map(|why| format!("the journal cannot be written: {why}")))
    }

    // ---- Central

    fn heed_uplink(&mut self, now: Now) {
        while let Some(event) = self.uplink.next_event() {
            match event {
                PeerEvent::Open { link, .. } => self.greet(link),
                PeerEvent::Reached => {
                    self.notice = None;
                    // What decides goes before readings that have waited.
                    self.send_states(now);
                    self.send_readings(now);
                    self.begin_if_plugged(now);
                }
                PeerEvent::Lost(why) => self.notice = Some(format!("the link to Central ended: {why}")),
                PeerEvent::Epoch(epoch) => self.new_epoch(epoch, now),
                PeerEvent::Message(body) => self.handle_order(*body, now),
                PeerEvent::Answered { body, reason, detail } => self.answered(&body, reason, &detail, now),
                PeerEvent::Deferred { body, reason, detail } => self.deferred(&body, reason, &detail, now),
                PeerEvent::Failed(_)
                | PeerEvent::UnknownKey { .. }
                | PeerEvent::Proven { .. }
                | PeerEvent::Unintelligible => {}
            }
        }
    }

    fn flush(&mut self, now: Now) {
        self.report();
        for body in self.journal.take_released() {
            self.uplink.request(body, now.mono);
        }
        self.send_states(now);
        self.uplink.send_requests(now.mono);
        if let Some(value) = self.journal.take_released_value() {
            self.uplink.sample(value);
        }
        if let Some((records, upto, durable)) = self.journal.next_write(now.mono) {
            self.out.push_back(EngineCommand::Write { records, upto, durable });
        }
        while let Some(command) = self.uplink.next_command() {
            self.out.push_back(EngineCommand::Link(command));
        }
    }

    /// As they are now: Central ends a supply that is missing in a report (SPEC 3.8).
    fn send_states(&mut self, now: Now) {
        while let Some(slot) = self.uplink.due_state(now.mono) {
            let report = self.journal_report(None);
            self.uplink.send_state(slot, up::Body::JournalReport(report), now.mono);
        }
    }

    /// Writes an entry; its number in the journal.
    fn record(&mut self, entry: JournalEntry, durable: bool) -> u64 {
        self.journal.append(entry, durable)
    }
}
