use mesh::{
    clock::Clock,
    peer::{LinkCommand, LinkError, LinkEvent, LinkNo, LinkTarget, Peer, PeerEvent, PeerSettings, public_keys},
};
use prost::Message as _;
use proto::{
    Energy,
    link::v1::{Answer, Correction, Part, Progress, Reason, Step, Up, down},
};
use rand::{SeedableRng as _, rngs::StdRng};
use wire::LinkKey;

use super::*;

const SETTINGS: TripSettings = TripSettings { expire: Duration::from_secs(60), confirm: ConfirmPolicy::Ask };

/// The rules with their end of a link, and a Central and a clock that the test moves by hand.
struct TripsRig {
    trips: Trips,
    peer: Peer,
    link: u64,
    start: Now,
    now: Now,
}

/// What came of one input.
#[derive(Debug)]
struct Handled {
    commands: Vec<TripCommand>,
    sent: Vec<Up>,
}

impl std::ops::Deref for Handled {
    type Target = [TripCommand];

    fn deref(&self) -> &[TripCommand] {
        &self.commands
    }
}

impl<const N: usize> PartialEq<[TripCommand; N]> for Handled {
    fn eq(&self, commands: &[TripCommand; N]) -> bool {
        self.commands == commands
    }
}

impl TripsRig {
    fn new(settings: TripSettings) -> Self {
        Self::with(Trips::new(settings, Vec::new(), []))
    }

    fn with(trips: Trips) -> Self {
        let now = Now { wall_ms: 0, ..Clock::system().now() };
        let peer = Peer::new(Part::Driver, &PeerSettings::default(), 0, StdRng::seed_from_u64(1), now);
        Self { trips, peer, link: 0, start: now, now }
    }

    fn at(&mut self, ms: u64) -> &mut Self {
        self.now.mono = self.start.mono + Duration::from_millis(ms);
        self
    }

    fn handle(&mut self, input: TripInput) -> Handled {
        if matches!(input, TripInput::LinkOpen) {
            self.link_opens();
        } else if matches!(input, TripInput::LinkLost) {
            self.on_link(LinkEvent::Closed(LinkError::Connect("cut".into())));
        }
        self.trips.handle(input, self.now);
        self.carry_out()
    }

    fn carry_out(&mut self) -> Handled {
        let commands: Vec<_> = std::iter::from_fn(|| self.trips.next_command()).collect();
        for command in &commands {
            if let TripCommand::Send(body) = command {
                self.peer.request(body.clone(), self.now.mono);
            } else if let TripCommand::Withdraw(id) = command {
                self.peer.withdraw(|body| matches!(body, up::Body::RequestSupply(r) if r.request_id == *id));
            }
        }
        self.peer.send_requests(self.now.mono);
        let sent = |command| match command {
            LinkCommand::Send(_, bytes) => Some(Up::decode(bytes).unwrap()),
            LinkCommand::Dial(_) | LinkCommand::Close(_) => None,
        };
        Handled { commands, sent: std::iter::from_fn(|| self.peer.next_command()).filter_map(sent).collect() }
    }

    fn link_opens(&mut self) {
        let target = LinkTarget {
            id: "ann".into(),
            central: vec!["a:1".into()],
            pins: public_keys([&[9; 32][..]]),
            key: Some((1, LinkKey::from_bytes([1; 32]))),
            life_sign: Duration::from_secs(1),
        };
        self.peer.reconnect_to(target, self.now.mono);
        self.link += 1;
        self.on_link(LinkEvent::Open);
    }

