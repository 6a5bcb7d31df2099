//! The clocks of a charging point's parts (SPEC 3.8a, 10.8): shown where they are wrong, and put right in what is shown of
//! a supply. No bill depends on them.

use super::{ChargePoint, PartLink, observe::Reaction};
use crate::{origin::LinkNo, session::Final};

/// Less is the way of a message.
const SHOWN_FROM_MS: u64 = 1_000;

impl ChargePoint {
    pub(super) fn clock_told(&mut self, link: LinkNo, ahead_ms: i64, reaction: &mut Reaction) {
        let ahead_ms = if ahead_ms.unsigned_abs() < SHOWN_FROM_MS { 0 } else { ahead_ms };
        let parts = [&mut self.live.engine, &mut self.live.monitor].into_iter().flatten();
        match parts.into_iter().find(|part| part.link == link) {
            Some(part) if part.ahead_ms != ahead_ms => part.ahead_ms = ahead_ms,
            Some(_) | None => reaction.again = true,
        }
    }

    /// Of the part that is more wrong.
    pub(super) fn clock_skew_ms(&self) -> i64 {
        let parts = [&self.live.engine, &self.live.monitor].into_iter().flatten();
        parts.map(|part| part.ahead_ms).max_by_key(|ahead_ms| ahead_ms.unsigned_abs()).unwrap_or_default()
    }

    /// A time of its engine's as Central's clock would have said it.
    pub(super) fn engine_time(&self, at_ms: i64) -> i64 {
        at_ms.saturating_sub(self.live.engine.as_ref().map_or(0, |engine: &PartLink| engine.ahead_ms))
    }

    pub(super) fn in_central_time(&self, last: &Final) -> Final {
        let [started_at, ended_at] = [last.started_at, last.ended_at].map(|at_ms| self.engine_time(at_ms));
        Final { started_at, ended_at, ..last.clone() }
    }
}
