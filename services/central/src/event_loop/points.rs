//! Charging points in the loop: one turn in flight each, what waits behind it, and their timers.

use std::{cmp::Reverse, sync::Arc, time::Instant};

use mesh::clock::Now;
use proto::{DriverId, PeerId, link::v1::View};
use store::central::{CommitRefusal, Committed, Guard, Turn, TurnId};

use super::{Completion, EventLoop, TimerKey, publish::EventThrottle};
use crate::{
    charge_point::{
        self, ChargePoint, Decision, Observation, OrderOutcome, PointChange, PointInput, PointOrder, PointVersion,
        Reaction, Record, Reply, StoreRefusal, Takeover,
    },
    key::{self, KeyDue},
    origin::Origin,
    rows, secrets,
    turns::{self, Core as _, DecidedInput, RETRY, Turns},
};

pub(super) struct Point {
    pub(super) core: ChargePoint,
    pub(super) turns: Turns<ChargePoint>,
    /// What is in memory is not what is durable: it is read again as soon as no turn is in flight.
    stale: bool,
    /// The last enrolment that Registry removed, whether or not that is durable here.
    pub(super) out: Option<u64>,
    timer: Option<Instant>,
    not_before: Instant,
    pub(super) dirty: bool,
    pub(super) shown: Option<Arc<View>>,
    pub(super) announced: EventThrottle,
    pub(super) engaged: Vec<DriverId>,
    pub(super) since_ms: i64,
}

impl Point {
    pub(super) fn new(core: ChargePoint, since_ms: i64, now: Now) -> Self {
        Self {
            core,
            turns: Turns::default(),
            stale: false,
            out: None,
            timer: None,
            not_before: now.mono,
            dirty: false,
            shown: None,
            announced: EventThrottle::default(),
            engaged: Vec::new(),
            since_ms,
        }
    }

    /// Removed: neither shown nor known to anybody.
    pub(super) fn is_gone(&self) -> bool {
        self.core.record.removed || self.out.is_some_and(|out| self.core.record.keys.incarnation <= out)
    }
}

impl EventLoop {
    /// Adds a charging point to the loop; its number stays its own.
    pub(super) fn add_point(&mut self, mut core: ChargePoint, since_ms: i64, now: Now) -> usize {
        core.live.ledger_behind = self.shared.ledger.is_behind();
        let (number, id) = (self.points.len(), core.record.id.clone());
        self.shared.directory.publish(&proto::PeerId::ChargingPoint(id.clone()), &core.record.keys);
        self.shared.directory.publish_epoch(&id, core.record.epoch);
        for session in core.record.open.iter().chain(&core.record.settling) {
            self.show_session(session, 0);
        }
        self.points.push(Point::new(core, since_ms, now));
        self.index.insert(id, number);
        self.touch(number);
        self.arm(number, now);
        self.look_at_weather(number);
        number
    }

    pub(super) fn observe(&mut self, number: usize, observation: Observation) {
        let now = self.now();
        let point = &mut self.points[number];
        let reaction = point.core.observe(observation, &self.shared.settings, now);
        if reaction.again {
            return;
        }
        self.reaction(number, reaction, now);
        self.touch(number);
        self.arm(number, now);
    }

    fn reaction(&mut self, number: usize, reaction: Reaction, now: Now) {
        self.queue_audit(number, &reaction.queued, now);
        reaction.effects.into_iter().for_each(|effect| self.perform(Some(number), effect));
        if let Some(session) = reaction.running {
            let power_w = self.points[number].core.live.power_w;
            self.show_session(&session, power_w);
        }
        if reaction.due && self.hears_until.is_none() {
            self.offer(number, PointInput::Due);
        }
    }

    /// Queues audit entries and events about what was observed.
    pub(super) fn queue_audit(&mut self, number: usize, changes: &[PointChange], now: Now) {
        let record = &self.points[number].core.record;
        let writes = rows::writes(changes, record, 0, &self.shared.key_encryption, now);
        let about = Some(PeerId::ChargingPoint(record.id.clone()));
        writes.into_iter().for_each(|write| self.shared.write_queue.push(about.clone(), write));
    }

    /// Gives an input its turn, or room behind the one in flight.
    pub(super) fn offer(&mut self, number: usize, input: PointInput) {
        self.offer_all(number, vec![input]);
    }

    /// What one message of the charging point brings.
    pub(super) fn offer_own(&mut self, number: usize, inputs: Vec<PointInput>) {
        let now = self.now();
        inputs.iter().for_each(|input| self.points[number].core.observe_early(input, now));
        self.offer_all(number, inputs);
    }

    fn offer_all(&mut self, number: usize, inputs: Vec<PointInput>) {
        let now = self.now();
        if let Err((input, refusal)) = self.points[number].turns.offer(inputs, now) {
            self.turn_away(number, input, &refusal, now);
        }
        self.take_turns(number);
        if self.points[number].turns.is_in_flight() {
            self.arm(number, now);
        }
    }

