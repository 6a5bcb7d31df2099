//! The same rules on SQLite and on a real PostgreSQL.

mod chain;
mod hanging;
mod kill;
mod lease;
mod opening;
mod prune;
mod rows;
mod trouble;
mod turns;

use proto::link::v1::Ticket;

use super::*;
use crate::Database;

/// Runs each rule on both back ends.
macro_rules! on_both {
    ($($(#[doc = $doc:literal])* async fn $name:ident($store:ident: TestStore) $body:block)*) => {
        $(
            $(#[doc = $doc])*
            mod $name {
                use super::*;

                async fn rule($store: TestStore) $body

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn sqlite() {
                    rule(TestStore::sqlite().await).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn postgres() {
                    rule(TestStore::postgres().await).await;
                }
            }
        )*
    };
}
use on_both;

/// A migrated database with a committer on it.
struct TestStore {
    url: String,
    database: Database,
    committer: Committer,
    folder: tempfile::TempDir,
}

impl TestStore {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("central.db").display());
        Self::on(url, folder).await
    }

    async fn postgres() -> Self {
        let url = tokio::task::spawn_blocking(|| crate::testing::postgres().create_database()).await.unwrap();
        Self::on(url, tempfile::tempdir().unwrap()).await
    }

    async fn on(url: String, folder: tempfile::TempDir) -> Self {
        Database::migrate(&url, SCHEMA).await.unwrap();
        let database = Database::open(&url, SCHEMA).await.unwrap();
        let committer = Committer::start(&database, "central-1", CommitterSettings::default()).unwrap();
        Self { url, database, committer, folder }
    }

    /// Adds a charging point and claims it.
    async fn owned(&self, cp_id: &str) -> OwnedPoint {
        let row = ChargingPointRow { cp_id: cp_id.into(), city: "Graz".into(), price_e4: 3950, ..Default::default() };
        self.unguarded([RowWrite::AddChargingPoint(row)]).await.unwrap();
        self.claimed(cp_id, "central-1").await
    }

    async fn claimed(&self, cp_id: &str, owner: &str) -> OwnedPoint {
        let guard = Guard::Takeover { cp_id: cp_id.into(), owner: owner.into(), expected_owner: None };
        let done = self.committer.submit(turn(Some(guard), [])).await.unwrap();
        OwnedPoint { cp_id: cp_id.into(), epoch: done.epoch, version: done.version }
    }

    async fn unguarded(&self, writes: impl Into<Vec<RowWrite>>) -> Result<Committed, CommitRefusal> {
        self.committer.submit(turn(None, writes)).await
    }

    /// A turn under `point`, which follows the version.
    async fn submit(
        &self,
        point: &mut OwnedPoint,
        writes: impl Into<Vec<RowWrite>>,
    ) -> Result<Committed, CommitRefusal> {
        let result = self.committer.submit(turn(Some(point.guard()), writes)).await;
        if let Ok(done) = &result {
            point.version = done.version;
        }
        result
    }

    async fn read<T: Send + 'static>(
        &self,
        queries: impl FnOnce(&mut crate::Conn) -> Result<T, crate::StoreError> + Send + 'static,
    ) -> T {
        self.database.read("test", queries).await.unwrap()
    }

    /// Raw SQL, past every rule.
    async fn sql(&self, sql: impl Into<String>) {
        let sql = sql.into();
        let done: Result<Result<(), ()>, _> =
            self.database.transaction("test", move |conn| Ok(conn.execute(&sql)?)).await;
        done.unwrap().unwrap();
    }
}

/// A charging point as its owner knows it.
#[derive(Clone, Debug)]
struct OwnedPoint {
    cp_id: String,
    epoch: i64,
    version: i64,
}

impl OwnedPoint {
    fn guard(&self) -> Guard {
        Guard::Owned { cp_id: self.cp_id.clone(), epoch: self.epoch, version: self.version }
    }
}

fn turn(guard: Option<Guard>, writes: impl Into<Vec<RowWrite>>) -> Turn {
    Turn { id: TurnId::random(), name: "test", guard, writes: writes.into() }
}

fn session(id: &str, cp_id: &str, driver_id: Option<&str>, state: i32) -> SessionRow {
    SessionRow {
        session_id: id.into(),
        cp_id: cp_id.into(),
        driver_id: driver_id.map(Into::into),
        state,
        currency: "EUR".into(),
        ..Default::default()
    }
}

fn ticket(session: &SessionRow, energy_wh: i64) -> TicketRow {
    let ticket = Ticket {
        session_id: session.session_id.clone(),
        driver_id: session.driver_id.clone().unwrap_or_default(),
        charging_point_id: session.cp_id.clone(),
        energy_wh: u64::try_from(energy_wh).unwrap(),
        amount_minor: energy_wh / 10,
        currency: "EUR".into(),
        place: "Main street".into(),
        ..Ticket::default()
    };
    TicketRow::new(&ticket, 0)
}

fn once(caller: &str, request_id: &str) -> OnceRow {
    let (caller, request_id, method) = (caller.into(), request_id.into(), "Stop".into());
    OnceRow { caller, request_id, method, digest: "ab".into(), answer: "01".into(), nonce: None, at_ms: 1 }
}

fn order(order_id: &str, subject: &str, cp_ids: &[&str]) -> RowWrite {
    let item = |cp_id: &&str| OrderItemRow {
        order_id: order_id.into(),
        cp_id: (*cp_id).into(),
        subject: subject.into(),
        ..Default::default()
    };
    RowWrite::Order {
        order: OrderRow { order_id: order_id.into(), ..Default::default() },
        items: cp_ids.iter().map(item).collect(),
        overtaken: entry("OVERTAKEN", ""),
    }
}

fn settled(order_id: &str, cp_id: &str, outcome: ItemOutcome) -> RowWrite {
    let (order_id, cp_id) = (order_id.into(), cp_id.into());
    RowWrite::OrderItem(OrderItemRow { order_id, cp_id, outcome: outcome.into(), ..Default::default() })
}

fn entry(action: &str, object: &str) -> AuditEntry {
    AuditEntry {
        at_ms: 1_700_000_000_000,
        actor: "operator/ada".into(),
        address: "192.0.2.7:5123".into(),
        action: action.into(),
        object: object.into(),
        parameters: r#"{"reason":"test"}"#.into(),
        outcome: "DONE".into(),
    }
}
