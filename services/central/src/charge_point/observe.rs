//! What is observed takes effect at once and never waits for the disk (DESIGN 3); what must be decided about it follows by
//! `PointInput::Due`. Only the newest proven link of a part speaks for it: a late message or close of an older one does nothing
//! (SPEC 4.9).

use std::{sync::Arc, time::Duration};

use mesh::clock::Now;
use proto::{
    Energy,
    link::v1::{Part, Progress, Reason, SessionState, down},
};

use super::{AskStage, ChargePoint, Effect, EngineVerdict, Observation, PartLink, PointChange, PointInput, messages};
use crate::{
    audit::{AuditAction, AuditRecord},
    origin::{LinkNo, Origin},
    session::{NotAccepted, Session, SessionId},
    settings::CentralSettings,
};

/// Running values are sent at most this often.
pub(super) const RUNNING_EVERY: Duration = Duration::from_millis(500);

/// What a sign leads to at once.
#[derive(Debug, Default)]
pub struct Reaction {
    pub effects: Vec<Effect>,
    /// Entries and events, queued to the disk.
    pub queued: Vec<PointChange>,
    /// The running session, to be shown.
    pub running: Option<Session>,
    /// `PointInput::Due` must follow.
    pub due: bool,
    /// Said again: nothing about the charging point is other than before.
    pub again: bool,
}

impl ChargePoint {
    pub fn observe(&mut self, observation: Observation, settings: &CentralSettings, now: Now) -> Reaction {
        let mut reaction = Reaction::default();
        match observation {
            Observation::LinkUp { link, part, key_no, from, highest_epoch } => {
                let linked = PartLink::new(link, key_no, from, highest_epoch);
                match part {
                    Part::Monitor => self.monitor_up(linked, settings, now, &mut reaction),
                    Part::Engine => self.engine_up(linked, settings, now, &mut reaction),
                    Part::Unspecified | Part::Driver | Part::Pairing => {}
                }
            }
            Observation::StatusLinkUp { link, from } => {
                let status = PartLink::new(link, 0, from, 0);
                self.status_up(status, now, &mut reaction);
            }
            Observation::LinkDown { link, answered, detail } => {
                let live = &mut self.live;
                for takeovers in [&mut live.monitor_takeovers, &mut live.engine_takeovers] {
                    let one_too_many = takeovers.ended(link, answered, now.mono, settings);
                    live.cloned |= one_too_many;
                    reaction.due |= one_too_many;
                }
                self.link_down(link, &detail, now, &mut reaction);
            }
            Observation::Health { link, healthy, detail } => self.health(link, healthy, detail, now, &mut reaction),
            Observation::Meter { link, session, meter, power_w } => {
                if self.is_engine(link)
                    && let Some(open) = self.record.open.as_ref().filter(|open| open.id == session)
                {
                    let open = open.clone();
                    self.meter(open, (meter, power_w), settings, now, &mut reaction);
                }
            }
            Observation::Unintelligible { link, count } => {
                if self.is_engine(link) || self.is_monitor(link) {
                    self.live.unintelligible += count;
                    self.live.unread = Some(link);
                    if let Some(count) = self.live.unnoted.count(count, now.mono) {
                        self.live.unread_noted = true;
                        reaction.queued.push(self.unintelligible(count, now));
                    }
                }
            }
            Observation::Clock { link, ahead_ms } => self.clock_told(link, ahead_ms, &mut reaction),
            Observation::Intelligible { link } => self.intelligible(link, now, &mut reaction),
            Observation::Weather(weather) => (self.live.weather, reaction.due) = (weather, true),
        }
        let notes = std::mem::take(&mut reaction.queued);
        reaction.queued = notes.into_iter().filter(|note| self.live.noted.may_audit(note, now.mono)).collect();
        reaction
    }

    /// What an engine says of its sessions counts from when it comes, and not from its turn: a supply that has begun
    /// does not expire while the store cannot take its start, or its end (SPEC 9, database).
    pub fn observe_early(&mut self, input: &PointInput, now: Now) {
        if let PointInput::Started { session, meter, at, .. } = input {
            self.observe_start(session, *meter, *at, now);
        } else if let PointInput::Ended { session, last, .. } = input {
            self.observe_start(session, last.start, last.started_at, now);
        } else if let PointInput::JournalReport { .. } = input {
            self.live.engine.iter_mut().for_each(|engine| engine.journal_reported = true);
        }
    }

