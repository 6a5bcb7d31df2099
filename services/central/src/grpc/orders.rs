//! Orders under way: accepted once per request id, reached in portions, gone on with after a restart, cancellable
//! (SPEC 7.3).

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use mesh::{process::Context, status::refuse};
use proto::{
    ChargingPointId, Price,
    central::v1::{Order as Answer, OrderFailure, Selector},
    link::v1::Reason,
};
use serde::{Deserialize, Serialize};
use store::central::{OrderRow, OrderState, PageRequest, Refusal, Write};
use tokio::sync::{oneshot, watch};
use tonic::Status;
use wire::LinkKey;

use super::{refused, unread, unwritten};
use crate::{
    audit::{Action, Entry},
    charge_point::{Order, Origin, Outcome},
    drive::{Driver, Message},
    order::{self, Kind, Objection, Progress},
    rows, secrets,
    shared::Shared,
};

/// How long one charging point may take to be reached.
const PATIENCE: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Orders(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    drive: Driver,
    ctx: Context,
    /// Charging points that a staggered order reaches per second.
    stagger: usize,
    under_way: Mutex<HashMap<String, Arc<UnderWay>>>,
}

#[derive(Debug)]
struct UnderWay {
    kind: Kind,
    row: OrderRow,
    by: Origin,
    progress: Mutex<Progress>,
    done: watch::Sender<bool>,
}

/// What an answer looks like at rest.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    matched: u32,
    done: u32,
    unchanged: u32,
    cancelled: bool,
    failures: Vec<(String, i32, String)>,
    #[serde(default)]
    failed: u32,
    #[serde(default)]
    left: u32,
}

/// What was ordered, at rest.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    kind: Kind,
    address: String,
    /// Why, as the operator said it.
    #[serde(default)]
    reason: String,
}

impl Orders {
    pub(crate) fn new(shared: Arc<Shared>, drive: Driver, ctx: &Context, stagger: usize) -> Self {
        let (ctx, under_way) = (ctx.clone(), Mutex::default());
        Self(Arc::new(Inner { shared, drive, ctx, stagger: stagger.max(1), under_way }))
    }

