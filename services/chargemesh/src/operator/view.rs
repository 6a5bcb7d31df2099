//! What operators are shown of each thing: the columns of its table, and its JSON.

mod audit;
mod charging_point;
mod order;
mod registry;

use driver::{TicketText, utc};
use proto::{
    Energy, Money, Price,
    central::v1::{ChargingPoint, Session, Statistic},
    link::v1::{Cause, KeyState, Reason, SessionState, State},
};
use serde::Serialize;

pub(crate) use self::{
    audit::AuditView,
    charging_point::ChargingPointRecord,
    order::OrderView,
    registry::{IdentityView, OperatorView, TokenView},
};

use crate::output::{Columns, escaped};

/// A name of an enum as people and JSON read it: `STATE_OUT_OF_ORDER` is `out-of-order`.
pub(crate) fn name(full: &str, prefix: &str) -> String {
    full.trim_start_matches(prefix).to_ascii_lowercase().replace('_', "-")
}

pub(crate) fn state_name(state: State) -> String {
    name(state.as_str_name(), "STATE_")
}

pub(crate) fn session_state_name(state: SessionState) -> String {
    name(state.as_str_name(), "SESSION_STATE_")
}

fn money(minor: i64, currency: &str) -> String {
    Money { minor, currency: currency.parse().unwrap_or_default() }.to_string()
}

fn wh(wh: u64) -> String {
    Energy::from_wh(wh).to_string()
}

fn at(ms: i64) -> String {
    if ms == 0 { String::new() } else { utc(ms) }
}

#[derive(Debug, Serialize)]
pub(crate) struct ChargingPointView {
    id: String,
    state: String,
    causes: Vec<String>,
    detail: String,
    city: String,
    place: String,
    price_e4: u32,
    currency: String,
    session: String,
    driver: String,
    energy_wh: u64,
    amount_minor: i64,
    power_w: u32,
    rated_power_w: u32,
    key_state: String,
    key_no: u64,
    key_expires_at_ms: i64,
    unintelligible: u64,
    unread: bool,
    since_ms: i64,
    epoch: u64,
    version: u64,
    telemetry: TelemetryView,
}

#[derive(Debug, Default, Serialize)]
struct TelemetryView {
    readings: u64,
    duplicates: u64,
    gaps: u64,
    reordered: u64,
    unreadable: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<ReadingView>,
}

#[derive(Debug, Serialize)]
struct ReadingView {
    sequence: u64,
    at_ms: i64,
    session: String,
    meter_wh: u64,
    power_w: u32,
    current_ma: u32,
    voltage_mv: u32,
    state_of_charge_permille: u32,
    temperature_dc: i32,
}

impl From<ChargingPoint> for ChargingPointView {
    fn from(cp: ChargingPoint) -> Self {
        let view = cp.view.unwrap_or_default();
        let telemetry = cp.telemetry.unwrap_or_default();
        Self {
            id: cp.id,
            state: state_name(view.state()),
            causes: view.causes().filter(|c| *c != Cause::Unspecified).map(cause_name).collect(),
            key_state: name(view.key_state().as_str_name(), "KEY_STATE_"),
            detail: view.detail,
            city: cp.city,
            place: cp.place,
            price_e4: view.price_e4,
            currency: view.currency,
            session: view.session_id,
            driver: view.driver_id,
            energy_wh: view.energy_wh,
            amount_minor: view.amount_minor,
            power_w: view.power_w,
            rated_power_w: cp.rated_power_w,
            key_no: cp.key_no,
            key_expires_at_ms: cp.key_expires_at_ms,
            unintelligible: cp.unintelligible,
            unread: cp.unread,
            since_ms: cp.since_ms,
            epoch: cp.epoch,
            version: cp.version,
            telemetry: TelemetryView {
                readings: telemetry.readings,
                duplicates: telemetry.duplicates,
                gaps: telemetry.gaps,
                reordered: telemetry.reordered,
                unreadable: telemetry.unreadable,
                last: telemetry.last.map(|r| ReadingView {
                    sequence: r.sequence,
                    at_ms: r.at_ms,
                    session: r.session_id,
                    meter_wh: r.meter_wh,
                    power_w: r.power_w,
                    current_ma: r.current_ma,
                    voltage_mv: r.voltage_mv,
                    state_of_charge_permille: r.state_of_charge_permille,
                    temperature_dc: r.temperature_dc,
                }),
            },
        }
    }
}

fn cause_name(cause: Cause) -> String {
    name(cause.as_str_name(), "CAUSE_")
}

impl ChargingPointView {
    fn state_in_words(&self) -> String {
        self.state.to_uppercase().replace('-', " ")
    }

    fn driver_in_words(&self) -> String {
        if self.driver.is_empty() { "(own account)".into() } else { self.driver.clone() }
    }

