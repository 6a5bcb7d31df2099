//! Operators' orders (SPEC 7.3): given once per request id, carried out charging point by charging point, continued
//! after a restart, cancellable.
//!
//! An order is a row with an item for each of its charging points. An item is settled by whatever comes first on disk:
//! the charging point's own turn, a later order with the same subject, or a cancellation. So nothing is remembered here
//! about an order: how far it has come is counted from its items, and its task only asks the charging points of
//! pending items, until there are none.

mod runner;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh::{clock::Now, field_checks::with_metadata, process::Context, status::refuse};
use prost::Message as _;
use proto::{
    ChargingPointId,
    central::v1::{Order as Answer, OrderFailure, OrderState, order::Ordered},
    link::v1::Reason,
    timestamp,
};
use store::{
    OnceRow, StoreError,
    central::{CommitRefusal, ItemOutcome, OrderCounts, OrderItemRow, OrderRow, PageRequest, RowWrite},
};
use tokio::sync::{oneshot, watch};
use tonic::Status;

use self::runner::OrderTask;
use super::{once::OnceCall, refused, selection, unread, unwritten};
use crate::{
    audit::{AuditAction, AuditRecord},
    charge_point::{OrderOutcome, PointOrder},
    event_loop::{LoopHandle, Message},
    order::{self, Scope, Selected, Unexpected},
    origin::Origin,
    rows,
    shared::SharedState,
};

/// How long an order may make no progress before its caller is answered all the same.
const PATIENCE: Duration = Duration::from_secs(10);
/// Failures that an answer lists.
const FAILURES: i64 = 1_000;

/// A clone is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Orders(Arc<OrderService>);

