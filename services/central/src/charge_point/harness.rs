//! Test-only: charging points with a store in memory that refuses as the real one does, and what was told, in words.

use std::collections::{BTreeMap, HashMap};

use proto::{
    Energy, PeerId,
    link::v1::{SessionState, State, Ticket, down},
};

use super::*;
use crate::{
    audit::{AuditAction, AuditRecord},
    origin::{LinkNo, Origin},
    settings::CentralSettings,
    testing::{at_ms, start},
    turns::Core as _,
};

#[derive(Default)]
pub(super) struct MemoryStore {
    pub(super) sessions: BTreeMap<SessionId, Session>,
    pub(super) tickets: BTreeMap<SessionId, Ticket>,
    pub(super) requests: HashMap<(PeerId, Arc<str>), FirstAnswer>,
    pub(super) actions: Vec<AuditAction>,
    pub(super) entries: Vec<AuditRecord>,
    pub(super) fail: Option<String>,
}

impl MemoryStore {
    /// All of a decision or nothing of it.
    pub(super) fn take(&mut self, changes: &[PointChange]) -> Result<(), StoreRefusal> {
        if let Some(why) = self.fail.as_ref().filter(|_| !changes.is_empty()) {
            return Err(StoreRefusal::Unavailable(why.clone()));
        }
        changes.iter().try_for_each(|change| self.objection(change).map_or(Ok(()), Err))?;
        for change in changes {
            match change {
                PointChange::OpenSession(s) | PointChange::UpdateSession(s) => {
                    self.sessions.insert(s.id.clone(), s.clone());
                }
                PointChange::Ticket(ticket) => {
                    self.tickets.insert(SessionId::new(&ticket.session_id), ticket.clone());
                }
                PointChange::Answered(answer) => {
                    self.requests.insert((answer.requester.clone(), answer.request_id.clone()), answer.clone());
                }
                PointChange::Audit(entry) => {
                    self.actions.push(entry.action);
                    self.entries.push(entry.clone());
                }
                PointChange::Point
                | PointChange::OrderItem { .. }
                | PointChange::Key(_)
                | PointChange::Event(_)
                | PointChange::Discrepancy { .. } => {}
            }
        }
        Ok(())
    }

    fn objection(&self, change: &PointChange) -> Option<StoreRefusal> {
        match change {
            PointChange::OpenSession(new) => {
                let mut open = self.sessions.values().filter(|s| s.is_open());
                open.find_map(|s| {
                    if s.charging_point == new.charging_point {
                        Some(StoreRefusal::ChargingPointBusy)
                    } else {
                        (s.driver.is_some() && s.driver == new.driver).then_some(StoreRefusal::DriverBusy)
                    }
                })
            }
            PointChange::Answered(answer) => {
                let first = self.requests.get(&(answer.requester.clone(), answer.request_id.clone()))?;
                Some(if first.digest == answer.digest {
                    StoreRefusal::Repeated(Box::new(first.clone()))
                } else {
                    StoreRefusal::RequestIdReused("used for another request".to_owned())
                })
            }
            PointChange::Ticket(ticket) => {
                self.tickets.contains_key(&SessionId::new(&ticket.session_id)).then_some(StoreRefusal::AlreadyBilled)
            }
            PointChange::Point
            | PointChange::OrderItem { .. }
            | PointChange::UpdateSession(_)
            | PointChange::Discrepancy { .. }
            | PointChange::Key(_)
            | PointChange::Event(_)
            | PointChange::Audit(_) => None,
        }
    }
}

pub(super) struct PointHarness {
    pub(super) points: Vec<ChargePoint>,
    pub(super) store: MemoryStore,
    pub(super) settings: CentralSettings,
    pub(super) now: Now,
    /// By which Central's wall clock is wrong from the next step on.
    pub(super) wall_offset_ms: i64,
    /// What was told since last asked, in words.
    pub(super) sent: Vec<String>,
    /// What was told, as it was.
    pub(super) effects: Vec<(usize, Effect)>,
}