    /// What the rules hear of it.
    fn on_link(&mut self, event: LinkEvent) -> Vec<TripInput> {
        self.peer.handle(LinkNo(self.link), event, self.now);
        let heard = |event| match event {
            PeerEvent::Answered { body, reason, detail } => Some(TripInput::Answered { body, reason, detail }),
            PeerEvent::Deferred { reason, detail, .. } => Some(TripInput::Deferred { reason, detail }),
            PeerEvent::Message(body) => Some(TripInput::Message(body)),
            PeerEvent::Open { .. }
            | PeerEvent::Reached
            | PeerEvent::Proven { .. }
            | PeerEvent::Lost(_)
            | PeerEvent::Failed(_)
            | PeerEvent::UnknownKey { .. }
            | PeerEvent::Epoch(_)
            | PeerEvent::Unintelligible => None,
        };
        std::iter::from_fn(|| self.peer.next_event()).filter_map(heard).collect()
    }

    fn down(&mut self, body: down::Body) -> Handled {
        let inputs = if let down::Body::Answer(_) = body {
            let down = proto::link::v1::Down { epoch: 0, body: Some(body) };
            self.on_link(LinkEvent::Message(down.encode_to_vec().into()))
        } else {
            vec![TripInput::Message(Box::new(body))]
        };
        inputs.into_iter().for_each(|input| self.trips.handle(input, self.now));
        self.carry_out()
    }

    fn step(&mut self, request_id: &str, progress: Progress, reason: Reason) -> Handled {
        self.down(down::Body::Step(Step {
            request_id: request_id.into(),
            session_id: "s1".into(),
            charging_point_id: "CP-1".into(),
            progress: progress.into(),
            reason: reason.into(),
            ..Step::default()
        }))
    }
}

fn request(id: &str, line: Option<u64>) -> DriverRequest {
    let charging_point = "CP-1".parse().unwrap();
    DriverRequest { id: id.into(), charging_point, energy: Energy::from_wh(7500), line, session: None }
}

fn sent(handled: &Handled) -> Vec<&Up> {
    handled.sent.iter().collect()
}

fn outcome(commands: &[TripCommand]) -> Option<&RequestOutcome> {
    commands.iter().find_map(|c| {
        if let TripCommand::Notify(Notification::Ended { outcome, .. }) = c { Some(outcome) } else { None }
    })
}

fn ticket(session: &str) -> Ticket {
    Ticket { session_id: session.into(), ..Ticket::default() }
}

#[test]
fn a_request_by_hand_without_a_link_says_that_it_is_kept_and_expires_unsent_spec_1_5() {
    let mut rig = TripsRig::new(SETTINGS);
    let said = rig.handle(TripInput::Order(DriverOrder::ByHand(request("r1", None))));
    let waits = said
        .iter()
        .find_map(|c| if let TripCommand::Notify(told @ Notification::Waiting { .. }) = c { Some(told) } else { None });
    assert!(waits.unwrap().to_string().contains("cannot reach Central: kept, and sent if it is back within 60s"));
    let commands = rig.at(60_000).handle(TripInput::Timeout);
    assert!(matches!(outcome(&commands), Some(RequestOutcome::Refused { reason: "UNAVAILABLE", .. })), "{commands:?}");
    assert!(sent(&rig.at(240_000).handle(TripInput::LinkOpen)).is_empty(), "nobody wants it any more");

    let mut back = TripsRig::new(SETTINGS);
    back.handle(TripInput::Order(DriverOrder::ByHand(request("r1", None))));
    assert_eq!(sent(&back.at(59_000).handle(TripInput::LinkOpen)).len(), 1);
    assert_eq!(outcome(&back.at(70_000).handle(TripInput::Timeout)), None, "Central has it: its answer counts");
}

#[test]
fn a_request_of_a_file_waits_for_central_as_long_as_it_takes_spec_3_10() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::Order(DriverOrder::Request(request("r1", Some(1)))));
    assert_eq!(outcome(&rig.at(600_000).handle(TripInput::Timeout)), None);
    assert_eq!(sent(&rig.handle(TripInput::LinkOpen)).len(), 1);
}

#[test]
fn nothing_is_said_of_a_session_after_its_ticket_spec_1_5() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::TicketStored(Box::new(ticket("s1"))));
    assert_eq!(rig.step("r1", Progress::Authorised, Reason::Unspecified), []);
}

