//! The monitor's verdict on its engine (SPEC 1.4, 2.3).

use mesh::clock::Now;
use proto::link::v1::{EngineHealth, FromEngine, from_engine, up};

use super::Monitor;

impl Monitor {
    pub(super) fn engine_paired(&mut self, now: Now) {
        self.paired = Ok(());
        self.report = None;
        self.assign();
        self.judge(now);
    }

    pub(super) fn engine_gone(&mut self, why: String, now: Now) {
        self.paired = Err(why);
        self.report = None;
        self.nobody_holds(now);
        self.judge(now);
    }

    pub(super) fn engine_said(&mut self, message: FromEngine, now: Now) {
        match message.body {
            Some(from_engine::Body::Report(report)) => {
                self.report = Some(report);
                self.judge(now);
            }
            Some(from_engine::Body::KeyStored(held)) => self.engine_stored_key(held.key_no, now),
            None => {}
        }
    }

    pub(super) fn health(&self) -> EngineHealth {
        match (&self.paired, &self.report) {
            (Err(why), _) => EngineHealth { healthy: false, detail: format!("the engine is gone: {why}") },
            (Ok(()), None) => EngineHealth { healthy: false, detail: "the engine has not reported yet".to_owned() },
            (Ok(()), Some(report)) => EngineHealth { healthy: report.healthy, detail: report.detail.clone() },
        }
    }

    /// Tells Central of every change, at once or as soon as a link is the one to speak on: it may have been greeted with
    /// the verdict before, and not have answered yet.
    fn judge(&mut self, now: Now) {
        let health = self.health();
        if self.told_health.as_ref() == Some(&health) {
            return;
        }
        // An engine that has just paired reports within a moment: that it has not yet is no news.
        if self.paired.is_ok() && self.report.is_none() && self.told_health.is_some() {
            return;
        }
        self.told_health = Some(health.clone());
        self.way.replace(up::Body::EngineHealth(health), now.mono);
    }

    /// Central has heard the greeting of a new link. What was said since on the one before may have overtaken that, and
    /// been answered: the greeting's verdict would stand.
    pub(super) fn judge_again(&mut self, now: Now) {
        let Some((_, greeted)) = self.greeted.take_if(|(link, _)| self.way.speaks_on(*link)) else { return };
        if let Some(told) = self.told_health.clone().filter(|told| *told != greeted) {
            self.way.replace(up::Body::EngineHealth(told), now.mono);
        }
    }
}
