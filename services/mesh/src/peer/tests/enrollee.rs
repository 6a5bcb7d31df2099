//! Traces of a driver that enrols and authenticates; the traces of monitors are in their crate.

use prost::Message as _;
use proto::{
    enrolment::{
        Blob, CredentialState, EnrolBody, Enrolled, EnrolmentStatus, EnrolmentToken, PeerKind, Secret, SecretText,
        Trust,
    },
    link::v1::{self as wire_messages, Down, KeyGrant, KeyState, Up},
};
use rand::SeedableRng as _;
use wire::{Closed, Proof};

use super::super::*;
use crate::clock::Clock;

const S: fn(u64) -> Duration = Duration::from_secs;

fn token() -> SecretText {
    let (id, secret, roots, pins) = ("t1".to_owned(), Secret::from_bytes([5; 32]), vec![vec![1, 2]], vec![[9; 32]]);
    SecretText::new(EnrolmentToken { id, secret, roots, pins }.to_text().as_str())
}

fn settings() -> EnrolleeSettings {
    EnrolleeSettings {
        part: Part::Driver,
        enrolment: EnrolBody { id: "ann".to_owned(), ..EnrolBody::default() },
        token: Some(token()),
        central: vec!["central:7400".to_owned()],
        life_sign: Duration::from_millis(500),
        authenticate_again: S(5),
        refusals: 3,
        registry_again: S(5),
        peer: PeerSettings::default(),
    }
}

/// With a key that Central granted before.
fn known() -> StoredIdentity {
    let grant = KeyGrant { key_no: 7, key: vec![7; 32], ..KeyGrant::default() };
    StoredIdentity {
        id: Some("ann".to_owned()),
        credential: Some(SecretText::new("cmc1.driver-ann.secret.tag")),
        pins: vec![Blob(vec![9; 32])],
        keys: StoredKey::new(&grant).into_iter().collect(),
        ..StoredIdentity::default()
    }
}

fn registered(state: CredentialState, pin: u8) -> EnrolmentStatus {
    EnrolmentStatus {
        kind: PeerKind::Driver,
        id: "ann".to_owned(),
        state,
        city: String::new(),
        place: String::new(),
        price_e4: 0,
        enrolled_at_ms: 0,
        incarnation: 1,
        trust: Trust { pins: vec![Blob(vec![pin; 32])], roots: Vec::new() },
    }
}

struct Bench {
    enrollee: Enrollee,
    now: Now,
    disk: StoredIdentity,
    /// Link and what it proves: 0 is a first contact.
    dials: Vec<(u64, u64)>,
    sent: Vec<up::Body>,
    calls: Vec<RegistryCall>,
}

impl Bench {
    fn new(stored: StoredIdentity) -> Self {
        let now = Clock::system().now();
        let enrollee = Enrollee::new(settings(), stored.clone(), StdRng::seed_from_u64(1), now);
        let (dials, sent, calls) = (Vec::new(), Vec::new(), Vec::new());
        let mut bench = Self { enrollee, now, disk: stored, dials, sent, calls };
        bench.carry_out();
        bench
    }

    fn input(&mut self, input: EnrolleeInput) {
        self.enrollee.handle(input, self.now);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        self.enrollee.flush(self.now);
        while let Some(event) = self.enrollee.next_event() {
            if let EnrolleeEvent::KeyStored { .. } = event {
                self.enrollee.use_key(self.now);
            }
        }
        while let Some(command) = self.enrollee.next_command() {
            match command {
                EnrolleeCommand::Link(LinkCommand::Dial(dial)) => {
                    let Proof::Key { key_no, .. } = dial.proof else {
                        self.dials.push((dial.link.0, 0));
                        continue;
                    };
                    self.dials.push((dial.link.0, key_no));
                }
                EnrolleeCommand::Link(LinkCommand::Send(_, bytes)) => self.sent.extend(Up::decode(bytes).unwrap().body),
                EnrolleeCommand::Link(LinkCommand::Close(_)) => {}
                EnrolleeCommand::Save(identity) => {
                    self.disk = *identity;
                    self.input(EnrolleeInput::Saved(Ok(())));
                }
                EnrolleeCommand::Registry(call) => self.calls.push(call),
            }
        }
    }