impl PointHarness {
    /// Charging points CP1, CP2… with key 1 active, without links.
    pub(super) fn new(count: usize) -> Self {
        // So much power that what is not about it need not wait.
        let (now, settings) = (at_ms(0), CentralSettings { max_power_w: 100_000_000, ..CentralSettings::default() });
        let points = (1..=count).map(|n| ChargePoint::new(record(n, now, &settings), now)).collect();
        Self {
            points,
            store: MemoryStore::default(),
            settings,
            now,
            wall_offset_ms: 0,
            sent: Vec::new(),
            effects: Vec::new(),
        }
    }

    pub(super) fn record(&self, point: usize) -> &Record {
        &self.points[point].record
    }

    pub(super) fn state(&self, point: usize) -> State {
        self.points[point].state(&self.settings, self.now)
    }

    pub(super) fn session(&self, id: &str) -> &Session {
        &self.store.sessions[&SessionId::new(id)]
    }

    pub(super) fn ticket(&self, id: &str) -> Option<&Ticket> {
        self.store.tickets.get(&SessionId::new(id))
    }

    pub(super) fn observe(&mut self, point: usize, observation: Observation) {
        let reaction = self.points[point].observe(observation, &self.settings, self.now);
        let notes = self.store.take(&reaction.queued);
        assert!(notes.is_ok() || self.store.fail.is_some());
        reaction.effects.into_iter().for_each(|effect| self.perform(point, effect));
        if reaction.due {
            self.input(point, PointInput::Due);
        }
    }

    pub(super) fn input(&mut self, point: usize, input: PointInput) {
        self.points[point].observe_early(&input, self.now);
        let decision = self.points[point].decide(&input, &self.settings, self.now);
        self.carry_out(point, &input, decision, true);
    }

    fn carry_out(&mut self, point: usize, input: &PointInput, decision: Decision, may_refuse: bool) {
        drop(self.store.take(&decision.queued));
        decision.before_commit.into_iter().for_each(|effect| self.perform(point, effect));
        match self.store.take(&decision.changes) {
            Ok(()) => {
                let record = &self.points[point].record;
                let epoch = record.epoch + u64::from(decision.takeover.is_some());
                let hold = (!decision.changes.is_empty()).then(|| PointVersion { epoch, version: record.version + 1 });
                self.points[point].apply(decision.next, decision.pending, hold);
                decision.after_commit.into_iter().for_each(|effect| self.perform(point, effect));
            }
            Err(refusal) if may_refuse => {
                let decision = self.points[point].refused(input, &refusal, &self.settings, self.now);
                self.carry_out(point, input, decision, false);
            }
            // A refusal that the store refuses too: nothing more can be promised, and nothing was.
            Err(_) => {}
        }
    }

    /// Time passes, and what falls due on the way is decided at its moment.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now.mono + std::time::Duration::from_millis(ms);
        loop {
            let due = self.points.iter().enumerate().filter_map(|(n, p)| {
                let due = p.poll_timeout(&self.settings, self.now)?;
                // What the store refused is tried again a second later, as the loop does it.
                Some((if due <= self.now.mono { self.now.mono + std::time::Duration::from_secs(1) } else { due }, n))
            });
            let Some((due, point)) = due.min().filter(|(due, _)| *due <= end) else { break };
            self.now = self.at(due);
            let reaction = self.points[point].timer_fired(self.now);
            reaction.effects.into_iter().for_each(|effect| self.perform(point, effect));
            self.input(point, PointInput::Due);
        }
        self.now = self.at(end);
    }

    fn at(&self, mono: Instant) -> Now {
        let now = at_ms(u64::try_from(mono.duration_since(start()).as_millis()).unwrap());
        Now { wall_ms: now.wall_ms + self.wall_offset_ms, ..now }
    }

    fn perform(&mut self, point: usize, effect: Effect) {
        self.sent.push(in_words(&effect));
        self.effects.push((point, effect.clone()));
        if let Effect::Fetch { session, last, reply } = effect {
            let row = self.store.sessions.get(&session).cloned().map(Box::new);
            self.input(point, PointInput::EndedLong { session, row, ticket: None, last, reply });
        } else {
            self.recall(point, effect);
        }
    }

    fn recall(&mut self, point: usize, effect: Effect) {
        if let Effect::Recall { session, last, evidence, reply } = effect {
            let row = self.store.sessions.get(&session).cloned().map(Box::new);
            let ticket = self.store.tickets.get(&session).and_then(|ticket| ticket.signed.clone()).map(Box::new);
            let stored = StoredSession { row, ticket };
            self.input(point, PointInput::Recalled { session, stored, last, evidence, reply });
        }
    }

    pub(super) fn take_sent(&mut self) -> Vec<String> {
        std::mem::take(&mut self.sent)
    }
}

