//! Test-only: Central without its network. The real loop, store and services in one process; links are send queues.

use std::{sync::Arc, time::Duration};

use mesh::{
    access_log::AccessLog,
    link::{QueuedMessages, SendQueue, send_queue},
    process::Context,
};
use proto::{
    ChargingPointId, DriverId, PeerId,
    central::v1::{self as contract, KeyState},
    link::v1::Part,
    registry::v1::{IdentityState, Kind},
};
use store::{
    Database,
    central::{
        AuditFilter, AuditOrder, AuditRow, Committer, CommitterSettings, MirroredIdentityRow, PageRequest, RowWrite,
        SCHEMA,
    },
};

use crate::{
    access_log,
    charge_point::Observation,
    database::Store,
    event_loop::{self, Arrival, EventLoop, LoopHandle, Message},
    grpc::{Orders, SessionsService},
    origin::{LinkNo, Origin},
    registry,
    running_time::{KeysAtRest, RunningTime},
    secrets::Secrets,
    settings::CentralSettings,
    shared::{Directory, LedgerState, SharedState},
    telemetry::Telemetry,
    write_queue::WriteQueue,
};

pub(crate) struct TestCentral {
    pub(crate) shared: Arc<SharedState>,
    pub(crate) event_loop: LoopHandle,
    pub(crate) orders: Orders,
    pub(crate) sessions: SessionsService,
    pub(crate) ctx: Context,
    links: std::sync::atomic::AtomicU64,
    /// The far ends of links, which nobody reads.
    ends: std::sync::Mutex<Vec<QueuedMessages>>,
    _folder: tempfile::TempDir,
}

impl Drop for TestCentral {
    fn drop(&mut self) {
        self.ctx.stop.cancel();
    }
}

