//! What others should know of a charging point now, and whom it concerns: derived from its state alone, whatever was
//! sent before.

use mesh::clock::Now;
use proto::{
    DriverId,
    link::v1::{Progress, SessionState, down},
};

use super::{AskStage, ChargePoint, PartLink, PointInput, messages};
use crate::{
    origin::LinkNo,
    session::{Session, SessionId},
    settings::CentralSettings,
};

impl ChargePoint {
    /// What a driver who reconnects has to know: his sessions, and a supply that waits for his confirmation (SPEC 9).
    pub fn desired_by(&self, driver: &DriverId, settings: &CentralSettings, now: Now) -> Vec<down::Body> {
        let his = |session: &&Session| session.driver.as_ref() == Some(driver);
        let running = self.running();
        let sessions = running.iter().chain(&self.record.settling).filter(his);
        let steps = sessions.map(|session| messages::step_of(session, progress_of(session), session.reason, ""));
        let ask = self.pending.ask.as_ref().filter(|ask| ask.stage == AskStage::Confirming);
        let confirmation = ask.filter(|ask| ask.request.driver.as_ref() == Some(driver)).map(|ask| {
            let left = ask.due.saturating_duration_since(now.mono).as_millis();
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            messages::confirm_request(&ask.request, &self.record, left, settings)
        });
        let lost = self.link_lost().filter(|_| self.driver() == Some(driver));
        steps.chain(confirmation).chain(lost).collect()
    }

    /// The links of its parts, which are to show its view.
    pub fn links(&self) -> impl Iterator<Item = LinkNo> {
        [&self.live.monitor, &self.live.engine].into_iter().flatten().map(|linked| linked.link)
    }

    /// The drivers who have a session or a request here, each once and in order.
    pub fn concerned_drivers(&self) -> Vec<DriverId> {
        let sessions =
            self.record.open.iter().chain(&self.record.settling).filter_map(|session| session.driver.clone());
        let asked = self.pending.ask.as_ref().and_then(|ask| ask.request.driver.clone());
        let mut drivers: Vec<_> = sessions.chain(asked).collect();
        drivers.sort();
        drivers.dedup();
        drivers
    }

    /// Whether this session is open here, or becomes it if the request that is under way is granted.
    pub fn is_under_way(&self, session: &SessionId) -> bool {
        let asked = self.pending.ask.as_ref().map(|ask| &ask.request.session);
        asked == Some(session) || self.record.open.as_ref().map(|open| &open.id) == Some(session)
    }

    /// Whether the driver has an open session here.
    pub fn serves(&self, driver: &DriverId) -> bool {
        self.driver() == Some(driver)
    }

    /// Whether inputs from this link count: those of an older link, or of one that proved no key in force, do not (SPEC
    /// 4.9, 4.7). That both parts hold a new key may be said by a monitor that has none yet.
    pub fn accepts(&self, link: LinkNo, inputs: &[PointInput]) -> bool {
        let is_proven = |linked: &PartLink| linked.link == link && self.record.keys.granted(linked.key_no).is_some();
        let key_installed = matches!(inputs, [PointInput::KeyInstalled { .. }]);
        self.live.engine.as_ref().is_some_and(is_proven)
            || self.live.monitor.as_ref().is_some_and(is_proven)
            || (key_installed && self.is_monitor(link))
    }
}

fn progress_of(session: &Session) -> Progress {
    match session.state {
        SessionState::Reserved => Progress::Authorised,
        SessionState::Supplying => Progress::Supplying,
        SessionState::Unspecified | SessionState::Settling | SessionState::Billed | SessionState::Released => {
            Progress::Settling
        }
    }
}
