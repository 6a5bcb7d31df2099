//! Between the nouns of the core and the rows of the store.

use std::{sync::Arc, time::Duration};

use mesh::clock::Now;
use prost::Message as _;
use proto::{
    ChargingPointId, DriverId, Energy, PeerId, Price, api_json,
    events::v1 as events,
    link::v1::{Reason, SessionState, Step},
    registry::v1::Kind,
};
use store::central::{
    AuditEntry, ChargingPointRow, CommitRefusal, DiscrepancyRow, ItemOutcome, KeyRow, KeyState as StoredKeyState,
    MirroredIdentityRow, OnceRow, OrderItemRow, OutboxEvent, RowWrite, SessionRow, TicketRow,
};
use wire::LinkKey;

use crate::{
    audit::AuditRecord,
    charge_point::{self, FirstAnswer, Notice, OrderOutcome, PointChange, Record, StoreRefusal},
    event::{DomainEvent, EventData},
    grpc::convert,
    key::{KeyEntry, KeyStage, Keyring},
    running_time::KeysAtRest,
    session::{CentralTimes, Session, SessionId},
    settings::CentralSettings,
};

/// A stored row that this program cannot have written.
#[derive(Debug, thiserror::Error)]
#[error("the row {0} of {1} is not readable: {2}")]
pub(crate) struct BadRow(String, &'static str, String);

/// The writes of a decision about the charging point `record`.
pub(crate) fn writes(
    changes: &[PointChange],
    record: &Record,
    since_ms: i64,
    kek: &KeysAtRest,
    now: Now,
) -> Vec<RowWrite> {
    let holder = PeerId::ChargingPoint(record.id.clone());
    changes
        .iter()
        .flat_map(|change| match change {
            PointChange::Point => vec![RowWrite::ChargingPoint(charging_point(record, since_ms))],
            PointChange::OpenSession(session) => vec![RowWrite::OpenSession(session_row(session, now))],
            PointChange::UpdateSession(session) => vec![RowWrite::UpdateSession(session_row(session, now))],
            PointChange::Discrepancy { session, reported_end } => {
                vec![RowWrite::Discrepancy(discrepancy(session, *reported_end, now))]
            }
            PointChange::Ticket(ticket) => vec![RowWrite::Ticket(TicketRow::new(ticket, now.wall_ms))],
            PointChange::Answered(answered) => vec![RowWrite::Once(once(answered, now))],
            PointChange::OrderItem { order, outcome } => {
                vec![RowWrite::OrderItem(order_item(record.id.to_string(), order, outcome))]
            }
            PointChange::Key(key) => vec![RowWrite::Key(key_row(&holder, key, kek, now))],
            PointChange::Event(event) => vec![RowWrite::Event(event_row(event, record.id.as_str()))],
            PointChange::Audit(entry) => vec![RowWrite::Audit(audit(entry))],
        })
        .collect()
}

pub(crate) fn charging_point(record: &Record, since_ms: i64) -> ChargingPointRow {
    let by = |notice: &Option<Notice>| notice.as_ref().map(|n| n.by.as_ref().to_owned());
    let reason = |notice: &Option<Notice>| notice.as_ref().map(|n| n.reason.as_ref().to_owned()).unwrap_or_default();
    ChargingPointRow {
        cp_id: record.id.to_string(),
        incarnation: signed(record.keys.incarnation),
        removed: record.removed,
        city: record.city.as_ref().to_owned(),
        place: record.place.as_ref().to_owned(),
        price_e4: i64::from(record.price.e4()),
        rated_power_w: i64::from(record.rated_power_w),
        stopped_by: by(&record.stopped),
        stop_reason: reason(&record.stopped),
        maintenance_by: by(&record.maintenance),
        maintenance_reason: reason(&record.maintenance),
        weather_blocked: record.weather_blocked,
        quarantined: record.quarantined,
        key_state: record.keys.state().into(),
        since_ms,
        ..ChargingPointRow::default()
    }
}

/// The durable state of a charging point from its row, its keys and its unsettled sessions.
pub(crate) fn record(row: &ChargingPointRow, keys: Keyring, sessions: Vec<Session>) -> Result<Record, BadRow> {
    let id: ChargingPointId = parse(&row.cp_id, &row.cp_id, "charging_points")?;
    let notice = |by: &Option<String>, reason: &str| {
        by.as_deref().map(|by| Notice { by: Arc::from(by), reason: Arc::from(reason) })
    };
    let (open, settling): (Vec<_>, Vec<_>) = sessions.into_iter().partition(Session::is_open);
    Ok(Record {
        id,
        epoch: unsigned(row.epoch),
        version: unsigned(row.version),
        owner: row.owner.as_str().into(),
        city: row.city.as_str().into(),
        place: row.place.as_str().into(),
        price: price(row.price_e4),
        rated_power_w: u32::try_from(row.rated_power_w).unwrap_or_default(),
        stopped: notice(&row.stopped_by, &row.stop_reason),
        maintenance: notice(&row.maintenance_by, &row.maintenance_reason),
        weather_blocked: row.weather_blocked,
        quarantined: row.quarantined,
        removed: row.removed,
        keys,
        open: open.into_iter().next(),
        settling,
        claimed_by: None,
        owned: false,
    })
}

pub(crate) fn session_row(session: &Session, now: Now) -> SessionRow {
    let started = session.started_at.is_some();
    let left = session.due.map(|due| due.saturating_duration_since(now.mono));
    SessionRow {
        session_id: session.id.to_string(),
        cp_id: session.charging_point.to_string(),
        driver_id: session.driver.as_ref().map(ToString::to_string),
        state: session.state.into(),
        request_id: session.request_id.as_ref().to_owned(),
        manual: session.manual,
        place: session.place.as_ref().to_owned(),
        price_e4: i64::from(session.price.e4()),
        currency: session.currency.to_string(),
        requested_wh: wh(session.requested),
        meter_start_wh: started.then(|| wh(session.meter_start)),
        meter_last_wh: started.then(|| wh(session.meter_last)),
        reserved_at_ms: session.reserved_at,
        started_at_ms: session.started_at,
        ended_at_ms: session.ended_at,
        reason: session.reason.into(),
        deadline_left_ms: left.map(|left| i64::try_from(left.as_millis()).unwrap_or(i64::MAX)),
        disputed_wh: wh(session.disputed),
        discrepancy_wh: session.discrepancy,
        changed_at_ms: now.wall_ms,
    }
}

/// A stored session; its deadline goes on from what was left (SPEC 3.8).
pub(crate) fn session(row: &SessionRow, settings: &CentralSettings, now: Now) -> Result<Session, BadRow> {
    let table = "sessions";
    let state = SessionState::try_from(row.state).map_err(|e| BadRow(row.session_id.clone(), table, e.to_string()))?;
    let left = row.deadline_left_ms.map(|ms| Duration::from_millis(ms.max(0).unsigned_abs()));
    let default = match state {
        SessionState::Reserved => Some(settings.reservation),
        SessionState::Settling => Some(settings.settle_after),
        SessionState::Unspecified | SessionState::Supplying | SessionState::Billed | SessionState::Released => None,
    };
    // So much time has passed at least, even if the wall clock was set back.
    let wall = Now { wall_ms: now.wall_ms.max(row.changed_at_ms), ..now };
    let times = CentralTimes::of_earlier_process(row.reserved_at_ms, wall);
    let settled = row.ended_at_ms.filter(|_| state == SessionState::Settling);
    let times = settled.map_or(times, |at| times.settled_ago(wall.wall_ms.saturating_sub(at), now));
    let driver = row.driver_id.as_ref().map(|id| parse::<DriverId, _>(id, &row.session_id, table)).transpose()?;
    Ok(Session {
        id: SessionId::new(&row.session_id),
        charging_point: parse(&row.cp_id, &row.session_id, table)?,
        driver,
        request_id: row.request_id.as_str().into(),
        manual: row.manual,
        state,
        price: price(row.price_e4),
        currency: parse(&row.currency, &row.session_id, table)?,
        place: row.place.as_str().into(),
        requested: energy(row.requested_wh),
        meter_start: energy(row.meter_start_wh.unwrap_or_default()),
        meter_last: energy(row.meter_last_wh.unwrap_or_default()),
        reserved_at: row.reserved_at_ms,
        started_at: row.started_at_ms,
        ended_at: row.ended_at_ms,
        reason: Reason::try_from(row.reason).unwrap_or(Reason::Unspecified),
        due: default.map(|default| now.mono + left.unwrap_or(default)),
        discrepancy: row.discrepancy_wh,
        disputed: energy(row.disputed_wh),
        times,
    })
}

fn discrepancy(session: &Session, reported_end: Energy, now: Now) -> DiscrepancyRow {
    DiscrepancyRow {
        session_id: session.id.to_string(),
        cp_id: session.charging_point.to_string(),
        at_ms: now.wall_ms,
        billed_end_wh: wh(session.meter_last),
        reported_end_wh: wh(reported_end),
        energy_delta_wh: session.discrepancy,
    }
}

pub(crate) fn order_item(cp_id: String, order: &str, outcome: &OrderOutcome) -> OrderItemRow {
    let (outcome, reason, detail) = match outcome {
        OrderOutcome::Done => (ItemOutcome::Done, Reason::Unspecified, ""),
        OrderOutcome::Unchanged => (ItemOutcome::Unchanged, Reason::Unspecified, ""),
        OrderOutcome::Failed(reason, detail) => (ItemOutcome::Failed, *reason, detail.as_str()),
    };
    OrderItemRow {
        order_id: order.to_owned(),
        cp_id,
        outcome: outcome.into(),
        reason: reason.into(),
        detail: detail.to_owned(),
        ..OrderItemRow::default()
    }
}

/// The answer is the step that the requester is sent.
pub(crate) fn once(first: &FirstAnswer, now: Now) -> OnceRow {
    let method = match first.requester {
        PeerId::Driver(_) => "RequestSupply",
        PeerId::ChargingPoint(_) => "ManualSupply",
    };
    OnceRow {
        caller: first.requester.to_string(),
        request_id: first.request_id.as_ref().to_owned(),
        method: method.to_owned(),
        digest: first.digest.clone(),
        answer: OnceRow::encoded(&charge_point::first_answer(first).encode_to_vec()),
        nonce: None,
        at_ms: now.wall_ms,
    }
}

/// The first answer to a supply request; `None` if its row is not readable.
pub(crate) fn first_answer(row: &OnceRow) -> Option<FirstAnswer> {
    let requester = match row.caller.split_once('/')? {
        ("driver", id) => PeerId::Driver(id.parse().ok()?),
        ("charging-point", id) => PeerId::ChargingPoint(id.parse().ok()?),
        _ => return None,
    };
    let step = Step::decode(row.decoded()?.as_slice()).ok()?;
    Some(FirstAnswer {
        requester,
        charging_point: step.charging_point_id.parse().ok()?,
        request_id: row.request_id.as_str().into(),
        digest: row.digest.clone(),
        session: (!step.session_id.is_empty()).then(|| SessionId::new(&step.session_id)),
        reason: step.reason(),
        detail: step.detail,
    })
}

/// The store's refusal in the core's terms, and whether what is in memory is out of date.
pub(crate) fn refusal(refusal: CommitRefusal) -> (StoreRefusal, bool) {
    match refusal {
        CommitRefusal::DriverBusy => (StoreRefusal::DriverBusy, false),
        CommitRefusal::ChargingPointBusy => (StoreRefusal::ChargingPointBusy, true),
        CommitRefusal::Repeated(row) => match first_answer(&row) {
            Some(first) => (StoreRefusal::Repeated(Box::new(first)), false),
            None => (StoreRefusal::Unavailable("its first answer is not readable".to_owned()), false),
        },
        CommitRefusal::RequestIdReused(reused) => (StoreRefusal::RequestIdReused(reused.to_string()), false),
        CommitRefusal::OrderItemSettled => (StoreRefusal::OrderItemSettled, false),
        CommitRefusal::CorrectedMeanwhile => {
            (StoreRefusal::Unavailable("a correction in a turn of a charging point".to_owned()), false)
        }
        CommitRefusal::AlreadyBilled => (StoreRefusal::AlreadyBilled, true),
        CommitRefusal::Fenced => (StoreRefusal::Fenced, true),
        CommitRefusal::Unavailable(why) => (StoreRefusal::Unavailable(why), false),
        CommitRefusal::Rejected(why) => (StoreRefusal::Unavailable(why), true),
    }
}

pub(crate) fn key_row(holder: &PeerId, key: &KeyEntry, kek: &KeysAtRest, now: Now) -> KeyRow {
    let state = match key.stage {
        KeyStage::Staged => StoredKeyState::Staged,
        KeyStage::Active => StoredKeyState::Active,
        KeyStage::Retired => StoredKeyState::Retired,
        KeyStage::Revoked => StoredKeyState::Revoked,
        KeyStage::Deleted => StoredKeyState::Deleted,
    };
    let (holder, key_no) = (holder.to_string(), signed(key.no));
    let (wrapped, kek_id) = match &key.material {
        Some(material) => {
            let (wrapped, kek_id) = kek.encryption.wrap(&holder, key_no, material.as_bytes());
            (Some(wrapped), kek_id)
        }
        None => (None, String::new()),
    };
    KeyRow {
        holder,
        key_no,
        incarnation: signed(key.incarnation),
        state: state.into(),
        wrapped,
        kek_id,
        granted_at_ms: key.granted_at,
        expires_at_ms: key.expires_at,
        granted_running_ms: kek.running.came_ms(key.age, now),
        changed_at_ms: now.wall_ms,
    }
}

/// A stored key. One that does not open is as good as deleted: its holder authenticates again.
pub(crate) fn key(row: &KeyRow, kek: &KeysAtRest, now: Now) -> KeyEntry {
    let material = match kek.encryption.unwrap(row) {
        Ok(bytes) => Some(Arc::new(LinkKey::from_bytes(*bytes))),
        Err(error) => {
            if row.wrapped.is_some() {
                tracing::error!(%error, "a stored key cannot be used; its holder must authenticate again");
            }
            None
        }
    };
    let stage = match row.state {
        1 if material.is_some() => KeyStage::Staged,
        2 if material.is_some() => KeyStage::Active,
        3 if material.is_some() => KeyStage::Retired,
        4 => KeyStage::Revoked,
        _ => KeyStage::Deleted,
    };
    let granted = (row.granted_at_ms, row.expires_at_ms);
    let age = kek.running.age(row.granted_running_ms, now);
    KeyEntry::stored(unsigned(row.key_no), unsigned(row.incarnation), stage, material, granted, age)
}

pub(crate) fn event_row(event: &DomainEvent, charging_point: &str) -> OutboxEvent {
    OutboxEvent {
        event_id: format!("{:032x}", rand::random::<u128>()),
        cp_id: charging_point.to_owned(),
        kind: event.data.kind().to_owned(),
        at_ms: event.at,
        body: published(&event.data),
    }
}

/// An event's data as consumers read it: the JSON of `events.v1`.
fn published(data: &EventData) -> String {
    match data {
        EventData::State { charging_point, state, causes } => api_json(&events::StateChanged {
            charging_point_id: charging_point.clone(),
            state: convert::state(*state).into(),
            causes: causes.iter().map(|cause| convert::cause(*cause).into()).collect(),
        }),
        EventData::Session(session) => {
            api_json(&events::SessionChanged { session: Some(convert::session(session, 0)) })
        }
        EventData::Ticket(ticket) => api_json(&events::TicketIssued { ticket: Some(ticket.as_ref().clone().into()) }),
        EventData::Key { holder, key_no, stage } => api_json(&events::KeyChanged {
            holder: holder.clone(),
            key_no: *key_no,
            state: stage.as_str().to_ascii_lowercase(),
        }),
    }
}

pub(crate) fn audit(entry: &AuditRecord) -> AuditEntry {
    AuditEntry {
        at_ms: entry.at,
        actor: entry.actor.clone(),
        address: entry.address.clone(),
        action: entry.action.as_str().to_owned(),
        object: entry.object.clone(),
        parameters: entry.parameters_json(),
        outcome: entry.outcome.clone(),
    }
}

/// Whom a mirrored identity is of.
pub(crate) fn peer(identity: &MirroredIdentityRow) -> Option<PeerId> {
    match Kind::try_from(identity.kind).ok()? {
        Kind::ChargingPoint => identity.id.parse().ok().map(PeerId::ChargingPoint),
        Kind::Driver => identity.id.parse().ok().map(PeerId::Driver),
        Kind::Unspecified => None,
    }
}

fn parse<T: std::str::FromStr<Err = E>, E: std::fmt::Display>(
    text: &str,
    row: &str,
    table: &'static str,
) -> Result<T, BadRow> {
    text.parse().map_err(|error: E| BadRow(row.to_owned(), table, error.to_string()))
}

fn price(e4: i64) -> Price {
    Price::from_e4(u32::try_from(e4).unwrap_or(u32::MAX))
}

fn energy(wh: i64) -> Energy {
    Energy::from_wh(unsigned(wh))
}

fn wh(energy: Energy) -> i64 {
    signed(energy.wh())
}

/// Rows hold signed numbers; nothing of ours comes near their end.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