    /// The phrases that a person needs (SPEC 2.2, 4.8).
    fn why(&self) -> String {
        let why = if self.detail.is_empty() { self.causes.join(", ") } else { escaped(&self.detail) };
        // Those before it spoke plainly again are history, in the full record.
        let unread = self.unread.then(|| format!("unintelligible messages from {} ({})", self.id, self.unintelligible));
        [Some(why), unread].into_iter().flatten().filter(|phrase| !phrase.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

impl Columns for ChargingPointView {
    const HEADERS: &'static [&'static str] =
        &["id", "state", "city", "place", "price", "driver", "energy", "amount", "power", "key", "why"];
    fn cells(&self) -> Vec<String> {
        let running = !self.session.is_empty();
        let shown = |text: String| if running { text } else { String::new() };
        let key = if self.key_state == name(KeyState::Active.as_str_name(), "KEY_STATE_") {
            self.key_no.to_string()
        } else {
            self.key_state.clone()
        };
        vec![
            self.id.clone(),
            self.state_in_words(),
            escaped(&self.city),
            escaped(&self.place),
            format!("{} {}", Price::from_e4(self.price_e4), self.currency),
            shown(self.driver_in_words()),
            shown(wh(self.energy_wh)),
            shown(money(self.amount_minor, &self.currency)),
            shown(format!("{} W", self.power_w)),
            key,
            self.why(),
        ]
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct SessionView {
    id: String,
    charging_point: String,
    driver: String,
    state: String,
    energy_wh: u64,
    requested_wh: u64,
    meter_start_wh: u64,
    meter_last_wh: u64,
    price_e4: u32,
    amount_minor: i64,
    currency: String,
    power_w: u32,
    reserved_at_ms: i64,
    started_at_ms: i64,
    ended_at_ms: i64,
    reason: String,
    request_id: String,
    discrepancy_wh: i64,
    disputed_wh: u64,
}

impl From<Session> for SessionView {
    fn from(s: Session) -> Self {
        Self {
            state: session_state_name(s.state()),
            reason: s.reason().code().to_owned(),
            energy_wh: s.meter_last_wh.saturating_sub(s.meter_start_wh),
            id: s.id,
            charging_point: s.charging_point_id,
            driver: s.driver_id,
            requested_wh: s.requested_wh,
            meter_start_wh: s.meter_start_wh,
            meter_last_wh: s.meter_last_wh,
            price_e4: s.price_e4,
            amount_minor: s.amount_minor,
            currency: s.currency,
            power_w: s.power_w,
            reserved_at_ms: s.reserved_at_ms,
            started_at_ms: s.started_at_ms,
            ended_at_ms: s.ended_at_ms,
            request_id: s.request_id,
            discrepancy_wh: s.discrepancy_wh,
            disputed_wh: s.disputed_wh,
        }
    }
}

impl Columns for SessionView {
    const HEADERS: &'static [&'static str] = &[
        "id",
        "state",
        "charging point",
        "driver",
        "reserved",
        "started",
        "ended",
        "energy",
        "amount",
        "reason",
        "disputed",
        "discrepancy",
    ];
    fn cells(&self) -> Vec<String> {
        let none = Reason::Unspecified.code();
        vec![
            self.id.clone(),
            self.state.clone(),
            self.charging_point.clone(),
            if self.driver.is_empty() { "(own account)".into() } else { self.driver.clone() },
            at(self.reserved_at_ms),
            at(self.started_at_ms),
            at(self.ended_at_ms),
            wh(self.energy_wh),
            money(self.amount_minor, &self.currency),
            if self.reason == none { String::new() } else { self.reason.clone() },
            if self.disputed_wh == 0 { String::new() } else { wh(self.disputed_wh) },
            if self.discrepancy_wh == 0 { String::new() } else { format!("{} Wh", self.discrepancy_wh) },
        ]
    }
}

/// The same text that a driver stores.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct TicketView(pub(crate) TicketText);

impl Columns for TicketView {
    const HEADERS: &'static [&'static str] = &[
        "session",
        "charging point",
        "place",
        "driver",
        "start",
        "end",
        "energy",
        "price",
        "amount",
        "disputed",
        "corrections",
        "ended by",
    ];
    fn cells(&self) -> Vec<String> {
        let t = &self.0;
        vec![
            t.session.clone(),
            t.charging_point.clone(),
            escaped(&t.place),
            if t.driver.is_empty() { "(own account)".into() } else { t.driver.clone() },
            at(t.started_at_ms),
            at(t.ended_at_ms),
            wh(t.energy_wh),
            Price::from_e4(t.price_e4).to_string(),
            money(t.amount_minor, &t.currency),
            match t.still_disputed_wh() {
                0 => String::new(),
                left => wh(left),
            },
            t.corrections
                .iter()
                .map(|c| {
                    let amount = money(c.amount_delta_minor, &t.currency);
                    format!("{amount} by {}: {}", escaped(&c.operator), escaped(&c.reason))
                })
                .collect::<Vec<_>>()
                .join("; "),
            t.reason_in_words.clone(),
        ]
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct StatisticView {
    id: String,
    sessions: u64,
    energy_wh: u64,
    amount_minor: i64,
    currency: String,
    disputed_wh: u64,
    discrepancy_wh: i64,
}

impl From<Statistic> for StatisticView {
    fn from(s: Statistic) -> Self {
        Self {
            id: s.id,
            sessions: s.sessions,
            energy_wh: s.energy_wh,
            amount_minor: s.amount_minor,
            currency: s.currency,
            disputed_wh: s.disputed_wh,
            discrepancy_wh: s.discrepancy_wh,
        }
    }
}

impl Columns for StatisticView {
    const HEADERS: &'static [&'static str] = &["id", "sessions", "energy", "amount", "disputed", "discrepancy"];
    fn cells(&self) -> Vec<String> {
        vec![
            if self.id.is_empty() { "(own accounts)".into() } else { self.id.clone() },
            self.sessions.to_string(),
            wh(self.energy_wh),
            money(self.amount_minor, &self.currency),
            wh(self.disputed_wh),
            format!("{} Wh", self.discrepancy_wh),
        ]
    }
}
