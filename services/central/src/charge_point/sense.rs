//! What is sensed changes at once and never waits for the disk (DESIGN 3); what must be decided about it follows by
//! `Input::Due`. Only the newest proven link of a part speaks for it: a late word or close of an older one does nothing
//! (SPEC 4.9).

use std::{sync::Arc, time::Duration};

use mesh::clock::Now;
use proto::{
    Energy,
    link::v1::{Part, Progress, Reason, SessionState},
};

use super::{Change, ChargePoint, Health, Input, LinkNo, Linked, Origin, Sign, Stage, Tell, told};
use crate::{
    audit::{Action, Entry},
    session::{NotAccepted, Session, SessionId},
    settings::Settings,
};

/// Running values that come more often are not told one by one.
pub(super) const RUNNING_EVERY: Duration = Duration::from_millis(500);

/// What a sign leads to at once.
#[derive(Debug, Default)]
pub struct Sensed {
    pub tell: Vec<Tell>,
    /// Entries and events, queued to the disk.
    pub notes: Vec<Change>,
    /// The running session, to be shown.
    pub running: Option<Session>,
    /// `Input::Due` must follow.
    pub due: bool,
    /// Said again: nothing about the charging point is other than before.
    pub again: bool,
}

impl ChargePoint {
    pub fn sense(&mut self, sign: Sign, settings: &Settings, now: Now) -> Sensed {
        let mut sensed = Sensed::default();
        match sign {
            Sign::LinkUp { link, part, key_no, from, highest_epoch } => {
                let linked = Linked { link, key_no, from, highest_epoch };
                match part {
                    Part::Monitor => self.monitor_up(linked, settings, now, &mut sensed),
                    Part::Engine => self.engine_up(linked, settings, now, &mut sensed),
                    Part::Unspecified | Part::Driver | Part::Pairing => {}
                }
            }
            Sign::StatusLinkUp { link, from } => {
                let status = Linked { link, key_no: 0, from, highest_epoch: 0 };
                self.status_up(status, now, &mut sensed);
            }
            Sign::LinkDown { link, answered, detail } => {
                let signs = &mut self.signs;
                for takeovers in [&mut signs.monitor_takeovers, &mut signs.engine_takeovers] {
                    let one_too_many = takeovers.ended(link, answered, now.mono, settings);
                    signs.cloned |= one_too_many;
                    sensed.due |= one_too_many;
                }
                self.link_down(link, &detail, now, &mut sensed);
            }
            Sign::Health { link, healthy, detail } => self.health(link, healthy, detail, now, &mut sensed),
            Sign::Meter { link, session, meter, power_w } => {
                if self.is_engine(link)
                    && let Some(open) = self.record.open.as_ref().filter(|open| open.id == session)
                {
                    let open = open.clone();
                    self.meter(open, meter, power_w, settings, now, &mut sensed);
                }
            }
            Sign::Unintelligible { link, count } => {
                if self.is_engine(link) || self.is_monitor(link) {
                    self.signs.unintelligible += count;
                    self.signs.unread = Some(link);
                    if let Some(count) = self.signs.unnoted.count(count, now.mono) {
                        self.signs.unread_noted = true;
                        sensed.notes.push(self.unintelligible(count, now));
                    }
                }
            }
            Sign::Intelligible { link } => self.intelligible(link, now, &mut sensed),
        }
        let notes = std::mem::take(&mut sensed.notes);
        sensed.notes = notes.into_iter().filter(|note| self.signs.noted.may_note(note, now.mono)).collect();
        sensed
    }

    /// What an engine says of its sessions counts from when it comes, and not from its turn: a supply that has begun
    /// does not expire while the store cannot take its start, or its end (SPEC 9, database).
    pub fn hear(&mut self, input: &Input, now: Now) {
        if let Input::Started { session, meter, at, .. } = input {
            self.hear_of_start(session, *meter, *at, now);
        } else if let Input::Ended { session, last, .. } = input {
            self.hear_of_start(session, last.start, last.started_at, now);
        } else if let Input::Held { .. } = input {
            self.signs.accounted = self.signs.engine.as_ref().map(|engine| engine.link);
        }
    }

    fn hear_of_start(&mut self, session: &SessionId, meter: Energy, at: i64, now: Now) {
        let reserved = |open: &&Session| open.id == *session && open.state == SessionState::Reserved;
        if self.begun().is_none()
            && let Some(open) = self.record.open.as_ref().filter(reserved)
        {
            self.signs.begun = Some(open.start(meter, at, now));
            self.signs.begun_on = self.signs.engine.as_ref().map(|engine| engine.link);
        }
    }

