//! Random inputs against a model: honest engines with a lifetime register and a journal, links that come and go, a disk
//! that fails, orders, crashes of Central. Whatever happens, the invariants of SPEC 9.2 hold at each step, and when all
//! is quiet every watt-hour that an engine gave is on a ticket, a discrepancy or disputed.

use std::{collections::HashSet, time::Duration};

use proptest::prelude::*;
use proto::{
    Energy,
    link::v1::{JournalSession, Part, Reason, SessionState, State, down},
};

use self::steps::{ModelStep, POINTS, step};
use super::{harness::*, *};
use crate::{audit::AuditAction, origin::Origin};

mod steps;

/// An engine as it should be: what it gave is in its register, what it owes a report for is in its journal.
#[derive(Default)]
struct ModelEngine {
    meter: u64,
    journal: Vec<JournalSession>,
    /// Until when what it holds reserved may begin.
    reserved_until: Option<Instant>,
}

impl ModelEngine {
    fn current(&mut self) -> Option<&mut JournalSession> {
        self.journal.iter_mut().find(|h| matches!(h.state(), SessionState::Reserved | SessionState::Supplying))
    }

    fn supplying(&mut self) -> Option<&mut JournalSession> {
        self.current().filter(|held| held.state() == SessionState::Supplying)
    }

    fn end(&mut self, reason: Reason) -> Option<JournalSession> {
        let meter = self.meter;
        let held = self.supplying()?;
        held.set_state(SessionState::Settling);
        held.set_reason(reason);
        held.meter_wh = meter;
        Some(held.clone())
    }
}

struct PointModel {
    harness: PointHarness,
    engines: Vec<ModelEngine>,
    links: u64,
    sessions: u64,
    requests: Vec<(usize, SupplyRequest)>,
}

impl PointModel {
    fn new() -> Self {
        let engines = (0..POINTS).map(|_| ModelEngine::default()).collect();
        Self { harness: PointHarness::new(POINTS), engines, links: 100, sessions: 0, requests: Vec::new() }
    }

    fn link(&mut self) -> LinkNo {
        self.links += 1;
        LinkNo(self.links)
    }

