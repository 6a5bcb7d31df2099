//! Nouns of the core and messages of the link as the public contract shows them.

use std::hash::Hash;

use futures::{StreamExt as _, stream::BoxStream};

use proto::{
    central::v1 as contract,
    json_of,
    link::v1::{self as link, SessionState},
    timestamp,
};
use tonic::Status;

use crate::{
    charge_point::Record,
    session::Session,
    watch::{BoardChange, Watcher},
};

/// A charging point as its record and its view say, without its telemetry.
pub(crate) fn charging_point(record: &Record, view: &link::View, since_ms: i64) -> contract::ChargingPoint {
    let key = record.keys.active();
    contract::ChargingPoint {
        id: record.id.to_string(),
        city: record.city.as_ref().to_owned(),
        place: record.place.as_ref().to_owned(),
        state: state(view.state()).into(),
        state_time: timestamp(since_ms),
        causes: view.causes().map(|shown| cause(shown).into()).collect(),
        detail: view.detail.clone(),
        price_e4: view.price_e4,
        currency: view.currency.clone(),
        rated_power_w: Some(record.rated_power_w).filter(|watts| *watts > 0),
        session: (!view.session_id.is_empty()).then(|| contract::ActiveSession {
            session_id: view.session_id.clone(),
            driver_id: view.driver_id.clone(),
            energy_wh: view.energy_wh,
            amount_minor: view.amount_minor,
            power_w: view.power_w,
        }),
        key: Some(contract::ChargingPointKey {
            state: key_state(view.key_state()).into(),
            number: key.map(|key| key.no),
            expire_time: key.and_then(|key| timestamp(key.expires_at)),
        }),
        version: Some(version(record.epoch, record.version)),
        clock_skew: Some(view.clock_skew_ms).filter(|skew_ms| *skew_ms != 0).map(|skew_ms| proto::Duration {
            seconds: skew_ms / 1_000,
            nanos: i32::try_from(skew_ms % 1_000 * 1_000_000).unwrap_or_default(),
        }),
        ..contract::ChargingPoint::default()
    }
}

/// The generation is in the upper 32 bits of an epoch.
fn version(epoch: u64, version: u64) -> contract::RecordVersion {
    let part = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
    contract::RecordVersion { generation: part(epoch >> 32), epoch: part(epoch), version }
}

pub(crate) fn state(state: link::State) -> contract::ChargingPointState {
    use contract::ChargingPointState as Public;
    match state {
        link::State::Unspecified => Public::Unspecified,
        link::State::Disconnected => Public::Disconnected,
        link::State::Broken => Public::Broken,
        link::State::OutOfOrder => Public::OutOfOrder,
        link::State::Supplying => Public::Supplying,
        link::State::Reserved => Public::Reserved,
        link::State::Available => Public::Available,
    }
}

pub(crate) fn cause(cause: link::Cause) -> contract::Cause {
    use contract::Cause as Public;
    match cause {
        link::Cause::Unspecified => Public::Unspecified,
        link::Cause::OperatorStop => Public::OperatorStop,
        link::Cause::Maintenance => Public::Maintenance,
        link::Cause::Weather => Public::Weather,
        link::Cause::NoKey => Public::NoKey,
        link::Cause::KeyRevoked => Public::KeyRevoked,
        link::Cause::Quarantined => Public::Quarantined,
        link::Cause::MonitorLost => Public::MonitorLost,
        link::Cause::EngineBroken => Public::EngineBroken,
        link::Cause::LedgerBehind => Public::LedgerBehind,
    }
}

fn key_state(state: link::KeyState) -> contract::KeyState {
    use contract::KeyState as Public;
    match state {
        link::KeyState::Unspecified => Public::Unspecified,
        link::KeyState::Active => Public::Active,
        link::KeyState::Deleted => Public::Deleted,
        link::KeyState::Revoked => Public::Revoked,
        link::KeyState::Rotating => Public::Rotating,
    }
}