    pub fn is_engine(&self, link: LinkNo) -> bool {
        self.signs.engine.as_ref().is_some_and(|l| l.link == link)
    }

    pub fn is_monitor(&self, link: LinkNo) -> bool {
        self.signs.monitor.as_ref().is_some_and(|l| l.link == link)
    }

    fn monitor_up(&mut self, new: Linked, settings: &Settings, now: Now, sensed: &mut Sensed) {
        if let Some(staged) = self.record.keys.staged().filter(|staged| staged.no != new.key_no) {
            // A rotation that this monitor has not heard of, or has lost.
            sensed.tell.push(Tell::Grant { link: Some(new.link), key_no: staged.no });
        }
        self.note_link(Action::LinkUp, "monitor", &new, "", now, sensed);
        self.new_key_proven(new.key_no);
        match self.signs.monitor.replace(new.clone()) {
            Some(old) => {
                if is_takeover(&old, &new) {
                    self.note_link(Action::LinkTakenOver, "monitor", &new, "", now, sensed);
                    self.signs.monitor_takeovers.began(old.link);
                }
                if self.record.keys.granted(old.key_no).is_none() {
                    // A status link said nothing of the engine (SPEC 4.7).
                    self.signs.health = Health::Unknown;
                }
                sensed.tell.push(close_succeeded(&old, &new));
            }
            None => {
                self.tell_heard_again("monitor", sensed);
                self.signs.health = Health::Unknown;
                // Both come back together, each after a wait of its own, as after a restart of Central: the engine's
                // grace begins when it should be here.
                self.signs.engine_lost_at = self.signs.engine_lost_at.map(|_| now.mono + settings.engine_return);
            }
        }
        self.signs.both_lost_at = None;
        sensed.due = true;
    }

    fn engine_up(&mut self, new: Linked, settings: &Settings, now: Now, sensed: &mut Sensed) {
        self.note_link(Action::LinkUp, "engine", &new, "", now, sensed);
        self.new_key_proven(new.key_no);
        if let Some(old) = self.signs.engine.replace(new.clone()) {
            if is_takeover(&old, &new) {
                self.note_link(Action::LinkTakenOver, "engine", &new, "", now, sensed);
                self.signs.engine_takeovers.began(old.link);
            }
            sensed.tell.push(close_succeeded(&old, &new));
        } else {
            self.tell_heard_again("engine", sensed);
        }
        (self.signs.engine_lost_at, self.signs.both_lost_at) = (None, None);
        if let Some(ask) = self.pending.ask.as_ref().filter(|ask| ask.stage == Stage::Asking) {
            sensed.tell.push(Tell::Engine(told::ask(&ask.request, &self.record, settings)));
        }
        sensed.due = true;
    }

    /// A monitor without a key: its life signs count, its words do not (SPEC 4.7). It takes over nothing from a link
    /// that proved a key in force.
    fn status_up(&mut self, status: Linked, now: Now, sensed: &mut Sensed) {
        let proven = |old: &Linked| self.record.keys.usable().any(|(no, _)| no == old.key_no);
        if self.signs.monitor.as_ref().is_some_and(proven) {
            return;
        }
        self.note_link(Action::LinkUp, "monitor", &status, "no key", now, sensed);
        if let Some(old) = self.signs.monitor.replace(status) {
            sensed.tell.push(Tell::Close(old.link));
        }
        (self.signs.health, self.signs.both_lost_at) = (Health::Unknown, None);
        sensed.due = true;
    }

    fn link_down(&mut self, link: LinkNo, detail: &Arc<str>, now: Now, sensed: &mut Sensed) {
        if self.is_monitor(link) {
            if let Some(gone) = self.signs.monitor.take() {
                self.note_link(Action::LinkDown, "monitor", &gone, detail, now, sensed);
            }
            self.signs.health = Health::Unknown;
        } else if self.is_engine(link) {
            if let Some(gone) = self.signs.engine.take() {
                self.note_link(Action::LinkDown, "engine", &gone, detail, now, sensed);
            }
            self.signs.engine_lost_at = Some(now.mono);
        } else {
            return;
        }
        if self.signs.monitor.is_none() && self.signs.engine.is_none() {
            self.signs.both_lost_at = Some(now.mono);
        }
        sensed.tell.extend(self.link_lost());
        sensed.due = true;
    }

