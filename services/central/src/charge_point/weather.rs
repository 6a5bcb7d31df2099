//! Frost in the city of a charging point (SPEC 3.5, 6): a cause of its own, beside the operator's stop. What Weather has
//! reported takes effect at once; that it blocks is durable, so that it outlasts a restart of Central while Weather is
//! away.

use proto::link::v1::Reason;

use super::{ChargePoint, decision::DecisionBuilder};
use crate::{audit::AuditAction, session::Session};

impl ChargePoint {
    /// Blocked by frost: from the report on, and until the end of it is durable.
    pub(super) fn is_frozen(&self) -> bool {
        self.record.weather_blocked || self.live.weather.as_ref().is_some_and(|weather| weather.blocks)
    }

    /// A running supply may go on to its end.
    pub(super) fn frost_waits(&self) -> bool {
        self.live.weather.as_ref().is_none_or(|weather| !weather.stops_supplies)
    }

    /// What is to be durable is not yet, or a supply is to be stopped.
    pub(super) fn awaits_weather(&self) -> bool {
        let Some(weather) = &self.live.weather else { return false };
        let ends = |open: &Session| open.reason == Reason::Unspecified && weather.ends(open);
        weather.blocks != self.record.weather_blocked || self.record.open.as_ref().is_some_and(ends)
    }

    /// One sentence for people.
    pub(super) fn frost_in_words(&self) -> String {
        let temperature = self.live.weather.as_ref().map(|weather| &weather.temperature);
        match temperature.filter(|temperature| !temperature.is_empty()) {
            Some(temperature) => format!("frost in {}: {temperature}", self.record.city),
            None => format!("frost in {}", self.record.city),
        }
    }
}

impl DecisionBuilder<'_> {
    /// Frost that began or ended; may be repeated.
    pub(super) fn apply_weather(&mut self) {
        let Some(weather) = self.point.live.weather.clone() else { return };
        if weather.blocks != self.point.record.weather_blocked {
            self.decision.next.weather_blocked = weather.blocks;
            self.change_point();
            let action = if weather.blocks { AuditAction::WeatherBlocked } else { AuditAction::WeatherUnblocked };
            let entry = self.entry(action).with("city", &weather.city).with("temperature", &weather.temperature);
            self.audit_by_central(entry);
        }
        if weather.blocks
            && let Some(ask) = self.decision.pending.ask.clone()
        {
            self.refuse(&ask.request, Reason::OutOfOrder, &self.point.frost_in_words());
        }
        // What this turn has ended already is not ended again.
        let untouched = |open: &Session| open.reason == Reason::Unspecified;
        let open = self.point.running().filter(|_| self.decision.next.open.as_ref().is_some_and(untouched));
        if let Some(open) = open.filter(|open| weather.ends(open)) {
            self.end(&open, Reason::Frost);
        }
    }
}