fn session_state(state: SessionState) -> contract::SessionState {
    use contract::SessionState as Public;
    match state {
        SessionState::Unspecified => Public::Unspecified,
        SessionState::Reserved => Public::Reserved,
        SessionState::Supplying => Public::Supplying,
        SessionState::Settling => Public::Settling,
        SessionState::Billed => Public::Billed,
        SessionState::Released => Public::Released,
    }
}

/// The state that rows have for a public one.
pub(super) fn stored_state(state: contract::SessionState) -> SessionState {
    match state {
        contract::SessionState::Unspecified => SessionState::Unspecified,
        contract::SessionState::Reserved => SessionState::Reserved,
        contract::SessionState::Supplying => SessionState::Supplying,
        contract::SessionState::Settling => SessionState::Settling,
        contract::SessionState::Billed => SessionState::Billed,
        contract::SessionState::Released => SessionState::Released,
    }
}

pub(crate) fn reading(reading: &link::Reading) -> contract::Reading {
    contract::Reading {
        sequence: reading.sequence,
        time: timestamp(reading.at_ms),
        session_id: reading.session_id.clone(),
        meter_wh: reading.meter_wh,
        power_w: reading.power_w,
        current_ma: reading.current_ma,
        voltage_mv: reading.voltage_mv,
        state_of_charge_permille: reading.state_of_charge_permille,
        temperature_dc: reading.temperature_dc,
    }
}

/// A session with its latest value.
pub(crate) fn session(session: &Session, power_w: u32) -> contract::Session {
    let running = session.state == SessionState::Supplying;
    contract::Session {
        id: session.id.to_string(),
        charging_point_id: session.charging_point.to_string(),
        driver_id: session.driver.as_ref().map(ToString::to_string).unwrap_or_default(),
        state: session_state(session.state).into(),
        price_e4: session.price.e4(),
        currency: session.currency.to_string(),
        requested_wh: Some(session.requested.wh()).filter(|wh| *wh > 0),
        meter_start_wh: session.meter_start.wh(),
        meter_last_wh: session.meter_last.wh(),
        reserve_time: timestamp(session.reserved_at),
        start_time: session.started_at.and_then(timestamp),
        end_time: session.ended_at.and_then(timestamp),
        reason_code: session.reason.public_code(),
        request_id: session.request_id.as_ref().to_owned(),
        discrepancy_wh: session.discrepancy,
        disputed_wh: session.disputed.wh(),
        power_w: if running { power_w } else { 0 },
        amount_minor: amount(session),
    }
}

/// What is billed, or would be by now.
fn amount(session: &Session) -> i64 {
    session.price.amount(session.energy().saturating_sub(session.disputed), session.currency).minor
}

/// The parameters of an entry as its row has them: a JSON object. Of one with more than `longest` characters the beginning
/// is kept, as a text.
pub(super) fn parameters(entry: &contract::AuditEntry, longest: usize) -> String {
    let whole = entry.parameters.as_ref().map_or_else(|| "{}".to_owned(), |parameters| json_of(parameters).to_string());
    match whole.char_indices().nth(longest) {
        Some((end, _)) => serde_json::json!({ "cut_off": whole.get(..end) }).to_string(),
        None => whole,
    }
}

/// A watcher's changes as a stream of the contract's events; those that `event` leaves out are not sent.
pub(super) fn stream<K, V, E>(
    watcher: Watcher<K, V>,
    event: impl FnMut(BoardChange<K, V>) -> Option<E> + Send + 'static,
) -> BoxStream<'static, Result<E, Status>>
where
    K: Clone + Eq + Hash + Ord + Send + Sync + 'static,
    V: Send + Sync + 'static,
    E: Send + 'static,
{
    let portions = futures::stream::unfold((watcher, event), |(mut watcher, mut event)| async {
        let changes = watcher.next().await?;
        let events: Vec<_> = changes.into_iter().filter_map(&mut event).map(Ok).collect();
        Some((futures::stream::iter(events), (watcher, event)))
    });
    Box::pin(portions.flatten())
}
