//! An order, as it is listed and as one.

use proto::central::v1::{Order, OrderFailure, OrderState};
use serde::Serialize;

use super::{at, name};
use crate::output::{Columns, escaped};

/// What an order did, or is doing.
#[derive(Debug, Serialize)]
pub(crate) struct OrderView {
    order_id: String,
    state: String,
    method: String,
    operator: String,
    at_ms: i64,
    reason: String,
    request_id: String,
    matched: u32,
    done: u32,
    unchanged: u32,
    failed: u32,
    left: u32,
    cancelled: bool,
    pub(crate) failures: Vec<FailureView>,
}

#[derive(Debug, Serialize)]
pub(crate) struct FailureView {
    id: String,
    reason: String,
    detail: String,
}

impl From<Order> for OrderView {
    fn from(order: Order) -> Self {
        let failure = |f: OrderFailure| FailureView {
            reason: f.reason().code().to_owned(),
            detail: if f.detail.is_empty() { f.reason().in_words().to_owned() } else { f.detail },
            id: f.id,
        };
        Self {
            state: state_name(order.state()),
            order_id: order.order_id,
            method: order.method,
            operator: order.operator,
            at_ms: order.at_ms,
            reason: order.reason,
            request_id: order.request_id,
            matched: order.matched,
            done: order.done,
            unchanged: order.unchanged,
            failed: order.failed,
            left: order.left,
            cancelled: order.cancelled,
            failures: order.failures.into_iter().map(failure).collect(),
        }
    }
}

fn state_name(state: OrderState) -> String {
    name(state.as_str_name(), "ORDER_STATE_")
}

impl OrderView {
    /// For people: what it did, in a sentence or a few.
    pub(crate) fn sentence(&self) -> String {
        let what = if self.method.is_empty() { String::new() } else { format!(" ({}, {})", self.method, self.state) };
        let mut text = format!("order {}{what}: {} matched, {} done", self.order_id, self.matched, self.done);
        if self.unchanged > 0 {
            text += &format!(", {} were so already", self.unchanged);
        }
        if self.failed > 0 {
            text += &format!(", {} failed", self.failed);
        }
        if self.cancelled {
            text += &format!(", {} left as they were by its cancellation", self.left);
        } else if self.left > 0 && self.state == state_name(OrderState::Done) {
            text += &format!(", {} left to a later order", self.left);
        } else if self.left > 0 {
            let id = &self.order_id;
            text += &format!(", {} follow one after another (see: chargemesh orders get {id}", self.left);
            text += &format!("; cancel: chargemesh orders cancel {id})");
        }
        for failure in &self.failures {
            text += &format!("\n  {}: {} {}", failure.id, failure.reason, escaped(&failure.detail));
        }
        if !self.request_id.is_empty() {
            text += &format!("\n  request id {}", escaped(&self.request_id));
        }
        text
    }
}

impl Columns for OrderView {
    const HEADERS: &'static [&'static str] =
        &["id", "given", "by", "order", "state", "matched", "done", "unchanged", "failed", "left", "why", "request id"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.order_id.clone(),
            at(self.at_ms),
            escaped(&self.operator),
            self.method.clone(),
            self.state.clone(),
            self.matched.to_string(),
            self.done.to_string(),
            self.unchanged.to_string(),
            self.failed.to_string(),
            self.left.to_string(),
            escaped(&self.reason),
            escaped(&self.request_id),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_under_way_says_how_many_are_done_failed_and_left_spec_7_3() {
        let mut order = Order {
            order_id: "o-1".into(),
            method: "Rotate".into(),
            request_id: "r1".into(),
            matched: 100,
            done: 30,
            unchanged: 5,
            failed: 2,
            left: 63,
            ..Order::default()
        };
        order.set_state(OrderState::Running);
        let said = OrderView::from(order.clone()).sentence();
        for part in
            ["o-1 (Rotate, running)", "30 done", "5 were so", "2 failed", "63 follow", "get o-1", "request id r1"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        order.set_state(OrderState::Done);
        assert!(OrderView::from(order.clone()).sentence().contains("63 left to a later order"));
        order.set_state(OrderState::Cancelled);
        let said = OrderView::from(Order { cancelled: true, ..order }).sentence();
        assert!(said.contains("63 left as they were"), "{said}");
    }
}
