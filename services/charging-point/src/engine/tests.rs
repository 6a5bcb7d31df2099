//! Traces of the engine's rules, and a random walk that must never lose or invent a watt-hour.

use std::collections::BTreeSet;

use bytes::Bytes;
use mesh::clock::Clock;
use proptest::prelude::*;
use prost::Message as _;
use proto::link::v1::{
    Answer, Ask, Down, HeldSession, KeyGrant, Release, Settled, Stop, Supply, SupplyEnded, Up, View, down, up,
};
use wire::{Closed, telemetry::Opener};

use super::*;
use crate::uplink::Ended;

const KEY: [u8; 32] = [3; 32];
const S: fn(u64) -> Duration = Duration::from_secs;

fn settings() -> Settings {
    Settings {
        unattended: None,
        battery: Battery {
            rated_w: 36_000,
            ramp_w_per_s: 1_000_000,
            capacity_wh: 60_000,
            initial_permille: 200,
            taper_from_permille: 800,
        },
        speed: Speed::REAL,
        tick: Duration::from_millis(200),
        meter_value: S(1),
        idle_reading: None,
        register: S(1),
        register_sync: S(10),
        readings_kept: 600,
        drills: true,
        uplink: uplink::Settings::default(),
        software: "test".to_owned(),
    }
}

fn unattended() -> Settings {
    Settings { unattended: Some(Unattended { plug_in_after: S(2), charge_for: S(10) }), ..settings() }
}

struct Rig {
    engine: Engine,
    now: Now,
    /// The journal: what a restart finds.
    disk: Vec<Record>,
    /// Whether writes are answered at once, or refused.
    disk_works: bool,
    /// A write that waits for its answer while the disk is slow.
    slow: Option<Option<(Vec<Record>, u64)>>,
    ups: Vec<(u64, Up)>,
    reports: Vec<FromEngine>,
    dials: Vec<(u64, u64)>,
    /// How many dials there were when the link was cut.
    cut_after: usize,
    closed: Vec<u64>,
    spoils: Vec<bool>,
}

impl Rig {
    fn new(settings: Settings) -> Self {
        Self::restarted(settings, Vec::new(), Clock::system().now())
    }

    fn restarted(settings: Settings, disk: Vec<Record>, now: Now) -> Self {
        let mut ledger = Ledger::default();
        disk.iter().for_each(|record| ledger.apply(record));
        let mut rig = Self {
            engine: Engine::new(settings, ledger, [7; 16], Chance::seeded(1), now),
            now,
            disk,
            disk_works: true,
            slow: None,
            ups: Vec::new(),
            reports: Vec::new(),
            dials: Vec::new(),
            cut_after: 0,
            closed: Vec::new(),
            spoils: Vec::new(),
        };
        rig.carry_out();
        rig
    }

    /// Paired, keyed, linked and greeted.
    fn ready(settings: Settings) -> Self {
        Self::new(settings).up()
    }

    fn up(mut self) -> Self {
        self.input(Input::Paired);
        self.assign(1);
        self.link(1, LinkEvent::Open);
        self.view();
        self.ups.clear();
        self
    }

    fn assign(&mut self, key_no: u64) {
        let grant = KeyGrant { key_no, key: KEY.to_vec(), expires_at_ms: 0, pins: vec![vec![9; 32]] };
        let assignment = Assignment {
            charging_point_id: "CP-1".to_owned(),
            key: Some(grant),
            central: vec!["central:7400".to_owned()],
            life_sign_ms: 500,
        };
        self.monitor(from_monitor::Body::Assignment(assignment));
    }

    fn monitor(&mut self, body: from_monitor::Body) {
        self.input(Input::Monitor(Box::new(FromMonitor { body: Some(body) })));
    }

    fn withdraw(&mut self, state: KeyState, reason: Reason) {
        let withdrawn = KeyWithdrawn { key_state: state.into(), reason: reason.into(), detail: String::new() };
        self.monitor(from_monitor::Body::KeyWithdrawn(withdrawn));
    }

    fn input(&mut self, input: Input) {
        self.engine.handle(input, self.now);
        self.carry_out();
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        let done = self.engine.act(action, self.now);
        self.carry_out();
        done
    }

    fn link(&mut self, link: u64, event: LinkEvent) {
        self.input(Input::Link(LinkNo(link), event));
    }

    /// On the link that was dialled last.
    fn down(&mut self, body: down::Body) {
        self.down_at(1 << 32 | 1, body);
    }