    fn turn_away(&mut self, number: usize, input: PointInput, refusal: &StoreRefusal, now: Now) {
        let Point { core, turns, .. } = &mut self.points[number];
        if let Some(decided) = turns.turned_away(core, input, refusal, (&self.shared.settings, now)) {
            self.carry_out(number, decided);
        }
    }

    /// Gives turns as long as nothing has to be made durable first.
    fn take_turns(&mut self, number: usize) {
        loop {
            let now = self.now();
            let Point { core, turns, .. } = &mut self.points[number];
            let Some(decided) = turns.next(core, &self.shared.settings, now) else { return };
            self.carry_out(number, decided);
        }
    }

    fn carry_out(&mut self, number: usize, mut decided: DecidedInput<ChargePoint>) {
        let now = self.now();
        self.shared.documents.sign_tickets(&mut decided.decision);
        self.queue_audit(number, &std::mem::take(&mut decided.decision.queued), now);
        let effects = std::mem::take(&mut decided.decision.before_commit);
        effects.into_iter().for_each(|effect| self.perform(Some(number), effect));
        if ChargePoint::is_durable(&decided.decision) {
            let turn = self.turn(number, &decided, now);
            self.points[number].turns.begin(decided, now);
            return self.submit(turn, move |result| Completion::Point(number, result));
        }
        let Decision { next, pending, after_commit, .. } = decided.into_parts().1;
        // A refusal for want of room changes nothing of the turn that is in flight.
        if !self.points[number].turns.is_in_flight() {
            self.apply(number, next, pending, None);
        }
        after_commit.into_iter().for_each(|effect| self.perform(Some(number), effect));
        self.touch(number);
        self.arm(number, now);
    }

    fn turn(&self, number: usize, DecidedInput { input, decision, .. }: &DecidedInput<ChargePoint>, now: Now) -> Turn {
        let point = &self.points[number];
        let record = &point.core.record;
        let cp_id = record.id.to_string();
        let guard = match decision.takeover {
            Some(claim) => Guard::Takeover {
                cp_id,
                owner: self.shared.owner.clone(),
                expected_owner: (claim == Takeover::Unowned).then(|| record.owner.as_ref().to_owned()),
            },
            None => Guard::Owned { cp_id, epoch: rows::signed(record.epoch), version: rows::signed(record.version) },
        };
        // Entries and events alone change nothing that a zombie could spoil, and cost no version.
        let guarded = decision.changes.iter().any(|c| !matches!(c, PointChange::Audit(_) | PointChange::Event(_)));
        let writes = rows::writes(&decision.changes, &decision.next, point.since_ms, &self.shared.key_encryption, now);
        Turn { id: TurnId::random(), name: input.name(), guard: guarded.then_some(guard), writes }
    }

    pub(super) fn point_done(&mut self, number: usize, result: Result<Committed, CommitRefusal>) {
        let now = self.now();
        let Some(decided) = self.points[number].turns.end() else { return };
        let (input, decision) = decided.into_parts();
        match result {
            Ok(committed) => self.committed(number, decision, &committed),
            Err(refusal) => {
                let (refusal, is_stale) = rows::refusal(refusal);
                let Point { core, turns, not_before, stale, .. } = &mut self.points[number];
                *stale |= is_stale;
                if matches!(refusal, StoreRefusal::Unavailable(_)) {
                    *not_before = now.mono + RETRY;
                }
                if let Some(decided) = turns.again(core, input, &refusal, (&self.shared.settings, now)) {
                    self.carry_out(number, decided);
                }
                self.arm(number, now);
            }
        }
        let point = &self.points[number];
        if point.stale && !point.turns.is_in_flight() {
            return self.reload(number);
        }
        self.take_turns(number);
    }

    fn committed(&mut self, number: usize, mut decision: Decision, committed: &Committed) {
        let now = self.now();
        // A refusal that came while this turn was in flight.
        decision.pending.report_refused |= self.points[number].core.pending.report_refused;
        let guarded = committed.version > 0;
        let hold = guarded.then(|| PointVersion {
            epoch: rows::unsigned(committed.epoch),
            version: rows::unsigned(committed.version),
        });
        for change in &decision.changes {
            if let PointChange::OpenSession(session) | PointChange::UpdateSession(session) = change {
                self.show_session(session, 0);
            }
        }
        self.apply(number, decision.next, decision.pending, hold);
        // After the epoch is published, so that what is sent carries the new one.
        decision.after_commit.into_iter().for_each(|effect| self.perform(Some(number), effect));
        self.touch(number);
        self.arm(number, now);
        // It may have moved.
        self.look_at_weather(number);
    }

