//! Causes to state (SPEC 2.1 to 2.3): derived each time, never stored, so that ending one cause reveals the next.

use mesh::clock::Now;
use proto::link::v1::{Cause, KeyState, Reason, SessionState, State, View};

use super::{AskStage, ChargePoint, EngineVerdict};
use crate::{session::Session, settings::CentralSettings};

impl ChargePoint {
    /// Every cause that stands now, in order of precedence.
    pub fn causes(&self, settings: &CentralSettings, now: Now) -> Vec<Cause> {
        let (record, key) = (&self.record, self.record.keys.state());
        let has_key = matches!(key, KeyState::Active | KeyState::Rotating);
        let standing = [
            (Cause::MonitorLost, !self.monitor_reports(has_key)),
            (Cause::EngineBroken, has_key && self.engine_is_broken(settings, now)),
            (Cause::LedgerBehind, self.live.ledger_behind),
            (Cause::OperatorStop, record.stopped.is_some()),
            (Cause::Quarantined, record.quarantined),
            (Cause::KeyRevoked, key == KeyState::Revoked),
            (Cause::NoKey, key == KeyState::Deleted),
            (Cause::Maintenance, record.maintenance.is_some()),
            (Cause::Weather, self.is_frozen()),
        ];
        standing.into_iter().filter_map(|(cause, stands)| stands.then_some(cause)).collect()
    }

    /// The state shown (SPEC 2.2).
    pub fn state(&self, settings: &CentralSettings, now: Now) -> State {
        self.state_of(&self.causes(settings, now))
    }

    /// A monitor is there, and where it holds a key it has said how its engine is: until it reports, a charging point
    /// is DISCONNECTED.
    fn monitor_reports(&self, has_key: bool) -> bool {
        self.live.monitor.is_some() && (!has_key || self.live.health != EngineVerdict::Unknown)
    }

    /// The monitor says so; or, while nothing runs, its link to Central has been missing for longer than a reconnect
    /// takes. An engine whose link is lost during a supply is still supplying (SPEC 3.8).
    fn engine_is_broken(&self, settings: &CentralSettings, now: Now) -> bool {
        let lost = |at| now.mono.saturating_duration_since(at) >= settings.engine_grace;
        match self.live.health {
            EngineVerdict::Unhealthy(_) => true,
            EngineVerdict::Unknown | EngineVerdict::Healthy => {
                self.record.open.is_none() && self.live.engine_lost_at.is_some_and(lost)
            }
        }
    }

    /// Why a request must be refused now, if it must (SPEC 3.2).
    pub(super) fn against(&self, settings: &CentralSettings, now: Now) -> Option<(Reason, String)> {
        let causes = self.causes(settings, now);
        let reason = match self.state_of(&causes) {
            State::Available => return None,
            State::Disconnected | State::Unspecified => Reason::Disconnected,
            State::Broken => Reason::Broken,
            State::OutOfOrder => Reason::OutOfOrder,
            State::Supplying => Reason::Occupied,
            State::Reserved => Reason::Reserved,
        };
        Some((reason, self.detail(&causes)))
    }

    /// What the charging point, its driver and every screen are shown.
    pub fn view(&self, settings: &CentralSettings, now: Now) -> View {
        let causes = self.causes(settings, now);
        let session = self.running();
        let amount = session.as_ref().map(Session::amount).unwrap_or_default();
        View {
            // Not as it is observed: that a supply has begun is shown when it is durable.
            state: self.state_of(&causes).into(),
            detail: self.detail(&causes),
            causes: causes.into_iter().map(i32::from).collect(),
            key_state: self.record.keys.state().into(),
            session_id: session.as_ref().map(|s| s.id.to_string()).unwrap_or_default(),
            driver_id: session.as_ref().and_then(|s| s.driver.clone()).map(String::from).unwrap_or_default(),
            energy_wh: session.as_ref().map(|s| s.billable().wh()).unwrap_or_default(),
            amount_minor: amount.minor,
            price_e4: session.as_ref().map_or(self.record.price, |s| s.price).e4(),
            currency: session.as_ref().map_or(settings.currency, |s| s.currency).to_string(),
            power_w: self.live.power_w,
            clock_skew_ms: self.clock_skew_ms(),
        }
    }

