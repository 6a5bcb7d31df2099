//! A session from reservation to ticket (SPEC 3): *reserved*, *supplying*, *settling*, *billed* or *released*.
//!
//! Guarantees: energy and money are whole numbers; a bill is the lifetime register's end minus its start; a register
//! never runs backwards; what a final value says past the bill is a discrepancy, what exceeds the rated power is
//! disputed, and bill + discrepancy + disputed is always what the meter said.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::clock::Now;
use proto::{
    ChargingPointId, Currency, DriverId, Energy, Money, Price,
    link::v1::{Reason, SessionState, Ticket},
};

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
    /// No charger's register has come that far.
    Implausible,
}

impl Session {
    pub fn is_open(&self) -> bool {
        matches!(self.state, SessionState::Reserved | SessionState::Supplying)
    }

    pub fn energy(&self) -> Energy {
        self.meter_last.saturating_sub(self.meter_start)
    }

    pub fn amount(&self) -> Money {
        self.price.amount(self.energy(), self.currency)
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

    /// Accepts a running value, unless the register ran backwards or jumped out of the world.
    pub fn accept(&mut self, meter: Energy) -> Result<(), NotAccepted> {
        if meter > LARGEST {
            return Err(NotAccepted::Implausible);
        }
        if meter < self.meter_last {
            return Err(NotAccepted::RanBackwards);
        }
        self.meter_last = meter;
        Ok(())
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
        Self { state: SessionState::Settling, reason, ended_at: Some(now.wall_ms), due: Some(until), ..self.clone() }
    }

    /// The bill at the engine's final value. `rated_w` is the charging point's rated power, 0 where none is set; within
    /// `grace` a stop reaches the engine.
    pub fn bill(&self, last: &Final, rated_w: u32, grace: Duration, now: Now) -> (Self, Ticket) {
        // A start that was accepted stands; one that Central never heard of (it was down) is in the final value.
        let start = if self.started_at.is_some() { self.meter_start } else { last.start.min(LARGEST) };
        let accepted = if self.started_at.is_some() { self.meter_last } else { start };
        let end = if last.end > LARGEST { accepted } else { last.end.max(accepted) };
        let reason = if last.reason.ends_a_supply() { last.reason } else { Reason::Fault };
        // Neither the engine's clock nor a long silence may stretch the time in which energy could flow.
        let began = if last.started_at > 0 { last.started_at } else { self.started_at.unwrap_or(self.reserved_at) };
        let began = self.believed(began, now);
        let ended = if last.ended_at >= began { last.ended_at } else { now.wall_ms };
        let ended = self.believed(ended, now).max(began);
        let elapsed = ended.min(self.stopped_by(grace).unwrap_or(ended)) - began;
        let billed = Self {
            meter_start: start,
            meter_last: end,
            reason,
            started_at: Some(began),
            ended_at: Some(ended),
            discrepancy: difference(last.end.min(LARGEST), end),
            ..self.clone()
        };
        billed.with_ticket(disputed(end.saturating_sub(start), rated_w, elapsed))
    }

    /// An end that was ordered (a stop, a key order, a removal) is why it ended, reported or not.
    fn was_ordered(&self) -> bool {
        self.reason.ends_a_supply() && self.reason != Reason::Fault
    }

    /// Until when energy can have flowed that anybody wanted, where a stop was ordered and its report is missing.
    fn stopped_by(&self, grace: Duration) -> Option<i64> {
        let settled_at = self.ended_at.filter(|_| self.state == SessionState::Settling && self.was_ordered())?;
        Some(settled_at.saturating_add(i64::try_from(grace.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The bill at the last accepted value, when no report came in time (SPEC 3.8).
    pub fn bill_without_report(&self, rated_w: u32) -> (Self, Ticket) {
        let began = self.started_at.unwrap_or(self.reserved_at);
        let ended = self.ended_at.unwrap_or(began);
        let reason = if self.was_ordered() { self.reason } else { Reason::SettledWithoutReport };
        let billed = Self { reason, ended_at: Some(ended), ..self.clone() };
        billed.with_ticket(disputed(self.energy(), rated_w, ended.saturating_sub(began)))
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
        };
        (session, ticket)
    }
}

/// What exceeds the rated power over the time elapsed, rounded in the driver's favour by less than a watt-hour.
fn disputed(energy: Energy, rated_w: u32, elapsed_ms: i64) -> Energy {
    if rated_w == 0 {
        return Energy::ZERO;
    }
    let possible = u128::from(rated_w) * u128::from(elapsed_ms.max(0).unsigned_abs()) / 3_600_000;
    energy.saturating_sub(Energy::from_wh(u64::try_from(possible).unwrap_or(u64::MAX)))
}

fn difference(a: Energy, b: Energy) -> i64 {
    let wide = i128::from(a.wh()) - i128::from(b.wh());
    i64::try_from(wide).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, session};

    const GRACE: Duration = Duration::from_secs(5);

    fn supplying(start: u64, last: u64) -> Session {
        let mut session = session("s1").start(Energy::from_wh(start), 1_000, at(4));
        session.accept(Energy::from_wh(last)).unwrap();
        session
    }

    fn last(start: u64, end: u64) -> Final {
        Final {
            start: Energy::from_wh(start),
            end: Energy::from_wh(end),
            reason: Reason::Unplugged,
            started_at: 1_000,
            ended_at: 3_601_000,
        }
    }

    #[test]
    fn a_bill_is_end_minus_start_of_the_lifetime_register_spec_3_8() {
        let (session, ticket) = supplying(1_000, 1_500).bill(&last(1_000, 2_000), 0, GRACE, at(4_000));
        assert_eq!(session.state, SessionState::Billed);
        assert_eq!((ticket.energy_wh, ticket.amount_minor), (1_000, 40));
        assert_eq!((ticket.meter_start_wh, ticket.meter_end_wh), (1_000, 2_000));
        assert_eq!(ticket.reason(), Reason::Unplugged);
    }

    #[test]
    fn a_register_that_runs_backwards_is_not_accepted_and_the_rest_is_a_discrepancy_spec_3_8() {
        let mut session = supplying(1_000, 1_500);
        assert_eq!(session.accept(Energy::from_wh(1_499)), Err(NotAccepted::RanBackwards));
        let (session, ticket) = session.bill(&last(1_000, 1_400), 0, GRACE, at(4_000));
        assert_eq!((ticket.energy_wh, session.discrepancy), (500, -100));
    }

    #[test]
    fn a_register_and_a_clock_that_cannot_be_are_not_believed_spec_3_8() {
        let mut session = supplying(1_000, 1_500);
        assert_eq!(session.accept(Energy::from_wh(u64::MAX)), Err(NotAccepted::Implausible));
        let wild = Final { started_at: i64::MIN, ended_at: i64::MAX, ..last(1_000, u64::MAX) };
        let (billed, ticket) = session.bill(&wild, 0, GRACE, at(4_000));
        assert_eq!((ticket.energy_wh, ticket.started_at_ms, ticket.ended_at_ms), (500, 1_000, 4_000_000));
        assert_eq!(billed.discrepancy, 999_999_998_500, "said, and not billed");
        let wild = self::session("s1").start(Energy::from_wh(u64::MAX), i64::MIN, at(4));
        let (billed, ticket) = wild.bill_without_report(11_000);
        assert_eq!((ticket.energy_wh, billed.started_at), (0, Some(0)));
    }

    #[test]
    fn energy_past_the_rated_power_is_disputed_and_not_billed_spec_3_8() {
        // 11 kW for one hour give at most 11 kWh.
        let (session, ticket) = supplying(0, 0).bill(&last(0, 12_345), 11_000, GRACE, at(4_000));
        assert_eq!((ticket.energy_wh, ticket.disputed_wh), (11_000, 1_345));
        assert_eq!(session.disputed.wh(), ticket.disputed_wh);
    }

    #[test]
    fn after_a_stop_that_the_engine_ignores_nothing_more_is_billed_within_a_rated_power_spec_3_5_3_8() {
        // 36 kW are 10 Wh a second; stopped after 100 s, and reported half an hour later.
        let settling = |reason| supplying(0, 0).settle(reason, at(101), at(101).mono);
        let late = Final { ended_at: 1_801_000, ..last(0, 18_000) };
        let (billed, ticket) = settling(Reason::StoppedByDriver).bill(&late, 36_000, GRACE, at(1_801));
        assert_eq!((ticket.energy_wh, ticket.disputed_wh), (1_050, 16_950));
        assert_eq!(billed.ended_at, Some(1_801_000), "as the engine says");
        for ordered in [Reason::StoppedByOperator, Reason::KeyRevoked, Reason::KeyRenewed, Reason::Removed] {
            assert_eq!(settling(ordered).bill(&late, 36_000, GRACE, at(1_801)).1.energy_wh, 1_050, "{ordered:?}");
        }
        // Nobody ordered an end: the driver's car was charged.
        assert_eq!(settling(Reason::Fault).bill(&late, 36_000, GRACE, at(1_801)).1.energy_wh, 18_000);
        assert_eq!(settling(Reason::StoppedByDriver).bill(&late, 0, GRACE, at(1_801)).1.energy_wh, 18_000);
    }

    #[test]
    fn a_start_that_central_never_heard_of_is_taken_from_the_final_value() {
        let (_, ticket) = session("s1").bill(&last(700, 900), 0, GRACE, at(4_000));
        assert_eq!((ticket.meter_start_wh, ticket.energy_wh), (700, 200));
    }

    #[test]
    fn a_session_that_is_never_reported_is_billed_at_the_last_accepted_value_spec_3_8() {
        let now = at(100);
        let settling = supplying(10, 60).settle(Reason::Fault, now, now.mono + Duration::from_secs(900));
        let (billed, ticket) = settling.bill_without_report(0);
        assert_eq!((ticket.energy_wh, ticket.reason()), (50, Reason::SettledWithoutReport));
        let late = billed.late(&last(10, 75)).unwrap();
        assert_eq!((late.discrepancy, late.state), (15, SessionState::Billed));
        assert_eq!(late.late(&last(10, 75)), None, "a repeated report changes nothing");
    }

    #[test]
    fn an_end_that_was_ordered_is_the_tickets_reason_even_without_a_report_spec_3_5() {
        let now = at(100);
        let settling = supplying(10, 60).settle(Reason::KeyRevoked, now, now.mono);
        assert_eq!(settling.bill_without_report(0).1.reason(), Reason::KeyRevoked);
    }

    #[test]
    fn energy_of_a_released_session_is_a_discrepancy_and_no_ticket() {
        let released = session("s1").release(Reason::ReservationExpired, at(5));
        assert_eq!(released.late(&last(10, 12)).map(|s| (s.state, s.discrepancy)), Some((SessionState::Released, 2)));
        assert_eq!(released.late(&last(10, 10)), None);
    }

    #[test]
    fn a_ticket_always_bears_a_reason_that_ends_a_supply_spec_3_9() {
        let odd = Final { reason: Reason::Unavailable, ..last(0, 1) };
        assert_eq!(supplying(0, 0).bill(&odd, 0, GRACE, at(4_000)).1.reason(), Reason::Fault);
    }
}
