//! The engine's status (SPEC 11.2): what its screen, `chargemesh ctl`, its log and its metrics show.

use proto::link::v1::{SessionState, State};
use serde::Serialize;

use super::{Engine, session::EngineSession};

#[derive(Clone, Debug, Serialize)]
pub struct EngineStatus {
    /// State, session and warnings in one line.
    pub headline: String,
    /// Id of the charging point; nothing until the monitor has assigned one.
    pub charging_point: Option<String>,
    /// Central's state of the charging point, or the engine's own while Central cannot be reached.
    pub state: &'static str,
    /// Why it is in that state, in one sentence.
    pub detail: String,
    pub plugged: bool,
    pub fault: Option<String>,
    pub session: Option<SupplyStatus>,
    /// Whether a manual supply waits for Central's answer.
    pub manual_pending: bool,
    /// Lifetime register of the meter.
    pub meter_wh: u64,
    pub key_no: Option<u64>,
    pub key_state: &'static str,
    pub monitor: PeerStatus,
    pub central: PeerStatus,
    /// Number of messages from Central that could not be opened.
    pub unintelligible: u64,
    pub highest_epoch: u64,
    /// Number of ended sessions that Central has not settled.
    pub unsettled: usize,
    /// Why the journal cannot be written.
    pub journal_trouble: Option<String>,
    pub readings_waiting: usize,
    pub keys_spoiled: bool,
    /// What an operator must know, the most urgent first.
    pub warnings: Vec<String>,
    /// The last event that a person may want to know of.
    pub notice: Option<String>,
}

/// Whether the monitor or Central can be reached, and why not.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    pub reachable: bool,
    pub trouble: Option<String>,
}

/// The session that is reserved or supplied now.
#[derive(Clone, Debug, Serialize)]
pub struct SupplyStatus {
    pub id: String,
    /// Empty: the charging point's own account.
    pub driver: String,
    pub state: &'static str,
    pub energy_wh: u64,
    /// Energy that was asked for; 0: until unplugged.
    pub requested_wh: u64,
    pub progress_percent: Option<u64>,
    pub amount_minor: i64,
    pub amount: String,
    pub currency: String,
    pub price_e4: u32,
    pub power_w: u32,
    pub state_of_charge_permille: u32,
    pub temperature_dc: i32,
}

impl From<&EngineSession> for SupplyStatus {
    fn from(session: &EngineSession) -> Self {
        let (sample, cost) = (session.sample(), session.cost());
        Self {
            id: session.id.clone(),
            driver: session.driver.clone(),
            state: match session.state() {
                SessionState::Supplying => "SUPPLYING",
                SessionState::Unspecified
                | SessionState::Reserved
                | SessionState::Settling
                | SessionState::Billed
                | SessionState::Released => "RESERVED",
            },
            energy_wh: sample.energy.wh(),
            requested_wh: session.limit.wh(),
            progress_percent: (sample.energy.wh() * 100).checked_div(session.limit.wh()).map(|p| p.min(100)),
            amount_minor: cost.minor,
            amount: cost.to_string(),
            currency: cost.currency.to_string(),
            price_e4: session.price().e4(),
            power_w: sample.power_w,
            state_of_charge_permille: sample.charge_permille,
            temperature_dc: sample.temperature_dc,
        }
    }
}

/// The figures that an engine exports as metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineMetrics {
    pub meter_wh: u64,
    pub supplying: bool,
    pub central_reachable: bool,
    pub unsettled: usize,
    pub unintelligible: u64,
    pub readings_waiting: usize,
}

impl Engine {
    pub fn figures(&self) -> EngineMetrics {
        EngineMetrics {
            meter_wh: self.register_wh(),
            supplying: self.supplying().is_some(),
            central_reachable: self.way.reachable(),
            unsettled: self.journal.state().waiting(),
            unintelligible: self.way.unintelligible().0,
            readings_waiting: self.readings.len(),
        }
    }

