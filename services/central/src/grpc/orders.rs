//! Orders under way: accepted once per request id, reached in portions, gone on with after a restart, cancellable
//! (SPEC 7.3).
//!
//! Of two orders with one subject the later one counts, also where the former is still under way: it leaves the
//! charging points of the later one alone, which says so in its row and so does after a restart, however far the
//! former one's row had come.

mod at_rest;
mod course;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh::{field_checks::with_metadata, process::Context, status::refuse};
use proto::{
    ChargingPointId, Price,
    central::v1::{self as contract, Order as Answer},
    link::v1::Reason,
};
use store::central::{CommitRefusal, OrderRow, OrderState, PageRequest, RowWrite};
use tokio::sync::{oneshot, watch};
use tonic::Status;
use wire::LinkKey;

use self::at_rest::{Body, answer_of, described, json, kept};
use super::{given_before, refused, unread, unwritten, used};
use crate::{
    audit::{AuditAction, AuditRecord},
    charge_point::{OrderOutcome, PointOrder},
    event_loop::{LoopHandle, Message},
    order::{self, OrderKind, OrderProgress, Scope, Selected, Unexpected},
    origin::Origin,
    rows,
    shared::SharedState,
};

/// How long is waited for a charging point before others are gone on with, and an order is answered as it stands.
const PATIENCE: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Orders(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<SharedState>,
    event_loop: LoopHandle,
    ctx: Context,
    /// Charging points that a staggered order reaches per second.
    stagger: usize,
    patience: Duration,
    under_way: Mutex<HashMap<String, Arc<UnderWay>>>,
}

/// What was asked for.
#[derive(Debug)]
struct Given {
    request_id: String,
    kind: OrderKind,
    scope: Scope,
    content: String,
}

#[derive(Debug)]
struct UnderWay {
    kind: OrderKind,
    /// As it was given.
    row: OrderRow,
    by: Origin,
    progress: Mutex<OrderProgress>,
    /// What it did, not written yet.
    entries: Mutex<Vec<RowWrite>>,
    /// Held while its row is written, so that the later one is of the later state.
    writing: tokio::sync::Mutex<()>,
    done: watch::Sender<bool>,
}

impl Orders {
    pub(crate) fn new(shared: Arc<SharedState>, event_loop: LoopHandle, ctx: &Context, stagger: usize) -> Self {
        Self::with_patience(shared, event_loop, ctx, (stagger, PATIENCE))
    }

    fn with_patience(
        shared: Arc<SharedState>,
        event_loop: LoopHandle,
        ctx: &Context,
        (stagger, patience): (usize, Duration),
    ) -> Self {
        let (ctx, under_way) = (ctx.clone(), Mutex::default());
        Self(Arc::new(Inner { shared, event_loop, ctx, stagger: stagger.max(1), patience, under_way }))
    }