#[test]
fn a_request_is_on_disk_before_it_is_sent_spec_3_10() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    let commands = rig.handle(TripInput::Order(DriverOrder::Request(request("r1", None))));
    let keep = commands.iter().position(|c| matches!(c, TripCommand::SaveRequests(kept) if kept.len() == 1)).unwrap();
    let send = commands.iter().position(|c| matches!(c, TripCommand::Send(_))).unwrap();
    assert!(keep < send);
}

#[test]
fn a_request_is_repeated_with_the_same_ids_until_it_is_answered_spec_4_2() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    let first = rig.handle(TripInput::Order(DriverOrder::Request(request("r1", None))));
    let first = sent(&first)[0].clone();
    assert!(rig.at(4999).handle(TripInput::Timeout).is_empty());
    assert_eq!(sent(&rig.at(5000).handle(TripInput::Timeout)), [&first]);
    assert_eq!(sent(&rig.at(10_000).handle(TripInput::Timeout)), [&first]);
    rig.down(down::Body::Answer(Answer { to: first.id, ..Answer::default() }));
    assert!(rig.at(60_000).handle(TripInput::Timeout).is_empty());
    assert_eq!(rig.trips.poll_timeout(), None);
}

#[test]
fn a_request_that_could_not_be_kept_is_never_sent_spec_9() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    rig.trips.handle(TripInput::Order(DriverOrder::Request(request("r1", None))), rig.now);
    rig.trips.request_not_saved("r1");
    assert!(sent(&rig.handle(TripInput::Timeout)).is_empty());
    assert!(sent(&rig.at(60_000).handle(TripInput::LinkOpen)).is_empty());
    assert_eq!(rig.trips.requests().count(), 0);
}

#[test]
fn without_a_link_nothing_is_sent_and_all_is_said_when_it_comes() {
    let mut rig = TripsRig::new(SETTINGS);
    let commands = rig.handle(TripInput::Order(DriverOrder::Request(request("r1", None))));
    assert!(sent(&commands).is_empty());
    assert_eq!(rig.trips.poll_timeout(), None, "nothing to repeat while there is no link");
    assert_eq!(sent(&rig.handle(TripInput::LinkOpen)).len(), 1);
}

#[test]
fn a_restarted_driver_asks_again_with_the_kept_request_id_and_never_a_new_one_spec_3_10() {
    let mut rig = TripsRig::with(Trips::new(SETTINGS, vec![request("r1", Some(3))], []));
    let commands = rig.handle(TripInput::LinkOpen);
    let [Up { body: Some(up::Body::RequestSupply(asked)), .. }] = sent(&commands)[..] else { panic!("{commands:?}") };
    assert_eq!(asked.request_id, "r1");
}

#[test]
fn an_answered_request_that_is_not_over_is_asked_again_on_a_new_link_to_see_what_was_missed() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    let first = rig.handle(TripInput::Order(DriverOrder::Request(request("r1", None))));
    rig.down(down::Body::Answer(Answer { to: sent(&first)[0].id, ..Answer::default() }));
    rig.handle(TripInput::LinkLost);
    assert_eq!(sent(&rig.handle(TripInput::LinkOpen)).len(), 1);
}

#[test]
fn a_refusal_by_answer_or_by_step_ends_the_request_once_and_carries_its_reason_spec_3_2() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    let commands = rig.handle(TripInput::Order(DriverOrder::Request(request("r1", Some(4)))));
    let to = sent(&commands)[0].id;
    let commands = rig.step("r1", Progress::Refused, Reason::Broken);
    assert!(matches!(outcome(&commands), Some(RequestOutcome::Refused { reason: "BROKEN", .. })), "{commands:?}");
    assert!(commands.contains(&TripCommand::SaveRequests(Vec::new())), "no longer in flight");
    let commands = rig.down(down::Body::Answer(Answer { to, reason: Reason::Broken.into(), ..Answer::default() }));
    assert_eq!(commands, []);
}

