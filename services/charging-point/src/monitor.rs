//! The monitor's rules: it alone enrols the charging point, proves it to Central, judges its engine's health and gives
//! the engine its id and key (SPEC 1.4, 4.4 to 4.7, 7.4).
//!
//! Pure: inputs and the time go in, commands come out.
//!
//! Guarantees: the credential is shown to Central inside a first contact only; a new key is stored and handed to the
//! engine before it is used; a charging point without a valid key withdraws the engine's; after three refusals it tries
//! no more by itself, while being unable to reach Central or Registry never ends the tries; a revoked one waits for a
//! token.

pub mod drive;
mod engine_side;
mod enrolment;
pub mod identity;
mod keys;
pub mod registry;
mod status;
#[cfg(test)]
mod tests;

pub use identity::StoredIdentity;
pub use status::MonitorStatus;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mesh::clock::Now;
use proto::{
    ChargingPointId, Price,
    enrolment::{EnrolBody, Enrolled, EnrolmentStatus, SecretText, Trust},
    link::v1::{
        Authenticate, EngineHealth, EngineReport, FromEngine, FromMonitor, Opened, Part, Reason, SetMaintenance, View,
        down, up,
    },
};

use crate::{
    chance::Chance,
    uplink::{self, Heard, LinkEvent, LinkNo, Order, Uplink},
};
use keys::Keys;
use registry::RegistryError;

/// What a monitor is told before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// As which to enrol; a stored identity bears its own.
    pub id: Option<ChargingPointId>,
    pub city: String,
    pub place: String,
    pub price: Price,
    /// Used when there is no identity, and again after a removal.
    pub token: Option<SecretText>,
    /// Central's link addresses.
    pub central: Vec<String>,
    pub life_sign: Duration,
    /// A refused or deleted key is asked for again after this (SPEC 4.7), unless Central says otherwise.
    pub authenticate_again: Duration,
    /// So many refusals end the tries.
    pub refusals: u32,
    /// Registry is asked again after this.
    pub registry_again: Duration,
    /// The engine has this long to say that it holds a new key.
    pub key_handed: Duration,
    /// No wait that Central asks for is longer.
    pub longest_retry: Duration,
    pub uplink: uplink::Settings,
    pub software: String,
}

/// What a person wants of it.
#[derive(Clone, Debug)]
pub enum Action {
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
pub enum Input {
    /// The engine proved the pairing.
    Paired,
    /// Three missed signs of life, or the end of its connection.
    Unpaired(String),
    Engine(Box<FromEngine>),
    Link(LinkNo, LinkEvent),
    Saved(Result<(), String>),
    Enrolled(Result<Box<Enrolled>, RegistryError>),
    EnrolmentStatus(Result<Box<EnrolmentStatus>, RegistryError>),
    Removed(Result<(), RegistryError>),
    Timeout,
}

#[derive(Debug)]
pub enum Command {
    Link(Order),
    /// To the engine, if paired.
    Tell(Box<FromMonitor>),
    /// Put it on disk whole or not at all; answer [`Input::Saved`]. One at a time.
    Save(Box<StoredIdentity>),
    /// `POST`; answer [`Input::Enrolled`].
    Enrol(Box<EnrolBody>),
    /// `GET` with the credential; answer [`Input::EnrolmentStatus`].
    AskRegistry {
        id: ChargingPointId,
        credential: SecretText,
        trust: Trust,
    },
    /// `DELETE` with the credential; answer [`Input::Removed`].
    Remove {
        id: ChargingPointId,
        credential: SecretText,
        trust: Trust,
    },
}

/// Whether Registry knows this charging point.
#[derive(Debug)]
enum Membership {
    /// Waits for a token, saying why.
    NotEnrolled(String),
    Enrolling {
        token: SecretText,
        request_id: String,
        again_at: Option<Instant>,
        trouble: Option<String>,
    },
    Enrolled,
}

/// One monitor.
#[derive(Debug)]
pub struct Monitor {
    settings: Settings,
    stored: StoredIdentity,
    membership: Membership,
    keys: Keys,
    way: Uplink,
    chance: Chance,
    /// The engine: whether paired, or why not, and its last report.
    paired: Result<(), String>,
    report: Option<EngineReport>,
    told_health: Option<EngineHealth>,
    /// The verdict with which a link was greeted that is not the one to speak on yet.
    greeted: Option<(LinkNo, EngineHealth)>,
    /// Of the enrolment that this process took last.
    incarnation: u64,
    /// Closed by hand.
    disconnected: bool,
    asking_registry: bool,
    ask_registry_at: Option<Instant>,
    registry_trouble: Option<String>,
    registry_answered: bool,
    maintenance_asked: Option<bool>,
    view: Option<View>,
    notice: Option<String>,
    saving: bool,
    unsaved: bool,
    save_at: Option<Instant>,
    save_trouble: Option<String>,
    out: VecDeque<Command>,
}

impl Monitor {
    /// `stored`: what the process before left.
    pub fn new(settings: Settings, stored: StoredIdentity, mut chance: Chance, now: Now) -> Self {
        let first_id = u64::try_from(now.wall_ms).unwrap_or(0) << 12;
        let way_chance = Chance::seeded(chance.draw_long());
        let way = Uplink::new(Part::Monitor, settings.uplink, way_chance, first_id, stored.highest_epoch);
        let mut monitor = Self {
            keys: Keys::default(),
            membership: Membership::NotEnrolled("no token was given yet".to_owned()),
            way,
            chance,
            paired: Err("the engine has not paired yet".to_owned()),
            report: None,
            told_health: None,
            greeted: None,
            incarnation: 0,
            disconnected: false,
            asking_registry: false,
            ask_registry_at: None,
            registry_trouble: None,
            registry_answered: false,
            maintenance_asked: None,
            view: None,
            notice: None,
            saving: false,
            unsaved: false,
            save_at: None,
            save_trouble: None,
            out: VecDeque::new(),
            settings,
            stored,
        };
        monitor.begin(now);
        monitor.flush(now);
        monitor
    }

