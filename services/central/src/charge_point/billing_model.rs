//! Bills against the truth: a station whose true energy is known, with samples, final values and clocks that may lie, prices
//! that change, reports that repeat, links that break, a Central that dies. Nobody is billed more than what was delivered
//! to him at the price that he agreed to and, within a tolerance, as much as he asked for; what is not billed is named
//! (SPEC 3.2, 3.8a).

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use proto::{
    Energy, Price,
    link::v1::{JournalSession, Part, Reason, SessionState, State, down},
};

use super::{harness::*, *};
use crate::settings::CentralSettings;

#[derive(Clone, Copy, Debug)]
enum BillingStep {
    /// The price may change between the request and the engine's answer.
    Request {
        energy: u64,
        new_price: Option<u32>,
    },
    PlugIn,
    Pass {
        ms: u64,
    },
    Sample,
    FalseSample {
        wh: u64,
    },
    Unplug {
        false_end: Option<u64>,
    },
    Repeat,
    Price(u32),
    EngineClock(i64),
    CentralClock(i64),
    LinkDown,
    LinkUp,
    CentralKilled,
}

/// What really happened to a session.
#[derive(Clone, Debug)]
struct Truth {
    requested: u64,
    price: Price,
    authorised: Instant,
    delivered: u64,
    samples_are_true: bool,
    end_is_true: bool,
}

struct MeteredStation {
    harness: PointHarness,
    truths: BTreeMap<SessionId, Truth>,
    /// As bills were first seen.
    bills: BTreeMap<SessionId, proto::link::v1::Ticket>,
    rated_w: u64,
    power_w: u64,
    /// Goes on past what was asked for, until it is told to stop.
    runs_away: bool,
    register_wh: u64,
    /// Of the running supply, in watt-milliseconds.
    flowed: u64,
    journal: Vec<JournalSession>,
    link: Option<LinkNo>,
    links: u64,
    clock_ms: i64,
}

const HOUR_MS: u64 = 3_600_000;

impl MeteredStation {
    fn new(rated_w: u32, percent: u64, runs_away: bool) -> Self {
        let mut harness = PointHarness::ready();
        harness.settings = CentralSettings::default();
        harness.order(PointOrder::SetRatedPower(rated_w));
        let rated_w = u64::from(if rated_w == 0 { harness.settings.max_power_w } else { rated_w });
        let mut station = Self {
            harness,
            truths: BTreeMap::new(),
            bills: BTreeMap::new(),
            rated_w,
            power_w: rated_w * percent / 100,
            runs_away,
            register_wh: 5_000,
            flowed: 0,
            journal: Vec::new(),
            link: Some(ENGINE),
            links: 100,
            clock_ms: 0,
        };
        station.hear();
        station
    }

    fn held(&mut self, state: SessionState) -> Option<&mut JournalSession> {
        self.journal.iter_mut().find(|held| held.state() == state)
    }

    fn engine_ms(&self) -> i64 {
        self.harness.now.wall_ms.saturating_add(self.clock_ms)
    }

    fn take(&mut self, step: BillingStep) {
        match step {
            BillingStep::Request { energy, new_price } => self.request(energy, new_price),
            BillingStep::PlugIn => self.plug_in(),
            BillingStep::Pass { ms } => self.pass(ms),
            BillingStep::Sample => self.sample(None),
            BillingStep::FalseSample { wh } => self.sample(Some(wh)),
            BillingStep::Unplug { false_end } => self.end(Reason::Unplugged, false_end),
            BillingStep::Repeat => self.report(),
            BillingStep::Price(e4) => self.harness.order(PointOrder::SetPrice(Price::from_e4(e4))),
            BillingStep::EngineClock(ms) => self.clock_ms = ms,
            BillingStep::CentralClock(ms) => {
                self.harness.wall_offset_ms = ms;
                self.harness.pass(0);
            }
            BillingStep::LinkDown => {
                if let Some(link) = self.link.take() {
                    self.harness.link_down(link);
                }
            }
            BillingStep::LinkUp => self.link_up(),
            BillingStep::CentralKilled => self.central_killed(),
        }
        self.hear();
        self.check();
    }

    fn request(&mut self, energy: u64, new_price: Option<u32>) {
        if self.link.is_none() || self.harness.state(0) != State::Available || !self.journal.is_empty() {
            return;
        }
        let session = format!("s{}", self.truths.len() + 1);
        let price = self.harness.record(0).price;
        let terms = SupplyTerms { energy: Energy::from_wh(energy), highest_price: None };
        let request = SupplyRequest { terms, ..request("D1", &session, &session) };
        self.harness.input(0, PointInput::Request(request));
        if let Some(e4) = new_price {
            self.harness.order(PointOrder::SetPrice(Price::from_e4(e4)));
        }
        self.harness.accept(&session);
        let truth = Truth {
            requested: energy,
            price,
            authorised: self.harness.now.mono,
            delivered: 0,
            samples_are_true: true,
            end_is_true: true,
        };
        self.truths.insert(SessionId::new(&session), truth);
    }