    fn down_at(&mut self, epoch: u64, body: down::Body) {
        let link = self.dials.last().unwrap().0;
        let bytes = Down { epoch, body: Some(body) }.encode_to_vec();
        self.link(link, LinkEvent::Message(bytes.into()));
    }

    fn view(&mut self) {
        self.down(down::Body::View(View::default()));
    }

    fn cut(&mut self) {
        self.cut_after = self.dials.len();
        let link = self.dials.last().unwrap().0;
        self.link(link, LinkEvent::Closed(Ended::Link(Closed::Cut)));
    }

    /// The next dial succeeds.
    fn reconnect(&mut self) {
        while self.dials.len() == self.cut_after {
            self.wait(Duration::from_millis(100));
        }
        let link = self.dials.last().unwrap().0;
        self.link(link, LinkEvent::Open);
        self.view();
    }

    fn ask(&mut self) -> (bool, String) {
        let ask = Ask { session_id: "s1".to_owned(), driver_id: "ann".to_owned(), ..Ask::default() };
        self.down(down::Body::Ask(ask));
        match self.ups.pop().and_then(|(_, up)| up.body) {
            Some(up::Body::AskAnswer(answer)) => (answer.accepted, answer.detail),
            other => panic!("{other:?}"),
        }
    }

    fn supply(&mut self, id: &str, energy_wh: u64) {
        let supply = Supply {
            session_id: id.to_owned(),
            driver_id: "ann".to_owned(),
            energy_wh,
            price_e4: 4_000,
            currency: "EUR".to_owned(),
            hold_ms: 60_000,
        };
        self.down(down::Body::Supply(supply));
    }

    fn stop(&mut self, reason: Reason) {
        self.down(down::Body::Stop(Stop { session_id: "s1".to_owned(), reason: reason.into() }));
    }

    fn answer(&mut self, to: u64, reason: Reason) {
        self.down(down::Body::Answer(Answer { to, reason: reason.into(), detail: String::new() }));
    }

    /// Lets time pass, stopping at every deadline.
    fn wait(&mut self, length: Duration) {
        let end = self.now.mono + length;
        let mut steps = 0;
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= end) {
            self.pass(due.saturating_duration_since(self.now.mono));
            self.input(Input::Timeout);
            steps += 1;
            assert!(steps < 1_000_000, "a deadline that does not go away");
        }
        self.pass(end.saturating_duration_since(self.now.mono));
    }

    fn pass(&mut self, length: Duration) {
        self.now.mono += length;
        self.now.wall_ms += i64::try_from(length.as_millis()).unwrap();
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.engine.next_command() {
            match command {
                Command::Link(Order::Dial(dial)) => {
                    let wire::Proof::Key { key_no, .. } = dial.proof else { panic!("an engine proves keys only") };
                    self.dials.push((dial.link.0, key_no));
                }
                Command::Link(Order::Send(link, bytes)) => self.ups.push((link.0, Up::decode(bytes).unwrap())),
                Command::Link(Order::Close(link)) => self.closed.push(link.0),
                Command::Report(report) => self.reports.push(*report),
                Command::Write { records, upto, .. } => self.write(records, upto),
                Command::Spoil { on, .. } => self.spoils.push(on),
            }
        }
    }

    fn write(&mut self, records: Vec<Record>, upto: u64) {
        if let Some(slow) = &mut self.slow {
            assert!(slow.replace((records, upto)).is_none(), "one write at a time");
        } else if self.disk_works {
            self.disk.extend(records);
            self.engine.handle(Input::Written(upto), self.now);
        } else {
            self.engine.handle(Input::WriteFailed("no space left on device".to_owned()), self.now);
        }
    }

    fn disk_catches_up(&mut self) {
        let (records, upto) = self.slow.take().flatten().expect("something to write");
        self.disk.extend(records);
        self.input(Input::Written(upto));
    }

    fn sent(&self) -> Vec<up::Body> {
        self.ups.iter().filter_map(|(_, up)| up.body.clone()).collect()
    }

    fn ends(&self) -> Vec<(u64, SupplyEnded)> {
        let end = |(_, up): &(u64, Up)| match &up.body {
            Some(up::Body::SupplyEnded(ended)) => Some((up.id, ended.clone())),
            _other => None,
        };
        self.ups.iter().filter_map(end).collect()
    }

    /// How many starts were told, however often.
    fn starts(&self) -> usize {
        let is_start = |up: &&Up| matches!(up.body, Some(up::Body::SupplyStarted(_)));
        self.ups.iter().map(|(_, up)| up).filter(is_start).map(|up| up.id).collect::<BTreeSet<_>>().len()
    }

    /// The last report of what the journal holds.
    fn held(&self) -> Vec<HeldSession> {
        let held = |body: up::Body| if let up::Body::SessionsHeld(held) = body { Some(held.sessions) } else { None };
        self.sent().into_iter().filter_map(held).next_back().expect("sessions are reported at each opening")
    }

    fn healthy(&self) -> bool {
        let report = |message: &FromEngine| match &message.body {
            Some(from_engine::Body::Report(report)) => Some(report.healthy),
            Some(from_engine::Body::KeyHeld(_)) | None => None,
        };
        self.reports.iter().rev().find_map(report).expect("a report")
    }

    fn state(&self) -> &'static str {
        self.engine.status().session.map_or("-", |s| s.state)
    }

    fn supplying(settings: Settings) -> Self {
        let mut rig = Self::ready(settings);
        rig.supply("s1", 0);
        rig.act(Action::Plug).unwrap();
        assert_eq!(rig.state(), "SUPPLYING");
        rig
    }
}