    fn observe_start(&mut self, session: &SessionId, meter: Energy, at: i64, now: Now) {
        let reserved = |open: &&Session| open.id == *session && open.state == SessionState::Reserved;
        if self.begun().is_none()
            && let Some(open) = self.record.open.as_ref().filter(reserved)
        {
            self.live.begun = Some(open.start(meter, self.engine_time(at), now));
            self.live.engine.iter_mut().for_each(|engine| engine.begun_reported = true);
        }
    }

    pub fn is_engine(&self, link: LinkNo) -> bool {
        self.live.engine.as_ref().is_some_and(|l| l.link == link)
    }

    pub fn is_monitor(&self, link: LinkNo) -> bool {
        self.live.monitor.as_ref().is_some_and(|l| l.link == link)
    }

    fn monitor_up(&mut self, new: PartLink, settings: &CentralSettings, now: Now, reaction: &mut Reaction) {
        if let Some(staged) = self.record.keys.staged().filter(|staged| staged.no != new.key_no) {
            // A rotation whose grant this monitor has not received, or has lost.
            reaction.effects.push(Effect::Grant { link: Some(new.link), key_no: staged.no });
        }
        self.audit_link(AuditAction::LinkUp, "monitor", &new, "", now, reaction);
        self.new_key_proven(new.key_no);
        match self.live.monitor.replace(new.clone()) {
            Some(old) => {
                if is_takeover(&old, &new) {
                    self.audit_link(AuditAction::LinkTakenOver, "monitor", &new, "", now, reaction);
                    self.live.monitor_takeovers.began(old.link);
                }
                if self.record.keys.granted(old.key_no).is_none() {
                    // A status link said nothing of the engine (SPEC 4.7).
                    self.live.health = EngineVerdict::Unknown;
                }
                reaction.effects.push(close_succeeded(&old, &new));
            }
            None => {
                self.tell_heard_again("monitor", reaction);
                self.live.health = EngineVerdict::Unknown;
                // Both come back together, each after a wait of its own, as after a restart of Central: the engine's
                // grace begins when it should be here.
                self.live.engine_lost_at = self.live.engine_lost_at.map(|_| now.mono + settings.engine_return);
            }
        }
        self.live.both_lost_at = None;
        reaction.due = true;
    }

    fn engine_up(&mut self, new: PartLink, settings: &CentralSettings, now: Now, reaction: &mut Reaction) {
        self.audit_link(AuditAction::LinkUp, "engine", &new, "", now, reaction);
        self.new_key_proven(new.key_no);
        if let Some(old) = self.live.engine.replace(new.clone()) {
            if is_takeover(&old, &new) {
                self.audit_link(AuditAction::LinkTakenOver, "engine", &new, "", now, reaction);
                self.live.engine_takeovers.began(old.link);
            }
            reaction.effects.push(close_succeeded(&old, &new));
        } else {
            self.tell_heard_again("engine", reaction);
        }
        (self.live.engine_lost_at, self.live.both_lost_at) = (None, None);
        if let Some(ask) = self.pending.ask.as_ref().filter(|ask| ask.stage == AskStage::Asking) {
            reaction.effects.push(Effect::Engine(messages::ask(&ask.request, &self.record, settings)));
        }
        reaction.due = true;
    }

    /// A monitor without a key: its life signs count, its words do not (SPEC 4.7). It takes over nothing from a link
    /// that proved a key in force.
    fn status_up(&mut self, status: PartLink, now: Now, reaction: &mut Reaction) {
        let proven = |old: &PartLink| self.record.keys.usable().any(|(no, _)| no == old.key_no);
        if self.live.monitor.as_ref().is_some_and(proven) {
            return;
        }
        self.audit_link(AuditAction::LinkUp, "monitor", &status, "no key", now, reaction);
        if let Some(old) = self.live.monitor.replace(status) {
            reaction.effects.push(Effect::Close(old.link));
        }
        (self.live.health, self.live.both_lost_at) = (EngineVerdict::Unknown, None);
        reaction.due = true;
    }

