//! The monitor's rules: it alone enrols the charging point, proves it to Central, judges its engine's health and gives
//! the engine its id and key (SPEC 1.4, 4.4 to 4.7, 7.4).
//!
//! Pure: inputs and the time go in, commands come out. Enrolment and authentication are those of every enrollee.
//!
//! Guarantees: a new key is stored and handed to the engine before it is used; a charging point without a valid key
//! withdraws the engine's.

pub mod event_loop;
mod status;
#[cfg(test)]
mod tests;

pub use status::MonitorStatus;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mesh::{
    clock::Now,
    peer::{
        Enrollee, EnrolleeCommand, EnrolleeEvent, EnrolleeInput, EnrolleeSettings, LinkNo, Membership, PeerEvent, Slot,
        StoredIdentity,
    },
};
use proto::{
    enrolment::SecretText,
    link::v1::{
        Assignment, EngineHealth, EngineReport, FromEngine, FromMonitor, KeyGrant, KeyInstalled, KeyState,
        KeyWithdrawn, Opened, Reason, SetMaintenance, View, down, from_engine, from_monitor, up,
    },
};
use rand::rngs::StdRng;

/// What a monitor is told before it starts.
#[derive(Clone, Debug)]
pub struct MonitorSettings {
    pub enrollee: EnrolleeSettings,
    /// The engine has this long to say that it holds a new key.
    pub key_handed: Duration,
    pub software: String,
}

/// What a person wants of it.
#[derive(Clone, Debug)]
pub enum MonitorAction {
    Enrol(SecretText),
    /// Removes the identity at Registry and here.
    Remove,
    /// Proves the credential now, tries or no tries left.
    Authenticate,
    Maintenance(bool),
    Disconnect,
    Connect,
}

#[derive(Debug)]
pub enum MonitorInput {
    /// The engine proved the pairing.
    Paired,
    /// Three missed signs of life, or the end of its connection.
    Unpaired(String),
    Engine(Box<FromEngine>),
    Enrollee(EnrolleeInput),
    Timeout,
}

#[derive(Debug)]
pub enum MonitorCommand {
    Enrollee(EnrolleeCommand),
    /// To the engine, if paired.
    Tell(Box<FromMonitor>),
}

/// The engine, as its monitor sees it.
#[derive(Debug)]
struct EngineSide {
    paired: bool,
    /// Its last word since it paired.
    report: Option<EngineReport>,
    /// The verdict; a pairing changes nothing of it before the engine has reported.
    health: EngineHealth,
}

/// A new key, which the engine has to hold before it is taken into use.
#[derive(Debug)]
struct Installing {
    key_no: u64,
    /// The engine is waited for no longer.
    until: Instant,
}

/// One monitor.
#[derive(Debug)]
pub struct Monitor {
    key_handed: Duration,
    software: String,
    enrollee: Enrollee,
    engine: EngineSide,
    installing: Option<Installing>,
    /// Asked for, and not answered yet.
    maintenance_asked: Option<bool>,
    view: Option<View>,
    notice: Option<String>,
    out: VecDeque<MonitorCommand>,
}

impl Monitor {
    /// `stored`: what the process before left.
    pub fn new(settings: MonitorSettings, stored: StoredIdentity, rng: StdRng, now: Now) -> Self {
        let health = is_gone("the engine has not paired yet");
        let mut monitor = Self {
            enrollee: Enrollee::new(settings.enrollee, stored, rng, now),
            key_handed: settings.key_handed,
            software: settings.software,
            engine: EngineSide { paired: false, report: None, health },
            installing: None,
            maintenance_asked: None,
            view: None,
            notice: None,
            out: VecDeque::new(),
        };
        monitor.flush(now);
        monitor
    }

    pub fn handle(&mut self, input: MonitorInput, now: Now) {
        match input {
            MonitorInput::Paired => {
                (self.engine.paired, self.engine.report) = (true, None);
                self.assign();
            }
            MonitorInput::Unpaired(why) => self.engine_gone(&why, now),
            MonitorInput::Engine(message) => self.engine_said(*message, now),
            MonitorInput::Enrollee(input) => self.enrollee.handle(input, now),
            MonitorInput::Timeout => {
                self.enrollee.handle_timeout(now);
                self.install_if_due(now);
            }
        }
        self.flush(now);
    }