// ---- Begin

#[test]
fn energy_flows_only_once_plugged_in_and_once_its_start_is_in_the_journal_spec_3_3() {
    let mut rig = Rig::ready(settings());
    assert_eq!(rig.ask(), (true, String::new()));
    rig.supply("s1", 0);
    rig.wait(S(20));
    assert_eq!((rig.state(), rig.engine.status().meter_wh), ("RESERVED", 0));
    rig.slow = Some(None);
    rig.act(Action::Plug).unwrap();
    rig.wait(S(20));
    assert_eq!((rig.state(), rig.engine.status().meter_wh, rig.starts()), ("RESERVED", 0, 0));
    rig.disk_catches_up();
    assert_eq!((rig.state(), rig.starts()), ("SUPPLYING", 1));
    rig.wait(S(10));
    assert_eq!(rig.engine.status().meter_wh, 100, "36 kW for ten seconds");
}

#[test]
fn plugged_in_before_it_is_authorised_it_begins_at_once() {
    let mut rig = Rig::ready(settings());
    rig.act(Action::Plug).unwrap();
    rig.supply("s1", 0);
    assert_eq!(rig.state(), "SUPPLYING");
    assert!(rig.act(Action::Plug).is_err());
}

#[test]
fn the_same_authorisation_twice_is_one_supply_spec_3_7() {
    let mut rig = Rig::supplying(settings());
    rig.wait(S(5));
    rig.supply("s1", 0);
    rig.act(Action::Unplug).unwrap();
    rig.supply("s1", 0);
    rig.act(Action::Plug).unwrap();
    assert_eq!((rig.state(), rig.starts(), rig.ends().len()), ("-", 1, 1));
}

#[test]
fn a_second_session_is_refused_while_one_is_not_over() {
    let mut rig = Rig::supplying(settings());
    let ask = Ask { session_id: "s2".to_owned(), ..Ask::default() };
    rig.down(down::Body::Ask(ask));
    rig.supply("s3", 0);
    let refused = |body: up::Body| matches!(body, up::Body::AskAnswer(a) if !a.accepted).then_some(());
    assert_eq!(rig.sent().into_iter().filter_map(refused).count(), 2);
}

#[test]
fn a_reservation_ends_by_time_or_release_without_a_trace_spec_3_2() {
    let mut rig = Rig::ready(settings());
    rig.supply("s1", 0);
    rig.wait(S(61));
    assert_eq!(rig.state(), "-");
    rig.supply("s2", 0);
    let release = Release { session_id: "s2".to_owned(), reason: Reason::StoppedByOperator.into() };
    rig.down(down::Body::Release(release));
    rig.act(Action::Plug).unwrap();
    assert_eq!((rig.state(), rig.ends().len(), rig.disk.len()), ("-", 0, 1), "only the epoch is in the journal");
}

// ---- Every end of 3.5

fn the_end(rig: &Rig) -> (Reason, u64) {
    let mut ends = rig.ends();
    ends.dedup();
    assert_eq!(ends.len(), 1, "one final value");
    let ended = &ends[0].1;
    assert_eq!(ended.meter_end_wh, rig.engine.status().meter_wh);
    (ended.reason(), ended.meter_end_wh - ended.meter_start_wh)
}