    fn link_down(&mut self, link: LinkNo, detail: &Arc<str>, now: Now, reaction: &mut Reaction) {
        if self.is_monitor(link) {
            if let Some(gone) = self.live.monitor.take() {
                self.audit_link(AuditAction::LinkDown, "monitor", &gone, detail, now, reaction);
            }
            self.live.health = EngineVerdict::Unknown;
        } else if self.is_engine(link) {
            if let Some(gone) = self.live.engine.take() {
                self.audit_link(AuditAction::LinkDown, "engine", &gone, detail, now, reaction);
            }
            self.live.engine_lost_at = Some(now.mono);
        } else {
            return;
        }
        if self.live.monitor.is_none() && self.live.engine.is_none() {
            self.live.both_lost_at = Some(now.mono);
        }
        if let Some((driver, lost)) = self.driver().cloned().zip(self.link_lost()) {
            reaction.effects.push(Effect::Driver(driver, lost));
        }
        reaction.due = true;
    }

    /// What the driver being served is sent while a link is lost: at once, whatever the disk does (SPEC 2.4, 9).
    pub fn link_lost(&self) -> Option<down::Body> {
        let open = self.running()?;
        let part = match (&self.live.monitor, &self.live.engine) {
            (Some(_), Some(_)) => return None,
            (None, Some(_)) => "monitor",
            (Some(_), None) => "engine",
            (None, None) => "engine and its monitor",
        };
        let goes_on = if open.state == SessionState::Supplying { "supply goes on there" } else { "reservation stands" };
        let detail = format!("Central does not hear its {part}; the {goes_on}");
        Some(messages::step_of(&open, Progress::LinkLost, Reason::Unspecified, &detail))
    }

    fn tell_heard_again(&self, part: &str, reaction: &mut Reaction) {
        let Some(open) = self.running() else { return };
        let Some(driver) = open.driver.clone() else { return };
        let supplying = open.state == SessionState::Supplying;
        let progress = if supplying { Progress::Supplying } else { Progress::Authorised };
        let step = messages::step_of(&open, progress, Reason::Unspecified, &format!("Central hears its {part} again"));
        reaction.effects.push(Effect::Driver(driver, step));
    }

    fn health(&mut self, link: LinkNo, healthy: bool, detail: Arc<str>, now: Now, reaction: &mut Reaction) {
        // Where the key is void its link lives on as a status link, whose words do not count (SPEC 4.7).
        let keys = &self.record.keys;
        let proven = self.live.monitor.as_ref().is_some_and(|m| m.link == link && keys.granted(m.key_no).is_some());
        let health = if healthy { EngineVerdict::Healthy } else { EngineVerdict::Unhealthy(detail.clone()) };
        if !proven || self.live.health == health {
            reaction.again = true;
            return;
        }
        let action = match (&self.live.health, healthy) {
            (EngineVerdict::Unhealthy(_), true) => Some(AuditAction::Recovery),
            (EngineVerdict::Unknown | EngineVerdict::Healthy, false) => Some(AuditAction::Fault),
            (EngineVerdict::Unknown | EngineVerdict::Healthy, true) | (EngineVerdict::Unhealthy(_), false) => None,
        };
        if let (Some(action), Some(monitor)) = (action, &self.live.monitor) {
            let entry = AuditRecord::new(action, self.object()).with("detail", &detail);
            reaction.queued.push(PointChange::Audit(entry.by(&Origin::new(self.object(), monitor.from.clone()), now)));
        }
        self.live.health = health;
        if !healthy && let Some(open) = self.record.open.as_ref().filter(|o| o.state == SessionState::Supplying) {
            // Sent to the driver at once, whatever the disk does (SPEC 9).
            let told = self.live.fault_told.replace(open.id.clone()).is_some_and(|told| told == open.id);
            if let Some(driver) = open.driver.clone().filter(|_| !told) {
                let step = messages::step_of(open, Progress::Fault, Reason::Fault, &detail);
                reaction.effects.push(Effect::Driver(driver, step));
            }
        }
        reaction.due = true;
    }

    pub(super) fn tell_running(&self, running: Session, reaction: &mut Reaction) {
        if let Some(driver) = running.driver.clone() {
            reaction.effects.push(Effect::Driver(driver, messages::running(&running, self.live.power_w)));
        }
        reaction.running = Some(running);
    }