    /// What was decided is true from now on, for those too who answer without the loop.
    fn apply(&mut self, number: usize, next: Record, pending: charge_point::Pending, hold: Option<PointVersion>) {
        self.points[number].core.apply(next, pending, hold);
        self.publish_record(number);
    }

    /// The epoch, and the keys that open links now: the end of an overlap changes these without a change that is
    /// durable, so they are published after every decision (SPEC 4.6).
    fn publish_record(&self, number: usize) {
        let record = &self.points[number].core.record;
        self.shared.directory.publish_epoch(&record.id, record.epoch);
        let changed = self.shared.directory.publish(&proto::PeerId::ChargingPoint(record.id.clone()), &record.keys);
        if changed && record.keys.active().is_none() {
            self.shared.telemetry.forget_keys(&record.id);
        }
    }

    /// The row is not what this process thought: another owns it, or has changed it. Its links are closed, so that it
    /// reports anew to whoever owns it, and what is durable is read again.
    fn reload(&mut self, number: usize) {
        let record = &self.points[number].core.record;
        tracing::warn!(cp.id = %record.id, key.epoch = record.epoch, "fenced: another Central wrote this charging point");
        self.points[number].core.links().for_each(|link| self.close(link));
        self.points[number].turns.reload();
        let (shared, id) = (self.shared.clone(), self.points[number].core.record.id.clone());
        self.turns.push(Box::pin(async move {
            let loaded = super::load::one(&shared, &id).await;
            if loaded.is_none() {
                tokio::time::sleep(RETRY).await;
            }
            Completion::Reloaded(number, loaded.map(Box::new))
        }));
    }

    pub(super) fn reloaded(&mut self, number: usize, record: Option<Box<Record>>) {
        let Some(record) = record else {
            if !self.ending {
                self.reload(number);
            }
            return;
        };
        let now = self.now();
        let Point { core, turns, stale, .. } = &mut self.points[number];
        turns.reloaded();
        *stale = false;
        let report_refused = core.pending.report_refused;
        (core.record, core.pending) =
            (*record, charge_point::Pending { report_refused, ..charge_point::Pending::loaded(now) });
        self.publish_record(number);
        self.touch(number);
        self.look_at_weather(number);
        self.offer(number, PointInput::Due);
    }

    pub(super) fn fetched(&mut self, number: usize, fetched: Result<PointInput, (Reply, String)>) {
        self.points[number].turns.own_waits = false;
        match fetched {
            Ok(input) => self.offer(number, input),
            Err((reply, why)) => {
                self.points[number].core.pending.report_refused |= reply == Reply::None;
                self.answer(reply, &OrderOutcome::Failed(proto::link::v1::Reason::Unavailable, why));
                self.take_turns(number);
            }
        }
    }

    pub(super) fn timer_rang(&mut self, number: usize, at: Instant, now: Now) {
        let point = &mut self.points[number];
        if point.timer != Some(at) {
            return;
        }
        point.timer = None;
        point.not_before = now.mono + RETRY;
        let overdue = point.turns.timer_fired(now);
        let reaction = point.core.timer_fired(now);
        self.reaction(number, reaction, now);
        self.touch(number);
        if !overdue.is_empty() {
            self.shared.store.hangs();
        }
        for input in overdue {
            self.turn_away(number, input, &ChargePoint::unavailable(turns::no_answer()), now);
        }
        self.offer(number, PointInput::Due);
        self.arm(number, now);
    }

    /// One place in the heap at a time is the valid one.
    pub(super) fn arm(&mut self, number: usize, now: Now) {
        let point = &mut self.points[number];
        let due = [point.core.poll_timeout(&self.shared.settings, now), point.turns.poll_timeout()];
        let due = due.into_iter().flatten().min();
        let Some(due) = due else { return };
        let due = if due <= now.mono { due.max(point.not_before) } else { due };
        if point.timer.is_none_or(|armed| due < armed) {
            point.timer = Some(due);
            self.timers.push(Reverse((due, TimerKey::Point(number))));
        }
    }

    /// Keys by their age, and what was counted since the last minute.
    pub(super) fn sweep(&mut self, now: Now) {
        for number in 0..self.points.len() {
            let repeats = self.points[number].core.flush_repeats(now);
            self.queue_audit(number, &repeats, now);
            if self.points[number].announced.owed {
                self.touch(number);
            }
            let stagger = u16::try_from(number % 1_000).unwrap_or_default();
            let (order, why) = match self.points[number].core.key_due(&self.shared.settings, stagger, now) {
                Some(KeyDue::Expired) => (PointOrder::Renew, key::EXPIRED),
                Some(KeyDue::Rotation) => (PointOrder::Rotate { material: secrets::fresh_link_key() }, key::AGE),
                None => continue,
            };
            self.offer(number, PointInput::Order { order, by: Origin::central().because(why), reply: Reply::None });
        }
        self.sweep_drivers(now);
    }
}
