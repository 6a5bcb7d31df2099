//! One session at the engine: reserved, starting, supplying.

use std::time::{Duration, Instant};

use proto::{
    Currency, Energy, Money, Price,
    link::v1::{SessionState, SignedDocument, Supply},
};

use crate::meter::{Meter, Sample};

#[derive(Debug)]
pub(super) struct EngineSession {
    pub(super) id: String,
    /// Empty: the charging point's own account.
    pub(super) driver: String,
    /// Zero: until unplugged.
    pub(super) limit: Energy,
    price: Price,
    currency: Currency,
    /// As Central signed it.
    pub(super) authorisation: Option<SignedDocument>,
    pub(super) phase: SessionPhase,
}

#[derive(Debug)]
pub(super) enum SessionPhase {
    /// Authorised, not plugged in.
    Reserved {
        until: Instant,
        plug_at: Option<Instant>,
    },
    /// Plugged in; its start is on its way to the journal.
    Starting {
        number: u64,
        meter_start_wh: u64,
        at_ms: i64,
    },
    Supplying(Box<MeteredSupply>),
}

#[derive(Debug)]
pub(super) struct MeteredSupply {
    pub(super) meter: Meter,
    pub(super) meter_start_wh: u64,
    pub(super) at_ms: i64,
    pub(super) sample: Sample,
    /// When an unattended vehicle leaves.
    pub(super) unplug_at: Option<Instant>,
    pub(super) tick_at: Instant,
    pub(super) value_at: Instant,
    pub(super) register_at: Instant,
    pub(super) sync_at: Instant,
}

impl EngineSession {
    pub(super) fn reserved(supply: Supply, until: Instant, plug_at: Option<Instant>) -> Self {
        Self {
            id: supply.session_id,
            driver: supply.driver_id,
            limit: Energy::from_wh(supply.energy_wh),
            price: Price::from_e4(supply.price_e4),
            currency: supply.currency.parse().unwrap_or_default(),
            authorisation: supply.authorisation,
            phase: SessionPhase::Reserved { until, plug_at },
        }
    }

    pub(super) fn state(&self) -> SessionState {
        match self.phase {
            SessionPhase::Reserved { .. } | SessionPhase::Starting { .. } => SessionState::Reserved,
            SessionPhase::Supplying(_) => SessionState::Supplying,
        }
    }

    pub(super) fn sample(&self) -> Sample {
        match &self.phase {
            SessionPhase::Supplying(running) => running.sample,
            SessionPhase::Reserved { .. } | SessionPhase::Starting { .. } => Sample::default(),
        }
    }

    pub(super) fn energy(&self) -> Energy {
        self.sample().energy
    }

    pub(super) fn cost(&self) -> Money {
        self.price.amount(self.energy(), self.currency)
    }

    pub(super) fn price(&self) -> Price {
        self.price
    }

    /// When it has to be looked at.
    pub(super) fn next_at(&self, tick: Duration) -> Option<Instant> {
        match &self.phase {
            SessionPhase::Reserved { until, plug_at } => Some(plug_at.map_or(*until, |at| at.min(*until))),
            SessionPhase::Starting { .. } => None,
            SessionPhase::Supplying(running) => {
                let ends = [running.unplug_at, running.meter.ends_at()].into_iter().flatten();
                let looks = [running.tick_at + tick, running.value_at];
                ends.chain(looks).min()
            }
        }
    }
}