    /// Time has passed: sends the latest of the values that were throttled.
    pub fn timer_fired(&mut self, now: Now) -> Reaction {
        let mut reaction = Reaction::default();
        let due = self.live.pace.due(RUNNING_EVERY).is_some_and(|due| due <= now.mono);
        if due
            && self.live.pace.may_send(RUNNING_EVERY, now.mono)
            && let Some(running) = self.running().filter(|open| open.state == SessionState::Supplying)
        {
            self.tell_running(running, &mut reaction);
        }
        reaction
    }

    /// What came since the last entry of its kind, once a minute: repeats are counted, not repeated (SPEC 4.8, 8.2).
    pub fn flush_repeats(&mut self, now: Now) -> Vec<PointChange> {
        let unheard = self.live.unnoted.flush(now.mono).map(|count| self.unintelligible(count, now));
        let backwards = self.live.backwards.flush(now.mono).map(|count| (NotAccepted::RanBackwards, count));
        let implausible = self.live.implausible.flush(now.mono).map(|count| (NotAccepted::Implausible, count));
        let meters = [backwards, implausible]
            .into_iter()
            .flatten()
            .map(|(why, count)| PointChange::Audit(self.unaccepted(why, count).by(&self.engine_origin(), now)))
            .collect::<Vec<_>>();
        let object = self.object();
        let noted = self.live.noted.take(now.mono).into_iter().map(|(action, times)| {
            let entry = AuditRecord::new(action, &object).with("times", times);
            PointChange::Audit(entry.by(&Origin::new(object.as_str(), ""), now))
        });
        unheard.into_iter().chain(meters).chain(noted).collect()
    }

    fn unintelligible(&self, count: u64, now: Now) -> PointChange {
        let from = self.live.engine.as_ref().or(self.live.monitor.as_ref()).map(|l| l.from.clone());
        let entry = AuditRecord::new(AuditAction::Unintelligible, self.object()).with("messages", count);
        PointChange::Audit(entry.by(&Origin::new(self.object(), from.unwrap_or_default()), now))
    }

    /// Rate-limited like the entry it closes.
    fn intelligible(&mut self, link: LinkNo, now: Now, reaction: &mut Reaction) {
        if self.live.unread.take_if(|unread| *unread == link).is_none() {
            reaction.again = true;
        } else if std::mem::take(&mut self.live.unread_noted) {
            let from = self.live.engine.iter().chain(&self.live.monitor).find(|l| l.link == link);
            let from = from.map(|l| l.from.clone()).unwrap_or_default();
            let entry =
                AuditRecord::new(AuditAction::Intelligible, self.object()).by(&Origin::new(self.object(), from), now);
            reaction.queued.push(PointChange::Audit(entry));
        }
    }

    /// Whether a part that is there was not understood when it last spoke.
    pub fn is_unread(&self) -> bool {
        self.live.unread.is_some_and(|link| self.is_engine(link) || self.is_monitor(link))
    }

    /// Unintelligible messages are counted since the current key was proven.
    fn new_key_proven(&mut self, key_no: u64) {
        if self.record.keys.staged().is_some_and(|staged| staged.no == key_no) {
            self.live.unintelligible = 0;
        }
    }

    fn audit_link(
        &self,
        action: AuditAction,
        part: &str,
        link: &PartLink,
        detail: &str,
        now: Now,
        reaction: &mut Reaction,
    ) {
        let mut entry = AuditRecord::new(action, self.object()).with("part", part).with("key_no", link.key_no);
        if !detail.is_empty() {
            entry = entry.with("detail", detail);
        }
        reaction.queued.push(PointChange::Audit(entry.by(&Origin::new(self.object(), link.from.clone()), now)));
    }

    pub(super) fn engine_origin(&self) -> Origin {
        let from = self.live.engine.as_ref().map(|engine| engine.from.clone());
        Origin::new(self.object(), from.unwrap_or_default())
    }

    pub(super) fn object(&self) -> String {
        format!("charging-point/{}", self.record.id)
    }
}

/// Make before break: what is under way on a link that a newer key succeeds is still heard.
fn close_succeeded(old: &PartLink, new: &PartLink) -> Effect {
    if is_takeover(old, new) {
        Effect::CloseTakenOver(old.link)
    } else if old.key_no != 0 {
        Effect::CloseLater(old.link)
    } else {
        Effect::Close(old.link)
    }
}

/// Rotations aside: a link under a newer key succeeds, it does not take over (SPEC 4.9).
fn is_takeover(old: &PartLink, new: &PartLink) -> bool {
    old.key_no != 0 && new.key_no <= old.key_no
}