#[test]
fn unplugging_ends_a_supply_spec_3_5() {
    let mut rig = Rig::supplying(settings());
    rig.wait(S(100));
    rig.act(Action::Unplug).unwrap();
    assert_eq!(the_end(&rig), (Reason::Unplugged, 1_000));
}

#[test]
fn central_ends_a_supply_for_its_reason_spec_3_5() {
    for reason in [Reason::StoppedByDriver, Reason::StoppedByOperator, Reason::Frost] {
        let mut rig = Rig::supplying(settings());
        rig.wait(S(50));
        rig.stop(reason);
        assert_eq!(the_end(&rig), (reason, 500));
    }
}

#[test]
fn the_requested_energy_ends_a_supply_exactly_spec_3_5() {
    let mut rig = Rig::ready(settings());
    rig.supply("s1", 777);
    rig.act(Action::Plug).unwrap();
    rig.wait(S(200));
    assert_eq!(the_end(&rig), (Reason::EnergyReached, 777));
}

#[test]
fn a_fault_ends_a_supply_and_is_told_first_spec_3_5() {
    let mut rig = Rig::supplying(settings());
    rig.wait(S(50));
    rig.act(Action::Break).unwrap();
    assert_eq!(the_end(&rig), (Reason::Fault, 500));
    assert!(!rig.healthy());
    assert!(!rig.ask().0);
    rig.act(Action::Repair).unwrap();
    assert!(rig.healthy());
    assert!(rig.act(Action::Repair).is_err());
}

#[test]
fn renewal_and_revocation_stop_a_supply_which_settles_later_spec_4_7() {
    for (state, reason) in [(KeyState::Deleted, Reason::KeyRenewed), (KeyState::Revoked, Reason::KeyRevoked)] {
        let mut rig = Rig::supplying(settings());
        rig.wait(S(50));
        rig.withdraw(state, reason);
        assert_eq!((rig.state(), rig.ends().len(), rig.closed.len()), ("-", 0, 1));
        assert!(rig.engine.status().warnings[0].contains("key"), "{:?}", rig.engine.status().warnings);
        rig.assign(2);
        rig.reconnect_now();
        let held = rig.held();
        assert_eq!((held[0].state(), held[0].reason(), held[0].meter_wh), (SessionState::Settling, reason, 500));
        assert_eq!(the_end(&rig), (reason, 500));
    }
}

impl Rig {
    /// The link that was dialled already opens.
    fn reconnect_now(&mut self) {
        let link = self.dials.last().unwrap().0;
        self.link(link, LinkEvent::Open);
        self.view();
        self.wait(Duration::from_millis(1));
    }
}

#[test]
fn unattended_it_plugs_in_and_out_by_itself_spec_1_9() {
    let mut rig = Rig::ready(unattended());
    rig.supply("s1", 0);
    rig.wait(S(1));
    assert_eq!(rig.state(), "RESERVED");
    rig.wait(S(1));
    assert_eq!(rig.state(), "SUPPLYING");
    rig.wait(S(20));
    assert_eq!(the_end(&rig), (Reason::TimeReached, 100));
    assert!(!rig.engine.status().plugged);
    rig.down(down::Body::Settled(Settled { session_id: "s1".to_owned() }));
    rig.ups.clear();
    rig.supply("s2", 300);
    rig.wait(S(40));
    assert_eq!(the_end(&rig), (Reason::EnergyReached, 300));
}

#[test]
fn a_recorded_session_delivers_exactly_its_energy_in_its_time_at_any_speed() {
    for (limit, reason) in [(4_216, Reason::EnergyReached), (0, Reason::Unplugged)] {
        let settings = Settings { speed: "600".parse().unwrap(), ..unattended() };
        let mut rig = Rig::ready(settings);
        rig.act(Action::Next(Profile::Even { energy: Energy::from_wh(4_216), over: S(4_800) })).unwrap();
        rig.supply("s1", limit);
        rig.wait(S(7));
        assert_eq!(rig.state(), "SUPPLYING");
        rig.wait(S(2));
        assert_eq!(the_end(&rig), (reason, 4_216));
        let ended = &rig.ends()[0].1;
        assert!((8_000..8_300).contains(&(ended.ended_at_ms - ended.started_at_ms)));
    }
}

