//! An engine on a bench: a monitor, a Central, a disk and a clock that the test moves by hand.

use std::collections::BTreeSet;

use mesh::clock::Clock;
use prost::Message as _;
pub(super) use proto::link::v1::{
    Answer, Ask, Down, JournalSession, KeyGrant, Release, Settled, Stop, Supply, SupplyEnded, Up, View, down, up,
};
use rand::SeedableRng as _;
use wire::Closed;
pub(super) use wire::LinkKey;

pub(super) use crate::engine::*;
use mesh::peer::{LinkError, PeerSettings};

pub(super) const KEY: [u8; 32] = [3; 32];
pub(super) const S: fn(u64) -> Duration = Duration::from_secs;

pub(super) fn settings() -> EngineSettings {
    EngineSettings {
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
        readings_at_once: 8,
        drills: true,
        manual_wait: S(60),
        peer: PeerSettings::default(),
        software: "test".to_owned(),
    }
}

pub(super) fn unattended() -> EngineSettings {
    EngineSettings { unattended: Some(Unattended { plug_in_after: S(2), charge_for: S(10) }), ..settings() }
}

pub(super) struct EngineRig {
    pub(super) engine: Engine,
    pub(super) now: Now,
    /// The journal: what a restart finds.
    pub(super) disk: Vec<JournalRecord>,
    /// Whether writes are answered at once, or refused.
    pub(super) disk_works: bool,
    /// A write that waits for its answer while the disk is slow.
    pub(super) slow: Option<Option<(Vec<JournalRecord>, u64)>>,
    pub(super) ups: Vec<(u64, Up)>,
    pub(super) reports: Vec<FromEngine>,
    pub(super) dials: Vec<(u64, u64)>,
    /// How many dials there were when the link was cut.
    pub(super) cut_after: usize,
    pub(super) closed: Vec<u64>,
    pub(super) spoils: Vec<bool>,
}

impl EngineRig {
    pub(super) fn new(settings: EngineSettings) -> Self {
        Self::restarted(settings, Vec::new(), Clock::system().now())
    }

    pub(super) fn restarted(settings: EngineSettings, disk: Vec<JournalRecord>, now: Now) -> Self {
        Self::restarted_on(settings, disk, None, now)
    }

