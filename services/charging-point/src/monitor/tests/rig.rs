//! A monitor on a bench: an engine, a Central, a Registry, a disk and a clock that the test moves by hand.

use mesh::{clock::Clock, peer::LinkCommand};
use prost::Message as _;
use proto::enrolment::{EnrolmentToken, PeerKind, Secret};
pub(super) use proto::{
    enrolment::{Blob, CredentialState, EnrolBody, Enrolled, EnrolmentStatus, Trust},
    link::v1::{Answer, AuthStatus, Cause, Down, KeyGrant, KeyState, KeyStored, Part, Up, from_engine, from_monitor},
};
use rand::SeedableRng as _;
pub(super) use wire::Closed;

pub(super) use crate::monitor::*;
pub(super) use mesh::peer::{LinkError, LinkEvent, PeerSettings, RegistryAnswer, RegistryCall, RegistryError};

pub(super) const S: fn(u64) -> Duration = Duration::from_secs;
pub(super) const CREDENTIAL: &str = "cmc1.cp-CP-1.secret.tag";

pub(super) fn token() -> SecretText {
    let token = EnrolmentToken {
        id: "t1".to_owned(),
        secret: Secret::from_bytes([5; 32]),
        roots: vec![vec![1, 2, 3]],
        pins: vec![[9; 32]],
    };
    SecretText::new(token.to_text().as_str())
}

pub(super) fn settings() -> MonitorSettings {
    let (id, city, place) = ("CP-1".to_owned(), "Bern".to_owned(), "Bay 1".to_owned());
    MonitorSettings {
        enrollee: EnrolleeSettings {
            part: Part::Monitor,
            enrolment: EnrolBody { id, city, place, price_e4: 3_950, ..EnrolBody::default() },
            token: None,
            central: vec!["central:7400".to_owned()],
            life_sign: Duration::from_millis(500),
            authenticate_again: S(5),
            refusals: 3,
            registry_again: S(5),
            peer: PeerSettings::default(),
        },
        key_handed: S(5),
        software: "test".to_owned(),
    }
}

pub(super) fn with_token() -> MonitorSettings {
    let mut settings = settings();
    settings.enrollee.token = Some(token());
    settings
}

pub(super) struct MonitorRig {
    pub(super) monitor: Monitor,
    pub(super) now: Now,
    pub(super) disk: StoredIdentity,
    pub(super) disk_works: bool,
    /// A save gets no answer.
    pub(super) disk_hangs: bool,
    /// Link and what it proves: 0 is a first contact.
    pub(super) dials: Vec<(u64, u64)>,
    pub(super) closed: Vec<u64>,
    pub(super) ups: Vec<(u64, Up)>,
    pub(super) told: Vec<from_monitor::Body>,
    pub(super) enrols: Vec<EnrolBody>,
    pub(super) asks: usize,
    pub(super) removals: usize,
}

impl MonitorRig {
    pub(super) fn new(settings: MonitorSettings) -> Self {
        Self::restarted(settings, StoredIdentity::default(), Clock::system().now())
    }

    pub(super) fn restarted(settings: MonitorSettings, disk: StoredIdentity, now: Now) -> Self {
        let mut rig = Self {
            monitor: Monitor::new(settings, disk.clone(), StdRng::seed_from_u64(1), now),
            now,
            disk,
            disk_works: true,
            disk_hangs: false,
            dials: Vec::new(),
            closed: Vec::new(),
            ups: Vec::new(),
            told: Vec::new(),
            enrols: Vec::new(),
            asks: 0,
            removals: 0,
        };
        rig.carry_out();
        rig
    }

    /// Enrolled, with an engine, under key 1.
    pub(super) fn ready() -> Self {
        let mut rig = Self::new(with_token());
        rig.input(MonitorInput::Paired);
        rig.report(true);
        rig.welcome();
        rig.open();
        rig.grant(1);
        rig.held(1);
        rig.open();
        rig.view(&[]);
        rig.ups.clear();
        rig.told.clear();
        rig
    }

