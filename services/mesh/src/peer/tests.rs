//! Traces of one end of a link.

mod enrollee;

use prost::Message as _;
use proto::link::v1::{Answer, Down, EngineHealth, KeyInstalled, SetMaintenance, Settled, Up};
use rand::SeedableRng as _;
use wire::{Closed, LinkKey, PublicKey, Unintelligible};

use super::*;
use crate::clock::Clock;

type Key = Option<(u64, LinkKey)>;

struct Rig {
    peer: Peer,
    now: Instant,
    /// Where that is what is looked at.
    reads_clock: bool,
}

fn key(no: u64) -> Key {
    Some((no, LinkKey::from_bytes([u8::try_from(no).unwrap(); 32])))
}

fn target(key: Key) -> LinkTarget {
    LinkTarget {
        id: "CP-1".to_owned(),
        central: vec!["a:1".to_owned(), "b:1".to_owned()],
        pins: vec![PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32])],
        key,
        life_sign: Duration::from_millis(500),
    }
}

fn body(on: bool) -> up::Body {
    up::Body::SetMaintenance(SetMaintenance { on })
}

impl Rig {
    fn new() -> Self {
        Self { peer: Self::peer(Part::Driver), now: Clock::system().mono(), reads_clock: false }
    }

    fn monitor() -> Peer {
        Self::peer(Part::Monitor)
    }

    fn peer(part: Part) -> Peer {
        let now = Now { wall_ms: 0, ..Clock::system().now() };
        Peer::new(part, &PeerSettings::default(), 0, StdRng::seed_from_u64(1), now)
    }

    fn connecting(key: Key) -> Self {
        let mut rig = Self::new();
        rig.peer.connect_to(target(key), rig.now);
        rig
    }

    fn at(&self) -> Now {
        Now { mono: self.now, wall_ms: 0 }
    }

    /// At the end of a role's input.
    fn commands(&mut self) -> Vec<String> {
        self.peer.send_requests(self.now);
        let name = |command| match command {
            LinkCommand::Dial(dial) => {
                let what = match dial.proof {
                    wire::Proof::FirstContact { .. } => "first".to_owned(),
                    wire::Proof::Key { key_no, .. } => format!("key {key_no}"),
                    wire::Proof::Pairing(_) => "pairing".to_owned(),
                };
                format!("dial {} {} {what}", dial.link.0, dial.address)
            }
            LinkCommand::Send(link, bytes) => format!("send {} #{}", link.0, Up::decode(bytes).unwrap().id),
            LinkCommand::Close(link) => format!("close {}", link.0),
        };
        std::iter::from_fn(|| self.peer.next_command()).map(name).collect()
    }

    fn events(&mut self) -> Vec<PeerEvent> {
        std::iter::from_fn(|| self.peer.next_event()).collect()
    }

    fn event(&mut self, link: u64, event: LinkEvent) {
        self.peer.handle(LinkNo(link), event, self.at());
        if !self.reads_clock {
            self.peer.incoming.clock.pause();
        }
    }

    fn down(&mut self, link: u64, epoch: u64, body: down::Body) {
        let bytes = Down { epoch, body: Some(body) }.encode_to_vec();
        self.event(link, LinkEvent::Message(bytes.into()));
    }

    fn answer(&mut self, link: u64, to: u64, reason: Reason) {
        self.down(link, 1, down::Body::Answer(Answer { to, reason: reason.into(), ..Answer::default() }));
    }

    fn cut(&mut self, link: u64) {
        self.event(link, LinkEvent::Closed(LinkError::Link(Closed::Cut)));
    }

    /// Goes to the next deadline; how far that was.
    fn wait(&mut self) -> Duration {
        let before = self.now;
        self.now = self.peer.poll_timeout().expect("something is due").max(self.now);
        self.peer.handle_timeout(self.at());
        self.now - before
    }
}

fn settled() -> down::Body {
    down::Body::Settled(Settled { session_id: "s".to_owned(), ticket: None })
}

#[test]
fn tries_back_off_with_jitter_over_all_addresses_and_begin_anew_after_a_success() {
    let mut rig = Rig::connecting(key(1));
    let (mut waits, mut dials) = (Vec::new(), rig.commands());
    for link in 1..=8 {
        rig.cut(link);
        waits.push(rig.wait().as_millis());
        dials.extend(rig.commands());
    }
    assert_eq!(dials[..3], ["dial 1 a:1 key 1", "dial 2 b:1 key 1", "dial 3 a:1 key 1"]);
    for (n, wait) in waits.iter().enumerate() {
        let most = (200 << n).min(5_000);
        assert!((most / 2..=most).contains(wait), "try {n} waited {wait} ms");
    }
    rig.event(9, LinkEvent::Open);
    rig.answer(9, 1, Reason::Unspecified);
    rig.cut(9);
    assert!(rig.wait() <= Duration::from_millis(200));
}