    /// Goes on with what a former process had begun.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub(crate) async fn resume(&self) -> Result<(), store::StoreError> {
        for row in self.0.shared.ledger.read("orders", OrderRow::running).await? {
            let body: Result<Body, _> = serde_json::from_str(&row.body);
            let remaining: Result<Vec<ChargingPointId>, _> = serde_json::from_str(&row.remaining);
            let (Ok(body), Ok(remaining)) = (body, remaining) else {
                tracing::error!(order.id = row.order_id, "an order cannot be read and is not gone on with");
                continue;
            };
            let by = Origin::new(row.operator.clone(), body.address).because(body.reason).under(row.order_id.as_str());
            let progress = Progress::resumed(answer_of(&row), remaining);
            let under_way = self.register(UnderWay::new(body.kind, row, by, progress));
            self.spawn(async move |orders| orders.run(&under_way).await);
        }
        Ok(())
    }

    /// Gives an order, or answers the one that came first under its request id. Over few charging points, and for a
    /// stop, it is done when this returns. A refusal is an entry too (SPEC 8.1).
    pub(crate) async fn give(
        &self,
        request_id: String,
        selector: Option<Selector>,
        expected: u32,
        kind: Kind,
        by: Origin,
    ) -> Result<Answer, Status> {
        let (method, object, who) = (kind.method(), order::object(selector.as_ref()), by.clone());
        match self.accept(request_id, selector, expected, kind, by).await {
            Ok(given) => Ok(given),
            Err(status) => Err(refused(&self.0.shared, &who, method, &object, status).await),
        }
    }

    async fn accept(
        &self,
        request_id: String,
        selector: Option<Selector>,
        expected: u32,
        kind: Kind,
        by: Origin,
    ) -> Result<Answer, Status> {
        order::check_reason(&by.reason).map_err(|objection| objected(&objection))?;
        if let Some(first) = self.given_before(&by, &request_id, kind.method()).await? {
            return Ok(first);
        }
        let all: Vec<_> = self.0.shared.points.all().into_iter().map(|(id, point)| (id, point.city.clone())).collect();
        let selected = order::select(selector.as_ref(), &all).map_err(|objection| objected(&objection))?;
        order::check_expectation(selected.ids.len(), expected, self.many())
            .map_err(|objection| objected(&objection))?;
        let progress = Progress::new(fresh_id(), selected);
        let row = self.row(request_id, &kind, &by, &progress);
        let entry = Entry::new(Action::OrderGiven, format!("order/{}", row.order_id))
            .with("method", kind.method())
            .with("matched", progress.answer().matched)
            .by(&by, self.0.shared.clock.now());
        let by = by.under(row.order_id.as_str());
        let unknown = progress.answer().failures.iter().map(|failure| {
            let outcome = Outcome::Failed(failure.reason(), failure.detail.clone());
            self.reached(kind.method(), &failure.id, &outcome, &by)
        });
        let order = [Write::Order(row.clone()), Write::Audit(rows::audit(&entry))];
        let writes = order.into_iter().chain(unknown.flatten()).collect();
        let under_way = self.register(UnderWay::new(kind, row, by, progress));
        match self.begin(&under_way, writes).await {
            Ok(()) => Ok(self.answer_of(&under_way).await),
            Err(Refusal::RepeatedOrder(first)) => self.answer_to(*first, under_way.kind.method()).await,
            Err(refusal) => Err(unwritten(refusal)),
        }
    }

    /// Writes an order and carries it out, whether or not whoever gave it waits for the answer.
    async fn begin(&self, under_way: &Arc<UnderWay>, writes: Vec<Write>) -> Result<(), Refusal> {
        let (begun, answer) = oneshot::channel();
        let under_way = Arc::clone(under_way);
        self.spawn(async move |orders| {
            let written = orders.0.shared.ledger.write("order", writes).await.map(|_| ());
            let is_written = written.is_ok();
            if !is_written {
                orders.lock().remove(&under_way.row.order_id);
            }
            // Nobody may be waiting any more.
            let _ = begun.send(written);
            if is_written {
                orders.run(&under_way).await;
            }
        });
        answer.await.unwrap_or_else(|_| Err(Refusal::Unavailable("this process is ending".to_owned())))
    }

    /// What has not been reached yet stays as it was.
    pub(crate) async fn cancel(&self, order_id: &str, by: &Origin) -> Result<Answer, Status> {
        let under_way = self.lock().get(order_id).cloned();
        if let Some(under_way) = under_way {
            under_way.lock().cancel();
            let entry = Entry::new(Action::OrderCancelled, format!("order/{order_id}"));
            let entry = rows::audit(&entry.by(by, self.0.shared.clock.now()));
            self.0.shared.ledger.write("cancel", vec![Write::Audit(entry)]).await.map_err(unwritten)?;
            return Ok(under_way.answer());
        }
        self.get(order_id).await
    }

    /// How far an order has come.
    pub(crate) async fn get(&self, order_id: &str) -> Result<Answer, Status> {
        let wanted = order_id.to_owned();
        let row =
            self.0.shared.ledger.read("order", move |conn| OrderRow::find(conn, &wanted)).await.map_err(unread)?;
        let row = row.filter(|row| order::METHODS.contains(&row.method.as_str()));
        row.map(|row| self.latest(&row)).ok_or_else(|| refuse(Reason::NotFound, format!("no order {order_id}")))
    }

    /// Newest first, and the token of the next page.
    pub(crate) async fn list(&self, page: PageRequest) -> Result<(Vec<Answer>, String), Status> {
        let read = move |conn: &mut store::Conn| OrderRow::list(conn, &order::METHODS, &page);
        let page = self.0.shared.ledger.read("orders", read).await.map_err(unread)?;
        Ok((page.rows.iter().map(|row| self.latest(row)).collect(), page.next))
    }

    /// One under way is further than its row.
    fn latest(&self, row: &OrderRow) -> Answer {
        let under_way = self.lock().get(&row.order_id).cloned();
        under_way.map_or_else(|| answer_of(row), |under_way| under_way.answer())
    }

    /// One charging point, once; the answer is its own.
    pub(crate) async fn one(&self, at: &ChargingPointId, order: Order, by: Origin) -> Outcome {
        let (answer, answered) = oneshot::channel();
        self.0.drive.send(Message::Order { at: at.clone(), order, by, answer }).await;
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Outcome::Failed(Reason::Unavailable, "nobody answered for it in time".to_owned()),
        }
    }

    async fn given_before(&self, by: &Origin, request_id: &str, method: &str) -> Result<Option<Answer>, Status> {
        let (operator, wanted) = (by.actor.to_string(), request_id.to_owned());
        let read = move |conn: &mut store::Conn| OrderRow::of_request(conn, &operator, &wanted);
        let row = self.0.shared.ledger.read("order", read).await.map_err(unread)?;
        match row {
            Some(row) => self.answer_to(row, method).await.map(Some),
            None => Ok(None),
        }
    }

    /// What is done when its first answer is given is done when a later one is, too.
    async fn answer_to(&self, row: OrderRow, method: &str) -> Result<Answer, Status> {
        if row.method != method {
            let text = format!("the request_id {:?} was used for {}; choose another", row.request_id, row.method);
            return Err(refuse(Reason::Invalid, text));
        }
        let under_way = self.lock().get(&row.order_id).cloned();
        if let Some(under_way) = under_way {
            return Ok(self.answer_of(&under_way).await);
        }
        // It may have ended since the row was read.
        let id = row.order_id.clone();
        let read = move |conn: &mut store::Conn| OrderRow::find(conn, &id);
        let latest = self.0.shared.ledger.read("order", read).await.map_err(unread)?;
        Ok(answer_of(&latest.unwrap_or(row)))
    }

    fn row(&self, request_id: String, kind: &Kind, by: &Origin, progress: &Progress) -> OrderRow {
        let body = Body { kind: kind.clone(), address: by.address.to_string(), reason: by.reason.to_string() };
        OrderRow {
            order_id: progress.answer().order_id.clone(),
            operator: by.actor.to_string(),
            request_id,
            method: kind.method().to_owned(),
            at_ms: self.0.shared.clock.wall_ms(),
            state: OrderState::Running.into(),
            body: json(&body),
            remaining: json(&progress.remaining()),
            answer: kept(progress.answer()),
        }
    }

    /// Over few charging points, and for a stop, when it is done; where this process ends before, as it is.
    async fn answer_of(&self, under_way: &UnderWay) -> Answer {
        if !under_way.kind.is_staggered(under_way.answer().matched as usize, self.many()) {
            self.0.ctx.stop.clone().run_until_cancelled(under_way.ended()).await;
        }
        under_way.answer()
    }

    /// Before its row is written, so that whoever reads of an order that is not done finds it here.
    fn register(&self, under_way: UnderWay) -> Arc<UnderWay> {
        let under_way = Arc::new(under_way);
        self.lock().insert(under_way.row.order_id.clone(), Arc::clone(&under_way));
        under_way
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Self) -> F) {
        let work = work(self.clone());
        self.0.ctx.spawn("order", async move {
            work.await;
            Ok(())
        });
    }

    async fn run(&self, under_way: &UnderWay) {
        self.0.ctx.stop.clone().run_until_cancelled(self.carry_out(under_way)).await;
        self.lock().remove(&under_way.row.order_id);
    }

    async fn carry_out(&self, under_way: &UnderWay) {
        let matched = under_way.lock().answer().matched as usize;
        let staggered = under_way.kind.is_staggered(matched, self.many());
        let size = if staggered { self.0.stagger } else { usize::MAX };
        loop {
            let portion = under_way.lock().portion(size);
            if portion.is_empty() {
                break;
            }
            let mut reached: FuturesUnordered<_> = portion
                .into_iter()
                .map(|id| async move {
                    let order = under_way.kind.order(fresh_key());
                    let outcome = self.one(&id, order, under_way.by.clone()).await;
                    (id, outcome)
                })
                .collect();
            let mut entries = Vec::new();
            while let Some((id, outcome)) = reached.next().await {
                entries.extend(self.reached(&under_way.row.method, id.as_str(), &outcome, &under_way.by));
                under_way.lock().reached(&id, &outcome);
            }
            drop(reached);
            self.note(entries).await;
            if staggered {
                self.keep(under_way, OrderState::Running).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        let cancelled = under_way.answer().cancelled;
        self.keep(under_way, if cancelled { OrderState::Cancelled } else { OrderState::Done }).await;
        under_way.done.send_replace(true);
    }

    /// An order that changed nothing at a charging point: that too concerns it (SPEC 8.3). What it changed is an entry
    /// of the charging point's own.
    fn reached(&self, method: &str, id: &str, outcome: &Outcome, by: &Origin) -> Option<Write> {
        let entry = |action| Entry::new(action, format!("charging-point/{id}")).with("method", method);
        let entry = match outcome {
            Outcome::Done => return None,
            Outcome::Unchanged => entry(Action::OrderUnchanged),
            Outcome::Failed(reason, detail) => entry(Action::OrderRefused).outcome(*reason, detail),
        };
        Some(Write::Audit(rows::audit(&entry.by(by, self.0.shared.clock.now()))))
    }

    async fn note(&self, entries: Vec<Write>) {
        if entries.is_empty() {
            return;
        }
        if let Err(error) = self.0.shared.ledger.write("order", entries).await {
            tracing::warn!(%error, "an order's failures could not be noted");
        }
    }

    async fn keep(&self, under_way: &UnderWay, state: OrderState) {
        let row = {
            let progress = under_way.lock();
            OrderRow {
                state: state.into(),
                remaining: json(&progress.remaining()),
                answer: kept(progress.answer()),
                ..under_way.row.clone()
            }
        };
        if let Err(error) = self.0.shared.ledger.write("order", vec![Write::UpdateOrder(row)]).await {
            // A restart would reach some again, which is as if it were said twice.
            tracing::warn!(order.id = under_way.row.order_id, %error, "an order's progress could not be kept");
        }
    }

    fn many(&self) -> usize {
        self.0.shared.settings.many
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<UnderWay>>> {
        self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    fn new(kind: Kind, row: OrderRow, by: Origin, progress: Progress) -> Self {
        Self { kind, row, by, progress: Mutex::new(progress), done: watch::channel(false).0 }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self) -> Answer {
        let answer = self.lock().answer().clone();
        let state = match (*self.done.borrow(), answer.cancelled) {
            (_, true) => OrderState::Cancelled,
            (false, false) => OrderState::Running,
            (true, false) => OrderState::Done,
        };
        described(&self.row, state.into(), answer)
    }

    async fn ended(&self) {
        // The sender lives as long as this does.
        let mut done = self.done.subscribe();
        let _ended = done.wait_for(|done| *done).await;
    }
}

impl Kind {
    /// For one charging point; `material` is for a rotation.
    fn order(&self, material: Arc<LinkKey>) -> Order {
        match self {
            Self::Stop => Order::Stop,
            Self::Resume => Order::Resume,
            Self::Maintenance { on } => Order::Maintenance { on: *on },
            Self::Rotate => Order::Rotate { material },
            Self::Renew => Order::Renew,
            Self::Revoke => Order::Revoke,
            Self::Release => Order::Release,
            Self::SetPrice { price_e4 } => Order::SetPrice(Price::from_e4(*price_e4)),
            Self::SetRatedPower { rated_power_w } => Order::SetRatedPower(*rated_power_w),
            Self::Move { city, place } => {
                Order::Move { city: city.as_str().into(), place: (!place.is_empty()).then(|| place.as_str().into()) }
            }
        }
    }
}

fn fresh_key() -> Arc<LinkKey> {
    Arc::new(LinkKey::generate(secrets::random()))
}

pub(super) fn fresh_id() -> String {
    format!("o-{:024x}", rand::random::<u128>() >> 32)
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn kept(answer: &Answer) -> String {
    let failures = answer.failures.iter().map(|f| (f.id.clone(), f.reason, f.detail.clone())).collect();
    let Answer { matched, done, unchanged, cancelled, failed, left, .. } = *answer;
    json(&Kept { matched, done, unchanged, cancelled, failures, failed, left })
}

fn answer_of(row: &OrderRow) -> Answer {
    let kept: Kept = serde_json::from_str(&row.answer).unwrap_or_default();
    let failure = |(id, reason, detail)| OrderFailure { id, reason, detail };
    let answer = Answer {
        matched: kept.matched,
        done: kept.done,
        unchanged: kept.unchanged,
        cancelled: kept.cancelled || row.state == i32::from(OrderState::Cancelled),
        failures: kept.failures.into_iter().map(failure).collect(),
        failed: kept.failed,
        left: kept.left,
        ..Answer::default()
    };
    described(row, row.state, answer)
}

/// With what was ordered, by whom and why. The states of rows are those of the contract.
fn described(row: &OrderRow, state: i32, answer: Answer) -> Answer {
    let reason = serde_json::from_str::<Body>(&row.body).map(|body| body.reason).unwrap_or_default();
    Answer {
        order_id: row.order_id.clone(),
        state,
        method: row.method.clone(),
        operator: row.operator.clone(),
        request_id: row.request_id.clone(),
        at_ms: row.at_ms,
        reason,
        ..answer
    }
}

fn objected(objection: &Objection) -> Status {
    match objection {
        Objection::Invalid(text) => refuse(Reason::Invalid, text),
        Objection::Expectation { matched, expected: 0 } => refuse(
            Reason::ExpectationFailed,
            format!("it would reach {matched} charging points: say expected = {matched} if that is meant"),
        ),
        Objection::Expectation { matched, expected } => {
            refuse(Reason::ExpectationFailed, format!("it would reach {matched} charging points and not {expected}"))
        }
    }
}
