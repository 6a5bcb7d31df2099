//! What is due: takeovers and faults that were observed, and deadlines (SPEC 3.8, 4.6, 4.9). [`DecisionBuilder::due`] may
//! be repeated at any time; it finds out by itself what there is to do.

use std::time::{Duration, Instant};

use mesh::clock::Now;
use proto::link::v1::{Part, Progress, Reason, SessionState};

use super::{
    ChargePoint, Effect, EngineVerdict, PARTS, PartLink, Takeover, decision::DecisionBuilder, observe::RUNNING_EVERY,
};
use crate::{audit::AuditAction, session::Session, settings::CentralSettings};

/// Between two tries.
const UNDECIDED: Duration = Duration::from_secs(1);

/// So far above ours no epoch is that a charging point can have obeyed: 256 generations.
const UNBELIEVABLE: u64 = 1 << 40;

impl ChargePoint {
    /// When `PointInput::Due` is to come next. Deadlines that are past are included, since what they led to may have been
    /// refused by the store.
    pub fn poll_timeout(&self, settings: &CentralSettings, now: Now) -> Option<Instant> {
        let (record, pending, live) = (&self.record, &self.pending, &self.live);
        let supplying = record.open.as_ref().filter(|open| open.state == SessionState::Supplying);
        let engine_shown_broken = live.engine_lost_at.map(|at| at + settings.engine_grace);
        let changes_what_is_shown = live.monitor.is_some() && record.open.is_none();
        [
            pending.ask.as_ref().map(|ask| ask.due),
            pending.stop_due,
            self.expires_at(settings),
            record.settling.iter().filter_map(|settling| settling.due).min(),
            supplying.and(live.both_lost_at).map(|at| at + settings.links_lost),
            // Due changes nothing then, but what is shown is looked at anew after each input.
            engine_shown_broken.filter(|at| changes_what_is_shown && *at > now.mono),
            record.keys.overlap_ends(),
            self.save_due(settings),
            live.pace.due(RUNNING_EVERY),
            // What was observed and could not be decided durably is tried again.
            self.is_undecided().then(|| now.mono + UNDECIDED),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Something that was observed calls for a decision that is not durable yet.
    fn is_undecided(&self) -> bool {
        let (record, live) = (&self.record, &self.live);
        let proven = |linked: &Option<PartLink>| linked.as_ref().filter(|l| l.key_no != 0).map(|l| (l.link, l.key_no));
        let unclaimed = proven(&live.monitor).is_some_and(|(link, _)| record.claimed_by != Some(link));
        let staged = record.keys.staged().map(|key| key.no);
        let unproven = [&live.monitor, &live.engine]
            .into_iter()
            .any(|linked| proven(linked).is_some_and(|(_, key_no)| staged == Some(key_no)));
        let faulty = matches!(live.health, EngineVerdict::Unhealthy(_)) && record.open.is_some();
        unclaimed
            || unproven
            || faulty
            || (live.cloned && !record.quarantined)
            || self.has_passed_its_request()
            || self.begun().is_some()
            || self.awaits_stop()
            || self.awaits_weather()
    }

    /// It was told to stop by a process before this one, or before its row was read again: the order is durable, and
    /// since when it is waited for is not.
    fn awaits_stop(&self) -> bool {
        let stopping = |open: &Session| open.state == SessionState::Supplying && open.reason != Reason::Unspecified;
        self.pending.stop_due.is_none() && self.record.open.as_ref().is_some_and(stopping)
    }

    /// When the reservation is over. An engine that cannot say whether it has begun is still supplying if it has (SPEC
    /// 3.8), so it is waited for, as long as for lost links.
    fn expires_at(&self, settings: &CentralSettings) -> Option<Instant> {
        let reserved = self.record.open.as_ref().filter(|open| open.state == SessionState::Reserved)?;
        let wait = if self.has_reported() { Duration::ZERO } else { settings.links_lost };
        reserved.due.filter(|_| self.begun().is_none()).map(|due| due + wait)
    }

    /// The engine is there, and what it has begun is known.
    fn has_reported(&self) -> bool {
        self.live.engine.as_ref().is_some_and(|engine| engine.journal_reported)
    }

    /// A running value that the store does not know, or the time left of a settling session.
    fn save_due(&self, settings: &CentralSettings) -> Option<Instant> {
        let unsaved = self.live.meter.as_ref().is_some_and(|(id, meter, _)| {
            self.record.open.as_ref().is_some_and(|open| open.id == *id && open.meter_last < *meter)
        });
        let running = self.pending.saved_at.filter(|_| unsaved).map(|at| at + settings.meter_saved_every);
        [running, self.settling_save_due(settings)].into_iter().flatten().min()
    }

    pub(super) fn settling_save_due(&self, settings: &CentralSettings) -> Option<Instant> {
        let saved_at = self.pending.settling_saved_at.filter(|_| !self.record.settling.is_empty());
        saved_at.map(|at| at + settings.settling_saved_every)
    }
}

impl DecisionBuilder<'_> {
    pub(super) fn due(&mut self) {
        self.take_over();
        self.quarantine();
        self.prove_keys();
        self.retire();
        if let Some(ask) = self.point.pending.ask.clone().filter(|ask| self.is_past(ask.due)) {
            self.ask_expired(&ask);
        }
        if self.point.awaits_stop() {
            self.decision.pending.stop_due = Some(self.now.mono + self.settings.stop_timeout);
        }
        self.end_what_is_lost();
        self.begin_what_began();
        self.apply_weather();
        for settling in self.point.record.settling.clone() {
            if settling.due.is_some_and(|due| self.is_past(due)) && !self.point.live.ledger_behind {
                self.bill_without_report(&settling);
            }
        }
        let save = self.point.save_due(self.settings).is_some_and(|due| self.is_past(due));
        if save && self.decision.changes.is_empty() {
            self.save_running();
        }
    }

    pub(super) fn is_past(&self, due: Instant) -> bool {
        due <= self.now.mono
    }

    fn is_past_by(&self, since: Option<Instant>, wait: Duration) -> bool {
        since.is_some_and(|since| self.is_past(since + wait))
    }

    /// The newest proven monitor link owns the charging point: epochs rise with each (SPEC 4.9).
    fn take_over(&mut self) {
        let Some(monitor) = self.point.live.monitor.as_ref().filter(|m| m.key_no != 0) else { return };
        if self.point.record.claimed_by == Some(monitor.link) {
            return;
        }
        self.decision.next.claimed_by = Some(monitor.link);
        self.decision.takeover = Some(Takeover::Monitor);
        let (id, seen, ours) = (&self.point.record.id, monitor.highest_epoch, self.point.record.epoch);
        // One that no Central can have had says something of the charging point alone, and of this database nothing.
        if seen > ours && seen - ours < UNBELIEVABLE {
            self.after_commit(Effect::Alarm(format!(
                "{id} has obeyed epoch {seen:#x}, above {ours:#x} here: was the database restored without raising \
                 its generation?"
            )));
        }
    }

    /// The overlap with a replaced key is over: a link that still lives under it comes back with the new one.
    fn retire(&mut self) {
        if self.decision.next.keys.overlap_ends().is_none_or(|ends| !self.is_past(ends)) {
            return;
        }
        self.decision.next.keys.end_overlap(self.now);
        let keys = &self.decision.next.keys;
        let usable: Vec<_> = keys.usable().map(|(no, _)| no).collect();
        let live = &self.point.live;
        let old = [&live.monitor, &live.engine].into_iter().flatten();
        let old: Vec<_> = old.filter(|l| keys.granted(l.key_no).is_some() && !usable.contains(&l.key_no)).collect();
        old.into_iter().for_each(|linked| self.after_commit(Effect::Close(linked.link)));
    }

    fn quarantine(&mut self) {
        if self.point.live.cloned && !self.point.record.quarantined {
            self.decision.next.quarantined = true;
            self.change_point();
            let entry = self.entry(AuditAction::Quarantined).with("takeovers", self.settings.takeovers);
            self.audit_by_central(entry);
            let id = &self.point.record.id;
            self.after_commit(Effect::Alarm(format!(
                "{id} is quarantined: its link was taken over repeatedly; is its key cloned?"
            )));
        }
    }

    /// Links that came with a key have proven it (SPEC 4.6).
    fn prove_keys(&mut self) {
        let links = [(Part::Monitor, &self.point.live.monitor), (Part::Engine, &self.point.live.engine)];
        for (part, linked) in links {
            let Some(linked) = linked.as_ref().filter(|l| l.key_no != 0) else { continue };
            let changed = self.decision.next.keys.proved(linked.key_no, part, PARTS, self.now, self.settings);
            if !changed.is_empty() {
                let action = if changed.len() > 1 { AuditAction::KeyRotated } else { AuditAction::KeyProven };
                let entry = self.entry(action).with("key_no", linked.key_no);
                self.audit_by_central(entry);
                self.change_point();
            }
            self.keys_changed(changed);
        }
    }

    /// Faults, lost links and deadlines of the open session.
    fn end_what_is_lost(&mut self) {
        let Some(open) = self.point.running() else { return };
        let fault = match &self.point.live.health {
            EngineVerdict::Unhealthy(detail) if self.point.live.monitor.is_some() => Some(detail.clone()),
            EngineVerdict::Unhealthy(_) | EngineVerdict::Unknown | EngineVerdict::Healthy => None,
        };
        let reserved = open.state == SessionState::Reserved;
        if let Some(detail) = fault {
            // Sent at once, whatever the disk does (SPEC 9); what it means for the session follows.
            if reserved {
                self.release(&open, Reason::Fault);
            } else {
                self.settle(&open, Reason::Fault, &detail);
            }
        } else if self.point.expires_at(self.settings).is_some_and(|at| self.is_past(at)) {
            if self.point.has_reported() {
                self.release(&open, Reason::ReservationExpired);
            } else {
                self.settle(&open, Reason::Fault, "its engine cannot say whether it has begun");
            }
        } else if !reserved && self.point.pending.stop_due.is_some_and(|due| self.is_past(due)) {
            self.settle(&open, open.reason, "the engine was told to stop and did not answer");
        } else if !reserved && self.is_past_by(self.point.live.both_lost_at, self.settings.links_lost) {
            self.step(&open, Progress::Fault, Reason::Fault, "the charging point is lost");
            self.settle(&open, Reason::Fault, "both links are gone");
        } else if self.point.has_passed_its_request() {
            self.stop_past_its_request(&open);
        }
    }
}