    pub(super) fn input(&mut self, input: MonitorInput) {
        self.monitor.handle(input, self.now);
        self.carry_out();
    }

    pub(super) fn act(&mut self, action: MonitorAction) -> Result<(), String> {
        let done = self.monitor.act(action, self.now);
        self.carry_out();
        done
    }

    pub(super) fn welcome(&mut self) {
        let enrolled =
            Enrolled { credential: SecretText::new(CREDENTIAL), status: standing(CredentialState::Enrolled, trust(9)) };
        self.enrolled(Ok(enrolled));
    }

    pub(super) fn registry(&mut self, answer: RegistryAnswer) {
        self.input(MonitorInput::Enrollee(EnrolleeInput::Registry(answer)));
    }

    pub(super) fn enrolled(&mut self, answer: Result<Enrolled, RegistryError>) {
        self.registry(RegistryAnswer::Enrolled(answer.map(Box::new)));
    }

    pub(super) fn registry_status(&mut self, status: EnrolmentStatus) {
        self.registry(RegistryAnswer::Status(Ok(Box::new(status))));
    }

    pub(super) fn link(&mut self, link: u64, event: LinkEvent) {
        self.input(MonitorInput::Enrollee(EnrolleeInput::Link(LinkNo(link), event)));
    }

    /// The link that was dialled last is answered in clear that its key is not known.
    pub(super) fn unknown_key(&mut self) {
        self.link(self.last(), LinkEvent::UnknownKey);
        self.link(self.last(), LinkEvent::Closed(LinkError::Link(Closed::UnknownKey)));
    }

    pub(super) fn last(&self) -> u64 {
        self.dials.last().expect("a dial").0
    }

    pub(super) fn open(&mut self) {
        self.link(self.last(), LinkEvent::Open);
    }

    pub(super) fn cut(&mut self, link: u64) {
        self.link(link, LinkEvent::Closed(LinkError::Link(Closed::Cut)));
    }

    pub(super) fn down(&mut self, body: down::Body) {
        self.down_on(self.last(), body);
    }

    pub(super) fn down_on(&mut self, link: u64, body: down::Body) {
        let bytes = Down { epoch: 1 << 32, body: Some(body) }.encode_to_vec();
        self.link(link, LinkEvent::Message(bytes.into()));
    }

    pub(super) fn view(&mut self, causes: &[Cause]) {
        let causes = causes.iter().map(|c| i32::from(*c)).collect();
        self.down(down::Body::View(View { causes, ..View::default() }));
    }

    pub(super) fn grant(&mut self, key_no: u64) {
        let key = vec![u8::try_from(key_no).unwrap(); 32];
        let grant = KeyGrant { key_no, key, expires_at_ms: 77, pins: vec![vec![9; 32]] };
        self.down(down::Body::KeyGrant(grant));
    }

    pub(super) fn stands(&mut self, key_state: KeyState, reason: Reason, retry_after_ms: u32) {
        let standing =
            AuthStatus { key_state: key_state.into(), reason: reason.into(), detail: String::new(), retry_after_ms };
        self.down(down::Body::AuthStatus(standing));
    }

    pub(super) fn held(&mut self, key_no: u64) {
        let held = from_engine::Body::KeyStored(KeyStored { key_no });
        self.input(MonitorInput::Engine(Box::new(FromEngine { body: Some(held) })));
    }

    pub(super) fn report(&mut self, healthy: bool) {
        let detail = if healthy { "" } else { "broken by hand" }.to_owned();
        let report = from_engine::Body::Report(EngineReport { healthy, detail, ..EngineReport::default() });
        self.input(MonitorInput::Engine(Box::new(FromEngine { body: Some(report) })));
    }

    pub(super) fn wait(&mut self, length: Duration) {
        let end = self.now.mono + length;
        while let Some(due) = self.monitor.poll_timeout().filter(|due| *due <= end) {
            self.now.mono = due.max(self.now.mono);
            self.input(MonitorInput::Timeout);
        }
        self.now.mono = end;
    }

