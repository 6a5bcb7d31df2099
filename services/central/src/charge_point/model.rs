//! Random inputs against a model: honest engines with a lifetime register and a journal, links that come and go, a disk
//! that fails, orders, crashes of Central. Whatever happens, the invariants of SPEC 9.2 hold at each step, and when all
//! is quiet every watt-hour that an engine gave is on a ticket, a discrepancy or disputed.

use std::{collections::HashSet, time::Duration};

use proptest::prelude::*;
use proto::{
    Energy,
    link::v1::{JournalSession, Part, Reason, SessionState, State, down},
};

use self::steps::{POINTS, Step, step};
use super::{world::*, *};
use crate::audit::Action;

mod steps;

/// An engine as it should be: what it gave is in its register, what it owes a report for is in its journal.
#[derive(Default)]
struct Engine {
    meter: u64,
    journal: Vec<JournalSession>,
    /// Until when what it holds reserved may begin.
    reserved_until: Option<Instant>,
}

impl Engine {
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

struct Model {
    world: World,
    engines: Vec<Engine>,
    links: u64,
    sessions: u64,
    requests: Vec<(usize, Request)>,
}

impl Model {
    fn new() -> Self {
        let engines = (0..POINTS).map(|_| Engine::default()).collect();
        Self { world: World::new(POINTS), engines, links: 100, sessions: 0, requests: Vec::new() }
    }

    fn link(&mut self) -> LinkNo {
        self.links += 1;
        LinkNo(self.links)
    }

