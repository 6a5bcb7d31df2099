//! What orders, a full disk, Registry and the clock do to a driver.

use mesh::peer::{LinkEvent, LinkNo, RegistryAnswer, RegistryError, StoredKey};
use prost::Message as _;
use proto::{
    enrolment::{Blob, CredentialState, EnrolmentStatus, Trust},
    link::v1::{Down, KeyGrant, Progress, Reason, Step, down},
};
use tempfile::TempDir;

use super::*;

/// A driver with a key, which no loop runs.
fn driver(folder: &TempDir, health: Option<Health>) -> (DriverLoop, mpsc::Receiver<(Now, Notification)>) {
    let data_dir = DataDir::open(folder.path()).unwrap();
    let grant = KeyGrant { key_no: 7, key: vec![9; 32], ..KeyGrant::default() };
    let stored = StoredIdentity {
        id: Some("ann".to_owned()),
        credential: Some(SecretText::new("cmc1.driver-ann.secret.tag")),
        pins: vec![Blob(vec![9; 32])],
        keys: StoredKey::new(&grant).into_iter().collect(),
        ..StoredIdentity::default()
    };
    let (events, _) = mpsc::channel(1);
    let (notify, notifications) = mpsc::channel(16);
    let central = vec!["127.0.0.1:1".to_owned()];
    let settings = DriverSettings::new(&"ann".parse().unwrap(), central, "127.0.0.1:1".to_owned(), None);
    let clock = Clock::system();
    (DriverLoop::new(settings, data_dir, stored, clock, events, notify, health).unwrap(), notifications)
}

async fn on_link(driver: &mut DriverLoop, event: LinkEvent) {
    driver.handle(DriverEvent::Enrollee(EnrolleeInput::Link(LinkNo(1), event))).await.unwrap();
    driver.carry_out().await.unwrap();
}

async fn down(driver: &mut DriverLoop, body: down::Body) {
    on_link(driver, LinkEvent::Message(Down { epoch: 0, body: Some(body) }.encode_to_vec().into())).await;
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
        let (mut driver, _told) = driver(&folder, None);
        driver.load(file("first"), false).await.unwrap();
        driver.plans.queue.as_mut().unwrap().finish(1, driver.clock.mono());
        let request = DriverRequest { line: Some(2), ..new_request("CP-2".parse().unwrap(), Energy::ZERO, None) };
        let id = request.id.clone();
        driver.trips.handle(TripInput::Order(DriverOrder::Request(request)), driver.clock.now());
        driver.carry_out().await.unwrap();
        if restarts {
            (driver, _) = self::driver(&folder, None);
        }
        driver.load(file("second"), restarts).await.unwrap();
        let now = driver.clock.now();
        for (progress, reason) in [(Progress::Authorised, Reason::Unspecified), (Progress::Released, Reason::Broken)] {
            driver.trips.handle(TripInput::Message(Box::new(step(&id, progress, reason))), now);
            driver.carry_out().await.unwrap();
        }
        assert_eq!((driver.trips.requests().count(), driver.plans.state.done), (0, 0), "restarted: {restarts}");
        let next = driver.plans.queue.as_mut().unwrap().next(now.mono + Duration::from_secs(4));
        assert_eq!(next.map(|request| request.line), Some(1), "restarted: {restarts}");
    }
}

fn step(request_id: &str, progress: Progress, reason: Reason) -> down::Body {
    let step = Step {
        request_id: request_id.to_owned(),
        session_id: "s1".to_owned(),
        progress: progress.into(),
        reason: reason.into(),
        ..Step::default()
    };
    down::Body::Step(step)
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
async fn a_driver_whom_registry_has_removed_stops_trying_and_says_so_spec_7_4() {
    let folder = tempfile::tempdir().unwrap();
    let (mut driver, mut told) = driver(&folder, None);
    let status = Box::new(registered(CredentialState::Removed, 9));
    driver.handle(DriverEvent::Enrollee(EnrolleeInput::Registry(RegistryAnswer::Status(Ok(status))))).await.unwrap();
    assert_eq!((driver.enrollee.poll_timeout(), driver.enrollee.key().is_some()), (None, false));
    assert_eq!(driver.status()["authenticates_again"], false);
    let said = told.recv().await.unwrap().1.to_string();
    assert!(said.contains("enrol with a token"), "{said}");
}

#[tokio::test]
async fn a_ticket_that_a_full_disk_did_not_take_is_said_once_and_kept_when_it_comes_again_spec_9() {
    let folder = tempfile::tempdir().unwrap();
    let (mut driver, mut told) = driver(&folder, None);
    on_link(&mut driver, LinkEvent::Open).await;
    let ticket = down::Body::Ticket(Ticket { session_id: "s1".to_owned(), ..Ticket::default() });
    driver.data_dir.fill_disk();
    for _ in 0..3 {
        down(&mut driver, ticket.clone()).await;
    }
    assert!(matches!(told.recv().await.unwrap().1, Notification::LinkUp { key_no: 7, .. }));
    assert!(told.recv().await.unwrap().1.to_string().contains("a ticket waits at Central"));
    assert!(told.try_recv().is_err(), "once");
    driver.data_dir = DataDir::open(folder.path()).unwrap();
    down(&mut driver, ticket).await;
    assert_eq!(driver.data_dir.tickets().unwrap().len(), 1);
    assert!(matches!(told.recv().await.unwrap().1, Notification::Ticket(_)));
}

#[tokio::test]
async fn a_wrong_clock_is_said_once_and_stands_in_the_health_until_it_is_right_spec_10_8() {
    let folder = tempfile::tempdir().unwrap();
    let health = Health::default();
    let (mut driver, mut told) = driver(&folder, Some(health.clone()));
    let stands = |health: &Health| format!("{:?}", health.report().components["clock against central"]);
    for _ in 0..2 {
        driver.reporter.clock(Some("7000 ms behind".to_owned())).await;
    }
    assert!(told.recv().await.unwrap().1.to_string().contains("7000 ms"));
    assert!(told.try_recv().is_err(), "once");
    assert!(stands(&health).contains("7000 ms"), "{}", stands(&health));
    driver.reporter.clock(None).await;
    assert!(told.recv().await.unwrap().1.to_string().contains("agrees"));
    assert_eq!(stands(&health), "Ready");
}

#[tokio::test]
async fn a_driver_whose_first_token_is_refused_ends_and_one_typed_later_is_answered_spec_7_4() {
    let folder = tempfile::tempdir().unwrap();
    let (mut driver, _told) = driver(&folder, None);
    let refused = || {
        let reason = Reason::TokenSpent;
        let answer = RegistryAnswer::Enrolled(Err(RegistryError::Refused { reason, message: "spent".to_owned() }));
        DriverEvent::Enrollee(EnrolleeInput::Registry(answer))
    };
    let (answer, answered) = oneshot::channel();
    driver.execute(UserCommand::Enrol(token()), Some(answer)).await;
    driver.handle(refused()).await.unwrap();
    assert!(answered.await.unwrap().unwrap_err().contains("TOKEN_SPENT"));
    driver.enrollee.enrol(token()).unwrap();
    let error = driver.handle(refused()).await.unwrap_err();
    assert_eq!(mesh::process::exit_code(&error), 2);
}

fn token() -> SecretText {
    let secret = proto::enrolment::Secret::from_bytes([5; 32]);
    let token = proto::enrolment::EnrolmentToken { id: "t1".to_owned(), secret, roots: Vec::new(), pins: Vec::new() };
    SecretText::new(token.to_text().as_str())
}