    /// What a person wants, at once or not at all.
    pub fn act(&mut self, action: MonitorAction, now: Now) -> Result<(), String> {
        let done = match action {
            MonitorAction::Enrol(token) => self.enrollee.enrol(token),
            MonitorAction::Remove => self.enrollee.remove(),
            MonitorAction::Authenticate => self.enrollee.authenticate_by_hand(now),
            MonitorAction::Maintenance(on) => self.maintenance(on, now),
            MonitorAction::Disconnect => self.enrollee.disconnect_by_hand(now),
            MonitorAction::Connect => self.enrollee.connect_by_hand(now),
        };
        self.flush(now);
        done
    }

    pub fn next_command(&mut self) -> Option<MonitorCommand> {
        self.out.pop_front().or_else(|| self.enrollee.next_command().map(MonitorCommand::Enrollee))
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let key = self.installing.as_ref().map(|installing| installing.until);
        self.enrollee.poll_timeout().into_iter().chain(key).min()
    }

    fn flush(&mut self, now: Now) {
        self.heed_enrollee(now);
        while let Some(slot) = self.enrollee.peer.due_state(now.mono) {
            let health = up::Body::EngineHealth(self.engine.health.clone());
            self.enrollee.peer.send_state(slot, health, now.mono);
        }
        self.enrollee.flush(now);
    }

    // ---- A person

    fn maintenance(&mut self, on: bool, now: Now) -> Result<(), String> {
        if !self.enrollee.is_enrolled() {
            return Err("not enrolled".to_owned());
        }
        self.maintenance_asked = Some(on);
        self.enrollee.peer.withdraw(|body| matches!(body, up::Body::SetMaintenance(_)));
        self.enrollee.peer.request(up::Body::SetMaintenance(SetMaintenance { on }), now.mono);
        Ok(())
    }

    // ---- The engine

    fn engine_gone(&mut self, why: &str, now: Now) {
        (self.engine.paired, self.engine.report) = (false, None);
        self.judge(is_gone(why), now);
        self.install(now);
    }

    fn is_installing(&self, key_no: u64) -> bool {
        self.installing.as_ref().is_some_and(|installing| installing.key_no == key_no)
    }

    fn engine_said(&mut self, message: FromEngine, now: Now) {
        match message.body {
            Some(from_engine::Body::Report(report)) => {
                let health = EngineHealth { healthy: report.healthy, detail: report.detail.clone() };
                self.engine.report = Some(report);
                self.judge(health, now);
            }
            Some(from_engine::Body::KeyStored(stored)) if self.is_installing(stored.key_no) => self.install(now),
            Some(from_engine::Body::KeyStored(_)) | None => {}
        }
    }

    fn judge(&mut self, health: EngineHealth, now: Now) {
        if self.engine.health != health {
            self.engine.health = health;
            self.enrollee.peer.owe(Slot::EngineHealth, now.mono);
        }
    }

    /// Who it is, and under which key it reaches Central; or that there is none.
    fn assign(&mut self) {
        if !self.engine.paired {
            return;
        }
        let stored = self.enrollee.stored();
        let body = match (self.enrollee.key(), &stored.id) {
            (Some(key), Some(id)) => from_monitor::Body::Assignment(Assignment {
                charging_point_id: id.clone(),
                key: Some(KeyGrant {
                    key_no: key.key_no,
                    key: key.key.as_bytes().to_vec(),
                    expires_at_ms: key.expires_at_ms,
                    pins: stored.pins.iter().map(|pin| pin.0.clone()).collect(),
                }),
                central: self.enrollee.settings().central.clone(),
                life_sign_ms: self.life_sign_ms(),
            }),
            _none => from_monitor::Body::KeyWithdrawn(self.withdrawal()),
        };
        self.out.push_back(MonitorCommand::Tell(Box::new(FromMonitor { body: Some(body) })));
    }

    fn withdrawal(&self) -> KeyWithdrawn {
        if let Some(status) = self.enrollee.auth_status() {
            let (key_state, reason, detail) = (status.key_state, status.reason, status.detail.clone());
            return KeyWithdrawn { key_state, reason, detail };
        }
        let (reason, detail) = if self.enrollee.is_enrolled() {
            (Reason::NoKey, "Central has not granted a key yet")
        } else {
            (Reason::NotEnrolled, "not enrolled")
        };
        KeyWithdrawn { key_state: KeyState::Unspecified.into(), reason: reason.into(), detail: detail.to_owned() }
    }

