//! Links over TCP into the running loop and store; only Registry is away.

use std::{collections::BTreeSet, sync::mpsc as blocking};

use mesh::{access_log::AccessLog, certs::Authority, clock::Now, link::LinkOwner};
use prost::Message as _;
use proto::link::v1::{
    Answer, ConfirmSupply, Down, ListChargingPoints, ManualSupply, Opened, Part, ReadClock, RequestSupply,
    SessionState, StopSupply, Ticket, TicketReceived, Up, down, up,
};
use store::central::{RowWrite, SessionRow, TicketRow};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use wire::{Closed, Event, LinkKey, Proof};

use super::*;
use crate::{
    charge_point::PointOrder,
    settings::CentralSettings,
    testing::{TestCentral, ana},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// For a handler that would wait for ever, however busy the machine is.
const PROMPTLY: Duration = Duration::from_secs(30);

/// Central with its links.
struct TestLinks {
    central: TestCentral,
    links: Arc<Links>,
    _folder: tempfile::TempDir,
}

/// The far end of a link that proved its key.
struct TestPeer {
    send_queue: SendQueue,
    heard: mpsc::UnboundedReceiver<down::Body>,
    next_id: u64,
    at_central: JoinHandle<()>,
    ended: JoinHandle<Closed>,
}

struct MessageSink(mpsc::UnboundedSender<down::Body>);

impl LinkOwner for MessageSink {
    async fn handle(&mut self, event: Event, _: &mut Link, _: Now) {
        if let Event::Message(bytes) = event {
            drop(self.0.send(Down::decode(bytes).unwrap().body.unwrap()));
        }
    }
}

impl TestLinks {
    async fn new(settings: CentralSettings) -> Self {
        let central = TestCentral::new(settings, 10).await;
        let event_loop = central.event_loop.clone();
        Self::whose_links_tell(central, event_loop)
    }

    fn whose_links_tell(central: TestCentral, event_loop: LoopHandle) -> Self {
        mesh::process::install_cryptography();
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(&folder.path().join("authority"), "mesh.test", DAY).unwrap();
        let identity = folder.path().join("central");
        authority.issue_role(proto::Caller::Central, &identity, &[], DAY, false).unwrap();
        let identity = mesh::identity::TlsIdentity::load(&identity).unwrap();
        let nobody = mesh::client::RoleAddress::new("registry", ["127.0.0.1:1".to_owned()]);
        let channel = mesh::client::channel(&identity, nobody, &mesh::client::ClientConfig::default());
        let verifier = Verifier::new(channel, Arc::clone(&central.shared), event_loop.clone());
        let access_log: &AccessLog = &central.shared.access_log;
        let port = Port::new(&central.ctx, wire::LinkSettings::default(), access_log);
        let bounds = LinkBounds { links: 100, unproven: 100, unproven_per_address: 100, handshakes_per_second: 3_000 };
        let links = Links::new(Arc::clone(&central.shared), event_loop, verifier, bounds, port, &central.ctx);
        Self { central, links, _folder: folder }
    }

    /// Enrolled, granted its first key, and linked under it.
    async fn driver(&self, id: &str) -> TestPeer {
        let driver = PeerId::Driver(self.central.driver(id).await);
        self.central.authenticate(driver.clone()).await;
        self.link(&driver, Part::Driver).await
    }

    async fn link(&self, peer: &PeerId, part: Part) -> TestPeer {
        self.link_with(peer, part, 1).await
    }

    async fn link_with(&self, peer: &PeerId, part: Part, key_no: u64) -> TestPeer {
        let key = self.key(peer, key_no).await;
        let mut linked = self.connect(peer, part, (key_no, key)).await;
        let to = linked.say(up::Body::Opened(Opened::default()));
        assert_eq!(linked.answer_to(to).await, Reason::Unspecified);
        linked
    }

    /// The key of that number, as soon as it opens links.
    async fn key(&self, peer: &PeerId, no: u64) -> LinkKey {
        let directory = &self.central.shared.directory;
        self.central.until(|| directory.usable(peer, no).is_some()).await;
        LinkKey::clone(&directory.usable(peer, no).unwrap())
    }

    async fn connect(&self, peer: &PeerId, part: Part, (key_no, key): (u64, LinkKey)) -> TestPeer {
        let (shared, clock) = (&self.central.shared, self.central.shared.clock);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (near, (far, address)) = (near.unwrap(), far.unwrap());
        let place = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
        let stop = self.central.ctx.stop.clone();
        let at_central = tokio::spawn(Arc::clone(&self.links).serve(far, address, stop, place));
        let proof = Proof::Key { responder: shared.pins[0], key_no, key };
        let link = Link::initiator(wire::LinkSettings::default(), part, peer.as_str(), proof, clock.mono());
        let ((send_queue, queued), (sink, heard)) = (send_queue(256), mpsc::unbounded_channel());
        let ended =
            tokio::spawn(async move { mesh::link::run(near, link, queued, &mut MessageSink(sink), clock).await });
        TestPeer { send_queue, heard, next_id: 1, at_central, ended }
    }

    /// What becomes of a link that is opened with this key.
    async fn ends(&self, peer: &PeerId, part: Part, key: (u64, LinkKey)) -> Closed {
        let linked = self.connect(peer, part, key).await;
        tokio::time::timeout(PROMPTLY, linked.ended).await.expect("it ends at once").unwrap()
    }

    /// A charging point whose monitor and engine are linked with its first key.
    async fn charging_point(&self) -> (PeerId, TestPeer, TestPeer) {
        let point = PeerId::ChargingPoint(self.central.charging_points(1).await.remove(0));
        self.central.authenticate(point.clone()).await;
        let (monitor, engine) = (self.link(&point, Part::Monitor).await, self.link(&point, Part::Engine).await);
        (point, monitor, engine)
    }

    async fn rotate(&self, point: &PeerId) {
        let PeerId::ChargingPoint(id) = point else { panic!("{point} is no charging point") };
        let material = Arc::new(LinkKey::from_bytes([2; 32]));
        self.central.orders.one(id, PointOrder::Rotate { material }, ana()).await;
    }

    async fn write_tickets(&self, driver: &str, count: usize) {
        self.central.charging_points(1).await;
        let bill = |n| {
            let session_id = format!("s{n:03}");
            let session = SessionRow {
                session_id: session_id.clone(),
                driver_id: Some(driver.to_owned()),
                cp_id: "CP001".into(),
                state: SessionState::Billed.into(),
                ..SessionRow::default()
            };
            let ticket =
                Ticket { session_id, driver_id: driver.to_owned(), currency: "EUR".into(), ..Ticket::default() };
            [RowWrite::OpenSession(session), RowWrite::Ticket(TicketRow::new(&ticket, 0))]
        };
        self.central.write((0..count).flat_map(bill).collect()).await;
    }

    async fn until_refused(&self, who: &str, reason: Reason) {
        let counted = async {
            loop {
                let entries = self.central.audited("CALL_REFUSED").await;
                if entries.iter().any(|entry| entry.actor == who && entry.outcome == reason.code()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), counted).await.expect("an entry of it");
    }
}

impl TestPeer {
    fn say(&mut self, body: up::Body) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.send_queue.try_send(Up { id, body: Some(body) }.encode_to_vec().into()).unwrap();
        id
    }

    async fn observe_early(&mut self) -> down::Body {
        tokio::time::timeout(Duration::from_secs(20), self.heard.recv()).await.unwrap().expect("the link is up")
    }

    async fn answer_to(&mut self, id: u64) -> Reason {
        self.whole_answer_to(id).await.reason()
    }

    async fn whole_answer_to(&mut self, id: u64) -> Answer {
        loop {
            if let down::Body::Answer(answer) = self.observe_early().await
                && answer.to == id
            {
                return answer;
            }
        }
    }

    async fn ask(&mut self, body: up::Body) -> Reason {
        let id = self.say(body);
        self.answer_to(id).await
    }

    async fn ticket(&mut self) -> String {
        loop {
            if let down::Body::Ticket(ticket) = self.observe_early().await {
                return ticket.session_id;
            }
        }
    }

    async fn reads_the_clock(&mut self) {
        self.say(up::Body::ReadClock(ReadClock::default()));
        while !matches!(self.observe_early().await, down::Body::Clock(_)) {}
    }
}

fn requested(id: &str, at: &str) -> up::Body {
    let (request_id, charging_point_id) = (id.to_owned(), at.to_owned());
    up::Body::RequestSupply(RequestSupply { request_id, charging_point_id, energy_wh: 1_000, highest_price_e4: None })
}

fn received(session: &str) -> up::Body {
    up::Body::TicketReceived(TicketReceived { session_id: session.to_owned() })
}

#[tokio::test]
async fn all_that_is_due_comes_on_one_link_as_it_is_acknowledged_spec_3_9() {
    let network = TestLinks::new(CentralSettings { tickets_again: DAY, ..CentralSettings::default() }).await;
    network.write_tickets("D1", 150).await;
    let (mut driver, mut held) = (network.driver("D1").await, BTreeSet::new());
    while held.len() < 150 {
        let session = driver.ticket().await;
        driver.say(received(&session));
        assert!(held.insert(session), "none comes twice");
    }
}

#[tokio::test]
async fn what_is_billed_before_the_loop_knows_a_link_is_sent_on_it_spec_9() {
    let (held, mut inbox) = crate::event_loop::channel();
    let network = TestLinks::whose_links_tell(TestCentral::new(CentralSettings::default(), 10).await, held);
    let mut driver = network.driver("D1").await;
    network.write_tickets("D1", 1).await;
    while let Ok(message) = inbox.try_recv() {
        network.central.event_loop.send(message).await;
    }
    assert_eq!(driver.ticket().await, "s000");
}

#[tokio::test]
async fn a_ticket_that_a_full_disk_did_not_take_is_sent_again_on_the_same_link_spec_9() {
    let network =
        TestLinks::new(CentralSettings { tickets_again: Duration::from_millis(50), ..CentralSettings::default() })
            .await;
    network.write_tickets("D1", 1).await;
    let mut driver = network.driver("D1").await;
    for _ in 0..3 {
        assert_eq!(driver.ticket().await, "s000");
    }
    assert_eq!(driver.ask(received("s000")).await, Reason::Unspecified);
    // One may have been under way.
    let silence = async { while tokio::time::timeout(Duration::from_millis(500), driver.ticket()).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), silence).await.expect("it is acknowledged");
}

