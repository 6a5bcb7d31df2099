//! Readings of charging points (SPEC 5.2, 5.4): opened, counted, the latest kept in memory for the screens. Telemetry
//! never decides: nothing here reaches a session.

mod older;
mod unpublished;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use mesh::metrics::Metrics;
use prometheus_client::metrics::counter::Counter;
use proto::{
    ChargingPointId,
    central::v1 as contract,
    link::v1::{Reading, SealedReading},
};
use wire::{
    LinkKey,
    telemetry::{self, OpenError, Opener, ReadingOrder},
};

use self::{older::OlderKeys, unpublished::UnpublishedMessages};

pub(crate) use self::older::Look;

/// How many readings of a charging point are at hand.
const WINDOW: usize = 60;
/// How many readings a charging point takes at most in a second. More than that times the seconds since its first one
/// came, and a few that were under way, cannot be missing, whatever it says.
const READINGS_PER_SECOND: u64 = 10;
const UNDER_WAY: u64 = 60;

/// Every charging point's streams.
#[derive(Debug)]
pub(crate) struct Telemetry {
    streams: RwLock<HashMap<ChargingPointId, Arc<Streams>>>,
    opened: Counter,
    unreadable: Counter,
    duplicates: Counter,
    missed: Counter,
    reordered: Counter,
    dropped: UnpublishedMessages,
}

/// One charging point's.
#[derive(Debug)]
pub(crate) struct Streams {
    state: Mutex<StreamsState>,
    /// Messages with its readings that Kafka never got.
    unpublished: AtomicU64,
    dropped: UnpublishedMessages,
}

/// What became of a reading.
#[derive(Debug)]
pub(crate) enum ReadingOutcome {
    Opened(Box<Reading>),
    /// It has been there before.
    Repeated,
    /// Its key is not at hand, so whoever has it may open it.
    NoKey,
    Unreadable,
}

impl ReadingOutcome {
    /// Whether it can be understood here.
    pub(crate) fn is_understood(&self) -> bool {
        matches!(self, Self::Opened(_) | Self::Repeated)
    }
}

#[derive(Debug)]
struct StreamsState {
    opener: Opener,
    /// When the first reading came.
    since: Option<Instant>,
    /// Sealed under a key that is not there (any more).
    keyless: u64,
    /// Not of the form of a sealed reading.
    malformed: u64,
    latest: VecDeque<Reading>,
    older: OlderKeys,
}

impl StreamsState {
    fn most_missing(&mut self, now: Instant) -> u64 {
        let seconds = now.saturating_duration_since(*self.since.get_or_insert(now)).as_secs();
        seconds.saturating_mul(READINGS_PER_SECOND).saturating_add(UNDER_WAY)
    }
}

impl Streams {
    /// Whether a key that is not at hand is to be read from the store.
    pub(crate) fn older(&self, key_no: u64, now: Instant) -> Look {
        self.lock().older.look(key_no, now)
    }

    /// What the store has of it.
    pub(crate) fn remember(&self, key_no: u64, key: Option<Arc<LinkKey>>) {
        self.lock().older.remember(key_no, key);
    }