#[test]
fn a_busy_answer_is_waited_for_and_jittered_spec_4_2() {
    let mut rig = Rig::connecting(key(1));
    rig.commands();
    rig.event(1, LinkEvent::Busy(Duration::from_secs(3)));
    rig.event(1, LinkEvent::Closed(LinkError::Link(Closed::Busy)));
    let wait = rig.wait();
    assert!((3_000..=4_500).contains(&wait.as_millis()), "{wait:?}");
    assert_eq!(rig.commands(), ["dial 2 b:1 key 1"]);
}

#[test]
fn a_new_key_is_used_make_before_break_spec_4_6() {
    let mut rig = Rig::connecting(key(1));
    rig.event(1, LinkEvent::Open);
    rig.answer(1, 1, Reason::Unspecified);
    rig.events();
    rig.commands();
    rig.peer.connect_to(target(key(2)), rig.now);
    assert_eq!(rig.commands(), ["dial 2 b:1 key 2"]);
    rig.peer.request(body(true), rig.now);
    assert_eq!(rig.commands(), ["send 1 #2"], "the old link serves on");
    rig.event(2, LinkEvent::Open);
    assert_eq!(rig.events(), [PeerEvent::Open { link: LinkNo(2), first_contact: false }]);
    assert_eq!(rig.commands(), [""; 0], "open is not yet proven");
    rig.answer(2, 7, Reason::Unspecified);
    assert_eq!(rig.commands(), ["close 1", "send 2 #2"], "what was not answered is said again on the new link");
    assert_eq!(rig.events(), [PeerEvent::Proven { key_no: 2 }]);
    rig.cut(1);
    assert!(rig.peer.is_reachable(), "the late end of the old link says nothing");
}

#[test]
fn a_new_key_that_does_not_open_a_link_leaves_the_old_link_alone_spec_4_6() {
    let mut rig = Rig::connecting(key(1));
    rig.event(1, LinkEvent::Open);
    rig.answer(1, 1, Reason::Unspecified);
    rig.peer.connect_to(target(key(2)), rig.now);
    rig.commands();
    rig.cut(2);
    assert!(rig.peer.is_reachable());
    rig.wait();
    assert_eq!(rig.commands(), ["dial 3 a:1 key 2"]);
    rig.event(3, LinkEvent::Open);
    rig.cut(1);
    assert!(rig.peer.is_reachable(), "with the old link gone the open one serves");
}

#[test]
fn a_message_is_repeated_with_its_id_until_it_is_answered_spec_4_2() {
    let mut rig = Rig::connecting(key(1));
    rig.peer.request(body(true), rig.now);
    rig.commands();
    rig.event(1, LinkEvent::Open);
    rig.peer.greet(LinkNo(1), body(false));
    rig.wait();
    assert_eq!(rig.commands(), ["send 1 #3", "send 1 #2"], "greeted first");
    assert_eq!(rig.wait(), Duration::from_secs(5));
    assert_eq!(rig.commands(), ["send 1 #2"]);
    rig.answer(1, 2, Reason::Unavailable);
    assert_eq!(rig.wait(), Duration::from_secs(5), "what Central could not store is said again");
    assert_eq!(rig.commands(), ["send 1 #2"]);
    rig.cut(1);
    rig.wait();
    rig.event(2, LinkEvent::Open);
    rig.wait();
    rig.commands();
    rig.events();
    rig.answer(2, 2, Reason::Unspecified);
    let answered =
        PeerEvent::Answered { body: Box::new(body(true)), reason: Reason::Unspecified, detail: String::new() };
    assert_eq!(rig.events(), [PeerEvent::Proven { key_no: 1 }, answered]);
    assert_eq!(rig.peer.poll_timeout(), None);
}