    /// What the driver being served is told while a link is lost: at once, whatever the disk does (SPEC 2.4, 9).
    pub fn link_lost(&self) -> Option<Tell> {
        let open = self.running()?;
        let part = match (&self.signs.monitor, &self.signs.engine) {
            (Some(_), Some(_)) => return None,
            (None, Some(_)) => "monitor",
            (Some(_), None) => "engine",
            (None, None) => "engine and its monitor",
        };
        let goes_on = if open.state == SessionState::Supplying { "supply goes on there" } else { "reservation stands" };
        let detail = format!("Central does not hear its {part}; the {goes_on}");
        let step = told::step_of(&open, Progress::LinkLost, Reason::Unspecified, &detail);
        Some(Tell::Driver(open.driver?, step))
    }

    fn tell_heard_again(&self, part: &str, sensed: &mut Sensed) {
        let Some(open) = self.running() else { return };
        let Some(driver) = open.driver.clone() else { return };
        let supplying = open.state == SessionState::Supplying;
        let progress = if supplying { Progress::Supplying } else { Progress::Authorised };
        let step = told::step_of(&open, progress, Reason::Unspecified, &format!("Central hears its {part} again"));
        sensed.tell.push(Tell::Driver(driver, step));
    }

    fn health(&mut self, link: LinkNo, healthy: bool, detail: Arc<str>, now: Now, sensed: &mut Sensed) {
        // Where the key is void its link lives on as a status link, whose words do not count (SPEC 4.7).
        let keys = &self.record.keys;
        let proven = self.signs.monitor.as_ref().is_some_and(|m| m.link == link && keys.granted(m.key_no).is_some());
        let health = if healthy { Health::Healthy } else { Health::Unhealthy(detail.clone()) };
        if !proven || self.signs.health == health {
            sensed.again = true;
            return;
        }
        let action = match (&self.signs.health, healthy) {
            (Health::Unhealthy(_), true) => Some(Action::Recovery),
            (Health::Unknown | Health::Healthy, false) => Some(Action::Fault),
            (Health::Unknown | Health::Healthy, true) | (Health::Unhealthy(_), false) => None,
        };
        if let (Some(action), Some(monitor)) = (action, &self.signs.monitor) {
            let entry = Entry::new(action, self.object()).with("detail", &detail);
            sensed.notes.push(Change::Audit(entry.by(&Origin::new(self.object(), monitor.from.clone()), now)));
        }
        self.signs.health = health;
        if !healthy && let Some(open) = self.record.open.as_ref().filter(|o| o.state == SessionState::Supplying) {
            // The driver is told at once, whatever the disk does (SPEC 9).
            let told = self.signs.fault_told.replace(open.id.clone()).is_some_and(|told| told == open.id);
            if let Some(driver) = open.driver.clone().filter(|_| !told) {
                let step = told::step_of(open, Progress::Fault, Reason::Fault, &detail);
                sensed.tell.push(Tell::Driver(driver, step));
            }
        }
        sensed.due = true;
    }

    fn meter(
        &mut self,
        mut open: Session,
        meter: Energy,
        power_w: u32,
        settings: &Settings,
        now: Now,
        sensed: &mut Sensed,
    ) {
        if open.state != SessionState::Supplying {
            return;
        }
        let last = self.signs.meter.as_ref().filter(|(id, _)| *id == open.id).map(|(_, last)| *last);
        let _never_lower = last.map(|last| open.accept(last));
        if let Err(why) = open.accept(meter) {
            let counted = match why {
                NotAccepted::RanBackwards => &mut self.signs.backwards,
                NotAccepted::Implausible => &mut self.signs.implausible,
            };
            if let Some(count) = counted.count(1, now.mono) {
                let entry = self.unaccepted(why, count).with("session", &open.id);
                let entry = entry.with("accepted_wh", open.meter_last.wh()).with("reported_wh", meter.wh());
                sensed.notes.push(Change::Audit(entry.by(&self.engine_origin(), now)));
            }
            return;
        }
        self.signs.power_w = power_w;
        self.signs.meter = Some((open.id.clone(), meter));
        sensed.due =
            self.pending.saved_at.is_none_or(|at| now.mono.saturating_duration_since(at) >= settings.meter_saved_every);
        if self.signs.pace.may_tell(RUNNING_EVERY, now.mono) {
            self.tell_running(open, sensed);
        }
    }

    fn tell_running(&self, running: Session, sensed: &mut Sensed) {
        if let Some(driver) = running.driver.clone() {
            sensed.tell.push(Tell::Driver(driver, told::running(&running, self.signs.power_w)));
        }
        sensed.running = Some(running);
    }

