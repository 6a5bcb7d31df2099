//! What the monitor's screen shows (SPEC 11.3), as JSON.

use proto::link::v1::Cause;
use serde::Serialize;

use super::{Membership, Monitor};

#[derive(Clone, Debug, Serialize)]
pub struct MonitorStatus {
    /// The state and all that must be known of it, in one line.
    pub headline: String,
    pub charging_point: Option<String>,
    /// `ENROLLED`, `ENROLLING` or `NOT ENROLLED`.
    pub enrolment: &'static str,
    pub enrolment_detail: String,
    /// As Central shows it; none while Central cannot be reached.
    pub state: &'static str,
    pub detail: String,
    pub engine: MonitoredEngine,
    pub central: CentralLinkStatus,
    pub registry: RegistryReach,
    pub key_no: Option<u64>,
    pub key_state: &'static str,
    pub key_expires_at_ms: Option<i64>,
    pub refusals: u32,
    /// Whether it authenticates again by itself.
    pub authenticates_again: bool,
    pub maintenance: bool,
    /// Asked for, not answered yet.
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
    /// Under a key.
    pub reachable: bool,
    /// With or without one: a status link carries signs of life.
    pub linked: bool,
    pub disconnected_by_hand: bool,
    pub trouble: Option<String>,
    pub unintelligible: u64,
    pub highest_epoch: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct RegistryReach {
    /// It has answered since the start: it is asked at an enrolment, and where Central does not know this one.
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
    /// Central can be reached under a key that is in force.
    pub fn is_reachable(&self) -> bool {
        self.enrollee.is_reachable()
    }

    pub fn engine_is_healthy(&self) -> bool {
        self.engine.health.healthy
    }

    /// 0: there is no key.
    pub fn key_expires_at_ms(&self) -> i64 {
        self.enrollee.stored().keys.first().map_or(0, |key| key.expires_at_ms)
    }

    pub fn status(&self) -> MonitorStatus {
        let (enrollee, peer, health) = (&self.enrollee, &self.enrollee.peer, &self.engine.health);
        let report = self.engine.report.as_ref();
        let key = enrollee.stored().keys.first();
        let view = self.view.as_ref().filter(|_| peer.is_linked());
        let (enrolment, enrolment_detail) = self.enrolment();
        MonitorStatus {
            headline: self.headline(),
            charging_point: enrollee.id().map(str::to_owned),
            enrolment,
            enrolment_detail,
            state: view.map_or("UNKNOWN", |v| crate::labels::state(v.state())),
            detail: view.map(|v| v.detail.clone()).unwrap_or_default(),
            engine: MonitoredEngine {
                paired: self.engine.paired,
                healthy: health.healthy,
                detail: health.detail.clone(),
                central_reachable: report.is_some_and(|r| r.central_reachable),
                unintelligible: report.map_or(0, |r| r.unintelligible),
            },
            central: CentralLinkStatus {
                reachable: self.is_reachable(),
                linked: peer.is_linked(),
                disconnected_by_hand: enrollee.is_disconnected(),
                trouble: peer.trouble().map(str::to_owned),
                unintelligible: peer.unintelligible(),
                highest_epoch: peer.highest_epoch(),
            },
            registry: RegistryReach {
                asked: enrollee.registry_has_answered(),
                trouble: enrollee.registry_trouble().map(str::to_owned),
            },
            key_no: key.map(|k| k.key_no),
            key_state: self.key_state(),
            key_expires_at_ms: key.map(|k| k.expires_at_ms),
            refusals: enrollee.refusals(),
            authenticates_again: enrollee.authenticates_again(),
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
        match self.enrollee.membership() {
            Membership::NotEnrolled(why) => ("NOT ENROLLED", why.clone()),
            Membership::Enrolling { trouble, .. } => ("ENROLLING", trouble.clone().unwrap_or_default()),
            Membership::Enrolled => ("ENROLLED", String::new()),
        }
    }

    fn key_state(&self) -> &'static str {
        match (self.enrollee.auth_status(), self.enrollee.stored().keys.len()) {
            (Some(status), _) => crate::labels::key_state(status.key_state()),
            (None, 0) => "NONE",
            (None, 1) => "ACTIVE",
            (None, _) => "ROTATING",
        }
    }

    /// What a person must know, most pressing first.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = Vec::new();
        match self.enrollee.membership() {
            Membership::NotEnrolled(why) => all.push(format!("not enrolled: {why}")),
            Membership::Enrolling { trouble, .. } => {
                let why = trouble.as_deref().unwrap_or("enrolling");
                all.push(format!("not enrolled yet: {why}"));
            }
            Membership::Enrolled => {}
        }
        let (enrollee, peer) = (&self.enrollee, &self.enrollee.peer);
        if enrollee.is_revoked() {
            all.push("key revoked: waits for a new enrolment token".to_owned());
        } else if enrollee.has_given_up() {
            all.push(format!("refused {} times: waits for the command authenticate", enrollee.refusals()));
        } else if let Some(status) = enrollee.auth_status() {
            all.push(format!("no valid key: {}", status.reason().in_words()));
        }
        if peer.cannot_read() {
            all.push(format!("unintelligible messages from Central ({})", peer.unintelligible()));
        }
        if peer.is_not_read() {
            all.push("Central cannot read what this monitor sends".to_owned());
        }
        if self.engine.report.as_ref().is_some_and(|report| report.unread) {
            all.push("the engine and Central cannot read each other".to_owned());
        }
        if enrollee.is_disconnected() {
            all.push("disconnected by hand".to_owned());
        } else if enrollee.is_enrolled() && !peer.is_linked() && !enrollee.has_given_up() {
            all.push(format!("cannot reach Central: {}", peer.trouble().unwrap_or("connecting")));
        }
        if !self.engine.health.healthy {
            all.push(format!("engine: {}", self.engine.health.detail));
        }
        all.extend(enrollee.registry_trouble().map(str::to_owned));
        all.extend(peer.clock_trouble());
        if let Some(why) = enrollee.save_trouble() {
            all.push(format!("the identity cannot be stored: {why}"));
        }
        all
    }

    /// One line for the log: what changes rarely enough to be told at each change.
    pub fn headline(&self) -> String {
        let (enrolment, _) = self.enrolment();
        let id = self.enrollee.id().unwrap_or("no id");
        let mut line = format!("{id} {enrolment}, key {}", self.key_state());
        if let Some(view) = self.view.as_ref().filter(|_| self.enrollee.peer.is_linked()) {
            line = format!("{line}, {}", crate::labels::state(view.state()));
        }
        for warning in self.warnings() {
            line = format!("{line}; {warning}");
        }
        line
    }

    /// A stop has nothing more to wait for.
    pub fn is_persisted(&self) -> bool {
        self.enrollee.is_persisted()
    }
}
