//! What the engine's screen shows (SPEC 11.2), as JSON and as one line.

use proto::link::v1::{SessionState, State};
use serde::Serialize;

use super::{Engine, session::EngineSession};

#[derive(Clone, Debug, Serialize)]
pub struct EngineStatus {
    /// The state and all that must be known of it, in one line.
    pub headline: String,
    /// None until the monitor has said which charging point this is.
    pub charging_point: Option<String>,
    /// As Central shows it, or as it is known here while Central cannot be reached.
    pub state: &'static str,
    /// Why, in one sentence.
    pub detail: String,
    pub plugged: bool,
    pub fault: Option<String>,
    pub session: Option<SupplyStatus>,
    /// A manual supply waits for Central's answer.
    pub manual_pending: bool,
    /// The lifetime register.
    pub meter_wh: u64,
    pub key_no: Option<u64>,
    pub key_state: &'static str,
    pub monitor: PeerStatus,
    pub central: PeerStatus,
    /// Messages from Central that could not be opened.
    pub unintelligible: u64,
    pub highest_epoch: u64,
    /// Ended sessions that Central has not settled.
    pub unsettled: usize,
    pub journal_trouble: Option<String>,
    pub readings_waiting: usize,
    pub keys_spoiled: bool,
    /// What a person must know, most pressing first.
    pub warnings: Vec<String>,
    /// What happened last.
    pub notice: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    pub reachable: bool,
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct SupplyStatus {
    pub id: String,
    /// Empty: the charging point's own account.
    pub driver: String,
    pub state: &'static str,
    pub energy_wh: u64,
    /// 0: until unplugged.
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

/// What is measured of an engine.
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
            central_reachable: self.uplink.is_reachable(),
            unsettled: self.journal.state().waiting(),
            unintelligible: self.uplink.unintelligible(),
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
            central: PeerStatus {
                reachable: self.uplink.is_reachable(),
                trouble: self.uplink.trouble().map(str::to_owned),
            },
            unintelligible: self.uplink.unintelligible(),
            highest_epoch: self.uplink.highest_epoch(),
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
        // A session that has just come is ahead of Central's view of it.
        let view = self.view.as_ref().filter(|v| self.session.is_none() || v.state() != State::Available);
        if let Some(view) = view.filter(|_| self.uplink.is_reachable()) {
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

    /// What a person must know, most pressing first.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(withdrawn) = &self.withdrawn {
            all.push(crate::labels::withdrawn(withdrawn));
        }
        if self.uplink.cannot_read() || self.spoiled && self.uplink.unintelligible() > 0 {
            all.push(format!("unintelligible messages from Central ({})", self.uplink.unintelligible()));
        }
        if self.uplink.is_not_read() {
            all.push("Central cannot read what this engine sends".to_owned());
        }
        if self.identity.is_some() && self.withdrawn.is_none() && !self.uplink.is_reachable() {
            all.push(format!("cannot reach Central: {}", self.uplink.trouble().unwrap_or("connecting")));
        }
        if !self.paired {
            all.push(format!("no monitor: {}", self.unpaired));
        }
        if let Some(why) = self.journal.trouble() {
            all.push(format!("the journal cannot be written: {why}"));
        }
        all.extend(self.uplink.clock_trouble());
        if self.spoiled {
            all.push("keys spoiled on purpose".to_owned());
        }
        all
    }

    /// One line for the log: what changes rarely enough to be told at each change.
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

    /// A stop has nothing more to wait for.
    pub fn is_persisted(&self) -> bool {
        self.journal.is_idle()
    }
}

fn key_state(state: proto::link::v1::KeyState) -> &'static str {
    crate::labels::key_state(state)
}
