//! The monitor's status (SPEC 11.3): what its screen, `chargemesh ctl`, its log and its metrics show.

use proto::link::v1::Cause;
use serde::Serialize;

use super::{Membership, Monitor};

#[derive(Clone, Debug, Serialize)]
pub struct MonitorStatus {
    /// Enrolment, key, state and warnings in one line.
    pub headline: String,
    pub charging_point: Option<String>,
    /// `ENROLLED`, `ENROLLING` or `NOT ENROLLED`.
    pub enrolment: &'static str,
    pub enrolment_detail: String,
    /// Central's state of the charging point; `UNKNOWN` while Central cannot be reached.
    pub state: &'static str,
    pub detail: String,
    pub engine: MonitoredEngine,
    pub central: CentralLinkStatus,
    pub registry: RegistryStatus,
    pub key_no: Option<u64>,
    pub key_state: &'static str,
    pub key_expires_at_ms: Option<i64>,
    pub refusals: u32,
    /// Whether the monitor will authenticate again without a command.
    pub authenticates_again: bool,
    pub maintenance: bool,
    /// Maintenance was requested, on or off, and Central has not answered yet.
    pub maintenance_pending: Option<bool>,
    pub session: Option<MonitoredSession>,
    pub warnings: Vec<String>,
    pub notice: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct MonitoredEngine {
    pub paired: bool,
    pub healthy: bool,
    pub detail: String,
    pub central_reachable: bool,
    pub unintelligible: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct CentralLinkStatus {
    /// Whether a link under a key is open.
    pub reachable: bool,
    /// Whether any link is open; a status link, without a key, carries only signs of life.
    pub linked: bool,
    pub disconnected_by_hand: bool,
    pub trouble: Option<String>,
    pub unintelligible: u64,
    pub highest_epoch: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct RegistryStatus {
    /// Whether Registry has answered since the start. It is asked for an enrolment, and when Central does not know this
    /// charging point.
    pub asked: bool,
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct MonitoredSession {
    pub id: String,
    pub driver: String,
    pub energy_wh: u64,
    pub power_w: u32,
}

impl Monitor {
    /// Whether a link is open under a key that is valid.
    pub fn is_reachable(&self) -> bool {
        self.way.reachable() && self.keys.auth_status.is_none()
    }

    /// When the key expires, in milliseconds since 1970; 0: there is no key.
    pub fn key_expires_at_ms(&self) -> i64 {
        self.stored.keys.first().map_or(0, |key| key.expires_at_ms)
    }

    pub fn status(&self) -> MonitorStatus {
        let health = self.health();
        let report = self.report.as_ref();
        let id = self.stored.id.as_ref().or(self.settings.id.as_ref());
        let key = self.stored.keys.first();
        let view = self.view.as_ref().filter(|_| self.way.linked());
        let (enrolment, enrolment_detail) = self.enrolment();
        MonitorStatus {
            headline: self.headline(),
            charging_point: id.map(ToString::to_string),
            enrolment,
            enrolment_detail,
            state: view.map_or("UNKNOWN", |v| crate::labels::state(v.state())),
            detail: view.map(|v| v.detail.clone()).unwrap_or_default(),
            engine: MonitoredEngine {
                paired: self.paired.is_ok(),
                healthy: health.healthy,
                detail: health.detail,
                central_reachable: report.is_some_and(|r| r.central_reachable),
                unintelligible: report.map_or(0, |r| r.unintelligible),
            },
            central: CentralLinkStatus {
                reachable: self.is_reachable(),
                linked: self.way.linked(),
                disconnected_by_hand: self.disconnected,
                trouble: self.way.trouble().map(str::to_owned),
                unintelligible: self.way.unintelligible().0,
                highest_epoch: self.way.highest_epoch(),
            },
            registry: RegistryStatus { asked: self.registry_answered, trouble: self.registry_trouble.clone() },
            key_no: key.map(|k| k.key_no),
            key_state: self.key_state(),
            key_expires_at_ms: key.map(|k| k.expires_at_ms),
            refusals: self.keys.refusals,
            authenticates_again: self.keys.authenticate_at.is_some(),
            maintenance: view.is_some_and(|v| v.causes().any(|c| c == Cause::Maintenance)),
            maintenance_pending: self.maintenance_asked,
            session: report.filter(|r| !r.session_id.is_empty()).map(|r| MonitoredSession {
                id: r.session_id.clone(),
                driver: r.driver_id.clone(),
                energy_wh: r.energy_wh,
                power_w: r.power_w,
            }),
            warnings: self.warnings(),
            notice: self.notice.clone(),
        }
    }

    fn enrolment(&self) -> (&'static str, String) {
        match &self.membership {
            Membership::NotEnrolled(why) => ("NOT ENROLLED", why.clone()),
            Membership::Enrolling { trouble, .. } => ("ENROLLING", trouble.clone().unwrap_or_default()),
            Membership::Enrolled => ("ENROLLED", String::new()),
        }
    }

    fn key_state(&self) -> &'static str {
        match &self.keys.auth_status {
            Some(auth_status) => crate::labels::key_state(auth_status.key_state()),
            None if self.stored.keys.len() > 1 => "ROTATING",
            None if self.stored.keys.is_empty() => "NONE",
            None => "ACTIVE",
        }
    }

    /// What an operator must know, the most urgent first.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = Vec::new();
        match &self.membership {
            Membership::NotEnrolled(why) => all.push(format!("not enrolled: {why}")),
            Membership::Enrolling { trouble, .. } => {
                let why = trouble.as_deref().unwrap_or("enrolling");
                all.push(format!("not enrolled yet: {why}"));
            }
            Membership::Enrolled => {}
        }
        if self.keys.is_revoked() {
            all.push("key revoked: waits for a new enrolment token".to_owned());
        } else if self.keys.given_up {
            all.push(format!("refused {} times: waits for the command authenticate", self.keys.refusals));
        } else if let Some(auth_status) = &self.keys.auth_status {
            all.push(format!("no valid key: {}", auth_status.reason().in_words()));
        }
        if self.way.unintelligible().1 {
            all.push(format!("unintelligible messages from Central ({})", self.way.unintelligible().0));
        }
        if self.way.is_not_read() {
            all.push("Central cannot read what this monitor sends".to_owned());
        }
        if self.report.as_ref().is_some_and(|report| report.unread) {
            all.push("the engine and Central cannot read each other".to_owned());
        }
        if self.disconnected {
            all.push("disconnected by hand".to_owned());
        } else if matches!(self.membership, Membership::Enrolled) && !self.way.linked() && !self.keys.given_up {
            all.push(format!("cannot reach Central: {}", self.way.trouble().unwrap_or("connecting")));
        }
        let health = self.health();
        if !health.healthy {
            all.push(format!("engine: {}", health.detail));
        }
        if let Some(why) = &self.registry_trouble {
            all.push(why.clone());
        }
        all.extend(self.way.clock_trouble());
        if let Some(why) = &self.save_trouble {
            all.push(format!("the identity cannot be stored: {why}"));
        }
        all
    }

    /// One line for the log. It holds nothing that changes all the time, so that the log can have every change of it.
    pub fn headline(&self) -> String {
        let id = self.stored.id.as_ref().or(self.settings.id.as_ref());
        let mut line = id.map_or_else(|| "no id".to_owned(), ToString::to_string);
        let (enrolment, _) = self.enrolment();
        line = format!("{line} {enrolment}, key {}", self.key_state());
        if let Some(view) = self.view.as_ref().filter(|_| self.way.linked()) {
            line = format!("{line}, {}", crate::labels::state(view.state()));
        }
        for warning in self.warnings() {
            line = format!("{line}; {warning}");
        }
        line
    }

    /// Whether an orderly stop has nothing left to write.
    pub fn is_persisted(&self) -> bool {
        !self.saving && (!self.unsaved || self.save_trouble.is_some())
    }
}
