//! The task of an order: it asks the charging points of pending items, so many per second, until no item is pending.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use proto::{ChargingPointId, central::v1::order::Ordered, link::v1::Reason};
use store::{
    StoreError,
    central::{CommitRefusal, ItemOutcome, OrderItemRow, OrderRow, RowWrite},
};
use tokio::time::Instant;

use super::{Orders, given, unknown_id};
use crate::{charge_point::OrderOutcome, order, origin::Origin, secrets};

/// Between two portions, and between two attempts to read.
const PACE: Duration = Duration::from_secs(1);

/// The task of one order.
pub(super) struct OrderTask {
    orders: Orders,
    row: OrderRow,
}

impl OrderTask {
    pub(super) fn new(orders: Orders, row: OrderRow) -> Self {
        Self { orders, row }
    }

    /// Runs until no item is pending, or until this process stops. An item that is still pending after its charging
    /// point answered, because its turn could not be written, is asked for again.
    pub(super) async fn run(self) {
        self.orders.tasks().insert(self.row.order_id.clone());
        self.ask_pending().await;
        self.orders.tasks().remove(&self.row.order_id);
        self.orders.notify();
    }

    async fn ask_pending(&self) {
        let row = &self.row;
        let given = given(row);
        let Some(ordered) = given.ordered else {
            return tracing::error!(order.id = row.order_id, "an order is not readable and is not continued");
        };
        let by = Origin::new(row.operator.as_str(), row.address.as_str()).because(given.reason.as_str());
        let by = by.under(row.order_id.as_str(), order::method(&ordered));
        let (mut asked, mut in_flight, mut unknown) = (FuturesUnordered::new(), BTreeSet::new(), Vec::new());
        let (mut size, mut next_portion) = (None, Instant::now());
        while let Some(pending) = self.still_pending().await {
            self.unless_stopped(tokio::time::sleep_until(next_portion)).await;
            if self.is_stopping() {
                return;
            }
            next_portion = Instant::now() + PACE;
            let is_staggered = order::is_staggered(&ordered, pending.len(), self.orders.many());
            let size = *size.get_or_insert(if is_staggered { self.orders.0.stagger } else { usize::MAX });
            let portion: Vec<_> = pending.into_iter().filter(|id| !in_flight.contains(id)).take(size).collect();
            in_flight.extend(portion.iter().cloned());
            asked.extend(portion.into_iter().map(|id| self.reach(id, &ordered, &by)));
            let collected = async {
                while let Some((id, outcome)) = asked.next().await {
                    in_flight.remove(&id);
                    self.orders.notify();
                    if matches!(outcome, Some(OrderOutcome::Failed(Reason::UnknownChargingPoint, _))) {
                        unknown.push(id);
                    }
                }
            };
            let _late = self.unless_stopped(tokio::time::timeout_at(next_portion, collected)).await;
            for id in unknown.drain(..) {
                self.settle_unknown(&id, &by).await;
            }
        }
        // The last items are settled; their charging points show it before they answer.
        let last = async { while asked.next().await.is_some() {} };
        let _late = self.unless_stopped(tokio::time::timeout(PACE, last)).await;
    }

    /// The charging points of the pending items; `None` if there are none, or if this process stops.
    async fn still_pending(&self) -> Option<Vec<ChargingPointId>> {
        let order_id = self.row.order_id.as_str();
        while !self.is_stopping() {
            match self.pending().await {
                Ok(pending) => {
                    let ids: Vec<_> = pending.iter().filter_map(|id| id.parse().ok()).collect();
                    return (!ids.is_empty()).then_some(ids);
                }
                Err(error) => tracing::warn!(order.id = order_id, %error, "an order waits for the database"),
            }
            self.unless_stopped(tokio::time::sleep(PACE)).await;
        }
        None
    }

    async fn pending(&self) -> Result<Vec<String>, StoreError> {
        let order_id = self.row.order_id.clone();
        self.orders.0.shared.store.read("order items", move |conn| OrderItemRow::pending(conn, &order_id)).await
    }

    async fn reach(
        &self,
        id: ChargingPointId,
        ordered: &Ordered,
        by: &Origin,
    ) -> (ChargingPointId, Option<OrderOutcome>) {
        let material = secrets::fresh_link_key();
        let outcome = self.orders.ask(&id, order::for_point(ordered, material), by.clone()).await;
        (id, outcome)
    }

    /// A charging point that was removed meanwhile has no turn in which it could settle its item.
    async fn settle_unknown(&self, id: &ChargingPointId, by: &Origin) {
        let item = OrderItemRow {
            order_id: self.row.order_id.clone(),
            cp_id: id.to_string(),
            outcome: ItemOutcome::Failed.into(),
            reason: Reason::UnknownChargingPoint.into(),
            ..OrderItemRow::default()
        };
        let writes = vec![RowWrite::OrderItem(item), unknown_id(id.as_str(), by, self.orders.0.shared.clock.now())];
        match self.orders.0.shared.store.write("order item", writes).await {
            Ok(_) | Err(CommitRefusal::OrderItemSettled) => self.orders.notify(),
            // It is still pending, so it is asked for again.
            Err(refusal) => {
                tracing::warn!(order.id = self.row.order_id, error = %refusal, "an order waits for the database")
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.orders.0.ctx.stop.is_cancelled()
    }

    async fn unless_stopped<F: Future>(&self, work: F) -> Option<F::Output> {
        self.orders.0.ctx.stop.run_until_cancelled(work).await
    }
}