// ---- The final value

#[test]
fn a_final_value_is_on_disk_before_it_is_sent_and_repeated_until_answered_spec_4_2() {
    let mut rig = Rig::supplying(settings());
    rig.wait(S(50));
    rig.slow = Some(None);
    rig.act(Action::Unplug).unwrap();
    rig.wait(S(20));
    assert_eq!(rig.ends().len(), 0);
    rig.disk_catches_up();
    rig.wait(S(11));
    let ends = rig.ends();
    assert_eq!(ends.len(), 3, "at once, after five seconds, after ten");
    assert!(ends.iter().all(|end| *end == ends[0]), "word for word");
    rig.answer(ends[0].0, Reason::Unavailable);
    rig.wait(S(5));
    assert_eq!(rig.ends().len(), 4, "a Central that cannot store it gets it again");
    rig.answer(ends[0].0, Reason::Unspecified);
    rig.wait(S(60));
    assert_eq!(rig.ends().len(), 4);
}

#[test]
fn an_end_that_is_not_on_disk_yet_is_not_reported_as_final() {
    let mut rig = Rig::supplying(settings());
    rig.wait(S(50));
    rig.slow = Some(None);
    rig.act(Action::Unplug).unwrap();
    rig.cut();
    rig.ups.clear();
    rig.reconnect();
    assert_eq!(rig.held()[0].state(), SessionState::Supplying);
    rig.disk_catches_up();
    assert_eq!(rig.ends().len(), 1);
}

#[test]
fn settled_ends_the_reports_and_is_remembered_spec_3_8() {
    let mut rig = Rig::supplying(settings());
    rig.wait(S(50));
    rig.act(Action::Unplug).unwrap();
    assert_eq!(rig.engine.status().unsettled, 1);
    rig.down(down::Body::Settled(Settled { session_id: "s1".to_owned() }));
    rig.ups.clear();
    rig.wait(S(60));
    assert_eq!((rig.ends().len(), rig.engine.status().unsettled), (0, 0));
    let mut back = Rig::restarted(settings(), rig.disk.clone(), rig.now).up();
    back.cut();
    back.reconnect();
    assert_eq!(back.held(), []);
}

#[test]
fn a_new_generation_of_central_hears_of_settled_sessions_again_spec_10_5() {
    let mut rig = Rig::supplying(settings());
    rig.act(Action::Unplug).unwrap();
    rig.down(down::Body::Settled(Settled { session_id: "s1".to_owned() }));
    rig.ups.clear();
    rig.down_at(2 << 32, down::Body::View(View::default()));
    assert_eq!(rig.held()[0].session_id, "s1");
}

// ---- What dies (9)

#[test]
fn central_gone_the_supply_goes_on_to_its_end_and_then_nothing_is_offered_spec_9() {
    let mut rig = Rig::ready(settings());
    rig.supply("s1", 1_000);
    rig.act(Action::Plug).unwrap();
    rig.wait(S(10));
    rig.cut();
    rig.wait(S(300));
    assert_eq!((rig.state(), rig.engine.status().meter_wh), ("-", 1_000));
    assert!(rig.engine.status().warnings[0].starts_with("cannot reach Central"));
    let refused = rig.act(Action::Supply { driver: String::new(), energy: Energy::ZERO }).unwrap_err();
    assert_eq!(refused, "cannot reach Central");
    rig.ups.clear();
    rig.reconnect();
    rig.wait(S(1));
    let held = &rig.held()[0];
    assert_eq!((held.state(), held.meter_wh, held.reason()), (SessionState::Settling, 1_000, Reason::EnergyReached));
    assert_eq!(rig.ends().len(), 1);
}

#[test]
fn central_back_during_a_supply_learns_of_it_first_spec_9() {
    let mut rig = Rig::supplying(settings());
    rig.wait(S(10));
    rig.cut();
    rig.wait(S(10));
    rig.ups.clear();
    rig.reconnect();
    let sent = rig.sent();
    assert!(matches!(&sent[0], up::Body::Opened(opened) if opened.meter_wh >= 200), "{sent:?}");
    assert!(matches!(&sent[1], up::Body::SessionsHeld(held) if held.sessions[0].state() == SessionState::Supplying));
    rig.wait(S(2));
    assert!(rig.sent().iter().any(|body| matches!(body, up::Body::MeterValue(_))));
}

