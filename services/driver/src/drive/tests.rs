//! What the words of Central and of Registry do to what is on disk.

use proto::{
    enrolment::{Blob, CredentialState, EnrolmentStatus, PeerKind, Trust},
    link::v1::{AuthStatus, Clock, Down, KeyGrant, Progress, Reason, Step, down},
};
use tempfile::TempDir;

use super::*;

const PIN: &str = "0909090909090909090909090909090909090909090909090909090909090909";

fn enrolment() -> DriverEnrolment {
    DriverEnrolment {
        driver: "ann".to_owned(),
        credential: proto::enrolment::SecretText::new("cmc1.dr-ann.secret.tag"),
        pins: vec![PIN.to_owned()],
        roots: Vec::new(),
        registry: "127.0.0.1:1".to_owned(),
    }
}

/// A driver with a key, whom nobody drives.
fn drive(folder: &TempDir) -> (Drive, mpsc::Receiver<(Now, Notification)>) {
    let data_dir = DataDir::open(folder.path()).unwrap();
    let grant = KeyGrant { key_no: 7, key: vec![9; 32], ..KeyGrant::default() };
    data_dir.save_key(&DriverKey::new(&grant)).unwrap();
    let (events, _) = mpsc::channel(1);
    let (tell, told) = mpsc::channel(16);
    let settings = Settings::new("ann".parse().unwrap(), vec!["127.0.0.1:1".to_owned()]);
    (Drive::new(settings, data_dir, enrolment(), mesh::clock::Clock::system(), events, tell).unwrap(), told)
}

fn auth_status(reason: Reason) -> AuthStatus {
    AuthStatus { reason: reason.into(), ..AuthStatus::default() }
}

#[tokio::test]
async fn a_key_is_kept_while_registry_cannot_be_reached_and_removed_when_it_is_void_spec_9() {
    let folder = tempfile::tempdir().unwrap();
    let (mut drive, _told) = drive(&folder);
    let now = drive.clock.now();
    for reason in [Reason::RegistryUnreachable, Reason::Unavailable, Reason::Overloaded, Reason::TooManyAttempts] {
        drive.stands(1, &auth_status(reason), now).await.unwrap();
        assert!(drive.key.is_some() && drive.data_dir.key().unwrap().is_some(), "{reason:?}");
    }
    drive.stands(1, &auth_status(Reason::WrongCredential), now).await.unwrap();
    assert!(drive.key.is_none() && drive.data_dir.key().unwrap().is_none());
}

#[tokio::test]
async fn ended_tries_are_not_begun_again_by_time_spec_4_7() {
    let folder = tempfile::tempdir().unwrap();
    let (mut drive, _told) = drive(&folder);
    let now = drive.clock.now();
    for _ in 0..3 {
        assert!(drive.dial_at.is_some());
        drive.stands(1, &auth_status(Reason::WrongCredential), now).await.unwrap();
    }
    assert_eq!((drive.dial_at, drive.due()), (None, None));
    assert_eq!(drive.status()["authenticates_again"], false);
    drive.asked(Ask::UserCommand(UserCommand::Authenticate, None)).await.unwrap();
    assert_eq!(drive.dial_at.is_some(), drive.status()["authenticates_again"] == true);
    assert!(drive.dial_at.is_some());
}

#[tokio::test]
async fn another_file_begins_at_its_first_line_though_a_line_of_the_one_before_is_under_way_spec_3_10() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, "CP-1\nCP-2\nCP-3").unwrap();
        path
    };
    for restarts in [false, true] {
        let (mut drive, _told) = drive(&folder);
        drive.load(file("first"), false).await.unwrap();
        drive.queue.as_mut().unwrap().finish(1, drive.clock.mono());
        let request = DriverRequest { line: Some(2), ..new_request("CP-2".parse().unwrap(), Energy::ZERO, None) };
        let id = request.id.clone();
        drive.trips.handle(TripInput::Order(DriverOrder::Request(request)), drive.clock.now());
        drive.carry_out().await.unwrap();
        if restarts {
            (drive, _) = self::drive(&folder);
        }
        drive.load(file("second"), restarts).await.unwrap();
        let now = drive.clock.now();
        for (progress, reason) in [(Progress::Authorised, Reason::Unspecified), (Progress::Released, Reason::Broken)] {
            drive.trips.handle(TripInput::Down(Box::new(step(&id, progress, reason))), now);
            drive.carry_out().await.unwrap();
        }
        assert_eq!((drive.trips.requests().count(), drive.state.done), (0, 0), "restarted: {restarts}");
        let next = drive.queue.as_mut().unwrap().next(now.mono + Duration::from_secs(4));
        assert_eq!(next.map(|request| request.line), Some(1), "restarted: {restarts}");
    }
}

