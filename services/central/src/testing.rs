//! What the tests of the core share: a clock that stands where it is put, and a session to begin with.

mod keys;
mod links;
pub(crate) mod test_central;

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use mesh::clock::Now;
use proto::{
    Currency, Energy, Price,
    link::v1::{Reason, SessionState},
};

pub(crate) use self::test_central::{TestCentral, ana, asked_by_ana};
use crate::session::{CentralTimes, Session, SessionId};

/// Second 0 of every test.
pub(crate) fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant cannot be made from nothing; all others are relative to it"
    )]
    *START.get_or_init(Instant::now)
}

pub(crate) fn at(second: u64) -> Now {
    at_ms(second * 1_000)
}

pub(crate) fn at_ms(ms: u64) -> Now {
    Now { mono: start() + Duration::from_millis(ms), wall_ms: i64::try_from(ms).unwrap() }
}

/// Reserved by D1 at CP1 at second 0.
pub(crate) fn session(id: &str) -> Session {
    Session {
        id: SessionId::new(id),
        charging_point: "CP1".parse().unwrap(),
        driver: Some("D1".parse().unwrap()),
        request_id: "r1".into(),
        manual: false,
        state: SessionState::Reserved,
        price: Price::from_e4(3950),
        currency: Currency::EUR,
        place: "Plaza".into(),
        requested: Energy::ZERO,
        meter_start: Energy::ZERO,
        meter_last: Energy::ZERO,
        reserved_at: 0,
        started_at: None,
        ended_at: None,
        reason: Reason::Unspecified,
        due: None,
        discrepancy: 0,
        disputed: Energy::ZERO,
        times: CentralTimes::authorised(start()),
    }
}
