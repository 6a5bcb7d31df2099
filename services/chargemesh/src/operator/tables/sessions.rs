//! Sessions, and the sums over them.

use proto::central::v1::{Session, Statistic};

use crate::{
    operator::api_message::{ApiMessage, at, money, name, payer, wh},
    output::Columns,
};

impl Columns for ApiMessage<Session> {
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
        let s = &self.0;
        vec![
            s.id.clone(),
            name(s.state().as_str_name(), "SESSION_STATE_"),
            s.charging_point_id.clone(),
            payer(&s.driver_id),
            at(s.reserve_time.as_ref()),
            at(s.start_time.as_ref()),
            at(s.end_time.as_ref()),
            wh(s.meter_last_wh.saturating_sub(s.meter_start_wh)),
            money(s.amount_minor, &s.currency),
            s.reason_code.clone(),
            if s.disputed_wh == 0 { String::new() } else { wh(s.disputed_wh) },
            if s.discrepancy_wh == 0 { String::new() } else { format!("{} Wh", s.discrepancy_wh) },
        ]
    }
}

impl Columns for ApiMessage<Statistic> {
    const HEADERS: &'static [&'static str] = &["id", "sessions", "energy", "amount", "disputed", "discrepancy"];
    fn cells(&self) -> Vec<String> {
        let s = &self.0;
        vec![
            if s.id.is_empty() { "(own accounts)".into() } else { s.id.clone() },
            s.sessions.to_string(),
            wh(s.energy_wh),
            money(s.amount_minor, &s.currency),
            wh(s.disputed_wh),
            format!("{} Wh", s.discrepancy_wh),
        ]
    }
}