    fn engine_link(&self, point: usize) -> Option<LinkNo> {
        self.world.points[point].signs.engine.as_ref().map(|l| l.link)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "engines hear what concerns them")]
    /// Lets engines hear what they were told, as far as their links reach.
    fn hear(&mut self) {
        while !self.world.tells.is_empty() {
            for (point, tell) in std::mem::take(&mut self.world.tells) {
                match tell {
                    Tell::Engine(body) if self.engine_link(point).is_some() => self.engine_hears(point, &body),
                    Tell::Close(link) | Tell::CloseTakenOver(link) => {
                        self.world.sense(point, Sign::LinkDown { link, answered: true, detail: "closed".into() });
                    }
                    _ => {}
                }
            }
        }
        self.world.told.clear();
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "an engine hears what concerns sessions")]
    fn engine_hears(&mut self, point: usize, body: &down::Body) {
        match body {
            down::Body::Supply(m) => {
                let engine = &mut self.engines[point];
                let known = engine.journal.iter().any(|h| h.session_id == m.session_id);
                let until = self.world.now.mono + Duration::from_millis(m.hold_ms.into());
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
            let inputs = reconcile(std::slice::from_ref(held), Reply::None);
            inputs.into_iter().take(1).for_each(|input| self.world.input(point, input));
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Request { point, driver, manual } => self.request(point, driver, manual),
            Step::Repeat => {
                if let Some((point, request)) = self.requests.last().cloned() {
                    self.sessions += 1;
                    let session = SessionId::new(&format!("s{}", self.sessions));
                    self.world.input(point, Input::Request(Request { session, ..request }));
                }
            }
            Step::Answer { point, accepted } => {
                let ask = self.world.points[point].pending.ask.clone();
                if let Some(ask) = ask.filter(|ask| ask.stage == Stage::Asking && self.engine_link(point).is_some()) {
                    let accepted = accepted && self.engines[point].current().is_none();
                    let session = ask.request.session;
                    self.world.input(point, Input::AskAnswer { session, accepted, detail: "".into() });
                }
            }
            Step::Confirm { point, accepted } => {
                let ask = self.world.points[point].pending.ask.clone();
                if let Some(Ask { request: Request { session, driver: Some(driver), .. }, .. }) = ask {
                    self.world.input(point, Input::Confirmed { session, driver, accepted, reply: Reply::None });
                }
            }
            Step::PlugIn { point } => self.plug_in(point),
            Step::Flow { point, wh } => self.flow(point, wh),
            Step::Unplug { point } => {
                if let Some(held) = self.engines[point].end(Reason::Unplugged) {
                    self.report(point, &held);
                }
            }
            Step::EngineDown { point } => self.engine_down(point),
            Step::EngineUp { point } => self.engine_up(point),
            Step::EngineKilled { point } => {
                self.engine_down(point);
                let _kept_in_its_journal = self.engines[point].end(Reason::Fault);
            }
            Step::MonitorDown { point } => self.monitor_down(point),
            Step::MonitorUp { point } => self.monitor_up(point),
            Step::Health { point, healthy } => self.health(point, healthy),
            Step::DriverStops { point } => {
                if let Some((session, Some(driver))) =
                    self.world.record(point).open.clone().map(|open| (open.id, open.driver))
                {
                    let from = Origin::central();
                    self.world.input(point, Input::StopByDriver { session, driver, from, reply: Reply::None });
                }
            }
            Step::Order { point, which } => self.order(point, which),
            Step::Pass { ms } => self.world.pass(ms),
            Step::Disk { fails } => self.world.store.fail = fails.then(|| "disk full".to_owned()),
            Step::CentralKilled => self.central_killed(),
        }
        self.hear();
        self.check();
    }

    fn request(&mut self, point: usize, driver: usize, manual: bool) {
        self.sessions += 1;
        let (name, session) = (format!("D{driver}"), format!("s{}", self.sessions));
        let mut request = super::world::request(&name, &session, &format!("r{}", self.sessions));
        if manual {
            if self.engine_link(point).is_none() || self.engines[point].current().is_some() {
                return;
            }
            request = Request { manual, driver: (driver > 0).then(|| name.parse().unwrap()), ..request };
        }
        self.requests.push((point, request.clone()));
        self.world.input(point, Input::Request(request));
    }

    fn plug_in(&mut self, point: usize) {
        let (meter, link, at_ms) = (self.engines[point].meter, self.engine_link(point), self.world.now.wall_ms);
        let engine = &mut self.engines[point];
        if engine.reserved_until.is_some_and(|until| until <= self.world.now.mono) {
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
            self.world.sense(point, Sign::Meter { link, session, meter: Energy::from_wh(meter), power_w: 1 });
        }
    }

    fn engine_down(&mut self, point: usize) {
        if let Some(link) = self.engine_link(point) {
            self.world.sense(point, Sign::LinkDown { link, answered: false, detail: "cut".into() });
        }
    }

    fn engine_up(&mut self, point: usize) {
        let Some((key_no, _)) = self.world.record(point).keys.usable().last() else { return };
        let link = self.link();
        self.world.link_up(point, Part::Engine, link, key_no);
        let held = self.engines[point].journal.clone();
        reconcile(&held, Reply::None).into_iter().for_each(|input| self.world.input(point, input));
    }

    fn monitor_down(&mut self, point: usize) {
        if let Some(link) = self.world.points[point].signs.monitor.as_ref().map(|l| l.link) {
            self.world.sense(point, Sign::LinkDown { link, answered: false, detail: "cut".into() });
        }
    }

    fn monitor_up(&mut self, point: usize) {
        let link = self.link();
        if let Some((key_no, _)) = self.world.record(point).keys.usable().last() {
            self.world.link_up(point, Part::Monitor, link, key_no);
            self.health(point, true);
        } else {
            let material = Arc::new(wire::LinkKey::from_bytes([1; 32]));
            self.world.sense(point, Sign::StatusLinkUp { link, from: "".into() });
            self.world.input(point, Input::Grant { link, material, from: Origin::central() });
        }
    }

    fn health(&mut self, point: usize, healthy: bool) {
        if let Some(link) = self.world.points[point].signs.monitor.as_ref().map(|l| l.link) {
            self.world.sense(point, Sign::Health { link, healthy, detail: "".into() });
        }
    }

    fn order(&mut self, point: usize, which: u8) {
        let material = Arc::new(wire::LinkKey::from_bytes([1; 32]));
        let order = match which {
            0 => Order::Stop,
            1 | 2 => Order::Resume,
            3 => Order::Maintenance { on: true },
            4 => Order::Maintenance { on: false },
            5 => Order::Rotate { material },
            6 => Order::Renew,
            7 => Order::SetRatedPower(2_000),
            _ => Order::Release,
        };
        self.world.input(point, Input::Order { order, by: Origin::central(), reply: Reply::None });
    }

    /// A new process loads what is durable; all else is gone.
    fn central_killed(&mut self) {
        for point in 0..POINTS {
            let id = self.world.record(point).id.clone();
            let of_this: Vec<_> =
                self.world.store.sessions.values().filter(|s| s.charging_point == id).cloned().collect();
            let record = Record {
                open: of_this.iter().find(|s| s.is_open()).cloned(),
                settling: of_this.into_iter().filter(|s| s.state == SessionState::Settling).collect(),
                claim: None,
                owned: false,
                ..self.world.record(point).clone()
            };
            self.world.points[point] = ChargePoint::new(record, self.world.now);
        }
    }

    fn check(&self) {
        let store = &self.world.store;
        let open: Vec<_> = store.sessions.values().filter(|s| s.is_open()).collect();
        let drivers: Vec<_> = open.iter().filter_map(|s| s.driver.clone()).collect();
        let points: HashSet<_> = open.iter().map(|s| s.charging_point.clone()).collect();
        assert_eq!(points.len(), open.len(), "at most one open session per charging point");
        assert_eq!(drivers.iter().collect::<HashSet<_>>().len(), drivers.len(), "and per driver");
        for session in store.sessions.values() {
            let billed = session.state == SessionState::Billed;
            assert_eq!(billed, store.tickets.contains_key(&session.id), "one ticket per billed session, {session:?}");
        }
        for (n, point) in self.world.points.iter().enumerate() {
            let causes = point.causes(&self.world.settings, self.world.now);
            match self.world.state(n) {
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
        self.world.store.fail = None;
        self.world.pass(10_000);
        let stopping = |session: &Session| session.is_open() && session.reason != Reason::Unspecified;
        assert!(!self.world.store.sessions.values().any(stopping), "a stop that is not answered settles (SPEC 3.8)");
        self.hear();
        for _round in 0..3 {
            for point in 0..POINTS {
                let _reported_below = self.engines[point].end(Reason::Unplugged);
                self.monitor_down(point);
                self.engine_down(point);
                self.monitor_up(point);
                let granted = self.world.record(point).keys.staged().map(|key| key.no);
                if let Some(key_no) = granted {
                    let link = self.link();
                    self.world.link_up(point, Part::Monitor, link, key_no);
                }
                self.health(point, true);
                self.engine_up(point);
                self.hear();
            }
            self.world.pass(16 * 60_000);
            self.hear();
        }
        self.check();
    }

    /// Released as expired although its engine began in time: only where that could not be known for a quarter of an
    /// hour.
    fn cut_off(&self) -> Vec<&Session> {
        let settled = |session: &Session| {
            let said = ("session", session.id.to_string());
            let entries = self.world.store.entries.iter().filter(|entry| entry.action == Action::SupplySettling);
            entries.into_iter().any(|entry| entry.parameters.contains(&said))
        };
        let sessions = self.world.store.sessions.values();
        sessions
            .filter(|s| s.state == SessionState::Released && s.reason == Reason::ReservationExpired)
            .filter(|s| s.discrepancy != 0 && !settled(s))
            .collect()
    }

    fn sums(&self) -> (i64, i64) {
        let store = &self.world.store;
        let tickets: u64 = store.tickets.values().map(|t| t.energy.wh() + t.disputed.wh()).sum();
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
        let mut model = Model::new();
        for point in 0..POINTS {
            model.monitor_up(point);
            model.engine_up(point);
        }
        model.hear();
        steps.into_iter().for_each(|step| model.take(step));
        model.settle_all();
        let (accounted, given) = model.sums();
        prop_assert_eq!(accounted, given, "tickets + discrepancies + disputed = meters");
        prop_assert_eq!(model.cut_off(), Vec::<&Session>::new(), "a supply that began in time is billed");
        prop_assert!(model.engines.iter().all(|e| e.journal.is_empty()), "no engine waits for a settlement");
    }
}