#[test]
fn what_was_withdrawn_is_not_repeated() {
    let mut rig = Rig::new();
    rig.peer.request(body(true), rig.now);
    rig.peer.request(up::Body::KeyInstalled(KeyInstalled { key_no: 3 }), rig.now);
    rig.peer.withdraw(|other| *other == body(true));
    rig.peer.request(body(false), rig.now);
    rig.peer.connect_to(target(key(1)), rig.now);
    rig.commands();
    rig.event(1, LinkEvent::Open);
    assert_eq!(rig.commands(), ["send 1 #3", "send 1 #4"]);
}

#[test]
fn what_central_cannot_do_now_is_said_and_repeated_spec_9() {
    let mut rig = Rig::connecting(key(1));
    rig.event(1, LinkEvent::Open);
    let id = rig.peer.request(body(true), rig.now);
    rig.commands();
    rig.events();
    rig.answer(1, id, Reason::Overloaded);
    let deferred =
        PeerEvent::Deferred { body: Box::new(body(true)), reason: Reason::Overloaded, detail: String::new() };
    assert!(rig.events().contains(&deferred));
    assert_eq!(rig.peer.requests().count(), 1);
}

fn health(healthy: bool) -> up::Body {
    up::Body::EngineHealth(EngineHealth { healthy, detail: String::new() })
}

impl Rig {
    /// The ids with which the state is sent now.
    fn states(&mut self, healthy: bool) -> Vec<String> {
        while let Some(slot) = self.peer.due_state(self.now) {
            self.peer.send_state(slot, health(healthy), self.now);
        }
        self.commands()
    }
}

#[test]
fn a_state_is_sent_on_each_new_link_and_after_each_change_until_that_is_acknowledged() {
    let mut rig = Rig { peer: Rig::monitor(), ..Rig::new() };
    rig.peer.owe(Slot::EngineHealth, rig.now);
    assert_eq!((rig.peer.due_state(rig.now), rig.peer.poll_timeout()), (None, None), "there is no link");
    rig.peer.connect_to(target(key(1)), rig.now);
    rig.commands();
    rig.event(1, LinkEvent::Open);
    assert_eq!(rig.states(true), ["send 1 #2"]);
    rig.wait();
    assert_eq!(rig.states(true), ["send 1 #2"], "repeated with its id while it is the same");
    rig.peer.owe(Slot::EngineHealth, rig.now);
    assert_eq!(rig.states(false), ["send 1 #3"]);
    rig.answer(1, 2, Reason::Unspecified);
    rig.wait();
    assert_eq!(rig.states(false), ["send 1 #3"], "an answer to what it was before acknowledges nothing");
    rig.answer(1, 3, Reason::Unspecified);
    assert_eq!(rig.peer.poll_timeout(), None);
    rig.peer.reconnect_to(target(key(1)), rig.now);
    rig.commands();
    rig.event(2, LinkEvent::Open);
    assert_eq!(rig.states(false), [""; 0], "not before Central has spoken there: the old link may be ahead of it");
    rig.down(2, 1, settled());
    assert_eq!(rig.states(false), ["close 1", "send 2 #4"]);
}

#[test]
fn a_state_that_central_cannot_take_now_is_sent_again_spec_9() {
    let mut rig = Rig { peer: Rig::monitor(), ..Rig::new() };
    rig.peer.connect_to(target(key(1)), rig.now);
    rig.event(1, LinkEvent::Open);
    rig.states(true);
    rig.answer(1, 2, Reason::Unavailable);
    assert_eq!(rig.wait(), Duration::from_secs(5));
    assert_eq!(rig.states(true), ["send 1 #2"]);
}

#[test]
fn what_comes_from_an_older_epoch_is_ignored_spec_4_9() {
    let mut rig = Rig::connecting(key(1));
    rig.event(1, LinkEvent::Open);
    rig.down(1, 5, settled());
    rig.events();
    rig.down(1, 4, settled());
    rig.down(1, 0, settled());
    assert_eq!(rig.events(), []);
    rig.down(1, 6, settled());
    assert_eq!(rig.events(), [PeerEvent::Epoch(6), PeerEvent::Message(Box::new(settled()))]);
}

#[test]
fn what_cannot_be_read_is_counted_until_something_can_be_spec_4_8() {
    let mut rig = Rig::connecting(key(1));
    rig.event(1, LinkEvent::Open);
    rig.event(1, LinkEvent::Unintelligible(Unintelligible::DoesNotOpen));
    rig.event(1, LinkEvent::Message(Bytes::from_static(&[0xff])));
    assert_eq!((rig.peer.unintelligible(), rig.peer.cannot_read()), (2, true));
    rig.down(1, 1, settled());
    assert_eq!((rig.peer.unintelligible(), rig.peer.cannot_read()), (2, false));
}