#[test]
fn a_central_that_cannot_make_it_durable_is_asked_again_and_has_refused_nothing_spec_9() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    let commands = rig.handle(TripInput::Order(DriverOrder::Request(request("r1", None))));
    let to = sent(&commands)[0].id;
    let answer = Answer { to, reason: Reason::Unavailable.into(), ..Answer::default() };
    let commands = rig.down(down::Body::Answer(answer));
    assert!(
        matches!(commands[..], [TripCommand::Notify(Notification::Waiting { reason: "UNAVAILABLE", .. })]),
        "{commands:?}"
    );
    assert_eq!(sent(&rig.at(5000).handle(TripInput::Timeout)).len(), 1);
    let moved = Answer { to, reason: Reason::Fenced.into(), ..Answer::default() };
    let commands = rig.down(down::Body::Answer(moved));
    assert!(
        matches!(commands[..], [TripCommand::Notify(Notification::Waiting { reason: "FENCED", .. })]),
        "{commands:?}"
    );
}

#[test]
fn a_refusal_for_a_reason_newer_than_this_driver_ends_the_request() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    let commands = rig.handle(TripInput::Order(DriverOrder::Request(request("r1", None))));
    let to = sent(&commands)[0].id;
    let commands = rig.down(down::Body::Answer(Answer { to, reason: 9_999, ..Answer::default() }));
    assert!(matches!(outcome(&commands), Some(RequestOutcome::Refused { reason: "UNRECOGNISED", .. })), "{commands:?}");
}

#[test]
fn a_ticket_is_stored_before_it_is_acknowledged_and_ends_its_request_spec_3_9() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    rig.handle(TripInput::Order(DriverOrder::Request(request("r1", None))));
    rig.step("r1", Progress::Authorised, Reason::Unspecified);
    let commands = rig.down(down::Body::Ticket(ticket("s1")));
    assert_eq!(commands, [TripCommand::StoreTicket(ticket("s1"))]);
    assert_eq!(rig.down(down::Body::Ticket(ticket("s1"))), [], "the second copy waits for the first");
    let commands = rig.handle(TripInput::TicketStored(Box::new(ticket("s1"))));
    assert_eq!(outcome(&commands), Some(&RequestOutcome::Billed { session: "s1".into() }));
    let kept = commands.iter().position(|c| *c == TripCommand::SaveRequests(Vec::new())).unwrap();
    let acknowledged = commands
        .iter()
        .position(|c| matches!(c, TripCommand::Send(up::Body::TicketReceived(t)) if t.session_id == "s1"));
    assert!(kept < acknowledged.unwrap(), "the request is over on disk before Central may forget the ticket");
}

#[test]
fn a_ticket_that_comes_again_is_acknowledged_again_and_shown_once_spec_3_7() {
    let mut rig = TripsRig::with(Trips::new(SETTINGS, Vec::new(), [("s1".to_owned(), 0)]));
    rig.handle(TripInput::LinkOpen);
    let commands = rig.down(down::Body::Ticket(ticket("s1")));
    assert!(matches!(commands[..], [TripCommand::Send(up::Body::TicketReceived(_))]));
    let corrected = Ticket { corrections: vec![Correction::default()], ..ticket("s1") };
    assert_eq!(
        rig.down(down::Body::Ticket(corrected.clone())),
        [TripCommand::StoreTicket(corrected)],
        "a corrected one is new"
    );
}

#[test]
fn a_ticket_that_could_not_be_stored_is_not_acknowledged_and_tried_again() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    rig.down(down::Body::Ticket(ticket("s1")));
    rig.trips.ticket_not_stored(&ticket("s1"));
    assert_eq!(rig.down(down::Body::Ticket(ticket("s1"))), [TripCommand::StoreTicket(ticket("s1"))]);
}