/// CP1, CP2…, with key 1 active and without links.
pub(crate) fn charge_point(n: usize) -> ChargePoint {
    let now = at_ms(0);
    ChargePoint::new(record(n, now, &CentralSettings::default()), now)
}

fn record(n: usize, now: Now, settings: &CentralSettings) -> Record {
    let mut keys = Keyring::default();
    keys.grant(Arc::new(wire::LinkKey::from_bytes([7; 32])), now, settings);
    keys.proved(1, Part::Monitor, PARTS, now, settings);
    keys.proved(1, Part::Engine, PARTS, now, settings);
    Record {
        id: format!("CP{n}").parse().unwrap(),
        epoch: 1 << 32,
        version: 0,
        owner: "".into(),
        city: "Alicante".into(),
        place: "Plaza".into(),
        price: Price::from_e4(3950),
        rated_power_w: 0,
        stopped: None,
        maintenance: None,
        weather_blocked: false,
        quarantined: false,
        removed: false,
        keys,
        open: None,
        settling: Vec::new(),
        claimed_by: None,
        owned: false,
    }
}

fn in_words(effect: &Effect) -> String {
    match effect {
        Effect::Monitor(body) => format!("monitor: {}", body_in_words(body)),
        Effect::Engine(body) => format!("engine: {}", body_in_words(body)),
        Effect::Driver(driver, body) => format!("{driver}: {}", body_in_words(body)),
        Effect::Link(link, body) => format!("link {}: {}", link.0, body_in_words(body)),
        Effect::Answer(_, outcome) => match outcome {
            OrderOutcome::Done => "answer: done".to_owned(),
            OrderOutcome::Unchanged => "answer: unchanged".to_owned(),
            OrderOutcome::Failed(reason, _) => format!("answer: {}", reason.code()),
        },
        Effect::Grant { link: Some(link), key_no } => format!("link {}: key {key_no}", link.0),
        Effect::Grant { link: None, key_no } => format!("monitor: key {key_no}"),
        Effect::Close(link) => format!("close link {}", link.0),
        Effect::CloseTakenOver(link) => format!("close link {}, taken over", link.0),
        Effect::CloseLater(link) => format!("close link {} later", link.0),
        Effect::Fetch { session, .. } => format!("fetch {session}"),
        Effect::Recall { session, .. } => format!("recall {session}"),
        Effect::Alarm(_) => "alarm".to_owned(),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only what the core sends is put into words")]
fn body_in_words(body: &down::Body) -> String {
    match body {
        down::Body::Ask(m) => format!("ask {}", m.session_id),
        down::Body::Supply(m) => format!("supply {}", m.session_id),
        down::Body::Release(m) => format!("release {} {}", m.session_id, m.reason().code()),
        down::Body::Stop(m) => format!("stop {} {}", m.session_id, m.reason().code()),
        down::Body::Settled(m) => format!("settled {}", m.session_id),
        down::Body::Step(m) => {
            let progress = m.progress().as_str_name().trim_start_matches("PROGRESS_").to_owned();
            if m.reason == 0 { progress } else { format!("{progress} {}", m.reason().code()) }
        }
        down::Body::Running(m) => format!("running {} Wh {} {}", m.energy_wh, m.amount_minor, m.currency),
        down::Body::Ticket(m) => format!("ticket {} Wh {}", m.energy_wh, m.reason().code()),
        down::Body::AuthStatus(m) => {
            format!("auth status {}", m.key_state().as_str_name().trim_start_matches("KEY_STATE_"))
        }
        down::Body::ConfirmRequest(m) => format!("confirm {}?", m.session_id),
        other => format!("{other:?}"),
    }
}

pub(super) const MONITOR: LinkNo = LinkNo(1);
pub(super) const ENGINE: LinkNo = LinkNo(2);

/// Shorthands of the traces: everything happens at CP1 unless said otherwise.
impl PointHarness {
    /// CP1 with both links up and a healthy engine.
    pub(super) fn ready() -> Self {
        let mut harness = Self::new(1);
        harness.monitor_up(MONITOR, 1);
        harness.engine_up(ENGINE, 1);
        harness.input(0, PointInput::JournalReport { sessions: Vec::new(), reply: Reply::None });
        harness.healthy(true);
        harness.take_sent();
        harness
    }

    pub(super) fn monitor_up(&mut self, link: LinkNo, key_no: u64) {
        self.link_up(0, Part::Monitor, link, key_no);
    }

    pub(super) fn engine_up(&mut self, link: LinkNo, key_no: u64) {
        self.link_up(0, Part::Engine, link, key_no);
    }

    pub(super) fn link_up(&mut self, point: usize, part: Part, link: LinkNo, key_no: u64) {
        self.observe(point, Observation::LinkUp { link, part, key_no, from: "192.0.2.1:7".into(), highest_epoch: 0 });
    }

    pub(super) fn link_down(&mut self, link: LinkNo) {
        self.observe(0, Observation::LinkDown { link, answered: false, detail: "gone".into() });
    }

    /// Closed by Central, and its peer was there to hear it.
    pub(super) fn link_closed(&mut self, link: LinkNo) {
        self.observe(0, Observation::LinkDown { link, answered: true, detail: "closed".into() });
    }

    pub(super) fn healthy(&mut self, healthy: bool) {
        let link = self.points[0].live.monitor.as_ref().map_or(MONITOR, |l| l.link);
        self.observe(0, Observation::Health { link, healthy, detail: if healthy { "" } else { "broken" }.into() });
    }

    pub(super) fn request(&mut self, session: &str, request_id: &str) {
        self.input(0, PointInput::Request(request("D1", session, request_id)));
    }

    pub(super) fn accept(&mut self, session: &str) {
        self.input(0, PointInput::AskAnswer { session: SessionId::new(session), accepted: true, detail: "".into() });
    }

    pub(super) fn started(&mut self, session: &str, meter: u64) {
        let (meter, at) = (Energy::from_wh(meter), self.now.wall_ms);
        self.input(0, PointInput::Started { session: SessionId::new(session), meter, at, reply: engine_reply() });
    }

    pub(super) fn meter(&mut self, session: &str, meter: u64) {
        let session = SessionId::new(session);
        self.observe(0, Observation::Meter { link: ENGINE, session, meter: Energy::from_wh(meter), power_w: 7_000 });
    }

    pub(super) fn ended(&mut self, session: &str, start: u64, end: u64, reason: proto::link::v1::Reason) {
        let last = crate::session::Final {
            start: Energy::from_wh(start),
            end: Energy::from_wh(end),
            reason,
            started_at: 1,
            ended_at: self.now.wall_ms,
        };
        self.input(0, PointInput::Ended { session: SessionId::new(session), last, reply: engine_reply() });
    }

    pub(super) fn order(&mut self, order: PointOrder) {
        let by = Origin::new("operator/ana", "192.0.2.9:1").because("works");
        self.input(0, PointInput::Order { order, by, reply: Reply::Order(1) });
    }

    /// D1 is supplied at CP1 in session s1, meter 1,000 to 1,500.
    pub(super) fn supplying() -> Self {
        let mut harness = Self::reserved();
        harness.started("s1", 1_000);
        harness.meter("s1", 1_500);
        harness.take_sent();
        assert_eq!(harness.record(0).open.as_ref().map(|s| s.state), Some(SessionState::Supplying));
        harness
    }

    pub(super) fn reserved() -> Self {
        let mut harness = Self::ready();
        harness.request("s1", "r1");
        harness.accept("s1");
        harness.take_sent();
        harness
    }
}

pub(super) fn engine_reply() -> Reply {
    Reply::Link { link: ENGINE, to: 9 }
}

pub(super) fn request(driver: &str, session: &str, request_id: &str) -> SupplyRequest {
    SupplyRequest {
        driver: Some(driver.parse().unwrap()),
        request_id: request_id.into(),
        terms: SupplyTerms::default(),
        session: SessionId::new(session),
        manual: false,
        known: true,
        busy: false,
        away: false,
        from: Origin::new(format!("driver/{driver}"), "192.0.2.2:1"),
        reply: Reply::Link { link: LinkNo(3), to: 5 },
    }
}