    /// With a disk that may be slow from the beginning.
    pub(super) fn restarted_on(
        settings: EngineSettings,
        disk: Vec<JournalRecord>,
        slow: Option<Option<(Vec<JournalRecord>, u64)>>,
        now: Now,
    ) -> Self {
        let mut journal_state = JournalState::default();
        disk.iter().for_each(|record| journal_state.apply(record));
        let mut rig = Self {
            engine: Engine::new(settings, journal_state, [7; 16], StdRng::seed_from_u64(1), now),
            now,
            disk,
            disk_works: true,
            slow,
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
    pub(super) fn ready(settings: EngineSettings) -> Self {
        Self::new(settings).up()
    }

    pub(super) fn up(mut self) -> Self {
        self.input(EngineInput::Paired);
        self.assign(1);
        self.link(1, LinkEvent::Open);
        self.view();
        self.ups.clear();
        self
    }

    pub(super) fn assign(&mut self, key_no: u64) {
        self.assign_key(key_no, KEY);
    }

    pub(super) fn assign_key(&mut self, key_no: u64, key: [u8; 32]) {
        let grant = KeyGrant { key_no, key: key.to_vec(), expires_at_ms: 0, pins: vec![vec![9; 32]] };
        let assignment = Assignment {
            charging_point_id: "CP-1".to_owned(),
            key: Some(grant),
            central: vec!["central:7400".to_owned()],
            life_sign_ms: 500,
        };
        self.monitor(from_monitor::Body::Assignment(assignment));
    }

    pub(super) fn monitor(&mut self, body: from_monitor::Body) {
        self.input(EngineInput::Monitor(Box::new(FromMonitor { body: Some(body) })));
    }

    pub(super) fn withdraw(&mut self, state: KeyState, reason: Reason) {
        let withdrawn = KeyWithdrawn { key_state: state.into(), reason: reason.into(), detail: String::new() };
        self.monitor(from_monitor::Body::KeyWithdrawn(withdrawn));
    }

    pub(super) fn input(&mut self, input: EngineInput) {
        self.engine.handle(input, self.now);
        self.carry_out();
    }

    pub(super) fn act(&mut self, action: EngineAction) -> Result<(), String> {
        let done = self.engine.act(action, self.now);
        self.carry_out();
        done
    }

    pub(super) fn link(&mut self, link: u64, event: LinkEvent) {
        self.input(EngineInput::Link(LinkNo(link), event));
    }

    /// On the link that was dialled last.
    pub(super) fn down(&mut self, body: down::Body) {
        self.down_at(1 << 32 | 1, body);
    }

    pub(super) fn down_at(&mut self, epoch: u64, body: down::Body) {
        let link = self.dials.last().unwrap().0;
        let bytes = Down { epoch, body: Some(body) }.encode_to_vec();
        self.link(link, LinkEvent::Message(bytes.into()));
    }

    pub(super) fn view(&mut self) {
        self.down(down::Body::View(View::default()));
    }

    pub(super) fn cut(&mut self) {
        self.cut_after = self.dials.len();
        let link = self.dials.last().unwrap().0;
        self.link(link, LinkEvent::Closed(LinkError::Link(Closed::Cut)));
    }

    /// The next dial succeeds.
    pub(super) fn reconnect(&mut self) {
        while self.dials.len() == self.cut_after {
            self.wait(Duration::from_millis(100));
        }
        let link = self.dials.last().unwrap().0;
        self.link(link, LinkEvent::Open);
        self.view();
    }

    pub(super) fn ask(&mut self) -> (bool, String) {
        let ask = Ask { session_id: "s1".to_owned(), driver_id: "ann".to_owned(), ..Ask::default() };
        self.down(down::Body::Ask(ask));
        match self.ups.pop().and_then(|(_, up)| up.body) {
            Some(up::Body::AskAnswer(answer)) => (answer.accepted, answer.detail),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn supply(&mut self, id: &str, energy_wh: u64) {
        let supply = Supply {
            session_id: id.to_owned(),
            driver_id: "ann".to_owned(),
            energy_wh,
            price_e4: 4_000,
            currency: "EUR".to_owned(),
            hold_ms: 60_000,
            authorisation: None,
        };
        self.down(down::Body::Supply(supply));
    }

    pub(super) fn stop(&mut self, reason: Reason) {
        self.down(down::Body::Stop(Stop { session_id: "s1".to_owned(), reason: reason.into() }));
    }

    pub(super) fn answer(&mut self, to: u64, reason: Reason) {
        self.down(down::Body::Answer(Answer { to, reason: reason.into(), ..Answer::default() }));
    }

    /// Lets time pass, stopping at every deadline.
    pub(super) fn wait(&mut self, length: Duration) {
        let end = self.now.mono + length;
        let mut steps = 0;
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= end) {
            self.pass(due.saturating_duration_since(self.now.mono));
            self.input(EngineInput::Timeout);
            steps += 1;
            assert!(steps < 1_000_000, "a deadline that does not go away");
        }
        self.pass(end.saturating_duration_since(self.now.mono));
    }

    pub(super) fn pass(&mut self, length: Duration) {
        self.now.mono += length;
        self.now.wall_ms += i64::try_from(length.as_millis()).unwrap();
    }

    pub(super) fn carry_out(&mut self) {
        while let Some(command) = self.engine.next_command() {
            match command {
                EngineCommand::Link(LinkCommand::Dial(dial)) => {
                    let wire::Proof::Key { key_no, .. } = dial.proof else { panic!("an engine proves keys only") };
                    self.dials.push((dial.link.0, key_no));
                }
                EngineCommand::Link(LinkCommand::Send(link, bytes)) => {
                    self.ups.push((link.0, Up::decode(bytes).unwrap()))
                }
                EngineCommand::Link(LinkCommand::Close(link)) => self.closed.push(link.0),
                EngineCommand::Report(report) => self.reports.push(*report),
                EngineCommand::Write { records, upto, .. } => self.write(records, upto),
                EngineCommand::Spoil { on, .. } => self.spoils.push(on),
            }
        }
    }

    pub(super) fn write(&mut self, records: Vec<JournalRecord>, upto: u64) {
        if let Some(slow) = &mut self.slow {
            assert!(slow.replace((records, upto)).is_none(), "one write at a time");
        } else if self.disk_works {
            self.disk.extend(records);
            self.engine.handle(EngineInput::Written(upto), self.now);
        } else {
            self.engine.handle(EngineInput::WriteFailed("no space left on device".to_owned()), self.now);
        }
    }

    pub(super) fn disk_catches_up(&mut self) {
        let (records, upto) = self.slow.take().flatten().expect("something to write");
        self.disk.extend(records);
        self.input(EngineInput::Written(upto));
    }

    pub(super) fn sent(&self) -> Vec<up::Body> {
        self.ups.iter().filter_map(|(_, up)| up.body.clone()).collect()
    }

    pub(super) fn ends(&self) -> Vec<(u64, SupplyEnded)> {
        let end = |(_, up): &(u64, Up)| match &up.body {
            Some(up::Body::SupplyEnded(ended)) => Some((up.id, ended.clone())),
            _other => None,
        };
        self.ups.iter().filter_map(end).collect()
    }

    /// How many starts were told, however often.
    pub(super) fn starts(&self) -> usize {
        let is_start = |up: &&Up| matches!(up.body, Some(up::Body::SupplyStarted(_)));
        self.ups.iter().map(|(_, up)| up).filter(is_start).map(|up| up.id).collect::<BTreeSet<_>>().len()
    }

    /// The last report of what the journal holds.
    pub(super) fn held(&self) -> Vec<JournalSession> {
        let held = |body: up::Body| if let up::Body::JournalReport(held) = body { Some(held.sessions) } else { None };
        self.sent().into_iter().filter_map(held).next_back().expect("sessions are reported at each opening")
    }

    pub(super) fn healthy(&self) -> bool {
        let report = |message: &FromEngine| match &message.body {
            Some(from_engine::Body::Report(report)) => Some(report.healthy),
            Some(from_engine::Body::KeyStored(_)) | None => None,
        };
        self.reports.iter().rev().find_map(report).expect("a report")
    }

    pub(super) fn state(&self) -> &'static str {
        self.engine.status().session.map_or("-", |s| s.state)
    }

    pub(super) fn supplying(settings: EngineSettings) -> Self {
        let mut rig = Self::ready(settings);
        rig.supply("s1", 0);
        rig.act(EngineAction::Plug).unwrap();
        assert_eq!(rig.state(), "SUPPLYING");
        rig
    }
}

pub(super) fn the_end(rig: &EngineRig) -> (Reason, u64) {
    let mut ends = rig.ends();
    ends.dedup();
    assert_eq!(ends.len(), 1, "one final value");
    let ended = &ends[0].1;
    assert_eq!(ended.meter_end_wh, rig.engine.status().meter_wh);
    (ended.reason(), ended.meter_end_wh - ended.meter_start_wh)
}

impl EngineRig {
    /// The link that was dialled already opens.
    pub(super) fn reconnect_now(&mut self) {
        let link = self.dials.last().unwrap().0;
        self.link(link, LinkEvent::Open);
        self.view();
        self.wait(Duration::from_millis(1));
    }
}