#[derive(Debug)]
struct OrderService {
    shared: Arc<SharedState>,
    event_loop: LoopHandle,
    ctx: Context,
    /// Charging points that a staggered order reaches per second.
    stagger: usize,
    patience: Duration,
    /// The orders whose task runs: an item is on disk a moment before its charging point shows what was done.
    tasks: Mutex<BTreeSet<String>>,
    /// Changes whenever items may have been settled, or a task has ended.
    settled: watch::Sender<()>,
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
        let (ctx, tasks, settled) = (ctx.clone(), Mutex::default(), watch::channel(()).0);
        Self(Arc::new(OrderService { shared, event_loop, ctx, stagger: stagger.max(1), patience, tasks, settled }))
    }

    /// Continues the orders that a former process left with pending items.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(crate) async fn resume(&self) -> Result<(), StoreError> {
        for row in self.0.shared.store.read("orders", OrderRow::unfinished).await? {
            self.spawn(async move |orders| OrderTask::new(orders, row).run().await);
        }
        Ok(())
    }

    /// Gives an order, or answers the one that was given under its request id. The answer comes when the order is
    /// done, except for a staggered order and for one that makes no progress. A refusal is audited (SPEC 8.1).
    pub(crate) async fn give(
        &self,
        request_id: String,
        scope: Scope,
        expected: Option<u32>,
        ordered: Ordered,
        by: Origin,
    ) -> Result<Answer, Status> {
        let (method, object, who) = (order::method(&ordered), order::object(&scope), by.clone());
        match self.accept(request_id, scope, expected, ordered, by).await {
            Ok(given) => Ok(given),
            Err(status) => Err(refused(&self.0.shared, &who, method, &object, status).await),
        }
    }

    async fn accept(
        &self,
        request_id: String,
        scope: Scope,
        expected: Option<u32>,
        ordered: Ordered,
        by: Origin,
    ) -> Result<Answer, Status> {
        let given = Answer {
            ordered: Some(ordered.clone()),
            selector: Some(selection::selector(&scope)),
            reason: by.reason.to_string(),
            ..Answer::default()
        };
        let content = [given.encode_to_vec(), expected.map(u32::to_be_bytes).map(Vec::from).unwrap_or_default()];
        let call = OnceCall::new(&by.actor, &request_id, order::method(&ordered), content);
        // Read before the request id is looked up: a charging point that is enrolled meanwhile must not make another
        // order of one that was given.
        let all: Vec<_> = self.0.shared.points.all().into_iter().map(|(id, point)| (id, point.city.clone())).collect();
        if let Some(first) = call.first_answer(&self.0.shared).await? {
            return self.given_before(&first).await;
        }
        let selected = order::select(&scope, &all);
        if let Err(unexpected) = order::check_expectation(selected.ids.len(), expected, self.many()) {
            // The first order may be on its way to the disk, and an empty turn returns after it.
            self.0.shared.store.write("order", Vec::new()).await.map_err(unwritten)?;
            return match call.first_answer(&self.0.shared).await? {
                Some(first) => self.given_before(&first).await,
                None => Err(objected(unexpected)),
            };
        }
        let is_staggered = order::is_staggered(&ordered, selected.ids.len(), self.many());
        match self.begin(&call, given, &selected, &by).await {
            Ok(order_id) => self.answer(&order_id, is_staggered).await,
            Err(CommitRefusal::Repeated(first)) => self.given_before(&first).await,
            Err(refusal) => Err(unwritten(refusal)),
        }
    }

    /// Writes the order and starts its task, even if the caller stops waiting. Returns the order's id.
    async fn begin(
        &self,
        call: &OnceCall,
        given: Answer,
        selected: &Selected,
        by: &Origin,
    ) -> Result<String, CommitRefusal> {
        let order_id = fresh_id();
        let at_ms = self.0.shared.clock.wall_ms();
        let row = OrderRow {
            order_id: order_id.clone(),
            operator: by.actor.to_string(),
            address: by.address.to_string(),
            request_id: call.request_id().to_owned(),
            content: hex::encode(given.encode_to_vec()),
            at_ms,
        };
        let once = call.row(order_id.as_bytes(), at_ms);
        let writes = self.first_writes(once, &row, &given, selected, by);
        let (written, answer) = oneshot::channel();
        self.spawn(async move |orders| {
            let result = orders.0.shared.store.write("order", writes).await.map(drop);
            let is_given = result.is_ok();
            // The caller may have gone.
            let _ = written.send(result);
            if is_given {
                orders.notify();
                OrderTask::new(orders, row).run().await;
            }
        });
        let ending = |_| Err(CommitRefusal::Unavailable("this process is ending".to_owned()));
        answer.await.unwrap_or_else(ending).map(|()| order_id)
    }

    /// The order with its items, and the audit entries about it, about the orders that it overtakes, and about each id
    /// that no charging point has.
    fn first_writes(
        &self,
        once: OnceRow,
        row: &OrderRow,
        given: &Answer,
        selected: &Selected,
        by: &Origin,
    ) -> Vec<RowWrite> {
        let now = self.0.shared.clock.now();
        let Some(ordered) = &given.ordered else { return Vec::new() };
        let by = by.clone().under(row.order_id.as_str(), order::method(ordered));
        let entry = AuditRecord::new(AuditAction::OrderGiven, format!("order/{}", row.order_id))
            .with("method", by.method)
            .with("matched", selected.ids.len())
            .by(&by, now);
        let overtaken = AuditRecord::new(AuditAction::OrderOvertaken, "").with("method", by.method).by(&by, now);
        let item = |cp_id: String, subject: &str, outcome: ItemOutcome, reason: Reason| OrderItemRow {
            order_id: row.order_id.clone(),
            cp_id,
            subject: subject.to_owned(),
            outcome: outcome.into(),
            reason: reason.into(),
            detail: String::new(),
        };
        let subject = order::subject(ordered);
        let pending =
            selected.ids.iter().map(|id| item(id.to_string(), subject, ItemOutcome::Pending, Reason::Unspecified));
        let unknown = selected.unknown.iter();
        let unknown = unknown.map(|id| item(id.clone(), "", ItemOutcome::Failed, Reason::UnknownChargingPoint));
        let order = RowWrite::Order {
            order: row.clone(),
            items: pending.chain(unknown).collect(),
            overtaken: rows::audit(&overtaken),
        };
        let refusals = selected.unknown.iter().map(|id| unknown_id(id, &by, now));
        [RowWrite::Once(once), RowWrite::Audit(rows::audit(&entry)), order].into_iter().chain(refusals).collect()
    }

    /// Charging points that the order has not reached stay as they were.
    pub(crate) async fn cancel(&self, order_id: &str, by: &Origin) -> Result<Answer, Status> {
        let entry = AuditRecord::new(AuditAction::OrderCancelled, format!("order/{order_id}"));
        let entry = rows::audit(&entry.by(by, self.0.shared.clock.now()));
        let writes = vec![RowWrite::CancelOrder(order_id.to_owned()), RowWrite::Audit(entry)];
        match self.0.shared.store.write("cancel", writes).await {
            // An order that has ended is answered as it is.
            Ok(_) | Err(CommitRefusal::OrderItemSettled) => {}
            Err(refusal) => return Err(unwritten(refusal)),
        }
        self.notify();
        self.get(order_id).await
    }

    /// How far an order has come.
    pub(crate) async fn get(&self, order_id: &str) -> Result<Answer, Status> {
        let wanted = order_id.to_owned();
        let read =
            move |conn: &mut store::Conn| OrderRow::find(conn, &wanted)?.map(|row| described(conn, row)).transpose();
        let found = self.0.shared.store.read("order", read).await.map_err(unread)?;
        found.ok_or_else(|| refuse(Reason::NotFound, format!("no order {order_id}")))
    }

    /// Newest first, and the token of the next page.
    pub(crate) async fn list(&self, page: PageRequest) -> Result<(Vec<Answer>, String), Status> {
        let read = move |conn: &mut store::Conn| {
            let page = OrderRow::list(conn, &page)?;
            let orders = page.rows.into_iter().map(|row| described(conn, row)).collect::<Result<_, _>>()?;
            Ok((orders, page.next))
        };
        self.0.shared.store.read("orders", read).await.map_err(unread)
    }

    /// Gives an order to one charging point without a row; the answer is the charging point's.
    pub(crate) async fn one(&self, at: &ChargingPointId, order: PointOrder, by: Origin) -> OrderOutcome {
        let late =
            |_| OrderOutcome::Failed(Reason::Unavailable, "no answer for it in time; it may still be done".to_owned());
        let answered = tokio::time::timeout(self.0.patience, self.ask(at, order, by)).await;
        let nobody = || OrderOutcome::Failed(Reason::Unavailable, "nobody answered for it".to_owned());
        answered.map_or_else(late, |outcome| outcome.unwrap_or_else(nobody))
    }

    /// `None`: the event loop ended without having done it.
    async fn ask(&self, at: &ChargingPointId, order: PointOrder, by: Origin) -> Option<OrderOutcome> {
        let (answer, answered) = oneshot::channel();
        self.0.event_loop.send(Message::Order { at: at.clone(), order, by, answer }).await;
        answered.await.ok()
    }

    async fn given_before(&self, first: &OnceRow) -> Result<Answer, Status> {
        let order_id = hex::decode(&first.answer).ok().and_then(|id| String::from_utf8(id).ok()).unwrap_or_default();
        let given = self.get(&order_id).await?;
        let ordered = given.ordered.as_ref();
        let is_staggered = ordered.is_some_and(|ordered| {
            order::is_staggered(ordered, usize::try_from(given.matched).unwrap_or(usize::MAX), self.many())
        });
        self.answer(&order_id, is_staggered).await
    }

    /// The order when it is done; a staggered one, and one that makes no progress, as far as it has come.
    async fn answer(&self, order_id: &str, is_staggered: bool) -> Result<Answer, Status> {
        if !is_staggered {
            let ended = self.0.ctx.stop.clone().run_until_cancelled_owned(self.ended(order_id)).await;
            ended.unwrap_or(Ok(())).map_err(unread)?;
        }
        self.get(order_id).await
    }

    /// Waits for as long as the order makes progress.
    async fn ended(&self, order_id: &str) -> Result<(), StoreError> {
        let mut settled = self.0.settled.subscribe();
        let mut left = self.left(order_id).await?;
        while left > 0 {
            let fewer = async {
                loop {
                    // The sender lives as long as this does.
                    let _changed = settled.changed().await;
                    let now = self.left(order_id).await?;
                    if now < left {
                        return Ok::<_, StoreError>(now);
                    }
                }
            };
            match tokio::time::timeout(self.0.patience, fewer).await {
                Ok(fewer) => left = fewer?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// The pending items, and one more while the order's task runs.
    async fn left(&self, order_id: &str) -> Result<i64, StoreError> {
        let wanted = order_id.to_owned();
        let count = move |conn: &mut store::Conn| OrderItemRow::count_pending(conn, &wanted);
        let pending = self.0.shared.store.read("order items", count).await?;
        Ok(pending + i64::from(self.tasks().contains(order_id)))
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.0.settled.send_replace(());
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
}

/// The order as its row and its items say.
fn described(conn: &mut store::Conn, row: OrderRow) -> Result<Answer, StoreError> {
    let counts = OrderCounts::of(conn, &row.order_id)?;
    let failed = if counts.failed == 0 { Vec::new() } else { OrderItemRow::failed(conn, &row.order_id, FAILURES)? };
    let failure = |item: OrderItemRow| {
        let reason_code = Reason::try_from(item.reason).unwrap_or_default().public_code();
        OrderFailure { id: item.cp_id, reason_code, detail: item.detail }
    };
    let state = match counts {
        OrderCounts { pending: 1.., .. } => OrderState::Running,
        OrderCounts { cancelled: 1.., .. } => OrderState::Cancelled,
        _ => OrderState::Done,
    };
    let count = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(Answer {
        state: state.into(),
        matched: count(counts.matched()),
        done: count(counts.done),
        unchanged: count(counts.unchanged),
        failed: count(counts.failed),
        left: count(counts.left()),
        failures: failed.into_iter().map(failure).collect(),
        create_time: timestamp(row.at_ms),
        ..given(&row)
    })
}

/// What was ordered, of whom, by whom and why.
fn given(row: &OrderRow) -> Answer {
    let given = hex::decode(&row.content).ok().and_then(|bytes| Answer::decode(bytes.as_slice()).ok());
    Answer {
        order_id: row.order_id.clone(),
        operator: row.operator.clone(),
        request_id: row.request_id.clone(),
        ..given.unwrap_or_default()
    }
}

/// The refusal of an order at an id that no charging point has.
fn unknown_id(id: &str, by: &Origin, now: Now) -> RowWrite {
    let entry = AuditRecord::new(AuditAction::OrderRefused, format!("charging-point/{id}")).with("method", by.method);
    RowWrite::Audit(rows::audit(&entry.outcome(Reason::UnknownChargingPoint, "").by(by, now)))
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