    /// Goes on with what a former process had begun, but for what later orders were about.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub(crate) async fn resume(&self) -> Result<(), store::StoreError> {
        for (row, later) in self.0.shared.store.read("orders", at_rest::running).await? {
            let Some((body, remaining)) = at_rest::begun(&row) else {
                tracing::error!(order.id = row.order_id, "an order cannot be read and is not gone on with");
                continue;
            };
            let by = Origin::new(row.operator.clone(), body.address).because(body.reason).under(row.order_id.as_str());
            let progress = OrderProgress::resumed(answer_of(&row), remaining);
            let under_way = Arc::new(UnderWay::new(body.kind, row, by, progress));
            for (order_id, ids) in later {
                self.overtake(&under_way, &ids, &order_id);
            }
            self.lock().insert(under_way.row.order_id.clone(), Arc::clone(&under_way));
            self.spawn(async move |orders| orders.run(&under_way).await);
        }
        Ok(())
    }

    /// Gives an order, or answers the one that came first under its request id. Over few charging points, and for a
    /// stop, it is done when this returns, unless one takes long. A refusal is an entry too (SPEC 8.1).
    pub(crate) async fn give(
        &self,
        request_id: String,
        scope: Scope,
        expected: Option<u32>,
        kind: OrderKind,
        by: Origin,
    ) -> Result<Answer, Status> {
        let (method, object, who) = (kind.method(), order::object(&scope), by.clone());
        match self.accept(request_id, scope, expected, kind, by).await {
            Ok(given) => Ok(given),
            Err(status) => Err(refused(&self.0.shared, &who, method, &object, status).await),
        }
    }

    async fn accept(
        &self,
        request_id: String,
        scope: Scope,
        expected: Option<u32>,
        kind: OrderKind,
        by: Origin,
    ) -> Result<Answer, Status> {
        let content = at_rest::content(&kind, &scope, expected, &by.reason);
        let asked = (kind.method(), content.as_str());
        // Before its request is looked for: who is enrolled meanwhile makes no other order of one that was given.
        let all: Vec<_> = self.0.shared.points.all().into_iter().map(|(id, point)| (id, point.city.clone())).collect();
        if let Some(first) = given_before(&self.0.shared, &by, &request_id).await? {
            return self.answer_to(first, asked).await;
        }
        let selected = order::select(&scope, &all);
        let is_expected = order::check_expectation(selected.ids.len(), expected, self.many());
        is_expected.map_err(|unexpected| match self.is_being_taken_up(&by, &request_id) {
            true => refuse(Reason::Unavailable, "an order with this request id is being saved; retry shortly"),
            false => objected(unexpected),
        })?;
        let given = Given { request_id, kind: kind.clone(), scope, content: content.clone() };
        match self.begin(given, selected, &by).await {
            Ok(under_way) => Ok(self.answer_of(&under_way).await),
            Err(CommitRefusal::RepeatedOrder(first)) => self.answer_to(*first, asked).await,
            Err(refusal) => Err(unwritten(refusal)),
        }
    }

    /// Said before, and not on disk yet.
    fn is_being_taken_up(&self, by: &Origin, request_id: &str) -> bool {
        let is_it = |row: &OrderRow| row.operator == *by.actor && row.request_id == request_id;
        self.lock().values().any(|under_way| is_it(&under_way.row))
    }

    /// Writes an order and carries it out, whether or not whoever gave it waits for the answer.
    async fn begin(&self, given: Given, selected: Selected, by: &Origin) -> Result<Arc<UnderWay>, CommitRefusal> {
        let ids: BTreeSet<_> = selected.ids.iter().cloned().collect();
        let progress = OrderProgress::new(fresh_id(), selected);
        let (under_way, overtaken) = self.register(given, progress, by);
        let writes = self.first_writes(&under_way, by);
        let (begun, answer) = oneshot::channel();
        self.spawn(async move |orders| {
            let order_id = under_way.row.order_id.clone();
            let written = orders.0.shared.store.write("order", writes).await;
            if let Err(refusal) = written {
                orders.lock().remove(&order_id);
                // Nobody may be waiting any more.
                let _ = begun.send(Err(refusal));
                return;
            }
            overtaken.iter().for_each(|former| orders.overtake(former, &ids, &order_id));
            let _ = begun.send(Ok(Arc::clone(&under_way)));
            orders.run(&under_way).await;
        });
        answer.await.unwrap_or_else(|_| Err(CommitRefusal::Unavailable("this process is ending".to_owned())))
    }

    /// Before its row is written, so that whoever reads of an order that is not done finds it here. With those under
    /// way that it overtakes.
    fn register(&self, given: Given, progress: OrderProgress, by: &Origin) -> (Arc<UnderWay>, Vec<Arc<UnderWay>>) {
        let mut all = self.lock();
        let same = |former: &&Arc<UnderWay>| former.kind.subject() == given.kind.subject();
        let overtaken: Vec<_> = all.values().filter(same).cloned().collect();
        let row = self.row(&given, &progress, by, &overtaken);
        let by = by.clone().under(row.order_id.as_str());
        let under_way = Arc::new(UnderWay::new(given.kind, row, by, progress));
        all.insert(under_way.row.order_id.clone(), Arc::clone(&under_way));
        (under_way, overtaken)
    }

    fn row(&self, given: &Given, progress: &OrderProgress, by: &Origin, overtaken: &[Arc<UnderWay>]) -> OrderRow {
        let ids = progress.remaining().into_iter().filter(|_| !overtaken.is_empty());
        let body = Body {
            kind: given.kind.clone(),
            scope: given.scope.clone(),
            address: by.address.to_string(),
            reason: by.reason.to_string(),
            content: given.content.clone(),
            overtakes: overtaken.iter().map(|former| former.row.order_id.clone()).collect(),
            ids: ids.cloned().collect(),
        };
        OrderRow {
            order_id: progress.answer().order_id.clone(),
            operator: by.actor.to_string(),
            request_id: given.request_id.clone(),
            method: given.kind.method().to_owned(),
            at_ms: self.0.shared.clock.wall_ms(),
            state: OrderState::Running.into(),
            body: json(&body),
            remaining: json(&progress.remaining()),
            answer: kept(progress.answer()),
        }
    }

    /// The order, that it was given, and which of those it names there are not.
    fn first_writes(&self, under_way: &UnderWay, by: &Origin) -> Vec<RowWrite> {
        let answer = under_way.answer();
        let entry = AuditRecord::new(AuditAction::OrderGiven, format!("order/{}", answer.order_id))
            .with("method", under_way.kind.method())
            .with("matched", answer.matched)
            .by(by, self.0.shared.clock.now());
        let order = [RowWrite::Order(under_way.row.clone()), RowWrite::Audit(rows::audit(&entry))];
        let unknown = answer.failures.iter().filter_map(|failure| {
            let reason = Reason::of_code(&failure.reason_code).unwrap_or_default();
            let outcome = OrderOutcome::Failed(reason, failure.detail.clone());
            self.reached(under_way, &failure.id, &outcome)
        });
        order.into_iter().chain(unknown).collect()
    }

    /// What has not been reached yet stays as it was.
    pub(crate) async fn cancel(&self, order_id: &str, by: &Origin) -> Result<Answer, Status> {
        let Some(under_way) = self.lock().get(order_id).cloned() else { return self.get(order_id).await };
        let (of_it, by) = (Arc::clone(&under_way), by.clone());
        let (cancelled, answer) = oneshot::channel();
        // Whether or not whoever wants it waits for the answer.
        self.spawn(async move |orders| {
            let _ = cancelled.send(orders.cancelled(&of_it, &by).await);
        });
        let ending = |_| Err(CommitRefusal::Unavailable("this process is ending".to_owned()));
        answer.await.unwrap_or_else(ending).map_err(unwritten)?;
        Ok(under_way.answer())
    }

    /// How far an order has come.
    pub(crate) async fn get(&self, order_id: &str) -> Result<Answer, Status> {
        let wanted = order_id.to_owned();
        let read = move |conn: &mut store::Conn| OrderRow::find(conn, &wanted);
        let mut row = self.0.shared.store.read("order", read.clone()).await.map_err(unread)?;
        if row.as_ref().is_some_and(|row| self.has_ended_since(row)) {
            row = self.0.shared.store.read("order", read).await.map_err(unread)?;
        }
        let row = row.filter(|row| order::METHODS.contains(&row.method.as_str()));
        row.map(|row| self.latest(&row)).ok_or_else(|| refuse(Reason::NotFound, format!("no order {order_id}")))
    }

    /// Its row says otherwise, and is to be read again.
    fn has_ended_since(&self, row: &OrderRow) -> bool {
        row.state == i32::from(OrderState::Running) && !self.lock().contains_key(&row.order_id)
    }

    /// Newest first, and the token of the next page.
    pub(crate) async fn list(&self, page: PageRequest) -> Result<(Vec<Answer>, String), Status> {
        let read = move |conn: &mut store::Conn| OrderRow::list(conn, &order::METHODS, &page);
        let mut page = self.0.shared.store.read("orders", read.clone()).await.map_err(unread)?;
        if page.rows.iter().any(|row| self.has_ended_since(row)) {
            page = self.0.shared.store.read("orders", read).await.map_err(unread)?;
        }
        Ok((page.rows.iter().map(|row| self.latest(row)).collect(), page.next))
    }

    /// One under way is further than its row.
    fn latest(&self, row: &OrderRow) -> Answer {
        let under_way = self.lock().get(&row.order_id).cloned();
        under_way.map_or_else(|| answer_of(row), |under_way| under_way.answer())
    }

    /// One charging point, once; the answer is its own.
    pub(crate) async fn one(&self, at: &ChargingPointId, order: PointOrder, by: Origin) -> OrderOutcome {
        let late =
            |_| OrderOutcome::Failed(Reason::Unavailable, "no answer for it in time; it may still be done".to_owned());
        let answered = tokio::time::timeout(self.0.patience, self.ask(at, order, by)).await;
        let nobody = || OrderOutcome::Failed(Reason::Unavailable, "nobody answered for it".to_owned());
        answered.map_or_else(late, |outcome| outcome.unwrap_or_else(nobody))
    }

    /// None: the loop ended without having done it.
    async fn ask(&self, at: &ChargingPointId, order: PointOrder, by: Origin) -> Option<OrderOutcome> {
        let (answer, answered) = oneshot::channel();
        self.0.event_loop.send(Message::Order { at: at.clone(), order, by, answer }).await;
        answered.await.ok()
    }

    /// What is done when its first answer is given is done when a later one is, too.
    async fn answer_to(&self, row: OrderRow, (method, content): (&str, &str)) -> Result<Answer, Status> {
        if row.method != method || !at_rest::is_content(&row, content) {
            return Err(used(&row, method));
        }
        let under_way = self.lock().get(&row.order_id).cloned();
        if let Some(under_way) = under_way {
            return Ok(self.answer_of(&under_way).await);
        }
        // It may have ended since the row was read.
        let id = row.order_id.clone();
        let read = move |conn: &mut store::Conn| OrderRow::find(conn, &id);
        let latest = self.0.shared.store.read("order", read).await.map_err(unread)?;
        Ok(answer_of(&latest.unwrap_or(row)))
    }

    /// Over few charging points, and for a stop, when it is done; where one of them takes long, or this process ends
    /// before, as it is.
    async fn answer_of(&self, under_way: &UnderWay) -> Answer {
        if !under_way.kind.is_staggered(under_way.answer().matched as usize, self.many()) {
            self.0.ctx.stop.clone().run_until_cancelled(self.ended(under_way)).await;
        }
        under_way.answer()
    }

    /// For as long as it gets on.
    async fn ended(&self, under_way: &UnderWay) {
        let mut left = None;
        while left.replace(under_way.answer().left) != Some(under_way.answer().left) {
            if tokio::time::timeout(self.0.patience, under_way.ended()).await.is_ok() {
                return;
            }
        }
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Self) -> F) {
        let work = work(self.clone());
        self.0.ctx.spawn("order", async move {
            work.await;
            Ok(())
        });
    }

    fn many(&self) -> usize {
        self.0.shared.settings.many
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<UnderWay>>> {
        self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    fn new(kind: OrderKind, row: OrderRow, by: Origin, progress: OrderProgress) -> Self {
        let (progress, entries, writing) = (Mutex::new(progress), Mutex::default(), tokio::sync::Mutex::default());
        Self { kind, row, by, progress, entries, writing, done: watch::channel(false).0 }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, OrderProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self) -> Answer {
        let answer = self.lock().answer().clone();
        let state = match (*self.done.borrow(), answer.state()) {
            (_, contract::OrderState::Cancelled) => OrderState::Cancelled,
            (false, _) => OrderState::Running,
            (true, _) => OrderState::Done,
        };
        described(&self.row, state.into(), answer)
    }

    /// Its row, as far as it has come.
    fn at_rest(&self, progress: &OrderProgress, state: OrderState) -> OrderRow {
        let (remaining, answer) = (json(&progress.remaining()), kept(progress.answer()));
        OrderRow { state: state.into(), remaining, answer, ..self.row.clone() }
    }

    fn note(&self, entries: impl IntoIterator<Item = RowWrite>) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).extend(entries);
    }

    /// To be written; they are here no more.
    fn entries(&self) -> Vec<RowWrite> {
        std::mem::take(&mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn ended(&self) {
        // The sender lives as long as this does.
        let mut done = self.done.subscribe();
        let _ended = done.wait_for(|done| *done).await;
    }
}

impl OrderKind {
    /// For one charging point; `material` is for a rotation.
    fn order(&self, material: Arc<LinkKey>) -> PointOrder {
        match self {
            Self::Stop => PointOrder::Stop,
            Self::Resume => PointOrder::Resume,
            Self::Maintenance { on } => PointOrder::Maintenance { on: *on },
            Self::Rotate => PointOrder::Rotate { material },
            Self::Renew => PointOrder::Renew,
            Self::Revoke => PointOrder::Revoke,
            Self::Release => PointOrder::Release,
            Self::SetPrice { price_e4 } => PointOrder::SetPrice(Price::from_e4(*price_e4)),
            Self::SetRatedPower { rated_power_w } => PointOrder::SetRatedPower(*rated_power_w),
            Self::Move { city, place } => {
                PointOrder::Move { city: city.as_str().into(), place: place.as_deref().map(Into::into) }
            }
        }
    }
}

pub(super) fn fresh_id() -> String {
    format!("o-{:024x}", rand::random::<u128>() >> 32)
}

fn objected(Unexpected { matched, expected }: Unexpected) -> Status {
    let text = match expected {
        None => format!("it would reach {matched} charging points: say expected = {matched} if that is meant"),
        Some(expected) => format!("it would reach {matched} charging points and not {expected}"),
    };
    let expected = expected.map_or_else(String::new, |expected| expected.to_string());
    let metadata = [("matched", matched.to_string()), ("expected", expected)];
    with_metadata(&refuse(Reason::ExpectationFailed, text), metadata)
}