    pub fn status(&self) -> EngineStatus {
        let (state, detail) = self.state();
        EngineStatus {
            headline: self.headline(),
            charging_point: self.identity.as_ref().map(|i| i.id.clone()),
            state,
            detail,
            plugged: self.plugged,
            fault: self.fault.clone(),
            session: self.session.as_ref().map(SupplyStatus::from),
            manual_pending: self.manual.is_some(),
            meter_wh: self.register_wh(),
            key_no: self.identity.as_ref().filter(|_| self.withdrawn.is_none()).map(|i| i.key_no),
            key_state: match (&self.withdrawn, &self.identity) {
                (Some(withdrawn), _) => key_state(withdrawn.key_state()),
                (None, Some(_)) => "ACTIVE",
                (None, None) => "NONE",
            },
            monitor: PeerStatus { reachable: self.paired, trouble: (!self.paired).then(|| self.unpaired.clone()) },
            central: PeerStatus { reachable: self.way.reachable(), trouble: self.way.trouble().map(str::to_owned) },
            unintelligible: self.way.unintelligible().0,
            highest_epoch: self.way.highest_epoch(),
            unsettled: self.journal.state().waiting(),
            journal_trouble: self.journal.trouble().map(str::to_owned),
            readings_waiting: self.readings.len(),
            keys_spoiled: self.spoiled,
            warnings: self.warnings(),
            notice: self.notice.clone(),
        }
    }

    fn state(&self) -> (&'static str, String) {
        if let Some(why) = self.fault_reason() {
            return ("BROKEN", why);
        }
        // A session that Central has just authorised is newer than Central's last view.
        let view = self.view.as_ref().filter(|v| self.session.is_none() || v.state() != State::Available);
        if let Some(view) = view.filter(|_| self.way.reachable()) {
            return (crate::labels::state(view.state()), view.detail.clone());
        }
        if let Some(withdrawn) = &self.withdrawn {
            return (crate::labels::state(State::OutOfOrder), crate::labels::withdrawn(withdrawn));
        }
        match (&self.session, &self.identity) {
            (Some(session), _) => (SupplyStatus::from(session).state, String::new()),
            (None, None) => {
                let why = if self.paired { "the monitor is not enrolled" } else { &self.unpaired };
                ("DISCONNECTED", format!("no charging point yet: {why}"))
            }
            (None, Some(_)) => (crate::labels::state(State::Disconnected), "cannot reach Central".to_owned()),
        }
    }

    /// What an operator must know, the most urgent first.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(withdrawn) = &self.withdrawn {
            all.push(crate::labels::withdrawn(withdrawn));
        }
        if self.way.unintelligible().1 || self.spoiled && self.way.unintelligible().0 > 0 {
            all.push(format!("unintelligible messages from Central ({})", self.way.unintelligible().0));
        }
        if self.way.is_not_read() {
            all.push("Central cannot read what this engine sends".to_owned());
        }
        if self.identity.is_some() && self.withdrawn.is_none() && !self.way.reachable() {
            all.push(format!("cannot reach Central: {}", self.way.trouble().unwrap_or("connecting")));
        }
        if !self.paired {
            all.push(format!("no monitor: {}", self.unpaired));
        }
        if let Some(why) = self.journal.trouble() {
            all.push(format!("the journal cannot be written: {why}"));
        }
        all.extend(self.way.clock_trouble());
        if self.spoiled {
            all.push("keys spoiled on purpose".to_owned());
        }
        all
    }

    /// One line for the log. It holds nothing that changes all the time, so that the log can have every change of it.
    pub fn headline(&self) -> String {
        let (state, detail) = self.state();
        let mut line = match &self.identity {
            Some(identity) => format!("{} {state}", identity.id),
            None => state.to_owned(),
        };
        if !detail.is_empty() {
            line = format!("{line} ({detail})");
        }
        if let Some(session) = &self.session {
            line = format!("{line}, session {} of {}", session.id, crate::labels::account(&session.driver));
        }
        for warning in self.warnings() {
            line = format!("{line}; {warning}");
        }
        line
    }

    /// Whether an orderly stop has nothing left to write.
    pub fn is_persisted(&self) -> bool {
        self.journal.is_idle()
    }
}

fn key_state(state: proto::link::v1::KeyState) -> &'static str {
    crate::labels::key_state(state)
}