    fn begin(&mut self, now: Now) {
        if self.stored.credential.is_some() {
            self.membership = Membership::Enrolled;
            self.reach(now);
        } else if let Some(token) = self.settings.token.clone()
            && let Err(why) = self.enrol(token, now)
        {
            self.membership = Membership::NotEnrolled(why);
        }
    }

    pub fn handle(&mut self, input: Input, now: Now) {
        self.registry_answered |= is_registrys_answer(&input);
        match input {
            Input::Paired => self.engine_paired(now),
            Input::Unpaired(why) => self.engine_gone(why, now),
            Input::Engine(message) => self.engine_said(*message, now),
            Input::Link(link, event) => self.way.handle(link, event, now),
            Input::Saved(result) => self.saved(result, now),
            Input::Enrolled(result) => self.enrolled(result, now),
            Input::EnrolmentStatus(result) => self.registry_said(result, now),
            Input::Removed(result) => self.removed(result),
            Input::Timeout => self.timeout(now),
        }
        self.listen(now);
        self.flush(now);
    }

    /// What a person wants, at once or not at all.
    pub fn act(&mut self, action: Action, now: Now) -> Result<(), String> {
        let done = match action {
            Action::Enrol(token) => self.enrol(token, now),
            Action::Remove => self.remove(),
            Action::Authenticate => self.authenticate_by_hand(now),
            Action::Maintenance(on) => self.maintenance(on, now),
            Action::Disconnect => self.disconnect(),
            Action::Connect => self.connect(now),
        };
        self.listen(now);
        self.flush(now);
        done
    }

    pub fn next_command(&mut self) -> Option<Command> {
        self.out.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let enrol = match &self.membership {
            Membership::Enrolling { again_at, .. } => *again_at,
            Membership::NotEnrolled(_) | Membership::Enrolled => None,
        };
        let save = self.save_at.filter(|_| !self.saving);
        [self.way.poll_timeout(), enrol, save, self.ask_registry_at, self.keys.due()].into_iter().flatten().min()
    }

    fn timeout(&mut self, now: Now) {
        self.way.handle_timeout(now);
        self.enrol_again(now);
        self.keys_due(now);
        if self.ask_registry_at.is_some_and(|at| at <= now.mono) {
            self.ask_registry_at = None;
            self.ask_registry();
        }
    }

    // ---- A person

    fn maintenance(&mut self, on: bool, now: Now) -> Result<(), String> {
        if !matches!(self.membership, Membership::Enrolled) {
            return Err("not enrolled".to_owned());
        }
        self.maintenance_asked = Some(on);
        self.way.replace(up::Body::SetMaintenance(SetMaintenance { on }), now.mono);
        Ok(())
    }

    fn disconnect(&mut self) -> Result<(), String> {
        if self.disconnected {
            return Err("it is disconnected already".to_owned());
        }
        self.disconnected = true;
        self.way.lay_down();
        Ok(())
    }

    fn connect(&mut self, now: Now) -> Result<(), String> {
        if !self.disconnected {
            return Err("it is not disconnected by hand".to_owned());
        }
        self.disconnected = false;
        self.reach(now);
        Ok(())
    }

    // ---- Central

