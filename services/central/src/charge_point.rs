//! A charging point: what is known of it, and every decision about it (SPEC 2, 3, 4.6 to 4.9).
//!
//! Three parts change at three moments. [`Record`] is durable: only a decision makes a next one, and it takes effect when
//! the store has it. [`LiveState`] is observed: [`ChargePoint::observe`] changes it at once, since a link that is gone is
//! gone whatever the disk does. [`Pending`] are intentions that a crash may forget: they change with the decision that
//! made them.
//!
//! Guarantees: the state shown is derived from causes, never stored; at most one session is open; a session is billed
//! at most once or released; nothing that must be durable is sent before it is; nothing here touches a clock, chance, a
//! socket or a database.

mod audit_throttle;
mod city_weather;
mod clocks;
mod deadline;
mod decision;
mod desired;
mod evidence;
mod input;
mod ledger;
mod messages;
mod metering;
mod observe;
mod order;
mod request;
mod supply;
mod turn;
mod view;
mod weather;

#[cfg(test)]
mod billing_model;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Instant};

use mesh::{
    clock::Now,
    rate::{Tally, Throttle},
};
use proto::{
    ChargingPointId, DriverId, Energy, Price,
    link::v1::{Part, SessionState},
};

pub use audit_throttle::AuditThrottle;
pub use city_weather::CityWeather;
pub use evidence::{Evidence, StoredSession, final_of_ticket};
#[cfg(test)]
pub(crate) use harness::charge_point;
pub use input::{
    Decision, Effect, EnrolmentChange, FirstAnswer, Observation, OrderOutcome, PointChange, PointInput, PointOrder,
    Reply, StoreRefusal, SupplyRequest, SupplyTerms, Takeover, reconcile,
};
pub use messages::{confirm_request, first_answer, step_of, stop as stop_message, unknown_charging_point};
pub use observe::Reaction;

use crate::{
    key::{KeyDue, Keyring},
    origin::LinkNo,
    session::{Session, SessionId},
    settings::CentralSettings,
    takeover::Takeovers,
};

/// Both parts of a charging point hold one key.
pub const PARTS: &[Part] = &[Part::Monitor, Part::Engine];

/// The durable part: rows of the store.
#[derive(Clone, Debug)]
pub struct Record {
    pub id: ChargingPointId,
    /// Generation in the upper 32 bits, then the count of claims; fences every write (SPEC 4.9).
    pub epoch: u64,
    /// Of the row; raised by every decision that is written.
    pub version: u64,
    /// Who owned it when it was loaded.
    pub owner: Arc<str>,
    pub city: Arc<str>,
    pub place: Arc<str>,
    pub price: Price,
    /// 0: not set.
    pub rated_power_w: u32,
    pub stopped: Option<Notice>,
    pub maintenance: Option<Notice>,
    /// Frost in its city blocks it, whoever else has stopped it.
    pub weather_blocked: bool,
    pub quarantined: bool,
    pub removed: bool,
    pub keys: Keyring,
    /// Reserved or supplying.
    pub open: Option<Session>,
    pub settling: Vec<Session>,
    /// Whose epoch this is: the monitor's link that claimed it, in this process.
    pub claimed_by: Option<LinkNo>,
    /// This process has claimed it, so that no other may write.
    pub owned: bool,
}

/// Under which epoch and version of its row a charging point is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointVersion {
    pub epoch: u64,
    pub version: u64,
}

/// By whom, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub by: Arc<str>,
    pub reason: Arc<str>,
}

/// Intentions of this process.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    pub ask: Option<PendingAsk>,
    /// When an engine that was told to stop must have reported.
    pub stop_due: Option<Instant>,
    /// When the running meter value was last made durable.
    pub saved_at: Option<Instant>,
    /// When what is left of the time of settling sessions was.
    pub settling_saved_at: Option<Instant>,
    /// When the charging point itself last switched its maintenance on or off.
    pub switched_at: Option<Instant>,
    /// Something in the engine's report was not taken, so it is to be said again.
    pub report_refused: bool,
}

impl Pending {
    /// What was loaded is durable.
    pub fn loaded(now: Now) -> Self {
        Self { saved_at: Some(now.mono), settling_saved_at: Some(now.mono), ..Self::default() }
    }
}