#[test]
fn a_restart_between_ticket_and_request_ends_the_request_by_the_stored_ticket_spec_3_7() {
    let mut rig = TripsRig::with(Trips::new(SETTINGS, vec![request("r1", Some(2))], [("s1".to_owned(), 0)]));
    rig.handle(TripInput::LinkOpen);
    let commands = rig.step("r1", Progress::Authorised, Reason::Unspecified);
    assert_eq!(outcome(&commands), Some(&RequestOutcome::Billed { session: "s1".into() }));
}

#[test]
fn a_released_or_a_settling_session_ends_the_request_so_that_a_file_goes_on_spec_3_10() {
    for (progress, reason) in [(Progress::Released, Reason::Fault), (Progress::Settling, Reason::Unspecified)] {
        let mut rig = TripsRig::new(SETTINGS);
        rig.handle(TripInput::LinkOpen);
        rig.handle(TripInput::Order(DriverOrder::Request(request("r1", Some(1)))));
        rig.step("r1", Progress::Authorised, Reason::Unspecified);
        let commands = rig.step("r1", progress, reason);
        assert!(outcome(&commands).is_some(), "{progress:?}");
        assert_eq!(rig.trips.running().count(), 0);
    }
}

#[test]
fn the_end_is_known_by_the_session_where_central_leaves_the_request_out() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    rig.handle(TripInput::Order(DriverOrder::Request(request("r1", None))));
    rig.step("r1", Progress::Supplying, Reason::Unspecified);
    assert!(outcome(&rig.step("", Progress::Released, Reason::Fault)).is_some());
}

#[test]
fn a_confirmed_supply_that_ended_while_he_was_away_is_not_shown_any_more_spec_9_driver() {
    for still_runs in [false, true] {
        let mut rig = TripsRig::new(SETTINGS);
        rig.handle(TripInput::LinkOpen);
        rig.step("manual-1", Progress::Authorised, Reason::Unspecified);
        assert_eq!(rig.trips.running().count(), 1);
        rig.handle(TripInput::LinkLost);
        rig.handle(TripInput::LinkOpen);
        if still_runs {
            rig.step("manual-1", Progress::Supplying, Reason::Unspecified);
        }
        assert_eq!(rig.trips.running().count(), usize::from(still_runs));
    }
}

#[test]
fn a_supply_of_his_request_is_known_over_a_lost_link() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    rig.handle(TripInput::Order(DriverOrder::Request(request("r1", None))));
    rig.step("r1", Progress::Supplying, Reason::Unspecified);
    rig.handle(TripInput::LinkLost);
    rig.handle(TripInput::LinkOpen);
    assert_eq!(rig.trips.running().count(), 1);
}

#[test]
fn stop_means_the_only_session_or_the_named_one_spec_3_5() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    let commands = rig.handle(TripInput::Order(DriverOrder::Stop(None)));
    assert!(matches!(&commands[..], [TripCommand::Notify(Notification::Hint { .. })]), "{commands:?}");
    rig.step("", Progress::Supplying, Reason::Unspecified);
    let commands = rig.handle(TripInput::Order(DriverOrder::Stop(None)));
    assert!(
        matches!(sent(&commands)[0].body.as_ref(), Some(up::Body::StopSupply(stop)) if stop.session_id == "s1"),
        "{commands:?}"
    );
    let commands = rig.handle(TripInput::Order(DriverOrder::Stop(Some("s9".into()))));
    assert!(matches!(&commands[..], [TripCommand::Notify(Notification::Hint { .. })]), "{commands:?}");
}

