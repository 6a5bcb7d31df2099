//! The engine's rules: plug, meter, supply, fault, and what Central and the monitor may ask of it (SPEC 1.4, 3, 4.9).
//!
//! Pure: inputs and the time go in, commands come out.
//!
//! Guarantees: energy flows only for a session that Central authorised, and only once its start is in the journal; the
//! final value of a session is in the journal before it is sent, and is sent until answered; a running supply needs
//! neither monitor nor Central to finish; nothing new begins without both.

pub mod drive;
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

use mesh::clock::Now;
use proto::{
    Energy,
    link::v1::{
        Assignment, EngineReport, FromEngine, FromMonitor, KeyState, KeyStored, KeyWithdrawn, Part, Reading, Reason,
        SessionState, View, from_engine, from_monitor,
    },
};
use wire::{LinkKey, PublicKey, telemetry::Sealer};

use crate::{
    chance::Chance,
    journal_state::{JournalEntry, JournalRecord, JournalState},
    meter::{Battery, Profile, Speed},
    uplink::{self, Claim, Heard, LinkEvent, LinkNo, Order, Target, Uplink},
};
use session::EngineSession;

/// What an engine is told before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
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
    pub uplink: uplink::Settings,
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
pub enum Action {
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
pub enum Input {
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
pub enum Command {
    Link(Order),
    /// To the monitor, if paired.
    Report(Box<FromEngine>),
    /// Append, answer with [`Input::Written`] of `upto` or [`Input::WriteFailed`]. One at a time.
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
    settings: Settings,
    journal: JournalQueue,
    way: Uplink,
    chance: Chance,
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
    /// What the monitor was told last of whether Central and the engine read each other.
    told_unread: bool,
    link: Option<LinkNo>,
    /// What the journal holds is still to be said on that link.
    journal_report_due: bool,
    spoiled: bool,
    sealer: Option<Sealer>,
    stream_id: [u8; 16],
    sequence: u64,
    readings: VecDeque<Reading>,
    /// When the next portion of those that wait may go.
    readings_at: Instant,
    idle_reading_at: Option<Instant>,
    out: VecDeque<Command>,
}

impl Engine {
    /// `journal_state`: what the journal says. A session that it shows as running was cut off by the end of the process
    /// before; it ends here with what is known of it (SPEC 9, engine). `stream_id`: random, new at each start.
    pub fn new(
        settings: Settings,
        journal_state: JournalState,
        stream_id: [u8; 16],
        mut chance: Chance,
        now: Now,
    ) -> Self {
        let first_id = u64::try_from(now.wall_ms).unwrap_or(0) << 12;
        let way_chance = Chance::seeded(chance.draw_long());
        let way = Uplink::new(Part::Engine, settings.uplink, way_chance, first_id, journal_state.highest_epoch);
        let idle_reading_at = settings.idle_reading.map(|every| now.mono + every);
        let mut engine = Self {
            settings,
            journal: JournalQueue::new(journal_state),
            way,
            chance,
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
            told_unread: false,
            link: None,
            journal_report_due: false,
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

    pub fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::Paired => {
                self.paired = true;
                self.report();
                self.begin_if_plugged(now);
            }
            Input::Unpaired(why) => {
                self.paired = false;
                self.unpaired = why;
            }
            Input::Monitor(message) => match message.body {
                Some(from_monitor::Body::Assignment(assignment)) => self.assigned(assignment, now),
                Some(from_monitor::Body::KeyWithdrawn(withdrawn)) => self.key_withdrawn(withdrawn, now),
                None => {}
            },
            Input::Link(link, event) => self.way.handle(link, event, now),
            Input::Written(upto) => self.written(upto, now),
            Input::WriteFailed(why) => {
                self.journal.write_failed(why, now.mono);
                self.report();
            }
            Input::Timeout => self.timeout(now),
        }
        self.listen(now);
        self.flush(now);
    }

    /// What a person wants, at once or not at all.
    pub fn act(&mut self, action: Action, now: Now) -> Result<(), String> {
        let done = match action {
            Action::Plug => self.plug(now),
            Action::Unplug => self.unplug(now),
            Action::Supply { driver, energy } => self.manual_supply(driver, energy, now),
            Action::Break => self.break_down("broken by hand", now),
            Action::Repair => self.repair(now),
            Action::SpoilKey => self.spoil(true, now),
            Action::RepairKey => self.spoil(false, now),
            Action::Next(profile) => {
                self.next_profile = Some(profile);
                Ok(())
            }
        };
        self.listen(now);
        self.flush(now);
        done
    }

    /// The process is to end: the supply that runs ends with it.
    pub fn stop(&mut self, now: Now) {
        drop(self.break_down("the engine is being stopped", now));
        self.listen(now);
        self.flush(now);
    }

    pub fn next_command(&mut self) -> Option<Command> {
        self.out.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let session = self.session.as_ref().and_then(|s| s.next_at(self.settings.tick));
        let manual = self.manual.as_ref().map(|m| m.until);
        let readings = [self.idle_reading_at, self.readings_due()];
        [self.way.poll_timeout(), session, manual, self.journal.retry_at()].into_iter().chain(readings).flatten().min()
    }

    // ---- Time