    fn engine_link(&self, point: usize) -> Option<LinkNo> {
        self.harness.points[point].live.engine.as_ref().map(|l| l.link)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "engines hear what concerns them")]
    /// Lets engines hear what they were told, as far as their links reach.
    fn observe_early(&mut self) {
        while !self.harness.effects.is_empty() {
            for (point, effect) in std::mem::take(&mut self.harness.effects) {
                match effect {
                    Effect::Engine(body) if self.engine_link(point).is_some() => self.engine_hears(point, &body),
                    Effect::Close(link) | Effect::CloseTakenOver(link) => {
                        self.harness
                            .observe(point, Observation::LinkDown { link, answered: true, detail: "closed".into() });
                    }
                    _ => {}
                }
            }
        }
        self.harness.sent.clear();
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "an engine hears what concerns sessions")]
    fn engine_hears(&mut self, point: usize, body: &down::Body) {
        match body {
            down::Body::Supply(m) => {
                let engine = &mut self.engines[point];
                let known = engine.journal.iter().any(|h| h.session_id == m.session_id);
                let until = self.harness.now.mono + Duration::from_millis(m.hold_ms.into());
                if known || engine.current().is_none() {
                    engine.reserved_until = Some(until);
                }
                if !known && engine.current().is_none() {
                    let mut held = JournalSession { session_id: m.session_id.clone(), ..JournalSession::default() };
                    held.set_state(SessionState::Reserved);
                    engine.journal.push(held);
                }
            }
            down::Body::Release(m) => {
                self.engines[point]
                    .journal
                    .retain(|h| h.session_id != m.session_id || h.state() != SessionState::Reserved);
                self.engine_stops(point, &m.session_id, m.reason());
            }
            down::Body::Stop(m) => self.engine_stops(point, &m.session_id, m.reason()),
            down::Body::Settled(m) => self.engines[point].journal.retain(|h| h.session_id != m.session_id),
            _ => {}
        }
    }

    fn engine_stops(&mut self, point: usize, session: &str, reason: Reason) {
        let running = self.engines[point].supplying().is_some_and(|held| held.session_id == session);
        if running && let Some(held) = self.engines[point].end(reason) {
            self.report(point, &held);
        }
        // A supply that was stopped before it began is no supply.
        self.engines[point].journal.retain(|h| h.session_id != session || h.state() != SessionState::Reserved);
    }

    fn report(&mut self, point: usize, held: &JournalSession) {
        if self.engine_link(point).is_some() {
            // The last input of `reconcile` is about what is missing, which one report does not say.
            let inputs = reconcile(std::slice::from_ref(held), |_| None, Reply::None);
            inputs.into_iter().take(1).for_each(|input| self.harness.input(point, input));
        }
    }

    fn take(&mut self, step: ModelStep) {
        match step {
            ModelStep::Request { point, driver, manual } => self.request(point, driver, manual),
            ModelStep::Repeat => {
                if let Some((point, request)) = self.requests.last().cloned() {
                    self.sessions += 1;
                    let session = SessionId::new(&format!("s{}", self.sessions));
                    self.harness.input(point, PointInput::Request(SupplyRequest { session, ..request }));
                }
            }
            ModelStep::Answer { point, accepted } => {
                let ask = self.harness.points[point].pending.ask.clone();
                if let Some(ask) = ask.filter(|ask| ask.stage == AskStage::Asking && self.engine_link(point).is_some())
                {
                    let accepted = accepted && self.engines[point].current().is_none();
                    let session = ask.request.session;
                    self.harness.input(point, PointInput::AskAnswer { session, accepted, detail: "".into() });
                }
            }
            ModelStep::Confirm { point, accepted } => {
                let ask = self.harness.points[point].pending.ask.clone();
                if let Some(PendingAsk { request: SupplyRequest { session, driver: Some(driver), .. }, .. }) = ask {
                    let accepted = accepted.then(|| self.harness.record(point).price);
                    self.harness.input(point, PointInput::Confirmed { session, driver, accepted, reply: Reply::None });
                }
            }
            ModelStep::PlugIn { point } => self.plug_in(point),
            ModelStep::Flow { point, wh } => self.flow(point, wh),
            ModelStep::Unplug { point } => {
                if let Some(held) = self.engines[point].end(Reason::Unplugged) {
                    self.report(point, &held);
                }
            }
            ModelStep::EngineDown { point } => self.engine_down(point),
            ModelStep::EngineUp { point } => self.engine_up(point),
            ModelStep::EngineKilled { point } => {
                self.engine_down(point);
                let _kept_in_its_journal = self.engines[point].end(Reason::Fault);
            }
            ModelStep::MonitorDown { point } => self.monitor_down(point),
            ModelStep::MonitorUp { point } => self.monitor_up(point),
            ModelStep::Health { point, healthy } => self.health(point, healthy),
            ModelStep::DriverStops { point } => {
                if let Some((session, Some(driver))) =
                    self.harness.record(point).open.clone().map(|open| (open.id, open.driver))
                {
                    let from = Origin::central();
                    self.harness.input(point, PointInput::StopByDriver { session, driver, from, reply: Reply::None });
                }
            }
            ModelStep::Order { point, which } => self.order(point, which),
            ModelStep::Pass { ms } => self.harness.pass(ms),
            ModelStep::Disk { fails } => self.harness.store.fail = fails.then(|| "disk full".to_owned()),
            ModelStep::CentralKilled => self.central_killed(),
        }
        self.observe_early();
        self.check();
    }

    fn request(&mut self, point: usize, driver: usize, manual: bool) {
        self.sessions += 1;
        let (name, session) = (format!("D{driver}"), format!("s{}", self.sessions));
        let mut request = super::harness::request(&name, &session, &format!("r{}", self.sessions));
        if manual {
            if self.engine_link(point).is_none() || self.engines[point].current().is_some() {
                return;
            }
            request = SupplyRequest { manual, driver: (driver > 0).then(|| name.parse().unwrap()), ..request };
        }
        self.requests.push((point, request.clone()));
        self.harness.input(point, PointInput::Request(request));
    }

    fn plug_in(&mut self, point: usize) {
        let (meter, link, at_ms) = (self.engines[point].meter, self.engine_link(point), self.harness.now.wall_ms);
        let engine = &mut self.engines[point];
        if engine.reserved_until.is_some_and(|until| until <= self.harness.now.mono) {
            engine.journal.retain(|held| held.state() != SessionState::Reserved);
        }
        if let Some(held) = engine.current().filter(|h| h.state() == SessionState::Reserved) {
            held.set_state(SessionState::Supplying);
            (held.meter_start_wh, held.meter_wh, held.started_at_ms, held.ended_at_ms) = (meter, meter, at_ms, at_ms);
            let held = held.clone();
            if link.is_some() {
                self.report(point, &held);
            }
        }
    }

    fn flow(&mut self, point: usize, wh: u64) {
        let link = self.engine_link(point);
        let meter = self.engines[point].meter + wh;
        let Some(held) = self.engines[point].supplying() else { return };
        held.meter_wh = meter;
        let session = SessionId::new(&held.session_id);
        self.engines[point].meter = meter;
        if let Some(link) = link {
            self.harness
                .observe(point, Observation::Meter { link, session, meter: Energy::from_wh(meter), power_w: 1 });
        }
    }

    fn engine_down(&mut self, point: usize) {
        if let Some(link) = self.engine_link(point) {
            self.harness.observe(point, Observation::LinkDown { link, answered: false, detail: "cut".into() });
        }
    }

    fn engine_up(&mut self, point: usize) {
        let Some((key_no, _)) = self.harness.record(point).keys.usable().last() else { return };
        let link = self.link();
        self.harness.link_up(point, Part::Engine, link, key_no);
        let held = self.engines[point].journal.clone();
        reconcile(&held, |_| None, Reply::None).into_iter().for_each(|input| self.harness.input(point, input));
    }

    fn monitor_down(&mut self, point: usize) {
        if let Some(link) = self.harness.points[point].live.monitor.as_ref().map(|l| l.link) {
            self.harness.observe(point, Observation::LinkDown { link, answered: false, detail: "cut".into() });
        }
    }

    fn monitor_up(&mut self, point: usize) {
        let link = self.link();
        if let Some((key_no, _)) = self.harness.record(point).keys.usable().last() {
            self.harness.link_up(point, Part::Monitor, link, key_no);
            self.health(point, true);
        } else {
            let material = Arc::new(wire::LinkKey::from_bytes([1; 32]));
            self.harness.observe(point, Observation::StatusLinkUp { link, from: "".into() });
            self.harness.input(point, PointInput::Grant { link, material, from: Origin::central() });
        }
    }

    fn health(&mut self, point: usize, healthy: bool) {
        if let Some(link) = self.harness.points[point].live.monitor.as_ref().map(|l| l.link) {
            self.harness.observe(point, Observation::Health { link, healthy, detail: "".into() });
        }
    }

    fn order(&mut self, point: usize, which: u8) {
        let material = Arc::new(wire::LinkKey::from_bytes([1; 32]));
        let order = match which {
            0 => PointOrder::Stop,
            1 | 2 => PointOrder::Resume,
            3 => PointOrder::Maintenance { on: true },
            4 => PointOrder::Maintenance { on: false },
            5 => PointOrder::Rotate { material },
            6 => PointOrder::Renew,
            7 => PointOrder::SetRatedPower(2_000),
            _ => PointOrder::Release,
        };
        self.harness.input(point, PointInput::Order { order, by: Origin::central(), reply: Reply::None });
    }

    /// A new process loads what is durable; all else is gone.
    fn central_killed(&mut self) {
        for point in 0..POINTS {
            let id = self.harness.record(point).id.clone();
            let of_this: Vec<_> =
                self.harness.store.sessions.values().filter(|s| s.charging_point == id).cloned().collect();
            let record = Record {
                open: of_this.iter().find(|s| s.is_open()).cloned(),
                settling: of_this.into_iter().filter(|s| s.state == SessionState::Settling).collect(),
                claimed_by: None,
                owned: false,
                ..self.harness.record(point).clone()
            };
            self.harness.points[point] = ChargePoint::new(record, self.harness.now);
        }
    }

    fn check(&self) {
        let store = &self.harness.store;
        let open: Vec<_> = store.sessions.values().filter(|s| s.is_open()).collect();
        let drivers: Vec<_> = open.iter().filter_map(|s| s.driver.clone()).collect();
        let points: HashSet<_> = open.iter().map(|s| s.charging_point.clone()).collect();
        assert_eq!(points.len(), open.len(), "at most one open session per charging point");
        assert_eq!(drivers.iter().collect::<HashSet<_>>().len(), drivers.len(), "and per driver");
        for session in store.sessions.values() {
            let billed = session.state == SessionState::Billed;
            assert_eq!(billed, store.tickets.contains_key(&session.id), "one ticket per billed session, {session:?}");
        }
        for (n, point) in self.harness.points.iter().enumerate() {
            let causes = point.causes(&self.harness.settings, self.harness.now);
            match self.harness.state(n) {
                State::Disconnected | State::Broken | State::OutOfOrder => assert!(!causes.is_empty()),
                State::Supplying | State::Reserved => assert!(point.record.open.is_some()),
                State::Available => assert!(causes.is_empty() && point.record.open.is_none()),
                State::Unspecified => panic!("no state"),
            }
            let stored: Vec<_> = open.iter().filter(|s| s.charging_point == point.record.id).map(|s| &s.id).collect();
            assert_eq!(
                point.record.open.iter().map(|s| &s.id).collect::<Vec<_>>(),
                stored,
                "memory is what is durable"
            );
            let revoked =
                point.record.keys.revoked && point.record.open.as_ref().is_some_and(|s| s.started_at.is_none());
            assert!(!revoked, "a revoked charging point never starts a supply");
        }
    }

    /// All links come back, every supply ends and is reported.
    fn settle_all(&mut self) {
        self.harness.store.fail = None;
        self.harness.pass(10_000);
        let stopping = |session: &Session| session.is_open() && session.reason != Reason::Unspecified;
        assert!(!self.harness.store.sessions.values().any(stopping), "a stop that is not answered settles (SPEC 3.8)");
        self.observe_early();
        for _round in 0..3 {
            for point in 0..POINTS {
                let _reported_below = self.engines[point].end(Reason::Unplugged);
                self.monitor_down(point);
                self.engine_down(point);
                self.monitor_up(point);
                let granted = self.harness.record(point).keys.staged().map(|key| key.no);
                if let Some(key_no) = granted {
                    let link = self.link();
                    self.harness.link_up(point, Part::Monitor, link, key_no);
                }
                self.health(point, true);
                self.engine_up(point);
                self.observe_early();
            }
            self.harness.pass(16 * 60_000);
            self.observe_early();
        }
        self.check();
    }

    /// Released as expired although its engine began in time: only where that could not be known for a quarter of an
    /// hour.
    fn cut_off(&self) -> Vec<&Session> {
        let settled = |session: &Session| {
            let said = ("session", session.id.to_string());
            let entries = self.harness.store.entries.iter().filter(|entry| entry.action == AuditAction::SupplySettling);
            entries.into_iter().any(|entry| entry.parameters.contains(&said))
        };
        let sessions = self.harness.store.sessions.values();
        sessions
            .filter(|s| s.state == SessionState::Released && s.reason == Reason::ReservationExpired)
            .filter(|s| s.discrepancy != 0 && !settled(s))
            .collect()
    }

    fn sums(&self) -> (i64, i64) {
        let store = &self.harness.store;
        let tickets: u64 = store.tickets.values().map(|t| t.energy_wh + t.disputed_wh).sum();
        let discrepancies: i64 = store.sessions.values().map(|s| s.discrepancy).sum();
        let meters: u64 = self.engines.iter().map(|e| e.meter).sum();
        (i64::try_from(tickets).unwrap() + discrepancies, i64::try_from(meters).unwrap())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 4_000, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_every_watt_hour_is_accounted_for_once_spec_9_2(
        steps in prop::collection::vec(step(), 1..150)
    ) {
        let mut model = PointModel::new();
        for point in 0..POINTS {
            model.monitor_up(point);
            model.engine_up(point);
        }
        model.observe_early();
        steps.into_iter().for_each(|step| model.take(step));
        model.settle_all();
        let (accounted, given) = model.sums();
        prop_assert_eq!(accounted, given, "tickets + discrepancies + disputed = meters");
        prop_assert_eq!(model.cut_off(), Vec::<&Session>::new(), "a supply that began in time is billed");
        prop_assert!(model.engines.iter().all(|e| e.journal.is_empty()), "no engine waits for a settlement");
    }
}
