//! The course of an order: portion after portion, each outcome written soon after it is known, until all is.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use proto::ChargingPointId;
use store::central::{CommitRefusal, OrderState, RowWrite};

use super::{Orders, UnderWay};
use crate::{
    audit::{AuditAction, AuditRecord},
    charge_point::OrderOutcome,
    origin::Origin,
    rows, secrets,
};

/// Outcomes that come within it go to the disk together.
const MOMENT: Duration = Duration::from_millis(50);
/// Between two portions.
const PACE: Duration = Duration::from_secs(1);
/// Between two tries to write.
const RETRY: Duration = Duration::from_secs(1);

impl Orders {
    /// To its end, or to that of the process: then with what was asked before, so that none is asked twice.
    pub(super) async fn run(&self, under_way: &UnderWay) {
        let matched = under_way.lock().answer().matched as usize;
        let staggered = under_way.kind.is_staggered(matched, self.many());
        let size = if staggered { self.0.stagger } else { usize::MAX };
        let mut asked = FuturesUnordered::new();
        loop {
            let portion = if self.is_stopping() { Vec::new() } else { under_way.lock().portion(size) };
            if portion.is_empty() && asked.is_empty() {
                break;
            }
            asked.extend(portion.into_iter().map(|id| self.reach(under_way, id)));
            self.collect(under_way, &mut asked).await;
            if !under_way.lock().remaining().is_empty() {
                self.pause(PACE).await;
            }
        }
        let is_end = under_way.lock().is_over();
        self.keep(under_way, is_end).await;
        self.lock().remove(&under_way.row.order_id);
    }

    fn is_stopping(&self) -> bool {
        self.0.ctx.stop.is_cancelled()
    }

    /// Not beyond the stop of this process.
    async fn pause(&self, length: Duration) {
        self.0.ctx.stop.clone().run_until_cancelled(tokio::time::sleep(length)).await;
    }

    /// Without an outcome where the loop ended before it took it up: the next process does.
    async fn reach(&self, under_way: &UnderWay, id: ChargingPointId) -> (ChargingPointId, Option<OrderOutcome>) {
        let outcome = self.ask(&id, under_way.kind.order(secrets::fresh_link_key()), under_way.by.clone()).await;
        (id, outcome)
    }

    /// Until all have answered. What takes long is not given up, for it may be done, and holds up nobody else.
    async fn collect<F>(&self, under_way: &UnderWay, asked: &mut FuturesUnordered<F>)
    where
        F: Future<Output = (ChargingPointId, Option<OrderOutcome>)>,
    {
        let patience = tokio::time::Instant::now() + self.0.patience;
        while let Ok(Some(first)) = tokio::time::timeout_at(patience, asked.next()).await {
            self.outcome(under_way, first);
            let moment = tokio::time::Instant::now() + MOMENT;
            while let Ok(Some(next)) = tokio::time::timeout_at(moment, asked.next()).await {
                self.outcome(under_way, next);
            }
            // The last ones are written with its end.
            if !under_way.lock().remaining().is_empty() {
                self.keep(under_way, false).await;
            }
        }
    }

    fn outcome(&self, under_way: &UnderWay, (id, outcome): (ChargingPointId, Option<OrderOutcome>)) {
        let Some(outcome) = outcome else { return };
        let entry = self.reached(under_way, id.as_str(), &outcome);
        under_way.note(entry);
        under_way.lock().reached(&id, &outcome);
    }

    /// An order that changed nothing at a charging point: that too concerns it (SPEC 8.3). What it changed is an entry
    /// of the charging point's own.
    pub(super) fn reached(&self, under_way: &UnderWay, id: &str, outcome: &OrderOutcome) -> Option<RowWrite> {
        let entry = |action| concerning(under_way, id, action);
        let entry = match outcome {
            OrderOutcome::Done => return None,
            OrderOutcome::Unchanged => entry(AuditAction::OrderUnchanged),
            OrderOutcome::Failed(reason, detail) => entry(AuditAction::OrderRefused).outcome(*reason, detail),
        };
        Some(RowWrite::Audit(rows::audit(&entry.by(&under_way.by, self.0.shared.clock.now()))))
    }

    /// Leaves to a later order what that is about.
    pub(super) fn overtake(&self, under_way: &UnderWay, ids: &BTreeSet<ChargingPointId>, later: &str) {
        let now = self.0.shared.clock.now();
        let left = under_way.lock().overtaken(ids);
        under_way.note(left.iter().map(|id| {
            let entry = concerning(under_way, id.as_str(), AuditAction::OrderUnchanged).with("overtaken_by", later);
            RowWrite::Audit(rows::audit(&entry.by(&under_way.by, now)))
        }));
    }

    /// On disk before anybody is told, and before what is left is left.
    pub(super) async fn cancelled(&self, under_way: &UnderWay, by: &Origin) -> Result<(), CommitRefusal> {
        let _writing = under_way.writing.lock().await;
        let row = {
            let mut progress = under_way.lock().clone();
            if *under_way.done.borrow() || !progress.is_cancellable() {
                return Ok(());
            }
            progress.cancel();
            under_way.at_rest(&progress, OrderState::Running)
        };
        let entry = AuditRecord::new(AuditAction::OrderCancelled, format!("order/{}", row.order_id));
        let entry = rows::audit(&entry.by(by, self.0.shared.clock.now()));
        self.0.shared.store.write("cancel", vec![RowWrite::UpdateOrder(row), RowWrite::Audit(entry)]).await?;
        under_way.lock().cancel();
        Ok(())
    }

    /// Until it is written, unless that never helps or this process ends: a restart is to reach nobody again who has
    /// been reached.
    async fn keep(&self, under_way: &UnderWay, is_end: bool) {
        while let Err(refusal) = self.write(under_way, is_end).await {
            tracing::warn!(order.id = under_way.row.order_id, error = %refusal, "an order's progress is not kept yet");
            if !matches!(refusal, CommitRefusal::Unavailable(_)) {
                under_way.done.send_replace(is_end);
                return;
            }
            if self.is_stopping() {
                return;
            }
            self.pause(RETRY).await;
        }
    }

    async fn write(&self, under_way: &UnderWay, is_end: bool) -> Result<(), CommitRefusal> {
        let _writing = under_way.writing.lock().await;
        let row = {
            let progress = under_way.lock();
            let state = match (is_end, progress.is_cancelled()) {
                (false, _) => OrderState::Running,
                (true, true) => OrderState::Cancelled,
                (true, false) => OrderState::Done,
            };
            under_way.at_rest(&progress, state)
        };
        let entries = under_way.entries();
        let writes = std::iter::once(RowWrite::UpdateOrder(row)).chain(entries.iter().cloned()).collect();
        if let Err(refusal) = self.0.shared.store.write("order", writes).await {
            under_way.note(entries);
            return Err(refusal);
        }
        under_way.done.send_replace(is_end);
        Ok(())
    }
}

fn concerning(under_way: &UnderWay, id: &str, action: AuditAction) -> AuditRecord {
    AuditRecord::new(action, format!("charging-point/{id}")).with("method", under_way.kind.method())
}