    /// Time has passed: the latest of the values that came too often to be told one by one.
    pub fn rang(&mut self, now: Now) -> Sensed {
        let mut sensed = Sensed::default();
        let due = self.signs.pace.due(RUNNING_EVERY).is_some_and(|due| due <= now.mono);
        if due
            && self.signs.pace.may_tell(RUNNING_EVERY, now.mono)
            && let Some(running) = self.running().filter(|open| open.state == SessionState::Supplying)
        {
            self.tell_running(running, &mut sensed);
        }
        sensed
    }

    /// What came since the last entry of its kind, once a minute: repeats are counted, not repeated (SPEC 4.8, 8.2).
    pub fn flush_repeats(&mut self, now: Now) -> Vec<Change> {
        let unheard = self.signs.unnoted.flush(now.mono).map(|count| self.unintelligible(count, now));
        let backwards = self.signs.backwards.flush(now.mono).map(|count| (NotAccepted::RanBackwards, count));
        let implausible = self.signs.implausible.flush(now.mono).map(|count| (NotAccepted::Implausible, count));
        let meters = [backwards, implausible]
            .into_iter()
            .flatten()
            .map(|(why, count)| Change::Audit(self.unaccepted(why, count).by(&self.engine_origin(), now)))
            .collect::<Vec<_>>();
        let object = self.object();
        let noted = self.signs.noted.take(now.mono).into_iter().map(|(action, times)| {
            let entry = Entry::new(action, &object).with("times", times);
            Change::Audit(entry.by(&Origin::new(object.as_str(), ""), now))
        });
        unheard.into_iter().chain(meters).chain(noted).collect()
    }

    fn unaccepted(&self, why: NotAccepted, count: u64) -> Entry {
        let action = match why {
            NotAccepted::RanBackwards => Action::MeterRanBackwards,
            NotAccepted::Implausible => Action::MeterImplausible,
        };
        Entry::new(action, self.object()).with("values", count)
    }

    fn unintelligible(&self, count: u64, now: Now) -> Change {
        let from = self.signs.engine.as_ref().or(self.signs.monitor.as_ref()).map(|l| l.from.clone());
        let entry = Entry::new(Action::Unintelligible, self.object()).with("messages", count);
        Change::Audit(entry.by(&Origin::new(self.object(), from.unwrap_or_default()), now))
    }

    /// As seldom in the audit as what it ends.
    fn intelligible(&mut self, link: LinkNo, now: Now, sensed: &mut Sensed) {
        if self.signs.unread.take_if(|unread| *unread == link).is_none() {
            sensed.again = true;
        } else if std::mem::take(&mut self.signs.unread_noted) {
            let from = self.signs.engine.iter().chain(&self.signs.monitor).find(|l| l.link == link);
            let from = from.map(|l| l.from.clone()).unwrap_or_default();
            let entry = Entry::new(Action::Intelligible, self.object()).by(&Origin::new(self.object(), from), now);
            sensed.notes.push(Change::Audit(entry));
        }
    }

    /// Whether a part that is there was not understood when it last spoke.
    pub fn is_unread(&self) -> bool {
        self.signs.unread.is_some_and(|link| self.is_engine(link) || self.is_monitor(link))
    }

    /// Unintelligible messages are counted since the current key was proven.
    fn new_key_proven(&mut self, key_no: u64) {
        if self.record.keys.staged().is_some_and(|staged| staged.no == key_no) {
            self.signs.unintelligible = 0;
        }
    }

    fn note_link(&self, action: Action, part: &str, link: &Linked, detail: &str, now: Now, sensed: &mut Sensed) {
        let mut entry = Entry::new(action, self.object()).with("part", part).with("key_no", link.key_no);
        if !detail.is_empty() {
            entry = entry.with("detail", detail);
        }
        sensed.notes.push(Change::Audit(entry.by(&Origin::new(self.object(), link.from.clone()), now)));
    }

    fn engine_origin(&self) -> Origin {
        let from = self.signs.engine.as_ref().map(|engine| engine.from.clone());
        Origin::new(self.object(), from.unwrap_or_default())
    }

    fn object(&self) -> String {
        format!("charging-point/{}", self.record.id)
    }
}

/// Make before break: what is under way on a link that a newer key succeeds is still heard.
fn close_succeeded(old: &Linked, new: &Linked) -> Tell {
    if is_takeover(old, new) {
        Tell::CloseTakenOver(old.link)
    } else if old.key_no != 0 {
        Tell::CloseLater(old.link)
    } else {
        Tell::Close(old.link)
    }
}

/// Rotations aside: a link under a newer key succeeds, it does not take over (SPEC 4.9).
fn is_takeover(old: &Linked, new: &Linked) -> bool {
    old.key_no != 0 && new.key_no <= old.key_no
}