#[test]
fn a_reservation_does_not_begin_without_central_and_begins_when_it_is_back() {
    let mut rig = Rig::ready(settings());
    rig.supply("s1", 0);
    rig.cut();
    assert!(rig.act(Action::Plug).unwrap_err().contains("cannot reach Central"));
    assert_eq!(rig.state(), "RESERVED");
    rig.reconnect();
    assert_eq!(rig.held()[0].state(), SessionState::Reserved);
    assert_eq!(rig.state(), "SUPPLYING");
}

#[test]
fn the_monitor_gone_the_supply_goes_on_and_nothing_new_is_accepted_spec_9() {
    let mut rig = Rig::supplying(settings());
    rig.input(Input::Unpaired("no sign of life".to_owned()));
    rig.wait(S(50));
    assert_eq!(rig.state(), "SUPPLYING");
    rig.act(Action::Unplug).unwrap();
    assert_eq!(the_end(&rig), (Reason::Unplugged, 500));
    let manual = Action::Supply { driver: String::new(), energy: Energy::ZERO };
    assert!(rig.act(manual.clone()).unwrap_err().contains("the monitor is gone"));
    assert!(!rig.ask().0);
    rig.input(Input::Paired);
    assert_eq!(rig.act(manual), Ok(()));
}

#[test]
fn killed_during_a_supply_the_energy_is_kept_and_reported_once_spec_9_engine() {
    let mut rig = Rig::supplying(settings());
    rig.wait(Duration::from_millis(50_900));
    let mut back = Rig::restarted(settings(), rig.disk.clone(), rig.now).up();
    back.cut();
    back.reconnect();
    let held = back.held();
    assert_eq!((held.len(), held[0].state(), held[0].reason()), (1, SessionState::Settling, Reason::Fault));
    assert_eq!((held[0].meter_start_wh, held[0].meter_wh), (0, 500), "at most a second is lost");
    assert_eq!(held[0].ended_at_ms - held[0].started_at_ms, 50_000);
    // Told to stop what is over, it says so again.
    back.ups.clear();
    back.stop(Reason::StoppedByOperator);
    assert_eq!(back.held(), held);
    back.down(down::Body::Settled(Settled { session_id: "s1".to_owned() }));
    assert_eq!(back.engine.status().unsettled, 0);
    back.supply("s2", 0);
    back.act(Action::Plug).unwrap();
    back.act(Action::Unplug).unwrap();
    assert_eq!(back.ends()[0].1.meter_start_wh, 500, "the register goes on");
}

#[test]
fn a_full_disk_is_reported_and_nothing_new_is_accepted_until_it_is_mended_spec_9_disk_full() {
    let mut rig = Rig::supplying(settings());
    rig.disk_works = false;
    rig.wait(S(50));
    assert_eq!((rig.state(), rig.healthy()), ("SUPPLYING", true), "what runs goes on");
    rig.act(Action::Unplug).unwrap();
    rig.wait(S(10));
    assert_eq!(rig.ends().len(), 0, "no final value before it is on disk");
    assert!(!rig.healthy());
    assert!(rig.ask().1.contains("no space left on device"));
    rig.disk_works = true;
    rig.wait(S(2));
    assert_eq!(the_end(&rig), (Reason::Unplugged, 500));
    assert!(rig.healthy() && rig.ask().0);
}

#[test]
fn an_orderly_stop_ends_the_supply_with_its_final_value() {
    let mut rig = Rig::supplying(settings());
    rig.wait(S(50));
    rig.engine.stop(rig.now);
    rig.carry_out();
    assert_eq!(the_end(&rig), (Reason::Fault, 500));
    assert!(rig.engine.is_at_rest());
}

// ---- By hand

#[test]
fn a_manual_supply_waits_for_centrals_word_spec_3_1() {
    let mut rig = Rig::ready(settings());
    rig.act(Action::Supply { driver: "ann".to_owned(), energy: Energy::from_wh(500) }).unwrap();
    rig.wait(S(6));
    let asked: Vec<(u64, up::Body)> = rig.ups.iter().filter_map(|(_, up)| Some((up.id, up.body.clone()?))).collect();
    let manual: Vec<_> = asked.iter().filter(|(_, b)| matches!(b, up::Body::ManualSupply(_))).collect();
    assert_eq!(manual.len(), 2, "said again with the same ids");
    assert_eq!(manual[0], manual[1]);
    assert!(rig.act(Action::Supply { driver: String::new(), energy: Energy::ZERO }).is_err());
    rig.answer(manual[0].0, Reason::NotConfirmed);
    assert_eq!(rig.engine.status().notice.as_deref(), Some("manual supply refused: the driver did not confirm"));
    assert_eq!(rig.act(Action::Supply { driver: String::new(), energy: Energy::ZERO }), Ok(()));
    rig.supply("s1", 500);
    assert!(!rig.engine.status().manual_pending);
}

