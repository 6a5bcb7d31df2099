//! A session from reservation to ticket (SPEC 3): *reserved*, *supplying*, *settling*, *billed* or *released*.
//!
//! Guarantees: energy and money are whole numbers; a bill is the lifetime register's end minus its start; a register
//! never runs backwards; what cannot have flowed, or was not asked for, is disputed; what a final value says after billing
//! is a discrepancy; and bill + discrepancy + disputed is always what the meter said at most.

use std::{fmt, sync::Arc, time::Instant};

use mesh::clock::Now;
use proto::{
    ChargingPointId, Currency, DriverId, Energy, Money, Price,
    link::v1::{Reason, SessionState, Ticket},
};

pub use self::limit::{CentralTimes, EnergyLimit};

mod limit;

/// Chosen by Central, unique for all time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Arc<str>);

impl SessionId {
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: SessionId,
    pub charging_point: ChargingPointId,
    /// Nobody: the charging point's own account.
    pub driver: Option<DriverId>,
    pub request_id: Arc<str>,
    /// Wished for at the charging point itself.
    pub manual: bool,
    pub state: SessionState,
    /// Fixed when it was reserved (SPEC 3.6).
    pub price: Price,
    pub currency: Currency,
    pub place: Arc<str>,
    /// Zero: until unplugged.
    pub requested: Energy,
    pub meter_start: Energy,
    /// Last accepted value of the lifetime register; after billing, where the bill ends.
    pub meter_last: Energy,
    pub reserved_at: i64,
    pub started_at: Option<i64>,
    pub ended_at: Option<i64>,
    /// Why it ended; while it is supplying, why it was told to stop.
    pub reason: Reason,
    /// When the reservation expires, or settling ends. Central's running time alone counts, so that only what is left
    /// of it is ever stored.
    pub due: Option<Instant>,
    /// What a final value after billing said beyond the bill, in Wh.
    pub discrepancy: i64,
    pub disputed: Energy,
    pub times: CentralTimes,
}

/// What an engine says of a supply that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Final {
    pub start: Energy,
    pub end: Energy,
    pub reason: Reason,
    pub started_at: i64,
    pub ended_at: i64,
}

/// A lifetime register beyond this has counted no charger's energy: 350 kW would take three hundred years. Without a
/// bound one lie would outgrow every sum that it is in.
const LARGEST: Energy = Energy::from_wh(1_000_000_000_000);

/// Why a value of the register is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAccepted {
    /// Below the last accepted one.
    RanBackwards,
    /// No charger's register has come that far, or this one not in that time.
    Implausible,
}

impl Session {
    pub fn is_open(&self) -> bool {
        matches!(self.state, SessionState::Reserved | SessionState::Supplying)
    }

    pub fn energy(&self) -> Energy {
        self.meter_last.saturating_sub(self.meter_start)
    }

    /// What of it is paid for, as far as it is known.
    pub fn billable(&self) -> Energy {
        self.energy().min(self.most_billed())
    }

    pub fn amount(&self) -> Money {
        self.price.amount(self.billable(), self.currency)
    }

    /// Plugged in: energy flows from this register value on.
    pub fn start(&self, meter: Energy, at: i64, now: Now) -> Self {
        let meter = meter.min(LARGEST);
        Self {
            state: SessionState::Supplying,
            meter_start: meter,
            meter_last: meter,
            started_at: Some(self.believed(at, now)),
            due: None,
            ..self.clone()
        }
    }

    /// Accepts a running value, unless the register ran backwards or says what cannot have flowed since the value
    /// before.
    pub fn accept(&mut self, meter: Energy, limit: EnergyLimit, now: Now) -> Result<(), NotAccepted> {
        if meter > LARGEST || meter > self.reachable(self.meter_start, limit, now.mono) {
            return Err(NotAccepted::Implausible);
        }
        if meter < self.meter_last {
            return Err(NotAccepted::RanBackwards);
        }
        self.take(meter, now.mono);
        Ok(())
    }

    /// A value that was accepted when it came.
    pub fn take(&mut self, meter: Energy, at: Instant) {
        if meter >= self.meter_last {
            (self.meter_last, self.times.metered) = (meter, at);
        }
    }

    /// An engine's time, as far as its clock can be right: not before the reservation, not after now.
    fn believed(&self, at: i64, now: Now) -> i64 {
        at.min(now.wall_ms).max(self.reserved_at)
    }

    /// The reservation is over and nothing was supplied: no ticket.
    pub fn release(&self, reason: Reason, now: Now) -> Self {
        Self { state: SessionState::Released, reason, ended_at: Some(now.wall_ms), due: None, ..self.clone() }
    }

