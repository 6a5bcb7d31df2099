//! Traces of the monitor's rules.

use mesh::clock::Clock;
use prost::Message as _;
use proto::{
    enrolment::{Blob, EnrolmentToken, Kind, Secret, StandingState},
    link::v1::{Answer, Cause, Down, KeyGrant, KeyHeld, KeyState, Standing, Up, from_engine, from_monitor},
};
use wire::Closed;

use super::*;
use crate::uplink::Ended;

const S: fn(u64) -> Duration = Duration::from_secs;
const CREDENTIAL: &str = "cmc1.cp-CP-1.secret.tag";

fn token() -> SecretText {
    let token = EnrolmentToken {
        id: "t1".to_owned(),
        secret: Secret::from_bytes([5; 32]),
        roots: vec![vec![1, 2, 3]],
        pins: vec![[9; 32]],
    };
    SecretText::new(token.to_text().as_str())
}

fn settings() -> Settings {
    Settings {
        id: Some("CP-1".parse().unwrap()),
        city: "Bern".to_owned(),
        place: "Bay 1".to_owned(),
        price: Price::from_e4(3_950),
        token: None,
        central: vec!["central:7400".to_owned()],
        life_sign: Duration::from_millis(500),
        authenticate_again: S(5),
        refusals: 3,
        registry_again: S(5),
        key_handed: S(5),
        uplink: uplink::Settings::default(),
        software: "test".to_owned(),
    }
}

struct Rig {
    monitor: Monitor,
    now: Now,
    disk: Stored,
    disk_works: bool,
    /// Link and what it proves: 0 is a first contact.
    dials: Vec<(u64, u64)>,
    closed: Vec<u64>,
    ups: Vec<(u64, Up)>,
    told: Vec<from_monitor::Body>,
    enrols: Vec<EnrolBody>,
    asks: usize,
    removals: usize,
}

impl Rig {
    fn new(settings: Settings) -> Self {
        Self::restarted(settings, Stored::default(), Clock::system().now())
    }