#[test]
fn central_that_cannot_read_us_is_heard_until_it_answers_spec_4_8() {
    let mut rig = Rig::connecting(key(1));
    rig.event(1, LinkEvent::Open);
    rig.down(1, 0, down::Body::Unsupported(proto::link::v1::Unsupported { to: 0 }));
    assert!(rig.peer.is_not_read());
    rig.answer(1, 5, Reason::Unspecified);
    assert!(!rig.peer.is_not_read());
}

#[test]
fn a_first_contact_carries_nothing_but_its_greeting_spec_4_7() {
    let mut rig = Rig::connecting(None);
    rig.peer.request(body(true), rig.now);
    rig.event(1, LinkEvent::Open);
    assert!(!rig.peer.is_reachable() && rig.peer.is_linked());
    rig.peer.sample(body(true));
    assert_eq!(rig.commands(), ["dial 1 a:1 first"]);
    assert_eq!(rig.peer.poll_timeout(), None);
}

#[test]
fn at_rest_a_link_stays_and_none_is_dialled() {
    let mut rig = Rig::connecting(key(1));
    rig.event(1, LinkEvent::Open);
    rig.peer.stop_dialing();
    rig.commands();
    assert!(rig.peer.is_reachable());
    rig.cut(1);
    assert_eq!(rig.peer.poll_timeout(), None);
}

#[test]
fn without_a_pin_nothing_is_dialled_and_the_trouble_is_said() {
    let mut rig = Rig::new();
    rig.peer.connect_to(LinkTarget { pins: Vec::new(), ..target(key(1)) }, rig.now);
    assert_eq!(rig.commands(), [""; 0]);
    assert_eq!(rig.peer.poll_timeout(), None);
    assert!(rig.peer.trouble().unwrap().contains("not known yet"));
}

/// What was sent, but for its ids.
fn said(rig: &mut Rig) -> Vec<up::Body> {
    let sent = |command| match command {
        LinkCommand::Send(_, bytes) => Up::decode(bytes).unwrap().body,
        LinkCommand::Dial(_) | LinkCommand::Close(_) => None,
    };
    std::iter::from_fn(|| rig.peer.next_command()).filter_map(sent).collect()
}

#[test]
fn a_message_of_a_kind_that_is_not_known_here_is_answered_unsupported_and_leaves_the_rest_alone_spec_4_3() {
    let mut rig = Rig::connecting(key(1));
    rig.event(1, LinkEvent::Open);
    said(&mut rig);
    // Field 200 of a newer Central's `Down`.
    rig.event(1, LinkEvent::Message(Bytes::from_static(&[0xc2, 0x0c, 0x00])));
    assert_eq!(said(&mut rig), [up::Body::Unsupported(proto::link::v1::Unsupported::default())]);
    let id = rig.peer.outgoing.last_id();
    // An older Central does not know that answer, which is no word on what it can read.
    rig.down(1, 1, down::Body::Unsupported(proto::link::v1::Unsupported { to: id }));
    assert!(!rig.peer.is_not_read() && said(&mut rig).is_empty());
}

#[test]
fn central_is_asked_for_the_time_at_each_opening_and_every_minute_and_a_wrong_clock_is_said_spec_10_8() {
    let mut rig = Rig { reads_clock: true, ..Rig::connecting(key(1)) };
    let read = || up::Body::ReadClock(proto::link::v1::ReadClock { at_ms: 0 });
    rig.event(1, LinkEvent::Open);
    assert_eq!(rig.wait(), Duration::ZERO);
    assert_eq!(said(&mut rig), [read()]);
    let to = rig.peer.outgoing.last_id();
    rig.down(1, 1, down::Body::Clock(proto::link::v1::Clock { to, at_ms: 5_000 }));
    let trouble = rig.peer.clock_trouble().unwrap();
    assert!(trouble.starts_with("this host's clock is 5000 ms behind that of Central"), "{trouble}");
    assert_eq!(rig.wait(), Duration::from_secs(60));
    assert_eq!(said(&mut rig), [read()]);
    let to = rig.peer.outgoing.last_id();
    rig.down(1, 1, down::Body::Clock(proto::link::v1::Clock { to, at_ms: 0 }));
    assert_eq!(rig.peer.clock_trouble(), None);
    rig.cut(1);
    rig.wait();
    assert!(said(&mut rig).is_empty(), "nobody can be asked");
}