/// A request on its way to a reservation.
#[derive(Clone, Debug)]
pub struct PendingAsk {
    pub request: SupplyRequest,
    pub stage: AskStage,
    /// At which he who pays was told that it would be.
    pub price: Price,
    pub due: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskStage {
    /// The driver named by a manual supply.
    Confirming,
    /// The engine.
    Asking,
}

/// What is observed, and never durable.
#[derive(Clone, Debug, Default)]
pub struct LiveState {
    pub monitor: Option<PartLink>,
    pub engine: Option<PartLink>,
    pub health: EngineVerdict,
    /// Latest accepted value of the running session, and when it came; not yet durable.
    pub meter: Option<(SessionId, Energy, Instant)>,
    pub power_w: u32,
    /// Throttles the running values.
    pub pace: Throttle,
    /// The open reservation as its engine says that it has begun, until the store knows.
    pub begun: Option<Session>,
    /// The supply whose driver was sent a fault.
    pub fault_told: Option<SessionId>,
    pub engine_lost_at: Option<Instant>,
    pub both_lost_at: Option<Instant>,
    /// Messages that could not be opened since the current key was proven.
    pub unintelligible: u64,
    /// Of them, not yet in the audit.
    pub unnoted: Tally,
    /// The link whose last message was one of them.
    pub unread: Option<LinkNo>,
    /// That is in the audit, and its end is not.
    pub unread_noted: bool,
    /// Meter values that were not accepted, not yet in the audit.
    pub backwards: Tally,
    pub implausible: Tally,
    pub monitor_takeovers: Takeovers,
    pub engine_takeovers: Takeovers,
    /// Entries about its links and its health.
    pub noted: AuditThrottle,
    /// Central's database is older than what Central has signed (SPEC 10.5).
    pub ledger_behind: bool,
    /// Of its city; nothing: Weather has not been heard about it.
    pub weather: Option<CityWeather>,
    /// One takeover too many; becomes the durable cause QUARANTINED.
    pub cloned: bool,
}

/// A link in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartLink {
    pub link: LinkNo,
    /// 0: a status link, which proved a credential and no key.
    pub key_no: u64,
    pub from: Arc<str>,
    /// The highest epoch its part had seen.
    pub highest_epoch: u64,
    /// Its engine has reported on it what its journal holds.
    pub journal_reported: bool,
    /// Its engine has reported on it that a supply has begun.
    pub begun_reported: bool,
    /// By how much its part's clock is ahead of Central's; 0 where that is less than a second, or not known.
    pub ahead_ms: i64,
}

/// The monitor's verdict on its engine (SPEC 1.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EngineVerdict {
    /// Not reported since the monitor's link is up.
    #[default]
    Unknown,
    Healthy,
    Unhealthy(Arc<str>),
}

#[derive(Clone, Debug)]
pub struct ChargePoint {
    pub record: Record,
    pub pending: Pending,
    pub live: LiveState,
}

impl PartLink {
    pub fn new(link: LinkNo, key_no: u64, from: Arc<str>, highest_epoch: u64) -> Self {
        Self { link, key_no, from, highest_epoch, journal_reported: false, begun_reported: false, ahead_ms: 0 }
    }
}

impl ChargePoint {
    /// As loaded or newly enrolled: without links since `now`, so DISCONNECTED until it reports (SPEC 9).
    pub fn new(record: Record, now: Now) -> Self {
        let lost = Some(now.mono);
        let live = LiveState { engine_lost_at: lost, both_lost_at: lost, ..LiveState::default() };
        Self { record, pending: Pending::loaded(now), live }
    }

    /// Makes a decision's next state the present one, after its changes became durable under `hold`; none where
    /// nothing was to be written.
    pub fn apply(&mut self, next: Record, pending: Pending, hold: Option<PointVersion>) {
        let PointVersion { epoch, version } =
            hold.unwrap_or(PointVersion { epoch: self.record.epoch, version: self.record.version });
        self.record = Record { epoch, version, ..next };
        self.pending = pending;
        if self.record.quarantined {
            // Durable now: what comes after a release counts anew.
            self.live.cloned = false;
        }
        if self.begun().is_none() {
            self.live.begun = None;
        }
        let running = self.record.open.as_ref().map(|s| &s.id);
        if self.live.meter.as_ref().map(|(id, ..)| id) != running {
            (self.live.meter, self.live.power_w, self.live.pace) = (None, 0, Throttle::default());
        }
    }

    /// The open session with the start and the latest value that were observed.
    pub fn running(&self) -> Option<Session> {
        let mut session = self.begun().or(self.record.open.as_ref())?.clone();
        // It was checked against the value before when it came.
        if let Some((_, meter, at)) = self.live.meter.as_ref().filter(|(id, ..)| *id == session.id) {
            session.take(*meter, *at);
        }
        Some(session)
    }

    /// The open reservation, as it is since it began, where the store has not taken that yet.
    fn begun(&self) -> Option<&Session> {
        let open = self.record.open.as_ref().filter(|open| open.state == SessionState::Reserved)?;
        self.live.begun.as_ref().filter(|begun| begun.id == open.id)
    }

    /// It has begun, and the engine that reported so has not been replaced since.
    fn has_begun_on_this_link(&self) -> bool {
        self.begun().is_some() && self.live.engine.as_ref().is_some_and(|engine| engine.begun_reported)
    }

    /// What the age of its key calls for now: none is renewed under a running supply (SPEC 4.6).
    pub fn key_due(&self, settings: &CentralSettings, stagger: u16, now: Now) -> Option<KeyDue> {
        let keys = &self.record.keys;
        let due = keys.due(settings, stagger, now)?;
        let renews = due == KeyDue::Expired && self.record.open.is_some();
        if renews { keys.staged().is_none().then_some(KeyDue::Rotation) } else { Some(due) }
    }

    /// The driver with an open session here.
    pub fn driver(&self) -> Option<&DriverId> {
        self.record.open.as_ref().and_then(|s| s.driver.as_ref())
    }
}
