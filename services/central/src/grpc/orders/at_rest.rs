//! Orders as their rows have them: what was ordered, how far it has come, what is answered to it.

use std::collections::BTreeSet;

use proto::{
    ChargingPointId,
    central::v1::{self as contract, Order as Answer, OrderFailure},
    timestamp,
};
use serde::{Deserialize, Serialize};
use store::{
    Conn, StoreError,
    central::{OrderRow, OrderState},
};

use crate::{
    grpc::{digest, ordered},
    order::{OrderKind, Scope},
};

/// What an answer looks like at rest.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    matched: u32,
    done: u32,
    unchanged: u32,
    cancelled: bool,
    failures: Vec<(String, String, String)>,
    #[serde(default)]
    failed: u32,
    #[serde(default)]
    left: u32,
}

/// What was ordered, at rest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Body {
    pub(super) kind: OrderKind,
    pub(super) scope: Scope,
    pub(super) address: String,
    /// Why, as the operator said it.
    #[serde(default)]
    pub(super) reason: String,
    /// Tells it from another use of its request id; empty in rows of former versions.
    #[serde(default)]
    pub(super) content: String,
    /// Orders of its subject that were under way when it was given: they leave `ids` to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) overtakes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ids: Vec<ChargingPointId>,
}

/// A later order, and the charging points that it was about.
pub(super) type Later = (String, BTreeSet<ChargingPointId>);

/// Those that had not ended, oldest first, each with what overtook it.
pub(super) fn running(conn: &mut Conn) -> Result<Vec<(OrderRow, Vec<Later>)>, StoreError> {
    let mut found = Vec::new();
    for row in OrderRow::running(conn)? {
        let later = OrderRow::naming(conn, &row.order_id)?;
        let later = later.into_iter().filter_map(|later| {
            let body: Body = serde_json::from_str(&later.body).ok().filter(|_| later.order_id != row.order_id)?;
            body.overtakes.contains(&row.order_id).then(|| (later.order_id, body.ids.into_iter().collect()))
        });
        let later = later.collect();
        found.push((row, later));
    }
    Ok(found)
}

/// What was ordered, and what it has not reached; nothing where it cannot be read.
pub(super) fn begun(row: &OrderRow) -> Option<(Body, Vec<ChargingPointId>)> {
    Some((serde_json::from_str(&row.body).ok()?, serde_json::from_str(&row.remaining).ok()?))
}

/// Of what was asked for, as it was asked.
pub(super) fn content(kind: &OrderKind, scope: &Scope, expected: Option<u32>, reason: &str) -> String {
    digest([json(kind), json(scope), json(&expected), reason.to_owned()].map(String::into_bytes))
}

/// Whether an order was given by these words; of one from a former version nobody knows.
pub(super) fn is_content(row: &OrderRow, content: &str) -> bool {
    let first = serde_json::from_str::<Body>(&row.body).map(|body| body.content).unwrap_or_default();
    first.is_empty() || first == content
}

pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn kept(answer: &Answer) -> String {
    let failures = answer.failures.iter().map(|f| (f.id.clone(), f.reason_code.clone(), f.detail.clone())).collect();
    let cancelled = answer.state() == contract::OrderState::Cancelled;
    let Answer { matched, done, unchanged, failed, left, .. } = *answer;
    json(&Kept { matched, done, unchanged, cancelled, failures, failed, left })
}

pub(super) fn answer_of(row: &OrderRow) -> Answer {
    let kept: Kept = serde_json::from_str(&row.answer).unwrap_or_default();
    let failure = |(id, reason_code, detail)| OrderFailure { id, reason_code, detail };
    let cancelled = kept.cancelled || row.state == i32::from(OrderState::Cancelled);
    let answer = Answer {
        matched: kept.matched,
        done: kept.done,
        unchanged: kept.unchanged,
        failures: kept.failures.into_iter().map(failure).collect(),
        failed: kept.failed,
        left: kept.left,
        ..Answer::default()
    };
    described(row, if cancelled { OrderState::Cancelled.into() } else { row.state }, answer)
}

/// With what was ordered, of whom, by whom and why. The states of rows are those of the contract.
pub(super) fn described(row: &OrderRow, state: i32, answer: Answer) -> Answer {
    let body: Option<Body> = serde_json::from_str(&row.body).ok();
    let (ordered, selector, reason) = body.map_or_else(Default::default, |body| {
        (Some(ordered::ordered(body.kind)), Some(ordered::selector(&body.scope)), body.reason)
    });
    Answer {
        order_id: row.order_id.clone(),
        state,
        ordered,
        selector,
        operator: row.operator.clone(),
        request_id: row.request_id.clone(),
        create_time: timestamp(row.at_ms),
        reason,
        ..answer
    }
}