    fn plug_in(&mut self) {
        let (at_ms, meter_wh) = (self.engine_ms(), self.register_wh);
        let Some(held) = self.held(SessionState::Reserved) else { return };
        held.set_state(SessionState::Supplying);
        (held.meter_start_wh, held.meter_wh, held.started_at_ms) = (meter_wh, meter_wh, at_ms);
        self.flowed = 0;
        self.report();
    }

    fn pass(&mut self, ms: u64) {
        let (power_w, runs_away, truths) = (self.power_w, self.runs_away, self.truths.clone());
        let mut flowed = self.flowed + power_w * ms;
        let Some(held) = self.held(SessionState::Supplying) else { return self.harness.pass(ms) };
        let session = SessionId::new(&held.session_id);
        let most = truths[&session].requested * HOUR_MS;
        let is_over = !runs_away && most > 0 && flowed >= most;
        flowed = if is_over { most } else { flowed };
        held.meter_wh = held.meter_start_wh + flowed / HOUR_MS;
        (self.register_wh, self.flowed) = (held.meter_wh, flowed);
        if let Some(truth) = self.truths.get_mut(&session) {
            truth.delivered = flowed / HOUR_MS;
        }
        self.harness.pass(ms);
        if is_over {
            self.end(Reason::EnergyReached, None);
        }
    }

    fn sample(&mut self, false_wh: Option<u64>) {
        let meter = Energy::from_wh(false_wh.unwrap_or(self.register_wh));
        let Some(session) = self.held(SessionState::Supplying).map(|held| SessionId::new(&held.session_id)) else {
            return;
        };
        if let Some(link) = self.link {
            if let Some(truth) = self.truths.get_mut(&session) {
                truth.samples_are_true &= false_wh.is_none();
            }
            self.harness.observe(0, Observation::Meter { link, session, meter, power_w: u32::MAX });
        }
    }

    fn end(&mut self, reason: Reason, false_end: Option<u64>) {
        let ended_at_ms = self.engine_ms();
        let Some(held) = self.held(SessionState::Supplying) else { return };
        held.set_state(SessionState::Settling);
        held.set_reason(reason);
        held.ended_at_ms = ended_at_ms;
        held.meter_wh = false_end.unwrap_or(held.meter_wh);
        let session = SessionId::new(&held.session_id);
        if let Some(truth) = self.truths.get_mut(&session) {
            truth.end_is_true = false_end.is_none();
        }
        self.report();
    }

    /// All that its journal holds, as far as its link reaches.
    fn report(&mut self) {
        if self.link.is_some() {
            let inputs = reconcile(&self.journal, |_| None, Reply::None);
            inputs.into_iter().for_each(|input| self.harness.input(0, input));
        }
    }

    fn link_up(&mut self) {
        if self.link.is_none() {
            self.links += 1;
            self.link = Some(LinkNo(self.links));
            self.harness.link_up(0, Part::Engine, LinkNo(self.links), 1);
            self.report();
        }
    }

    /// What the engine is told.
    #[expect(clippy::wildcard_enum_match_arm, reason = "an engine hears what concerns sessions")]
    fn hear(&mut self) {
        while !self.harness.effects.is_empty() {
            for (_, effect) in std::mem::take(&mut self.harness.effects) {
                let Effect::Engine(body) = effect else { continue };
                if self.link.is_none() {
                    continue;
                }
                match body {
                    down::Body::Supply(supply) if self.journal.is_empty() => {
                        let mut held = JournalSession { session_id: supply.session_id, ..JournalSession::default() };
                        held.set_state(SessionState::Reserved);
                        self.journal.push(held);
                    }
                    down::Body::Release(release) => self.stop(&release.session_id, release.reason()),
                    down::Body::Stop(stop) => self.stop(&stop.session_id, stop.reason()),
                    down::Body::Settled(settled) => {
                        self.journal.retain(|held| held.session_id != settled.session_id);
                    }
                    _ => {}
                }
            }
        }
        self.harness.sent.clear();
    }

    fn stop(&mut self, session: &str, reason: Reason) {
        self.journal.retain(|held| held.session_id != session || held.state() != SessionState::Reserved);
        if self.held(SessionState::Supplying).is_some_and(|held| held.session_id == session) {
            self.end(reason, None);
        }
    }

    fn central_killed(&mut self) {
        let sessions: Vec<_> = self.harness.store.sessions.values().cloned().collect();
        let record = Record {
            open: sessions.iter().find(|session| session.is_open()).cloned(),
            settling: sessions.into_iter().filter(|session| session.state == SessionState::Settling).collect(),
            claimed_by: None,
            owned: false,
            ..self.harness.record(0).clone()
        };
        self.harness.points[0] = ChargePoint::new(record, self.harness.now);
        self.link = None;
        self.links += 1;
        self.harness.link_up(0, Part::Monitor, LinkNo(self.links), 1);
        self.harness.healthy(true);
    }