    /// One plain sentence for the first cause.
    fn detail(&self, causes: &[Cause]) -> String {
        let said = |what: &str, notice: &Option<super::Notice>| match notice {
            Some(n) if n.reason.is_empty() => format!("{what} by {}", n.by),
            Some(n) => format!("{what} by {}: {}", n.by, n.reason),
            None => what.to_owned(),
        };
        match causes.first() {
            None | Some(Cause::Unspecified) => self.waits_for(),
            Some(Cause::MonitorLost) => "no sign of life from the monitor".to_owned(),
            Some(Cause::EngineBroken) => match &self.live.health {
                EngineVerdict::Unhealthy(detail) if !detail.is_empty() => detail.as_ref().to_owned(),
                EngineVerdict::Unhealthy(_) => "the engine is not healthy".to_owned(),
                EngineVerdict::Unknown | EngineVerdict::Healthy => "the engine does not reach Central".to_owned(),
            },
            Some(Cause::LedgerBehind) => {
                "Central's database is older than what it has signed, as after raw files were put back; stop Central and \
                 Registry and run `chargemesh restore --raise-generation`"
                    .to_owned()
            }
            Some(Cause::OperatorStop) => said("stopped", &self.record.stopped),
            Some(Cause::Quarantined) => {
                "ALARM: is its key cloned? Its link was taken over again and again; held until an operator releases it"
                    .to_owned()
            }
            Some(Cause::KeyRevoked) if self.record.keys.to_be_void().is_some() => {
                "its key was revoked; at Registry its credential is not void yet".to_owned()
            }
            Some(Cause::KeyRevoked) => "its key was revoked, until an operator restores it".to_owned(),
            Some(Cause::NoKey) => "no valid key".to_owned(),
            Some(Cause::Maintenance) => said("maintenance", &self.record.maintenance),
            Some(Cause::Weather) => self.frost_in_words(),
        }
    }
}

impl ChargePoint {
    fn state_of(&self, causes: &[Cause]) -> State {
        state_of(causes, self.record.open.as_ref().map(|open| open.state), self.frost_waits())
    }

    /// It is AVAILABLE, and refuses others meanwhile.
    fn waits_for(&self) -> String {
        let ask = self.pending.ask.as_ref().filter(|ask| ask.stage == AskStage::Confirming);
        let driver = ask.and_then(|ask| ask.request.driver.as_ref());
        driver.map(|driver| format!("waits until {driver} confirms a manual supply")).unwrap_or_default()
    }
}

/// Precedence of SPEC 2.2. Maintenance waits for the end of a supply (SPEC 3.5), and frost where its policy says so, so
/// they alone do not hide one.
fn state_of(causes: &[Cause], open: Option<SessionState>, frost_waits: bool) -> State {
    let out_of_order = |cause: &Cause| match cause {
        Cause::Maintenance => open.is_none(),
        Cause::Weather => open.is_none() || !frost_waits,
        Cause::LedgerBehind | Cause::OperatorStop | Cause::NoKey | Cause::KeyRevoked | Cause::Quarantined => true,
        Cause::Unspecified | Cause::MonitorLost | Cause::EngineBroken => false,
    };
    if causes.contains(&Cause::MonitorLost) {
        State::Disconnected
    } else if causes.contains(&Cause::EngineBroken) {
        State::Broken
    } else if causes.iter().any(out_of_order) {
        State::OutOfOrder
    } else {
        match open {
            Some(SessionState::Supplying) => State::Supplying,
            Some(_) => State::Reserved,
            None => State::Available,
        }
    }
}