#[test]
fn a_manual_supply_for_nobody_that_can_be_is_refused_here() {
    let mut rig = Rig::ready(settings());
    let refused = rig.act(Action::Supply { driver: "not an id".to_owned(), energy: Energy::ZERO }).unwrap_err();
    assert!(refused.contains("is not a driver's id"));
}

// ---- Keys

#[test]
fn a_rotation_during_a_supply_loses_no_reading_spec_4_6() {
    let mut rig = Rig::supplying(settings());
    rig.wait(S(10));
    rig.assign(2);
    assert!(rig.reports.iter().any(|r| r.body == Some(from_engine::Body::KeyHeld(KeyHeld { key_no: 2 }))));
    let link = rig.dials.last().unwrap().0;
    rig.wait(S(3));
    rig.link(link, LinkEvent::Open);
    rig.wait(S(3));
    assert!(rig.closed.is_empty(), "the old link serves until the new one is proven");
    rig.view();
    assert_eq!(rig.closed, [1]);
    rig.wait(S(10));
    let mut opener = Opener::new("CP-1");
    let mut links = Vec::new();
    for (link, up) in &rig.ups {
        if let Some(up::Body::Reading(sealed)) = &up.body {
            opener.open(sealed, &LinkKey::from_bytes(KEY)).unwrap();
            links.push(*link);
        }
    }
    let counts = opener.counts();
    assert_eq!((counts.opened, counts.missing, counts.duplicates), (26, 0, 0));
    assert!(links.contains(&1) && links.contains(&link));
}

#[test]
fn readings_of_an_outage_are_kept_within_bounds_and_sent_under_the_key_of_the_day_spec_5_2() {
    let mut rig = Rig::supplying(Settings { readings_kept: 20, ..settings() });
    rig.cut();
    rig.wait(S(100));
    assert_eq!(rig.engine.status().readings_waiting, 20);
    rig.assign(2);
    rig.ups.clear();
    rig.reconnect_now();
    rig.wait(S(10));
    assert_eq!(rig.engine.status().readings_waiting, 0);
    let sealed = |body| if let up::Body::Reading(sealed) = body { Some(sealed) } else { None };
    let sealed: Vec<_> = rig.sent().into_iter().filter_map(sealed).collect();
    assert!(sealed.iter().all(|reading| reading.key_no == 2));
    assert_eq!(sealed.len(), 30);
}

#[test]
fn spoiled_keys_make_both_ends_unreadable_until_repaired_spec_4_8() {
    let mut rig = Rig::ready(settings());
    rig.act(Action::SpoilKey).unwrap();
    assert!(rig.act(Action::SpoilKey).is_err());
    rig.link(1, LinkEvent::Unintelligible(wire::Unintelligible::DoesNotOpen));
    assert!(rig.engine.status().warnings[0].starts_with("unintelligible messages from Central"));
    rig.cut();
    rig.reconnect();
    rig.act(Action::RepairKey).unwrap();
    assert_eq!(rig.spoils, [true, true, false], "a link that opens meanwhile is spoiled too");
    rig.view();
    assert_eq!(rig.engine.status().warnings, [""; 0]);
    let mut strict = Rig::ready(Settings { drills: false, ..settings() });
    assert!(strict.act(Action::SpoilKey).unwrap_err().contains("--drills"));
}

#[test]
fn an_older_epoch_commands_nothing_even_after_a_restart_spec_4_9() {
    let mut rig = Rig::ready(settings());
    rig.down_at(9 << 32, down::Body::View(View::default()));
    let mut back = Rig::restarted(settings(), rig.disk.clone(), rig.now);
    back.input(Input::Paired);
    back.assign(1);
    back.link(1, LinkEvent::Open);
    assert!(matches!(&back.sent()[0], up::Body::Opened(opened) if opened.highest_epoch == 9 << 32));
    back.supply("s1", 0);
    assert_eq!(back.state(), "-");
}