#[test]
fn a_manual_supply_is_confirmed_by_the_person_or_by_the_setting_spec_3_1() {
    let asked = ConfirmRequest { session_id: "s1".into(), expires_ms: 1000, ..ConfirmRequest::default() };
    let word = |commands: &Handled| {
        sent(commands).iter().find_map(|up| match &up.body {
            Some(up::Body::ConfirmSupply(word)) => Some(word.accepted),
            _ => None,
        })
    };
    for (confirm, expected) in
        [(ConfirmPolicy::Always, Some(true)), (ConfirmPolicy::Never, Some(false)), (ConfirmPolicy::Ask, None)]
    {
        let mut rig = TripsRig::new(TripSettings { confirm, ..SETTINGS });
        rig.handle(TripInput::LinkOpen);
        let commands = rig.down(down::Body::ConfirmRequest(asked.clone()));
        assert_eq!(word(&commands), expected, "{confirm:?}");
    }
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    rig.down(down::Body::ConfirmRequest(asked.clone()));
    assert_eq!(word(&rig.handle(TripInput::Order(DriverOrder::Confirm(None, true)))), Some(true));
    rig.down(down::Body::ConfirmRequest(asked));
    rig.at(1000).handle(TripInput::Timeout);
    assert_eq!(word(&rig.handle(TripInput::Order(DriverOrder::Confirm(None, true)))), None, "too late");
}

#[test]
fn requests_in_flight_are_bounded() {
    let mut rig = TripsRig::new(SETTINGS);
    for n in 0..100 {
        rig.handle(TripInput::Order(DriverOrder::Request(request(&format!("r{n}"), None))));
    }
    assert_eq!(rig.trips.requests().count(), MOST_REQUESTS);
}

#[test]
fn a_driver_confirms_at_the_price_that_he_was_shown_and_is_shown_a_new_one_spec_3_2() {
    let asked = |price_e4| {
        let asked = ConfirmRequest { session_id: "s1".into(), price_e4, expires_ms: 1000, ..ConfirmRequest::default() };
        down::Body::ConfirmRequest(asked)
    };
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    let is_shown = |commands: &Handled| {
        let shown = |c: &TripCommand| matches!(c, TripCommand::Notify(Notification::ConfirmationRequested { .. }));
        commands.iter().any(shown)
    };
    assert!(is_shown(&rig.down(asked(3_950))));
    assert!(!is_shown(&rig.down(asked(3_950))), "the same again is not");
    assert!(is_shown(&rig.down(asked(99_900))));
    let commands = rig.handle(TripInput::Order(DriverOrder::Confirm(None, true)));
    let price = sent(&commands).iter().find_map(|up| match &up.body {
        Some(up::Body::ConfirmSupply(word)) => Some(word.price_e4),
        _ => None,
    });
    assert_eq!(price, Some(99_900));
}

#[test]
fn a_restored_central_gets_every_ticket_back_some_at_a_time_and_once_spec_10_5() {
    let mut rig = TripsRig::new(SETTINGS);
    rig.handle(TripInput::LinkOpen);
    let tickets: Vec<_> = (0..20).map(|n| SignedDocument { document: vec![n], ..SignedDocument::default() }).collect();
    let collected = || TripInput::TicketsCollected { generation: 2, tickets: tickets.clone() };
    let held = |handled: &Handled| -> Vec<up::Body> {
        let is_held = |command: &&TripCommand| matches!(command, TripCommand::Send(up::Body::TicketHeld(_)));
        let sent = handled
            .iter()
            .filter(is_held)
            .filter_map(|command| if let TripCommand::Send(body) = command { Some(body.clone()) } else { None });
        sent.collect()
    };
    let first = held(&rig.handle(collected()));
    assert_eq!(first.len(), 16);
    assert!(rig.handle(collected()).is_empty(), "asked again on the way, nothing goes twice");
    let (mut waiting, mut all) = (VecDeque::from(first.clone()), first);
    while let Some(body) = waiting.pop_front() {
        rig.trips.handle_answer(body, Reason::Unspecified, String::new());
        let handled = rig.carry_out();
        let more = held(&handled);
        let is_over = handled.contains(&TripCommand::SaveHandedBack(2));
        all.extend(more.clone());
        waiting.extend(more);
        assert_eq!(is_over, waiting.is_empty(), "it is noted once the last is answered");
    }
    assert_eq!(all.len(), tickets.len());
}