    /// The end is near but the final value is missing (SPEC 3.8).
    pub fn settle(&self, reason: Reason, now: Now, until: Instant) -> Self {
        let reason = if self.reason == Reason::Unspecified { reason } else { self.reason };
        let times = CentralTimes { settled: Some(now.mono), ..self.times };
        let ended_at = Some(now.wall_ms);
        Self { state: SessionState::Settling, reason, ended_at, due: Some(until), times, ..self.clone() }
    }

    /// The bill at the engine's final value, as far as it can be true (SPEC 3.8a).
    pub fn bill(&self, last: &Final, limit: EnergyLimit, now: Now) -> (Self, Ticket) {
        // A start that was accepted stands; one that Central never heard of (it was down) is in the final value.
        let start = if self.started_at.is_some() { self.meter_start } else { last.start.min(LARGEST) };
        let accepted = if self.started_at.is_some() { self.meter_last } else { start };
        let said = if last.end > LARGEST { accepted } else { last.end };
        let believed = said.min(self.reachable(start, limit, self.wanted_until(limit, now)));
        let energy = believed.saturating_sub(start).min(self.most_billed());
        let end = said.max(accepted);
        let began = self.started_at.unwrap_or_else(|| self.believed(last.started_at, now));
        let ended = if last.ended_at >= began { last.ended_at } else { now.wall_ms };
        let billed = Self {
            meter_start: start,
            meter_last: end,
            reason: self.end_reason(last.reason),
            started_at: Some(began),
            ended_at: Some(self.believed(ended, now).max(began)),
            discrepancy: difference(last.end.min(LARGEST), end),
            ..self.clone()
        };
        billed.with_ticket(end.saturating_sub(start).saturating_sub(energy))
    }

    /// Why it ended, where the charging point gives this reason. An end that Central must have ordered, and did not, is a
    /// fault, whatever the charging point calls it (SPEC 3.5).
    pub fn end_reason(&self, said: Reason) -> Reason {
        if said.ends_a_supply() && !said.ends_by_order_only() {
            said
        } else if self.was_ordered() {
            self.reason
        } else {
            Reason::Fault
        }
    }

    /// An end that was ordered (a stop, a key order, a removal) is why it ended, reported or not.
    fn was_ordered(&self) -> bool {
        self.reason.ends_a_supply() && self.reason != Reason::Fault
    }

    /// The bill at the last accepted value, when no report came in time (SPEC 3.8).
    pub fn bill_without_report(&self) -> (Self, Ticket) {
        let began = self.started_at.unwrap_or(self.reserved_at);
        let ended = self.ended_at.unwrap_or(began);
        let reason = if self.was_ordered() { self.reason } else { Reason::SettledWithoutReport };
        let billed = Self { reason, ended_at: Some(ended), ..self.clone() };
        billed.with_ticket(self.energy().saturating_sub(self.billable()))
    }

    /// A final value for a session that is billed or released: the bill stays, the difference is kept (SPEC 3.8).
    /// Nothing where it says what is known already, as a repeated report does.
    pub fn late(&self, last: &Final) -> Option<Self> {
        let discrepancy = match self.state {
            SessionState::Billed => difference(last.end.min(LARGEST), self.meter_last),
            SessionState::Released => difference(last.end.min(LARGEST), last.start).max(0),
            SessionState::Unspecified | SessionState::Reserved | SessionState::Supplying | SessionState::Settling => {
                return None;
            }
        };
        // The first one counts: an engine that changes its mind is not believed twice.
        (self.discrepancy == 0 && discrepancy != 0).then(|| Self { discrepancy, ..self.clone() })
    }

    /// The billed session and its ticket, the one place that says what a ticket states.
    fn with_ticket(self, disputed: Energy) -> (Self, Ticket) {
        let session = Self { state: SessionState::Billed, disputed, due: None, ..self };
        let energy = session.energy().saturating_sub(disputed);
        let ticket = Ticket {
            session_id: session.id.to_string(),
            driver_id: session.driver.as_ref().map(ToString::to_string).unwrap_or_default(),
            charging_point_id: session.charging_point.to_string(),
            place: session.place.as_ref().to_owned(),
            started_at_ms: session.started_at.unwrap_or(session.reserved_at),
            ended_at_ms: session.ended_at.unwrap_or(session.reserved_at),
            energy_wh: energy.wh(),
            price_e4: session.price.e4(),
            amount_minor: session.price.amount(energy, session.currency).minor,
            currency: session.currency.to_string(),
            reason: session.reason.into(),
            disputed_wh: disputed.wh(),
            meter_start_wh: session.meter_start.wh(),
            meter_end_wh: session.meter_last.wh(),
            corrections: Vec::new(),
            signed: None,
        };
        (session, ticket)
    }
}

fn difference(a: Energy, b: Energy) -> i64 {
    let wide = i128::from(a.wh()) - i128::from(b.wh());
    i64::try_from(wide).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests;