    fn restarted(settings: Settings, disk: Stored, now: Now) -> Self {
        let mut rig = Self {
            monitor: Monitor::new(settings, disk.clone(), Chance::seeded(1), now),
            now,
            disk,
            disk_works: true,
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
    fn ready() -> Self {
        let mut rig = Self::new(Settings { token: Some(token()), ..settings() });
        rig.input(Input::Paired);
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

    fn input(&mut self, input: Input) {
        self.monitor.handle(input, self.now);
        self.carry_out();
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        let done = self.monitor.act(action, self.now);
        self.carry_out();
        done
    }

    fn welcome(&mut self) {
        let trust = Trust { pins: vec![Blob(vec![9; 32])], roots: vec![Blob(vec![1, 2, 3])] };
        let enrolled =
            Enrolled { credential: SecretText::new(CREDENTIAL), standing: standing(StandingState::Enrolled, trust) };
        self.input(Input::Enrolled(Ok(Box::new(enrolled))));
    }

    fn last(&self) -> u64 {
        self.dials.last().expect("a dial").0
    }

    fn open(&mut self) {
        self.input(Input::Link(LinkNo(self.last()), LinkEvent::Open));
    }

    fn cut(&mut self, link: u64) {
        self.input(Input::Link(LinkNo(link), LinkEvent::Closed(Ended::Link(Closed::Cut))));
    }

    fn down(&mut self, body: down::Body) {
        let bytes = Down { epoch: 1 << 32, body: Some(body) }.encode_to_vec();
        self.input(Input::Link(LinkNo(self.last()), LinkEvent::Message(bytes.into())));
    }

    fn view(&mut self, causes: &[Cause]) {
        let causes = causes.iter().map(|c| i32::from(*c)).collect();
        self.down(down::Body::View(View { causes, ..View::default() }));
    }

    fn grant(&mut self, key_no: u64) {
        let key = vec![u8::try_from(key_no).unwrap(); 32];
        let grant = KeyGrant { key_no, key, expires_at_ms: 77, pins: vec![vec![9; 32]] };
        self.down(down::Body::KeyGrant(grant));
    }

    fn stands(&mut self, key_state: KeyState, reason: Reason, retry_after_ms: u32) {
        let standing =
            Standing { key_state: key_state.into(), reason: reason.into(), detail: String::new(), retry_after_ms };
        self.down(down::Body::Standing(standing));
    }

    fn held(&mut self, key_no: u64) {
        let held = from_engine::Body::KeyHeld(KeyHeld { key_no });
        self.input(Input::Engine(Box::new(FromEngine { body: Some(held) })));
    }

    fn report(&mut self, healthy: bool) {
        let detail = if healthy { "" } else { "broken by hand" }.to_owned();
        let report = from_engine::Body::Report(EngineReport { healthy, detail, ..EngineReport::default() });
        self.input(Input::Engine(Box::new(FromEngine { body: Some(report) })));
    }

    fn wait(&mut self, length: Duration) {
        let end = self.now.mono + length;
        while let Some(due) = self.monitor.poll_timeout().filter(|due| *due <= end) {
            self.now.mono = due.max(self.now.mono);
            self.input(Input::Timeout);
        }
        self.now.mono = end;
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.monitor.next_command() {
            match command {
                Command::Link(Order::Dial(dial)) => {
                    let key_no = match dial.proof {
                        wire::Proof::Key { key_no, .. } => key_no,
                        wire::Proof::FirstContact { .. } | wire::Proof::Pairing(_) => 0,
                    };
                    self.dials.push((dial.link.0, key_no));
                }
                Command::Link(Order::Send(link, bytes)) => self.ups.push((link.0, Up::decode(bytes).unwrap())),
                Command::Link(Order::Close(link)) => self.closed.push(link.0),
                Command::Tell(message) => self.told.extend(message.body),
                Command::Save(stored) if self.disk_works => {
                    self.disk = *stored;
                    self.monitor.handle(Input::Saved(Ok(())), self.now);
                }
                Command::Save(_) => {
                    self.monitor.handle(Input::Saved(Err("no space left on device".to_owned())), self.now);
                }
                Command::Enrol(body) => self.enrols.push(*body),
                Command::AskRegistry { .. } => self.asks += 1,
                Command::Remove { .. } => self.removals += 1,
            }
        }
    }

    fn bodies(&self) -> Vec<up::Body> {
        self.ups.iter().filter_map(|(_, up)| up.body.clone()).collect()
    }

    fn credentials_shown(&self) -> usize {
        self.bodies().iter().filter(|body| matches!(body, up::Body::Authenticate(_))).count()
    }

    fn withdrawn(&self) -> Option<(KeyState, Reason)> {
        match self.told.last() {
            Some(from_monitor::Body::KeyWithdrawn(w)) => Some((w.key_state(), w.reason())),
            Some(from_monitor::Body::Assignment(_)) | None => None,
        }
    }

    fn assigned(&self) -> Option<u64> {
        match self.told.last() {
            Some(from_monitor::Body::Assignment(a)) => a.key.as_ref().map(|k| k.key_no),
            Some(from_monitor::Body::KeyWithdrawn(_)) | None => None,
        }
    }

    fn verdicts(&self) -> Vec<(bool, String)> {
        let verdict = |body| {
            if let up::Body::EngineHealth(health) = body { Some((health.healthy, health.detail)) } else { None }
        };
        self.bodies().into_iter().filter_map(verdict).collect()
    }

    fn warnings(&self) -> String {
        self.monitor.status().warnings.join("; ")
    }
}

fn standing(state: StandingState, trust: Trust) -> RegistryStanding {
    RegistryStanding {
        kind: Kind::ChargingPoint,
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

fn refused(reason: Reason) -> RegistryError {
    RegistryError::Refused { reason: reason.code().to_owned(), message: reason.in_words().to_owned() }
}

fn unreachable() -> RegistryError {
    RegistryError::Unreachable("nobody answers".to_owned())
}

// ---- Enrolment

#[test]
fn without_a_token_it_waits_and_says_that_it_is_not_enrolled_spec_7_4() {
    let mut rig = Rig::new(settings());
    rig.input(Input::Paired);
    rig.wait(S(600));
    assert!(rig.dials.is_empty() && rig.enrols.is_empty());
    assert_eq!(rig.withdrawn(), Some((KeyState::Unspecified, Reason::NotEnrolled)));
    assert!(rig.warnings().contains("not enrolled: no token was given yet"));
    assert!(rig.act(Action::Enrol(SecretText::new("rubbish"))).is_err());
    assert_eq!(rig.act(Action::Enrol(token())), Ok(()));
    assert_eq!(rig.enrols.len(), 1);
}

#[test]
fn it_enrols_with_its_token_however_long_registry_takes_spec_1_7() {
    let mut rig = Rig::new(Settings { token: Some(token()), ..settings() });
    for _ in 0..20 {
        rig.input(Input::Enrolled(Err(unreachable())));
        assert!(rig.warnings().contains("cannot reach Registry"));
        rig.wait(S(5));
    }
    assert_eq!(rig.enrols.len(), 21);
    let body = &rig.enrols[20];
    assert_eq!((body.id.as_str(), body.city.as_str(), body.price_e4), ("CP-1", "Bern", 3_950));
    assert!(rig.enrols.iter().all(|b| b.request_id == body.request_id), "one request, so one enrolment");
    let back = Rig::restarted(Settings { token: Some(token()), ..settings() }, rig.disk.clone(), rig.now);
    assert_eq!(back.enrols[0].request_id, body.request_id, "over a restart as well");
    rig.welcome();
    assert_eq!(rig.disk.credential.as_ref().map(SecretText::expose), Some(CREDENTIAL));
    assert_eq!(rig.dials, [(1, 0)], "a first contact");
}

#[test]
fn a_refused_token_is_reported_and_not_tried_again() {
    let mut rig = Rig::new(Settings { token: Some(token()), ..settings() });
    rig.input(Input::Enrolled(Err(refused(Reason::TokenExpired))));
    rig.wait(S(600));
    assert_eq!(rig.enrols.len(), 1);
    assert!(rig.warnings().contains("the enrolment token has expired"));
}

#[test]
fn the_credential_is_shown_inside_a_first_contact_and_the_key_taken_into_use_by_both_parts_spec_4_4() {
    let mut rig = Rig::new(Settings { token: Some(token()), ..settings() });
    rig.input(Input::Paired);
    rig.report(true);
    rig.welcome();
    assert_eq!(rig.credentials_shown(), 0, "not before the channel is open");
    rig.open();
    assert_eq!(rig.credentials_shown(), 1);
    rig.grant(1);
    assert_eq!(rig.disk.keys[0].key_no, 1, "stored before it is used");
    assert_eq!(rig.assigned(), Some(1));
    assert_eq!(rig.dials, [(1, 0)], "the engine has to hold it first");
    rig.held(1);
    assert_eq!(rig.dials, [(1, 0), (2, 1)]);
    rig.open();
    assert!(matches!(&rig.ups.iter().find(|(link, _)| *link == 2).unwrap().1.body, Some(up::Body::Opened(_))));
    assert!(rig.closed.is_empty(), "the first contact stays until Central has spoken on the new link");
    rig.view(&[]);
    assert_eq!(rig.closed, [1]);
    rig.wait(S(1));
    assert!(rig.bodies().iter().any(|b| matches!(b, up::Body::KeyInstalled(k) if k.key_no == 1)));
    assert_eq!(rig.monitor.status().key_state, "ACTIVE");
}

#[test]
fn an_engine_that_does_not_answer_holds_a_key_up_for_five_seconds_only() {
    let mut rig = Rig::ready();
    rig.grant(2);
    rig.wait(S(4));
    assert_eq!(rig.dials.len(), 2);
    rig.wait(S(2));
    assert_eq!(rig.dials[2].1, 2);
}

#[test]
fn a_restart_reconnects_by_key_and_shows_no_credential_spec_4_4() {
    let rig = Rig::ready();
    let mut back = Rig::restarted(settings(), rig.disk, rig.now);
    assert_eq!(back.dials, [(1, 1)]);
    back.open();
    back.view(&[]);
    back.input(Input::Paired);
    assert_eq!((back.credentials_shown(), back.assigned()), (0, Some(1)));
}

// ---- Rotation

#[test]
fn a_rotation_makes_before_it_breaks_spec_4_6() {
    let mut rig = Rig::ready();
    rig.grant(2);
    assert_eq!(
        (rig.assigned(), rig.disk.keys.len()),
        (Some(2), 2),
        "the older key is kept until the new one is proven"
    );
    assert_eq!(rig.monitor.status().key_state, "ROTATING");
    rig.held(2);
    assert!(
        matches!(rig.ups.last(), Some((2, Up { body: Some(up::Body::KeyInstalled(_)), .. }))),
        "said on the old link"
    );
    assert_eq!(rig.dials.last(), Some(&(3, 2)));
    rig.open();
    assert_eq!(rig.closed, [1]);
    rig.view(&[]);
    assert_eq!((rig.closed.as_slice(), rig.disk.keys.len()), (&[1, 2][..], 1));
    assert_eq!(rig.monitor.status().key_state, "ACTIVE");
}

#[test]
fn a_key_that_central_does_not_know_leads_to_the_older_one_and_then_to_a_first_contact_spec_4_3() {
    let mut rig = Rig::ready();
    rig.grant(2);
    let mut back = Rig::restarted(settings(), rig.disk.clone(), rig.now);
    let unknown = |rig: &mut Rig| {
        let link = LinkNo(rig.last());
        rig.input(Input::Link(link, LinkEvent::UnknownKey));
        rig.input(Input::Link(link, LinkEvent::Closed(Ended::Link(Closed::UnknownKey))));
        rig.wait(S(6));
    };
    unknown(&mut back);
    unknown(&mut back);
    assert_eq!(back.dials.iter().map(|(_, key)| *key).collect::<Vec<_>>(), [2, 1, 0]);
    assert_eq!(back.disk.keys.len(), 2, "a message in clear takes no key away");
    unknown(&mut back);
    assert_eq!(back.asks, 1, "Registry is asked how we stand");
    let trust = Trust { pins: vec![Blob(vec![8; 32])], roots: Vec::new() };
    back.input(Input::Standing(Ok(Box::new(standing(StandingState::Enrolled, trust)))));
    assert_eq!(back.disk.pins, [Blob(vec![8; 32])], "Central has a new key: learnt with the credential");
    assert_eq!(back.dials.last().unwrap().1, 0);
}

// ---- Renew, revoke, refuse (4.7)

#[test]
fn after_a_renewal_it_authenticates_by_itself_five_seconds_later_spec_4_7() {
    let mut rig = Rig::ready();
    rig.stands(KeyState::Deleted, Reason::KeyRenewed, 5_000);
    assert_eq!(rig.withdrawn(), Some((KeyState::Deleted, Reason::KeyRenewed)));
    assert!(rig.disk.keys.is_empty());
    assert!(rig.warnings().contains("no valid key"));
    rig.wait(Duration::from_millis(4_999));
    assert_eq!((rig.dials.len(), rig.closed.len()), (2, 1), "the link stays as a status link");
    rig.wait(Duration::from_millis(1));
    assert_eq!(rig.dials[2].1, 0);
    rig.open();
    assert_eq!(rig.credentials_shown(), 1);
    rig.grant(2);
    rig.held(2);
    assert_eq!((rig.assigned(), rig.dials[3].1), (Some(2), 2));
}

#[test]
fn a_command_authenticates_at_once_spec_4_7() {
    let mut rig = Rig::ready();
    rig.stands(KeyState::Deleted, Reason::KeyRenewed, 5_000);
    rig.act(Action::Authenticate).unwrap();
    assert_eq!(rig.dials[2].1, 0);
    rig.open();
    rig.grant(2);
    rig.wait(S(10));
    assert_eq!(rig.credentials_shown(), 1);
}

#[test]
fn three_refusals_end_the_tries_and_a_command_begins_them_again_spec_4_7() {
    let mut rig = Rig::ready();
    rig.stands(KeyState::Deleted, Reason::KeyRenewed, 5_000);
    for tries in 1..=3 {
        rig.wait(S(5));
        assert_eq!(rig.dials.len(), 2 + tries);
        rig.open();
        rig.stands(KeyState::Deleted, Reason::WrongCredential, 0);
        let link = rig.last();
        rig.cut(link);
    }
    rig.wait(S(3_600));
    assert_eq!((rig.dials.len(), rig.credentials_shown()), (5, 3));
    assert!(rig.warnings().contains("refused 3 times"));
    rig.act(Action::Authenticate).unwrap();
    rig.open();
    rig.grant(2);
    assert_eq!((rig.assigned(), rig.monitor.status().refusals), (Some(2), 0));
}

#[test]
fn being_unable_to_reach_central_never_ends_the_tries_spec_4_7() {
    let mut rig = Rig::ready();
    rig.stands(KeyState::Deleted, Reason::KeyRenewed, 5_000);
    rig.wait(S(5));
    for _ in 0..50 {
        let link = rig.last();
        rig.cut(link);
        rig.wait(S(6));
    }
    assert!(rig.dials.len() > 50);
    for _ in 0..10 {
        rig.open();
        rig.stands(KeyState::Deleted, Reason::RegistryUnreachable, 1_000);
        rig.wait(S(6));
    }
    assert_eq!((rig.credentials_shown(), rig.monitor.status().refusals), (10, 0));
}

#[test]
fn a_revoked_one_keeps_a_status_link_and_waits_for_a_new_token_spec_4_7() {
    let mut rig = Rig::ready();
    rig.stands(KeyState::Revoked, Reason::KeyRevoked, 0);
    assert_eq!(rig.withdrawn(), Some((KeyState::Revoked, Reason::KeyRevoked)));
    assert!(rig.warnings().contains("key revoked"));
    rig.wait(S(600));
    assert_eq!((rig.dials.len(), rig.credentials_shown()), (2, 0), "it does not authenticate by itself");
    let link = rig.last();
    rig.cut(link);
    rig.wait(S(6));
    assert_eq!(rig.dials.last().unwrap().1, 0, "a lost status link is made again with the void credential");
    rig.open();
    rig.stands(KeyState::Revoked, Reason::CredentialVoid, 0);
    rig.wait(S(600));
    assert_eq!((rig.dials.len(), rig.credentials_shown()), (3, 1));
    rig.act(Action::Enrol(token())).unwrap();
    rig.welcome();
    rig.open();
    rig.grant(9);
    rig.held(9);
    rig.open();
    rig.view(&[]);
    assert_eq!(rig.monitor.status().key_state, "ACTIVE");
    assert!(!rig.warnings().contains("revoked"));
}

#[test]
fn a_token_that_is_refused_takes_nothing_from_an_identity_in_force() {
    let mut rig = Rig::ready();
    rig.act(Action::Enrol(token())).unwrap();
    rig.input(Input::Enrolled(Err(refused(Reason::AlreadyEnrolled))));
    let status = rig.monitor.status();
    assert_eq!((status.enrolment, status.key_state, status.central.reachable), ("ENROLLED", "ACTIVE", true));
    assert!(status.notice.unwrap().contains("already enrolled"));
}

#[test]
fn removed_at_registry_it_waits_saying_so_and_comes_back_when_readmitted_spec_7_4() {
    let mut rig = Rig::ready();
    rig.stands(KeyState::Deleted, Reason::NotEnrolled, 0);
    assert_eq!(rig.withdrawn(), Some((KeyState::Deleted, Reason::NotEnrolled)));
    assert!(rig.disk.credential.is_none() && rig.disk.keys.is_empty());
    assert!(rig.warnings().contains("not enrolled"));
    let tries = rig.enrols.len();
    rig.input(Input::Enrolled(Err(refused(Reason::NotReadmitted))));
    rig.wait(S(31));
    assert_eq!(rig.enrols.len(), tries + 1, "the token of its start is tried again, slowly");
    rig.welcome();
    rig.open();
    rig.grant(4);
    assert_eq!(rig.assigned(), Some(4));
}

#[test]
fn it_can_be_removed_by_hand_spec_11_3() {
    let mut rig = Rig::ready();
    rig.act(Action::Remove).unwrap();
    rig.input(Input::Removed(Err(unreachable())));
    assert_eq!(rig.monitor.status().enrolment, "ENROLLED");
    rig.act(Action::Remove).unwrap();
    rig.input(Input::Removed(Ok(())));
    assert_eq!((rig.removals, rig.monitor.status().enrolment), (2, "NOT ENROLLED"));
    assert_eq!(rig.withdrawn(), Some((KeyState::Deleted, Reason::Removed)));
    rig.wait(S(600));
    assert!(!rig.monitor.status().central.linked);
    assert!(rig.act(Action::Remove).is_err());
}

// ---- Health (1.4, 2.3)

#[test]
fn every_change_of_the_engines_health_is_told_at_once_and_again_at_each_opening_spec_2_3() {
    let mut rig = Rig::ready();
    rig.report(true);
    assert_eq!(rig.verdicts(), [], "no news");
    rig.report(false);
    rig.input(Input::Unpaired("no sign of life from the peer".to_owned()));
    rig.input(Input::Paired);
    rig.report(true);
    let expected = [
        (false, "broken by hand".to_owned()),
        (false, "the engine is gone: no sign of life from the peer".to_owned()),
        (true, String::new()),
    ];
    assert_eq!(rig.verdicts(), expected);
    rig.ups.clear();
    let link = rig.last();
    rig.cut(link);
    rig.wait(S(1));
    rig.open();
    assert_eq!(rig.verdicts(), [(true, String::new())]);
}

#[test]
fn a_verdict_is_repeated_until_answered_spec_4_2() {
    let mut rig = Rig::ready();
    rig.report(false);
    rig.wait(S(11));
    let verdicts: Vec<u64> = rig.ups.iter().map(|(_, up)| up.id).collect();
    assert_eq!(rig.verdicts().len(), 3);
    let answer = Answer { to: verdicts[0], ..Answer::default() };
    rig.down(down::Body::Answer(answer));
    rig.wait(S(60));
    assert_eq!(rig.verdicts().len(), 3);
}

// ---- By hand

#[test]
fn maintenance_is_asked_for_until_central_has_it_spec_11_3() {
    let mut rig = Rig::ready();
    rig.act(Action::Maintenance(true)).unwrap();
    assert_eq!(rig.monitor.status().maintenance_pending, Some(true));
    let id = rig.ups.last().unwrap().1.id;
    rig.down(down::Body::Answer(Answer { to: id, ..Answer::default() }));
    rig.view(&[Cause::Maintenance]);
    let status = rig.monitor.status();
    assert_eq!((status.maintenance_pending, status.maintenance), (None, true));
}

#[test]
fn disconnected_by_hand_it_stays_so_until_told_to_connect_spec_11_3() {
    let mut rig = Rig::ready();
    rig.act(Action::Disconnect).unwrap();
    rig.wait(S(600));
    assert_eq!((rig.closed.len(), rig.dials.len()), (2, 2));
    assert!(rig.warnings().contains("disconnected by hand"));
    assert!(rig.act(Action::Authenticate).is_err());
    rig.act(Action::Connect).unwrap();
    assert_eq!(rig.dials[2].1, 1);
}

#[test]
fn an_identity_that_cannot_be_stored_is_reported_and_stored_later_spec_9_disk_full() {
    let mut rig = Rig::new(Settings { token: Some(token()), ..settings() });
    rig.disk_works = false;
    rig.welcome();
    assert!(rig.warnings().contains("cannot be stored: no space left"));
    rig.open();
    rig.grant(1);
    rig.wait(S(3));
    assert_eq!(rig.dials.last().unwrap().1, 1, "it works on without");
    rig.disk_works = true;
    rig.wait(S(2));
    assert_eq!(rig.disk.keys[0].key_no, 1);
    assert!(!rig.warnings().contains("cannot be stored"));
}