    fn timeout(&mut self, now: Now) {
        self.repeat_journal_report(now);
        self.way.handle_timeout(now);
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
        let Ok(key) = <[u8; 32]>::try_from(grant.key.as_slice()).map(LinkKey::from_bytes) else {
            self.notice = Some("the monitor gave a key that is not one".to_owned());
            return;
        };
        let id = assignment.charging_point_id;
        if self.identity.as_ref().is_some_and(|i| i.id != id) {
            self.end_session(Reason::Removed, now);
            self.way.forget_epoch();
        }
        let life_sign = Duration::from_millis(u64::from(assignment.life_sign_ms.max(1)));
        // Made anew even for a key number that is known: a Central that was restored may have granted it again, with
        // another key (SPEC 10.5). The sequence goes on, so no nonce comes twice.
        let mut sealer = Sealer::new(&key, grant.key_no, &id, self.stream_id);
        if self.spoiled {
            sealer.spoil();
        }
        self.sealer = Some(sealer);
        self.withdrawn = None;
        self.identity = Some(Identity { id: id.clone(), key_no: grant.key_no, life_sign });
        let pins = pins(&grant.pins);
        let claim = Claim::Key { key_no: grant.key_no, key };
        self.way.aim(Target { id, central: assignment.central, pins, claim, life_sign }, now.mono);
        let held = KeyStored { key_no: grant.key_no };
        self.out.push_back(Command::Report(Box::new(FromEngine { body: Some(from_engine::Body::KeyStored(held)) })));
        self.report();
    }

    /// A running supply stops and settles (SPEC 4.7); what it has to report waits for the next key.
    fn key_withdrawn(&mut self, withdrawn: KeyWithdrawn, now: Now) {
        let reason = match (withdrawn.reason(), withdrawn.key_state()) {
            (reason @ (Reason::KeyRenewed | Reason::KeyRevoked | Reason::Removed), _) => reason,
            (_, KeyState::Revoked) => Reason::KeyRevoked,
            (_, KeyState::Unspecified | KeyState::Active | KeyState::Deleted | KeyState::Rotating) => {
                Reason::KeyRenewed
            }
        };
        self.end_session(reason, now);
        self.way.lay_down();
        self.sealer = None;
        self.link = None;
        self.view = None;
        self.withdrawn = Some(withdrawn);
        self.report();
    }

    fn is_unread(&self) -> bool {
        self.way.unintelligible().1 || self.way.is_not_read()
    }

    fn report(&mut self) {
        self.told_unread = self.is_unread();
        if !self.paired {
            return;
        }
        let session = self.session.as_ref();
        let report = EngineReport {
            healthy: self.fault_reason().is_none(),
            detail: self.fault_reason().unwrap_or_default(),
            session_id: session.map(|s| s.id.clone()).unwrap_or_default(),
            driver_id: session.map(|s| s.driver.clone()).unwrap_or_default(),
            session_state: session.map_or(SessionState::Unspecified, EngineSession::state).into(),
            energy_wh: session.map_or(0, |s| s.energy().wh()),
            power_w: session.map_or(0, |s| s.sample().power_w),
            central_reachable: self.way.reachable(),
            unintelligible: self.way.unintelligible().0,
            unread: self.is_unread(),
        };
        self.out.push_back(Command::Report(Box::new(FromEngine { body: Some(from_engine::Body::Report(report)) })));
    }

    /// What makes it unfit. A journal that cannot be written makes it so only once nothing runs any more: what runs is
    /// metered in memory and written when the disk allows (SPEC 9, disk full).
    fn fault_reason(&self) -> Option<String> {
        let journal = self.journal.trouble().filter(|_| self.supplying().is_none());
        self.fault.clone().or_else(|| journal.map(|why| format!("the journal cannot be written: {why}")))
    }

    // ---- Central

    fn listen(&mut self, now: Now) {
        while let Some(heard) = self.way.next_heard() {
            match heard {
                Heard::Open { link, .. } => self.greet(link, now),
                Heard::Reached => {
                    self.notice = None;
                    self.report();
                    self.send_readings(now);
                    self.begin_if_plugged(now);
                }
                Heard::Lost(why) => {
                    self.link = None;
                    self.notice = Some(format!("the link to Central ended: {why}"));
                    self.report();
                }
                Heard::Proven(_) if std::mem::take(&mut self.journal_report_due) => self.report_journal(now),
                Heard::Failed { .. } | Heard::UnknownKey { .. } | Heard::Proven(_) => {}
                Heard::Unintelligible => self.report(),
                Heard::Epoch(epoch) => self.new_epoch(epoch, now),
                Heard::Body(body) => self.handle_order(*body, now),
                Heard::Answered { body, reason, detail } => self.answered(&body, reason, &detail, now),
            }
        }
        if self.is_unread() != self.told_unread {
            self.report();
        }
    }

    fn flush(&mut self, now: Now) {
        for body in self.journal.take_released() {
            self.way.post(body, now.mono);
        }
        if let Some(value) = self.journal.take_released_value() {
            self.way.say(value);
        }
        if let Some((records, upto, durable)) = self.journal.next_write(now.mono) {
            self.out.push_back(Command::Write { records, upto, durable });
        }
        while let Some(order) = self.way.next_order() {
            self.out.push_back(Command::Link(order));
        }
    }

    /// Writes an entry; its number in the journal.
    fn record(&mut self, entry: JournalEntry, durable: bool) -> u64 {
        self.journal.append(entry, durable)
    }
}

/// Those of a grant that are keys.
pub(crate) fn pins(all: &[impl AsRef<[u8]>]) -> Vec<PublicKey> {
    all.iter().filter_map(|pin| <[u8; 32]>::try_from(pin.as_ref()).ok()).map(PublicKey::from_bytes).collect()
}