    pub(super) fn carry_out(&mut self) {
        while let Some(command) = self.monitor.next_command() {
            let command = match command {
                MonitorCommand::Enrollee(command) => command,
                MonitorCommand::Tell(message) => {
                    self.told.extend(message.body);
                    continue;
                }
            };
            match command {
                EnrolleeCommand::Link(LinkCommand::Dial(dial)) => {
                    let key_no = match dial.proof {
                        wire::Proof::Key { key_no, .. } => key_no,
                        wire::Proof::FirstContact { .. } | wire::Proof::Pairing(_) => 0,
                    };
                    self.dials.push((dial.link.0, key_no));
                }
                EnrolleeCommand::Link(LinkCommand::Send(link, bytes)) => {
                    self.ups.push((link.0, Up::decode(bytes).unwrap()));
                }
                EnrolleeCommand::Link(LinkCommand::Close(link)) => self.closed.push(link.0),
                EnrolleeCommand::Save(_) if self.disk_hangs => {}
                EnrolleeCommand::Save(stored) if self.disk_works => {
                    self.disk = *stored;
                    self.saved(Ok(()));
                }
                EnrolleeCommand::Save(_) => self.saved(Err("no space left on device".to_owned())),
                EnrolleeCommand::Registry(RegistryCall::Enrol(body)) => self.enrols.push(*body),
                EnrolleeCommand::Registry(RegistryCall::Status(_)) => self.asks += 1,
                EnrolleeCommand::Registry(RegistryCall::Remove(_)) => self.removals += 1,
            }
        }
    }

    pub(super) fn saved(&mut self, result: Result<(), String>) {
        self.monitor.handle(MonitorInput::Enrollee(EnrolleeInput::Saved(result)), self.now);
    }

    pub(super) fn bodies(&self) -> Vec<up::Body> {
        self.ups.iter().filter_map(|(_, up)| up.body.clone()).collect()
    }

    pub(super) fn credentials_shown(&self) -> usize {
        self.bodies().iter().filter(|body| matches!(body, up::Body::Authenticate(_))).count()
    }

    pub(super) fn withdrawn(&self) -> Option<(KeyState, Reason)> {
        match self.told.last() {
            Some(from_monitor::Body::KeyWithdrawn(w)) => Some((w.key_state(), w.reason())),
            Some(from_monitor::Body::Assignment(_)) | None => None,
        }
    }

    pub(super) fn assigned(&self) -> Option<u64> {
        match self.told.last() {
            Some(from_monitor::Body::Assignment(a)) => a.key.as_ref().map(|k| k.key_no),
            Some(from_monitor::Body::KeyWithdrawn(_)) | None => None,
        }
    }

    pub(super) fn verdicts(&self) -> Vec<(bool, String)> {
        let verdict = |body| {
            if let up::Body::EngineHealth(health) = body { Some((health.healthy, health.detail)) } else { None }
        };
        self.bodies().into_iter().filter_map(verdict).collect()
    }

    pub(super) fn warnings(&self) -> String {
        self.monitor.status().warnings.join("; ")
    }
}

pub(super) fn trust(pin: u8) -> Trust {
    Trust { pins: vec![Blob(vec![pin; 32])], roots: vec![Blob(vec![1, 2, 3])] }
}

pub(super) fn standing(state: CredentialState, trust: Trust) -> EnrolmentStatus {
    EnrolmentStatus {
        kind: PeerKind::ChargingPoint,
        id: "CP-1".to_owned(),
        state,
        city: "Bern".to_owned(),
        place: "Bay 1".to_owned(),
        price_e4: 3_950,
        enrolled_at_ms: 0,
        incarnation: 1,
        trust,
    }
}

pub(super) fn refused(reason: Reason) -> RegistryError {
    RegistryError::Refused { reason, message: reason.in_words().to_owned() }
}

pub(super) fn unreachable() -> RegistryError {
    RegistryError::Unreachable("nobody answers".to_owned())
}