    fn link(&mut self, event: LinkEvent) {
        self.input(EnrolleeInput::Link(LinkNo(self.dials.last().unwrap().0), event));
    }

    fn close(&mut self, why: Closed) {
        self.link(LinkEvent::Closed(LinkError::Link(why)));
    }

    fn unknown_key(&mut self) {
        self.link(LinkEvent::UnknownKey);
        self.close(Closed::UnknownKey);
    }

    fn down(&mut self, body: down::Body) {
        self.link(LinkEvent::Message(Down { epoch: 0, body: Some(body) }.encode_to_vec().into()));
    }

    /// Central's word on the credential, on a first contact, whose link it closes then.
    fn refuse(&mut self, reason: Reason, retry_after_ms: u32) {
        self.link(LinkEvent::Open);
        let status = wire_messages::AuthStatus { reason: reason.into(), retry_after_ms, ..Default::default() };
        self.down(down::Body::AuthStatus(status));
        self.close(Closed::ByPeer);
    }

    fn wait(&mut self, length: Duration) {
        let end = self.now.mono + length;
        while let Some(due) = self.enrollee.poll_timeout().filter(|due| *due <= end) {
            self.now.mono = due.max(self.now.mono);
            self.enrollee.handle_timeout(self.now);
            self.carry_out();
        }
        self.now.mono = end;
    }

    /// How long until it dials again, and with which proof.
    fn next_dial(&mut self) -> (Duration, u64) {
        let (began, dials) = (self.now.mono, self.dials.len());
        while self.dials.len() == dials {
            self.wait(Duration::from_millis(1));
            assert!(self.now.mono < began + S(600), "it does not dial any more");
        }
        (self.now.mono - began, self.dials[dials].1)
    }
}

#[test]
fn the_key_is_used_where_there_is_one_and_the_credential_only_for_a_first_contact_spec_4_4() {
    let mut bench = Bench::new(StoredIdentity::default());
    let RegistryCall::Enrol(body) = &bench.calls[0] else { panic!("{:?}", bench.calls) };
    assert_eq!(bench.disk.enrolling.as_ref(), Some(&body.request_id), "on disk before the answer");
    let (credential, status) = (SecretText::new("cmc1.x"), registered(CredentialState::Enrolled, 9));
    let answer = RegistryAnswer::Enrolled(Ok(Box::new(Enrolled { credential, status })));
    bench.input(EnrolleeInput::Registry(answer));
    assert_eq!((bench.dials.as_slice(), bench.disk.credential.is_some()), (&[(1, 0)][..], true));
    bench.link(LinkEvent::Open);
    assert!(matches!(bench.sent[..], [up::Body::Authenticate(_)]));
    bench.down(down::Body::KeyGrant(KeyGrant { key_no: 8, key: vec![8; 32], ..KeyGrant::default() }));
    assert_eq!((bench.dials.last(), bench.disk.keys[0].key_no), (Some(&(2, 8)), 8));
    bench.link(LinkEvent::Open);
    bench.close(Closed::Cut);
    assert_eq!(bench.next_dial().1, 8, "a lost link costs no password hash");
}

#[test]
fn a_forged_unknown_key_causes_one_first_contact_and_the_key_is_tried_again_spec_4_3() {
    let mut bench = Bench::new(known());
    bench.unknown_key();
    let (wait, proof) = bench.next_dial();
    assert!(proof == 0 && wait >= Duration::from_millis(100), "{wait:?}");
    assert!(bench.calls.is_empty(), "in clear: at most a first contact");
    bench.unknown_key();
    assert_eq!((bench.next_dial().1, bench.disk.keys.len()), (7, 1));
    bench.wait(S(2));
    assert!(matches!(bench.calls[..], [RegistryCall::Status(_)]));
}