    /// Wh that can have flowed within this time, and a second by which is rounded.
    fn possible(&self, time: Duration) -> u64 {
        u64::try_from(u128::from(self.rated_w) * (time.as_millis() + 1_000) / u128::from(HOUR_MS)).unwrap()
    }

    fn check(&mut self) {
        let shown = self.harness.points[0].view(&self.harness.settings, self.harness.now);
        if let Some(truth) = self.truths.get(&SessionId::new(&shown.session_id)) {
            let possible = self.possible(self.harness.now.mono - truth.authorised);
            assert!(shown.energy_wh <= possible, "shown {} of {possible} Wh: {truth:?}", shown.energy_wh);
            assert!(!truth.samples_are_true || shown.energy_wh <= truth.delivered, "{} {truth:?}", shown.energy_wh);
        }
        for (session, ticket) in &self.harness.store.tickets {
            let first = self.bills.entry(session.clone()).or_insert_with(|| ticket.clone());
            assert_eq!(first, ticket, "a bill is never changed");
        }
        self.bills.keys().for_each(|session| self.check_bill(session));
    }

    fn check_bill(&self, session: &SessionId) {
        let (truth, ticket) = (&self.truths[session], &self.bills[session]);
        let billed = ticket.energy_wh;
        assert_eq!(ticket.price_e4, truth.price.e4(), "at the price that was agreed to");
        let wanted = truth.requested + (truth.requested / 50).max(100);
        assert!(truth.requested == 0 || billed <= wanted, "{billed} Wh of {wanted}");
        let possible = self.possible(self.harness.now.mono - truth.authorised);
        assert!(billed <= possible, "billed {billed} of {possible} Wh: {truth:?}");
        let reported = ticket.reason() != Reason::SettledWithoutReport;
        let stored = &self.harness.store.sessions[session];
        if truth.end_is_true && (reported || truth.samples_are_true) {
            assert!(billed <= truth.delivered, "billed {billed} Wh: {truth:?} {ticket:?}");
        }
        if truth.end_is_true && truth.samples_are_true {
            let named = i128::from(billed + ticket.disputed_wh) + i128::from(stored.discrepancy);
            let late = stored.discrepancy == 0 && !reported;
            assert!(late || named == i128::from(truth.delivered), "{truth:?} {ticket:?} {stored:?}");
            let whole = reported && stored.times.settled.is_none();
            let owed = if truth.requested == 0 { truth.delivered } else { truth.delivered.min(wanted) };
            assert!(!whole || billed == owed, "not less than was delivered: {truth:?} {ticket:?}");
        }
    }
}

fn step() -> impl Strategy<Value = BillingStep> {
    let price = || 0..100_000u32;
    let month = 31 * 24 * 3_600_000i64;
    let value = || prop_oneof![Just(0), 0..20_000u64, any::<u64>()];
    prop_oneof![
        6 => (prop_oneof![Just(0), 1..20_000u64], prop::option::weighted(0.2, price()))
            .prop_map(|(energy, new_price)| BillingStep::Request { energy, new_price }),
        6 => Just(BillingStep::PlugIn),
        8 => prop_oneof![4 => 0..10_000u64, 2 => 0..300_000u64, 1 => 0..1_200_000u64].prop_map(|ms| BillingStep::Pass { ms }),
        8 => Just(BillingStep::Sample),
        2 => value().prop_map(|wh| BillingStep::FalseSample { wh }),
        4 => prop::option::weighted(0.2, value()).prop_map(|false_end| BillingStep::Unplug { false_end }),
        2 => Just(BillingStep::Repeat),
        2 => price().prop_map(BillingStep::Price),
        1 => (-month..month).prop_map(BillingStep::EngineClock),
        1 => (-month..month).prop_map(BillingStep::CentralClock),
        1 => Just(BillingStep::LinkDown),
        3 => Just(BillingStep::LinkUp),
        1 => Just(BillingStep::CentralKilled),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 4_000, ..ProptestConfig::default() })]
    #[test]
    fn never_more_is_billed_than_was_delivered_and_agreed_to_spec_3_8a(
        steps in prop::collection::vec(step(), 1..120),
        rated_w in prop_oneof![Just(0), 3_700..400_000u32],
        percent in 1..=100u64,
        runs_away in prop::bool::weighted(0.2),
    ) {
        let mut station = MeteredStation::new(rated_w, percent, runs_away);
        steps.into_iter().for_each(|step| station.take(step));
        for step in [BillingStep::LinkUp, BillingStep::Unplug { false_end: None }, BillingStep::Pass { ms: 1_200_000 }, BillingStep::Repeat] {
            station.take(step);
        }
        let billed = |session: &crate::session::Session| session.state == SessionState::Billed;
        let sessions = station.harness.store.sessions.values().filter(|session| billed(session)).count();
        prop_assert_eq!(sessions, station.harness.store.tickets.len(), "one bill each");
    }
}