fn step(request_id: &str, progress: Progress, reason: Reason) -> Down {
    let step = Step {
        request_id: request_id.to_owned(),
        session_id: "s1".to_owned(),
        progress: progress.into(),
        reason: reason.into(),
        ..Step::default()
    };
    Down { epoch: 0, body: Some(down::Body::Step(step)) }
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

#[tokio::test]
async fn a_driver_who_missed_a_change_of_pins_learns_them_from_registry_spec_4_4() {
    let folder = tempfile::tempdir().unwrap();
    let (mut drive, _told) = drive(&folder);
    drive.dial();
    drive.link_event(1, LinkEvent::UnknownKey).await.unwrap();
    assert!(drive.asking.is_none(), "in clear: at most a first contact");
    drive.link_event(1, LinkEvent::Closed("unknown key".to_owned())).await.unwrap();
    drive.dial();
    assert_eq!(drive.active.as_ref().map(|c| c.how), Some(How::FirstContact));
    drive.link_event(2, LinkEvent::UnknownKey).await.unwrap();
    assert!(drive.asking.take().is_some());
    drive.dial_at = None;
    let now = drive.clock.now();
    drive.registry_said(Ok(registered(CredentialState::Enrolled, 8)), now).await.unwrap();
    assert_eq!(drive.data_dir.enrolment().unwrap().unwrap().pins, ["08".repeat(32)]);
    assert_eq!((drive.dial_at, drive.key.is_some()), (Some(now.mono), true));
}

#[tokio::test]
async fn a_driver_whom_registry_has_removed_stops_trying_and_says_so_spec_7_4() {
    let folder = tempfile::tempdir().unwrap();
    let (mut drive, mut told) = drive(&folder);
    let now = drive.clock.now();
    drive.registry_said(Ok(registered(CredentialState::Removed, 9)), now).await.unwrap();
    assert_eq!((drive.dial_at, drive.key.is_some()), (None, false));
    let said = told.recv().await.unwrap().1.to_string();
    assert!(said.contains("enrol with a token"), "{said}");
}

#[tokio::test]
async fn a_ticket_that_a_full_disk_did_not_take_is_said_once_and_kept_when_it_comes_again_spec_9() {
    let folder = tempfile::tempdir().unwrap();
    let (mut drive, mut told) = drive(&folder);
    let now = drive.clock.now();
    let ticket = Ticket { session_id: "s1".to_owned(), ..Ticket::default() };
    let down = Down { epoch: 0, body: Some(down::Body::Ticket(ticket)) };
    drive.data_dir.fill_disk();
    for _ in 0..3 {
        drive.message(1, down.clone(), now).await.unwrap();
        drive.carry_out().await.unwrap();
    }
    assert!(told.recv().await.unwrap().1.to_string().contains("a ticket waits at Central"));
    assert!(told.try_recv().is_err(), "once");
    drive.data_dir = DataDir::open(folder.path()).unwrap();
    drive.message(1, down, now).await.unwrap();
    drive.carry_out().await.unwrap();
    assert_eq!(drive.data_dir.tickets().unwrap().len(), 1);
    assert!(matches!(told.recv().await.unwrap().1, Notification::Ticket(_)));
}

#[tokio::test]
async fn a_wrong_clock_is_said_once_and_stands_in_the_health_until_it_is_right_spec_10_8() {
    let folder = tempfile::tempdir().unwrap();
    let (drive, mut told) = drive(&folder);
    let health = Health::default();
    let mut drive = drive.shown(Some(health.clone()));
    let now = drive.clock.now();
    let clock = |off_ms| {
        let body = Some(down::Body::Clock(Clock { to: 2, at_ms: now.wall_ms + off_ms }));
        Down { epoch: 0, body }
    };
    for _ in 0..2 {
        drive.read_clock(now);
        drive.message(1, clock(7_000), now).await.unwrap();
    }
    let said = told.recv().await.unwrap().1.to_string();
    assert!(said.contains("this host's clock is 7000 ms behind that of Central"), "{said}");
    assert!(told.try_recv().is_err(), "once");
    let stands = |health: &Health| format!("{:?}", health.report().components["clock against central"]);
    assert!(stands(&health).contains("7000 ms"), "{}", stands(&health));
    drive.read_clock(now);
    drive.message(1, clock(0), now).await.unwrap();
    assert!(told.recv().await.unwrap().1.to_string().contains("agrees"));
    assert_eq!(stands(&health), "Ready");
}