    fn listen(&mut self, now: Now) {
        while let Some(heard) = self.way.next_heard() {
            match heard {
                Heard::Open { link, first_contact: true } => self.show_credential(link),
                Heard::Open { link, first_contact: false } => self.greet(link, now),
                Heard::Proven(key_no) => {
                    self.key_proven(key_no, now);
                    self.judge_again(now);
                }
                Heard::Lost(why) => self.notice = Some(format!("the link to Central ended: {why}")),
                Heard::Failed { keys, .. } => {
                    if keys {
                        self.not_known(now);
                    }
                }
                Heard::UnknownKey { .. } => self.not_known(now),
                Heard::Epoch(epoch) => {
                    self.stored.highest_epoch = epoch;
                    self.unsaved = true;
                }
                Heard::Body(body) => self.told(*body, now),
                Heard::Answered { body, reason, detail } => self.answered(&body, reason, &detail),
                Heard::Reached => self.notice = None,
                Heard::Unintelligible => {}
            }
        }
    }

    fn show_credential(&mut self, link: LinkNo) {
        let Some(credential) = &self.stored.credential else { return };
        let credential = credential.expose().as_bytes().to_vec();
        self.way.greet(link, up::Body::Authenticate(Authenticate { credential }));
    }

    fn greet(&mut self, link: LinkNo, now: Now) {
        let opened = Opened {
            highest_epoch: self.way.highest_epoch(),
            life_sign_ms: u32::try_from(self.settings.life_sign.as_millis()).unwrap_or(u32::MAX),
            software: self.settings.software.clone(),
            meter_wh: 0,
        };
        self.way.greet(link, up::Body::Opened(opened));
        let health = self.health();
        self.told_health = Some(health.clone());
        self.greeted = (!self.way.speaks_on(link)).then(|| (link, health.clone()));
        self.way.replace_on(link, up::Body::EngineHealth(health), now.mono);
    }

    fn told(&mut self, body: down::Body, now: Now) {
        match body {
            down::Body::KeyGrant(grant) => self.granted(grant, now),
            down::Body::AuthStatus(auth_status) => self.stands(auth_status, now),
            down::Body::View(view) => self.view = Some(view),
            down::Body::Answer(_) | down::Body::Unsupported(_) | down::Body::Clock(_) => {}
            down::Body::Ask(_)
            | down::Body::Supply(_)
            | down::Body::Release(_)
            | down::Body::Stop(_)
            | down::Body::Settled(_)
            | down::Body::Step(_)
            | down::Body::Running(_)
            | down::Body::Ticket(_)
            | down::Body::ChargingPoints(_)
            | down::Body::History(_)
            | down::Body::ConfirmRequest(_) => tracing::warn!("ignored a message that is not for monitors"),
        }
    }

    fn answered(&mut self, body: &up::Body, reason: Reason, detail: &str) {
        let words = if detail.is_empty() { reason.in_words() } else { detail };
        if let up::Body::SetMaintenance(asked) = body {
            self.maintenance_asked = None;
            let on = if asked.on { "on" } else { "off" };
            let refused = reason != Reason::Unspecified;
            self.notice = Some(if refused {
                format!("maintenance {on} refused: {words}")
            } else {
                format!("maintenance is {on}")
            });
        }
    }

    // ---- The disk

    fn flush(&mut self, now: Now) {
        let due = self.save_at.is_none_or(|at| at <= now.mono);
        if self.unsaved && !self.saving && due {
            (self.unsaved, self.saving, self.save_at) = (false, true, None);
            self.out.push_back(Command::Save(Box::new(self.stored.clone())));
        }
        while let Some(order) = self.way.next_order() {
            self.out.push_back(Command::Link(order));
        }
    }

    fn saved(&mut self, result: Result<(), String>, now: Now) {
        self.saving = false;
        match result {
            Ok(()) => self.save_trouble = None,
            // Nothing waits for it: a key that is lost with this process costs a first contact, and the credential is
            // tried again until it is stored.
            Err(why) => {
                self.save_trouble = Some(why);
                self.unsaved = true;
                self.save_at = Some(now.mono + Duration::from_secs(1));
            }
        }
        self.key_stored(now);
    }
}

/// Be it a refusal.
fn is_registrys_answer(input: &Input) -> bool {
    let error = match input {
        Input::Enrolled(result) => result.as_ref().err(),
        Input::EnrolmentStatus(result) => result.as_ref().err(),
        Input::Removed(result) => result.as_ref().err(),
        Input::Paired | Input::Unpaired(_) | Input::Engine(_) | Input::Link(..) | Input::Saved(_) | Input::Timeout => {
            return false;
        }
    };
    !matches!(error, Some(RegistryError::Unreachable(_)))
}