    fn life_sign_ms(&self) -> u32 {
        u32::try_from(self.enrollee.settings().life_sign.as_millis()).unwrap_or(u32::MAX)
    }

    // ---- Keys

    /// The engine is handed the key, and used with it once it holds it.
    fn key_stored(&mut self, granted_at: Instant, now: Now) {
        self.assign();
        let until = granted_at + self.key_handed;
        self.installing = self.enrollee.key().map(|key| Installing { key_no: key.key_no, until });
        if !self.engine.paired {
            return self.install(now);
        }
        self.install_if_due(now);
    }

    fn install_if_due(&mut self, now: Now) {
        if self.installing.as_ref().is_some_and(|installing| installing.until <= now.mono) {
            self.install(now);
        }
    }

    /// Both parts hold the key, or the engine is not there: say so, and make the next link with it (SPEC 4.6).
    fn install(&mut self, now: Now) {
        let Some(Installing { key_no, .. }) = self.installing.take() else { return };
        self.enrollee.peer.withdraw(|body| matches!(body, up::Body::KeyInstalled(_)));
        self.enrollee.peer.request(up::Body::KeyInstalled(KeyInstalled { key_no }), now.mono);
        self.enrollee.use_key(now);
    }

    fn identity_changed(&mut self) {
        if self.enrollee.key().is_none() {
            self.installing = None;
        }
        if !self.enrollee.is_enrolled() {
            self.view = None;
        }
        self.assign();
    }

    // ---- Registry and Central

    fn heed_enrollee(&mut self, now: Now) {
        while let Some(event) = self.enrollee.next_event() {
            match event {
                EnrolleeEvent::Peer(event) => self.heed_peer(event),
                EnrolleeEvent::Enrolled => self.notice = Some("enrolled".to_owned()),
                EnrolleeEvent::EnrolmentRefused(why) => self.notice = Some(format!("enrolment refused: {why}")),
                EnrolleeEvent::RemovalFailed(why) => self.notice = Some(format!("removal failed: {why}")),
                EnrolleeEvent::IdentityChanged => self.identity_changed(),
                EnrolleeEvent::KeyStored { granted_at } => self.key_stored(granted_at, now),
                EnrolleeEvent::NotAuthenticated(status) => {
                    let words = if status.detail.is_empty() { status.reason().in_words() } else { &status.detail };
                    self.notice = Some(format!("Central: {words}"));
                }
            }
        }
    }

    fn heed_peer(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Open { link, .. } => self.greet(link),
            PeerEvent::Reached => self.notice = None,
            PeerEvent::Lost(why) => self.notice = Some(format!("the link to Central ended: {why}")),
            PeerEvent::Message(body) => {
                if let down::Body::View(view) = *body {
                    self.view = Some(view);
                } else {
                    tracing::warn!("ignored a message that is not for monitors");
                }
            }
            PeerEvent::Answered { body, reason, detail } => self.answered(&body, reason, &detail),
            PeerEvent::Proven { .. }
            | PeerEvent::Failed(_)
            | PeerEvent::UnknownKey { .. }
            | PeerEvent::Deferred { .. }
            | PeerEvent::Epoch(_)
            | PeerEvent::Unintelligible => {}
        }
    }

    fn greet(&mut self, link: LinkNo) {
        let opened = Opened {
            highest_epoch: self.enrollee.peer.highest_epoch(),
            life_sign_ms: self.life_sign_ms(),
            software: self.software.clone(),
            meter_wh: 0,
        };
        self.enrollee.peer.greet(link, up::Body::Opened(opened));
    }

    fn answered(&mut self, body: &up::Body, reason: Reason, detail: &str) {
        let words = if detail.is_empty() { reason.in_words() } else { detail };
        if let up::Body::SetMaintenance(asked) = body {
            self.maintenance_asked = None;
            let on = if asked.on { "on" } else { "off" };
            self.notice = Some(if reason == Reason::Unspecified {
                format!("maintenance is {on}")
            } else {
                format!("maintenance {on} refused: {words}")
            });
        }
    }
}

fn is_gone(why: &str) -> EngineHealth {
    EngineHealth { healthy: false, detail: format!("the engine is gone: {why}") }
}