impl TestCentral {
    pub(crate) async fn new(settings: CentralSettings, stagger: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ctx, secrets) = (Context::detached("central"), Secrets::open(&folder.path().join("identity")).unwrap());
        let url = format!("sqlite:{}", folder.path().join("central.db").display());
        Database::migrate(&url, SCHEMA).await.unwrap();
        let database = Database::open(&url, SCHEMA).await.unwrap();
        let committer = Committer::start(&database, &secrets.writer, CommitterSettings::default()).unwrap();
        let running = RunningTime::load(&database, ctx.clock.mono()).await.unwrap();
        let shared = Arc::new(SharedState {
            settings,
            clock: ctx.clock,
            store: Store::new(committer, database, &ctx),
            directory: Directory::default(),
            points: Arc::default(),
            sessions: Arc::default(),
            telemetry: Telemetry::new(&ctx.metrics),
            reading_topics: None,
            access_log: AccessLog::new(ctx.clock, Duration::from_millis(10)),
            write_queue: WriteQueue::default(),
            pins: secrets.pins(),
            link_keys: secrets.link,
            key_encryption: Arc::new(KeysAtRest { encryption: secrets.key_encryption, running }),
            ledger: LedgerState::default(),
            conditions: crate::conditions::ReportedConditions::default(),
            documents: secrets.documents,
            owner: secrets.writer,
        });
        let (of_writes, stop) = (Arc::clone(&shared), ctx.stop.clone());
        tokio::spawn(async move { of_writes.write_queue.run(&of_writes.store, stop).await });
        let (event_loop, inbox) = event_loop::channel();
        let running = EventLoop::load(Arc::clone(&shared), &ctx).await.unwrap();
        tokio::spawn(running.run(inbox, ctx.clone()));
        tokio::spawn(access_log::write(shared.access_log.clone(), Arc::clone(&shared), ctx.stop.clone()));
        let orders = Orders::new(Arc::clone(&shared), event_loop.clone(), &ctx, stagger);
        let sessions = SessionsService { shared: Arc::clone(&shared), orders: orders.clone() };
        let (links, ends) = (1.into(), std::sync::Mutex::default());
        Self { shared, event_loop, orders, sessions, ctx, links, ends, _folder: folder }
    }

    /// As Registry enrols them.
    async fn enrol(&self, kind: Kind, ids: &[String], incarnation: i64) {
        let now = self.shared.clock.now();
        let row = |id: &String| MirroredIdentityRow {
            kind: kind.into(),
            id: id.clone(),
            state: IdentityState::Enrolled.into(),
            city: "Alicante".into(),
            place: "Plaza".into(),
            incarnation,
            revision: incarnation,
            ..MirroredIdentityRow::default()
        };
        let rows: Vec<_> = ids.iter().map(row).collect();
        let writes = rows.iter().flat_map(|row| registry::mirror_writes(row, &self.shared.settings, now)).collect();
        self.shared.store.write("mirror", writes).await.unwrap();
        self.event_loop.send(Message::Identities(rows)).await;
    }

    pub(crate) async fn charging_points(&self, count: usize) -> Vec<ChargingPointId> {
        let ids: Vec<_> = (1..=count).map(|n| format!("CP{n:03}")).collect();
        self.enrol(Kind::ChargingPoint, &ids, 1).await;
        self.until(|| self.shared.points.all().len() == count).await;
        ids.iter().map(|id| id.parse().unwrap()).collect()
    }

    /// What it was granted before is void then.
    pub(crate) async fn enrol_again(&self, id: &ChargingPointId) {
        self.enrol(Kind::ChargingPoint, &[id.to_string()], 2).await;
        self.until(|| self.key_state(id) == KeyState::Deleted).await;
    }

    /// As Registry removes it.
    pub(crate) async fn remove(&self, id: &ChargingPointId) {
        let removed = MirroredIdentityRow {
            kind: Kind::ChargingPoint.into(),
            id: id.to_string(),
            state: IdentityState::Removed.into(),
            incarnation: 1,
            revision: 2,
            ..MirroredIdentityRow::default()
        };
        self.event_loop.send(Message::Identities(vec![removed])).await;
    }

    /// A link as the I/O layer hands it to the loop.
    pub(crate) fn link(&self) -> (LinkNo, SendQueue) {
        let (sender, queued) = send_queue(100_000);
        self.ends.lock().unwrap().push(queued);
        (LinkNo(self.links.fetch_add(1, std::sync::atomic::Ordering::Relaxed)), sender)
    }

    /// Shows its credential, as in a first contact.
    pub(crate) async fn authenticate(&self, peer: PeerId) -> LinkNo {
        let (link, send_queue) = self.link();
        let from = "192.0.2.1:7".into();
        self.event_loop.send(Message::Verified { peer, link, send_queue, from, to: 0, void: false }).await;
        link
    }

    pub(crate) async fn arrive(&self, peer: PeerId, part: Part, key_no: u64) -> LinkNo {
        let (link, send_queue) = self.link();
        let from = "192.0.2.1:8".into();
        let arrival = Arrival { link, peer, part, key_no, from, highest_epoch: 0, send_queue };
        self.event_loop.send(Message::Arrived(Box::new(arrival))).await;
        link
    }

    /// Both parts up under key `key_no`, and well.
    pub(crate) async fn both_parts(&self, id: &ChargingPointId, key_no: u64) {
        let peer = PeerId::ChargingPoint(id.clone());
        self.until(|| self.shared.directory.usable(&peer, key_no).is_some()).await;
        let link = self.arrive(peer.clone(), Part::Monitor, key_no).await;
        let observation = Observation::Health { link, healthy: true, detail: "".into() };
        self.event_loop.send(Message::Observation { at: id.clone(), observation }).await;
        self.arrive(peer, Part::Engine, key_no).await;
        self.until(|| self.shown(id).key.and_then(|key| key.number) == Some(key_no)).await;
    }

    pub(crate) async fn driver(&self, id: &str) -> DriverId {
        self.enrol(Kind::Driver, &[id.to_owned()], 1).await;
        id.parse().unwrap()
    }

    pub(crate) fn shown(&self, id: &ChargingPointId) -> contract::ChargingPoint {
        self.shared.points.get(id).map(|point| (*point).clone()).unwrap_or_default()
    }

    pub(crate) fn key_state(&self, id: &ChargingPointId) -> KeyState {
        self.shown(id).key.map(|key| key.state()).unwrap_or_default()
    }

    /// Entries of this action, oldest first; of all where it is empty.
    pub(crate) async fn audited(&self, action: &str) -> Vec<AuditRow> {
        let filter = AuditFilter { action: action.to_owned(), ..AuditFilter::default() };
        self.audit(filter).await
    }

    pub(crate) async fn audit(&self, filter: AuditFilter) -> Vec<AuditRow> {
        let page = PageRequest { size: 1_000, token: String::new() };
        let read = move |conn: &mut store::Conn| AuditRow::list(conn, &filter, AuditOrder::OldestFirst, &page);
        self.shared.store.read("audit", read).await.unwrap().rows
    }

    pub(crate) async fn write(&self, writes: Vec<RowWrite>) {
        self.shared.store.write("test", writes).await.unwrap();
    }

    /// Waits for a condition; whatever takes a minute will not come.
    pub(crate) async fn until(&self, is_so: impl Fn() -> bool) {
        let patience = async {
            while !is_so() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), patience).await.expect("it did not come to that");
    }
}

pub(crate) fn ana() -> Origin {
    Origin::new("operator/ana", "192.0.2.9:1").because("works")
}

/// A request as mesh's server hands it on.
pub(crate) fn asked_by_ana<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let (caller, name) = (proto::Caller::Operator, Some("ana".parse().unwrap()));
    let address = "192.0.2.9:1".parse().unwrap();
    request.extensions_mut().insert(mesh::principal::Principal { caller, name, address });
    request
}