    fn lock(&self) -> MutexGuard<'_, StreamsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Telemetry {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            streams: RwLock::default(),
            opened: metrics.register("readings", "Readings opened", Counter::default()),
            unreadable: metrics.register("readings_unreadable", "Readings that did not open", Counter::default()),
            duplicates: metrics.register("readings_duplicate", "Readings that came again", Counter::default()),
            missed: metrics.register(
                "readings_missed",
                "Readings that had not come when a later one did",
                Counter::default(),
            ),
            reordered: metrics.register(
                "readings_reordered",
                "Readings that came after later ones",
                Counter::default(),
            ),
            dropped: UnpublishedMessages::new(metrics),
        }
    }

    /// The streams of `id`, made at its first reading.
    pub(crate) fn of(&self, id: &ChargingPointId) -> Arc<Streams> {
        if let Some(streams) = self.streams.read().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Arc::clone(streams);
        }
        let fresh = || {
            let state = StreamsState {
                opener: Opener::new(id.as_str()),
                since: None,
                keyless: 0,
                malformed: 0,
                latest: VecDeque::new(),
                older: OlderKeys::default(),
            };
            Arc::new(Streams {
                state: Mutex::new(state),
                unpublished: AtomicU64::new(0),
                dropped: self.dropped.clone(),
            })
        };
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(streams.entry(id.clone()).or_insert_with(fresh))
    }

    /// Opens and counts a reading.
    pub(crate) fn take(
        &self,
        streams: &Streams,
        sealed: &SealedReading,
        key: Option<&LinkKey>,
        now: Instant,
    ) -> ReadingOutcome {
        let mut state = streams.lock();
        if !telemetry::is_well_formed(sealed) {
            state.malformed += 1;
            self.unreadable.inc();
            return ReadingOutcome::Unreadable;
        }
        let Some(key) = key else {
            state.keyless += 1;
            self.unreadable.inc();
            return ReadingOutcome::NoKey;
        };
        let most_missing = state.most_missing(now);
        let result = state.opener.open(sealed, key, most_missing);
        match result {
            Ok((reading, order)) => {
                self.opened.inc();
                match order {
                    ReadingOrder::First | ReadingOrder::Next => {}
                    ReadingOrder::AfterGap(missed) => drop(self.missed.inc_by(missed)),
                    ReadingOrder::Late => drop(self.reordered.inc()),
                }
                if state.latest.len() >= WINDOW {
                    state.latest.pop_front();
                }
                state.latest.push_back(reading.clone());
                ReadingOutcome::Opened(Box::new(reading))
            }
            Err(OpenError::Duplicate) => {
                self.duplicates.inc();
                ReadingOutcome::Repeated
            }
            Err(OpenError::DoesNotOpen | OpenError::Malformed) => {
                self.unreadable.inc();
                ReadingOutcome::Unreadable
            }
        }
    }

    /// After a key was revoked or deleted, nothing more is opened under it.
    pub(crate) fn forget_keys(&self, id: &ChargingPointId) {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if let Some(streams) = streams {
            let mut state = streams.lock();
            state.opener.forget_keys();
            state.older = OlderKeys::default();
        }
    }

    /// Of a charging point that is gone nothing is kept.
    pub(crate) fn forget(&self, id: &ChargingPointId) {
        self.streams.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Counts and the last reading, as operators see them.
    pub(crate) fn shown(&self, id: &ChargingPointId) -> Option<contract::TelemetryCounts> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()?;
        let state = streams.lock();
        let counts = state.opener.counts();
        Some(contract::TelemetryCounts {
            readings: counts.opened,
            duplicates: counts.duplicates,
            gaps: counts.missing,
            unreadable: counts.unintelligible + state.keyless + state.malformed,
            last: state.latest.back().map(crate::grpc::reading),
            reordered: counts.late,
            unpublished: streams.unpublished.load(Ordering::Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use wire::telemetry::Sealer;

    use super::*;
    use crate::testing::at;

    fn streams_of_cp1() -> (Telemetry, Arc<Streams>, ChargingPointId) {
        let (telemetry, id) = (Telemetry::new(&Metrics::new("central")), ChargingPointId::from_str("CP1").unwrap());
        let streams = telemetry.of(&id);
        (telemetry, streams, id)
    }

    #[test]
    fn a_sequence_that_leaps_ruins_no_count_of_the_fleet_spec_5_4() {
        let ((telemetry, streams, id), key) = (streams_of_cp1(), LinkKey::from_bytes([1; 32]));
        let mut sealer = Sealer::new(&key, 1, "CP1", [3; 16]);
        for sequence in [1, u64::MAX] {
            let sealed = sealer.seal(&Reading { sequence, ..Reading::default() }).unwrap();
            assert!(telemetry.take(&streams, &sealed, Some(&key), at(10 * (sequence / 2).min(1)).mono).is_understood());
        }
        let believed = 10 * READINGS_PER_SECOND + UNDER_WAY;
        assert_eq!((telemetry.missed.get(), telemetry.shown(&id).unwrap().gaps), (believed, believed));
    }

    #[test]
    fn an_endless_reading_is_not_kept_and_of_who_is_gone_nothing_is_spec_4_8() {
        let ((telemetry, streams, id), key) = (streams_of_cp1(), LinkKey::from_bytes([1; 32]));
        let endless = Reading { sequence: 1, session_id: "A".repeat(1_000_000), ..Reading::default() };
        let sealed = Sealer::new(&key, 1, "CP1", [3; 16]).seal(&endless).unwrap();
        for key in [Some(&key), None] {
            assert!(matches!(telemetry.take(&streams, &sealed, key, at(0).mono), ReadingOutcome::Unreadable));
        }
        let shown = telemetry.shown(&id).unwrap();
        assert_eq!((shown.unreadable, shown.last), (2, None));
        telemetry.forget(&id);
        assert!(telemetry.shown(&id).is_none());
    }

    #[test]
    fn readings_are_opened_and_repeats_gaps_late_and_unreadable_ones_counted_spec_5_4() {
        let (key, other) = (LinkKey::from_bytes([1; 32]), LinkKey::from_bytes([2; 32]));
        let (telemetry, streams, id) = streams_of_cp1();
        let take = |sealed: &SealedReading, key| telemetry.take(&streams, sealed, key, at(0).mono).is_understood();
        let mut sealer = Sealer::new(&key, 1, "CP1", [3; 16]);
        let mut seal = |sequence| sealer.seal(&Reading { sequence, meter_wh: sequence, ..Reading::default() }).unwrap();
        let sealed: Vec<_> = [1, 2, 3, 4, 5].into_iter().map(&mut seal).collect();
        for reading in [&sealed[0], &sealed[1], &sealed[1], &sealed[4], &sealed[2]] {
            assert!(take(reading, Some(&key)));
        }
        assert!(!take(&seal(6), None), "no such key any more");
        let theirs = Sealer::new(&other, 2, "CP1", [4; 16]).seal(&Reading { sequence: 1, ..Reading::default() });
        assert!(!take(&theirs.unwrap(), Some(&key)));
        let shown = telemetry.shown(&id).unwrap();
        assert_eq!((shown.readings, shown.duplicates, shown.gaps, shown.unreadable), (4, 1, 1, 2));
        assert_eq!(shown.reordered, 1);
        let counted = [&telemetry.opened, &telemetry.duplicates, &telemetry.missed, &telemetry.reordered];
        assert_eq!(counted.map(Counter::get), [4, 1, 2, 1], "counters never fall: what came late was missed");
    }
}