#[test]
fn a_message_that_is_none_is_counted_and_changes_nothing() {
    let mut rig = Rig::ready(settings());
    rig.link(1, LinkEvent::Message(Bytes::from_static(b"\xff\xff")));
    assert_eq!(rig.engine.status().unintelligible, 1);
}

// ---- A random walk

#[derive(Clone, Debug)]
enum Step {
    Supply(u64),
    Plug,
    Unplug,
    Break,
    Repair,
    StopIt,
    Cut,
    Back,
    Unpair,
    Pair,
    Settle,
    DiskBreaks,
    DiskWorks,
    Kill,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u64..400).prop_map(Step::Supply),
        3 => Just(Step::Plug),
        1 => Just(Step::Unplug),
        1 => Just(Step::Break),
        2 => Just(Step::Repair),
        1 => Just(Step::StopIt),
        1 => Just(Step::Cut),
        2 => Just(Step::Back),
        1 => Just(Step::Unpair),
        2 => Just(Step::Pair),
        1 => Just(Step::Settle),
        1 => Just(Step::DiskBreaks),
        2 => Just(Step::DiskWorks),
        1 => Just(Step::Kill),
        5 => (1u64..40_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens: a register never runs backwards, a session has one final value however often it is told, and
    /// what all sessions drew is what the register says.
    #[test]
    fn no_watt_hour_is_lost_or_invented_spec_3_7(steps in prop::collection::vec(step(), 1..60)) {
        let mut rig = Rig::ready(settings());
        let mut finals = std::collections::BTreeMap::new();
        let (mut sessions, mut register) = (0, 0);
        for step in steps {
            match step {
                Step::Supply(wh) if rig.engine.way.reachable() => {
                    sessions += 1;
                    rig.supply(&format!("s{sessions}"), wh);
                }
                Step::Plug => drop(rig.act(Action::Plug)),
                Step::Unplug => drop(rig.act(Action::Unplug)),
                Step::Break => drop(rig.act(Action::Break)),
                Step::Repair => drop(rig.act(Action::Repair)),
                Step::StopIt if rig.engine.way.reachable() => {
                    let stop = Stop { session_id: format!("s{sessions}"), reason: Reason::StoppedByDriver.into() };
                    rig.down(down::Body::Stop(stop));
                }
                Step::Cut if rig.engine.way.reachable() => rig.cut(),
                Step::Back if !rig.engine.way.reachable() => rig.reconnect(),
                Step::Unpair => rig.input(Input::Unpaired("gone".to_owned())),
                Step::Pair => rig.input(Input::Paired),
                Step::Settle if rig.engine.way.reachable() => {
                    rig.down(down::Body::Settled(Settled { session_id: format!("s{sessions}") }));
                }
                Step::DiskBreaks => rig.disk_works = false,
                Step::DiskWorks => rig.disk_works = true,
                Step::Kill => {
                    let (disk, now, works) = (rig.disk.clone(), rig.now, rig.disk_works);
                    rig = Rig::restarted(settings(), disk, now).up();
                    rig.disk_works = works;
                    // What was in memory only is gone; what was told stays true.
                    register = rig.engine.status().meter_wh;
                }
                Step::Wait(ms) => rig.wait(Duration::from_millis(ms)),
                Step::Supply(_) | Step::StopIt | Step::Cut | Step::Back | Step::Settle => {}
            }
            let now = rig.engine.status().meter_wh;
            prop_assert!(now >= register, "from {register} to {now}");
            register = now;
            for (_, ended) in rig.ends() {
                let first = finals.entry(ended.session_id.clone()).or_insert_with(|| ended.clone());
                prop_assert_eq!(&*first, &ended);
            }
        }
        // To rest: the disk works, everything ends, and the journal is asked.
        rig.disk_works = true;
        drop(rig.act(Action::Break));
        rig.wait(S(5));
        let mut ledger = Ledger::default();
        rig.disk.iter().for_each(|record| ledger.apply(record));
        let mut drawn = 0;
        for n in 0..=sessions {
            let Some(session) = ledger.session(&format!("s{n}")) else { continue };
            prop_assert!(session.ended.is_some());
            drawn += session.last.meter_wh - session.started.meter_start_wh;
            if let Some(ended) = finals.get(&session.started.session_id) {
                prop_assert_eq!(ended.meter_end_wh, session.last.meter_wh);
            }
        }
        prop_assert_eq!(drawn, rig.engine.status().meter_wh);
    }
}