#[tokio::test]
async fn a_link_goes_on_while_the_database_keeps_its_questions_waiting_spec_9() {
    let network = TestLinks::new(CentralSettings::default()).await;
    let id = network.central.charging_points(1).await.remove(0);
    let point = PeerId::ChargingPoint(id.clone());
    network.central.authenticate(point.clone()).await;
    let (mut driver, mut engine) = (network.driver("D1").await, network.link(&point, Part::Engine).await);
    let (end, ended) = blocking::channel::<()>();
    let ended = Arc::new(Mutex::new(ended));
    let (begin, mut begun) = mpsc::unbounded_channel();
    let slow = |_| {
        let (store, ended, begin) = (network.central.shared.store.clone(), Arc::clone(&ended), begin.clone());
        let wait = move |_: &mut store::Conn| {
            begin.send(()).unwrap();
            Ok(ended.lock().unwrap().recv().is_err())
        };
        tokio::spawn(async move { store.look_up("slow", wait).await })
    };
    let slow: Vec<_> = (0..8).map(slow).collect();
    // All that there are at once.
    for _ in 0..4 {
        begun.recv().await.unwrap();
    }
    let asked = driver.say(requested("r1", "CP002"));
    let manual = ManualSupply { request_id: "m1".into(), ..ManualSupply::default() };
    let wished = engine.say(up::Body::ManualSupply(manual));
    for peer in [&mut driver, &mut engine] {
        tokio::time::timeout(PROMPTLY, peer.reads_the_clock()).await.expect("its handler waits for nothing");
    }
    for _ in 0..200 {
        driver.say(requested("r2", "CP002"));
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    let too_much = async {
        loop {
            if let down::Body::Answer(answer) = driver.observe_early().await {
                return (answer.to != asked).then(|| answer.reason());
            }
        }
    };
    assert_eq!(too_much.await, Some(Reason::Overloaded), "and no more is kept than a driver may ask");
    drop(end);
    assert_eq!(driver.answer_to(asked).await, Reason::UnknownChargingPoint);
    assert_ne!(engine.answer_to(wished).await, Reason::Overloaded);
    for slow in slow {
        assert!(slow.await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn lists_are_under_the_allowance_of_whoever_asks_for_them_spec_8_2() {
    let requests = mesh::rate::RateLimit { burst: 2, every: Duration::from_secs(3600) };
    let network = TestLinks::new(CentralSettings { requests, ..CentralSettings::default() }).await;
    let mut driver = network.driver("D1").await;
    for expected in [Reason::Unspecified, Reason::Unspecified, Reason::TooManyAttempts] {
        assert_eq!(driver.ask(up::Body::ListChargingPoints(ListChargingPoints {})).await, expected);
    }
    let to = driver.say(up::Body::ListHistory(Default::default()));
    let refused = driver.whole_answer_to(to).await;
    assert_eq!(refused.reason(), Reason::TooManyAttempts);
    assert!((3_000_000..=3_600_000).contains(&refused.retry_after_ms), "it says when: {refused:?}");
    network.until_refused("driver/D1", Reason::TooManyAttempts).await;
}

#[tokio::test]
async fn what_is_refused_before_it_is_decided_is_counted_in_the_audit_spec_8_1() {
    let network = TestLinks::new(CentralSettings::default()).await;
    let mut driver = network.driver("D1").await;
    assert_eq!(driver.ask(requested("", "CP001")).await, Reason::Invalid);
    network.until_refused("driver/D1", Reason::Invalid).await;
    assert_eq!(driver.ask(requested("r1", "no such thing")).await, Reason::UnknownChargingPoint);
    network.until_refused("driver/D1", Reason::UnknownChargingPoint).await;
    for word in [
        up::Body::StopSupply(StopSupply { session_id: "s9".into() }),
        up::Body::ConfirmSupply(ConfirmSupply { session_id: "s9".into(), accepted: true, price_e4: 3_950 }),
    ] {
        assert_eq!(driver.ask(word).await, Reason::NotFound);
    }
    network.until_refused("driver/D1", Reason::NotFound).await;

    let id = network.central.charging_points(1).await.remove(0);
    let point = PeerId::ChargingPoint(id);
    network.central.authenticate(point.clone()).await;
    let mut engine = network.link(&point, Part::Engine).await;
    let manual = ManualSupply { driver_id: "no such thing".into(), ..ManualSupply::default() };
    assert_eq!(engine.ask(up::Body::ManualSupply(manual)).await, Reason::UnknownDriver);
    network.until_refused("charging-point/CP001", Reason::UnknownDriver).await;
}

#[tokio::test]
async fn a_link_whose_task_is_cut_off_ends_for_the_loop_too_spec_2_4() {
    let network = TestLinks::new(CentralSettings::default()).await;
    let driver = network.driver("D1").await;
    driver.at_central.abort();
    let down = async {
        loop {
            let entries = network.central.audited("LINK_DOWN").await;
            if entries.iter().any(|entry| entry.object == "driver/D1" && entry.parameters.contains("cut off")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), down).await.unwrap();
}

#[tokio::test]
async fn a_key_that_was_rotated_away_opens_no_link_and_the_new_one_does_spec_4_6() {
    let network = TestLinks::new(CentralSettings::default()).await;
    let (point, _old_monitor, _old_engine) = network.charging_point().await;
    let old = network.key(&point, 1).await;
    network.rotate(&point).await;
    let mut monitor = network.link_with(&point, Part::Monitor, 2).await;
    let _engine = network.link_with(&point, Part::Engine, 2).await;
    network.central.until(|| network.central.shared.directory.usable(&point, 1).is_none()).await;
    assert_eq!(network.ends(&point, Part::Monitor, (1, old)).await, Closed::UnknownKey);
    monitor.reads_the_clock().await;
}

#[tokio::test]
async fn a_rotated_key_opens_no_link_once_its_overlap_is_over_spec_4_6() {
    let key_overlap = Duration::from_millis(300);
    let network = TestLinks::new(CentralSettings { key_overlap, ..CentralSettings::default() }).await;
    let (point, _old_monitor, _engine_that_stays) = network.charging_point().await;
    let old = network.key(&point, 1).await;
    network.rotate(&point).await;
    let mut monitor = network.link_with(&point, Part::Monitor, 2).await;
    network.central.until(|| network.central.shared.directory.usable(&point, 1).is_none()).await;
    assert_eq!(network.ends(&point, Part::Engine, (1, old)).await, Closed::UnknownKey);
    monitor.reads_the_clock().await;
}