#[test]
fn an_unreachable_registry_costs_no_key_and_ends_no_tries_spec_9() {
    let mut bench = Bench::new(known());
    for reason in [Reason::RegistryUnreachable, Reason::Unavailable, Reason::Overloaded, Reason::TooManyAttempts] {
        for _ in 0..10 {
            bench.unknown_key();
            assert_eq!(bench.next_dial().1, 0, "forged, or not");
            bench.refuse(reason, 60_000);
            assert_eq!(bench.next_dial(), (S(5), 7), "the key is tried again");
        }
    }
    assert_eq!((bench.disk.keys.len(), bench.enrollee.refusals()), (1, 0));
}

#[test]
fn a_stranger_who_guesses_for_this_id_delays_a_driver_without_a_key_and_never_ends_its_tries_spec_4_7() {
    let mut bench = Bench::new(StoredIdentity { keys: Vec::new(), ..known() });
    for (asked_ms, waits) in [(30_000, S(30)), (1_000, S(5)), (20_000, S(20)), (u32::MAX, S(60))] {
        bench.refuse(Reason::TooManyAttempts, asked_ms);
        assert_eq!(bench.next_dial(), (waits, 0), "as long as Central asks, within bounds");
    }
    assert!(!bench.enrollee.has_given_up());
}

#[test]
fn three_refusals_end_the_tries_until_a_person_begins_them_again_spec_4_7() {
    let mut bench = Bench::new(known());
    bench.unknown_key();
    for _ in 0..3 {
        assert_eq!(bench.next_dial().1, 0);
        bench.refuse(Reason::WrongCredential, 1_000);
    }
    assert!(bench.enrollee.has_given_up() && bench.disk.keys.is_empty());
    let dials = bench.dials.len();
    bench.wait(S(3_600));
    assert_eq!((bench.dials.len(), bench.enrollee.poll_timeout()), (dials, None));
    bench.enrollee.authenticate_by_hand(bench.now).unwrap();
    bench.carry_out();
    assert_eq!(bench.dials.len(), dials + 1);
    bench.refuse(Reason::WrongCredential, 0);
    assert_eq!(bench.next_dial(), (S(5), 0));
}

#[test]
fn a_void_credential_is_not_shown_again_spec_4_7() {
    let mut bench = Bench::new(known());
    bench.link(LinkEvent::Open);
    let status = wire_messages::AuthStatus { key_state: KeyState::Revoked.into(), ..Default::default() };
    bench.down(down::Body::AuthStatus(status));
    bench.close(Closed::ByPeer);
    bench.wait(S(3_600));
    assert_eq!(bench.dials.len(), 1);
}

#[test]
fn a_driver_that_missed_a_change_of_pins_learns_them_from_registry_spec_4_4() {
    let mut bench = Bench::new(known());
    bench.unknown_key();
    bench.next_dial();
    bench.unknown_key();
    bench.wait(S(2));
    let dials = bench.dials.len();
    let status = Box::new(registered(CredentialState::Enrolled, 8));
    bench.input(EnrolleeInput::Registry(RegistryAnswer::Status(Ok(status))));
    assert_eq!((bench.disk.pins.as_slice(), bench.dials.len()), (&[Blob(vec![8; 32])][..], dials + 1));
}

#[test]
fn one_that_registry_has_removed_waits_for_a_token_and_comes_back_when_readmitted_spec_7_4() {
    let mut bench = Bench::new(known());
    let status = Box::new(registered(CredentialState::Removed, 9));
    bench.input(EnrolleeInput::Registry(RegistryAnswer::Status(Ok(status))));
    assert!(bench.disk.credential.is_none() && bench.disk.keys.is_empty());
    let reason = Reason::NotReadmitted;
    let refused = RegistryError::Refused { reason, message: "not readmitted".to_owned() };
    bench.input(EnrolleeInput::Registry(RegistryAnswer::Enrolled(Err(refused))));
    bench.wait(S(31));
    assert!(matches!(bench.calls[..], [RegistryCall::Enrol(_), RegistryCall::Enrol(_)]), "the token of its start");
}
