//! What the driver's process reports: each step as a line for people and as a JSON object for programs.

use std::fmt;

use mesh::screen::escaped;
use proto::{
    Energy, Price,
    link::v1::{ChargingPointList, ConfirmRequest, History, Step, Ticket},
};
use serde::Serialize;

use crate::{
    format,
    request::{DriverRequest, RequestOutcome, RunningSupply},
    ticket::{self, PrintedTicket},
};

/// One charging point that is available.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offer {
    pub id: String,
    pub place: String,
    pub price_e4: u32,
    pub currency: String,
}

/// One event that the driver is told of.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Notification {
    Enrolled {
        driver: String,
    },
    LinkUp {
        address: String,
        key_no: u64,
    },
    CannotReachCentral {
        detail: String,
    },
    /// Central reported the state of the driver's key or enrolment.
    AuthStatus {
        reason: &'static str,
        detail: String,
    },
    /// Number of messages from Central so far that could not be opened.
    Unintelligible {
        count: u64,
    },
    Requested {
        request_id: String,
        charging_point: String,
        energy_wh: u64,
        line: Option<u64>,
    },
    /// Central cannot answer a request now; the request is repeated.
    Waiting {
        reason: &'static str,
        detail: String,
    },
    Step {
        request_id: String,
        session: String,
        charging_point: String,
        progress: &'static str,
        reason: &'static str,
        detail: String,
        place: String,
        price_e4: u32,
        currency: String,
    },
    Running(RunningSupply),
    Ticket(Box<Ticket>),
    Ended {
        request_id: String,
        charging_point: String,
        line: Option<u64>,
        #[serde(flatten)]
        outcome: RequestOutcome,
    },
    Offers {
        offers: Vec<Offer>,
    },
    History {
        tickets: Vec<Ticket>,
        total_sessions: u64,
        total_energy_wh: u64,
        total_amount_minor: i64,
        currency: String,
    },
    ConfirmationRequested {
        session: String,
        charging_point: String,
        place: String,
        price_e4: u32,
        currency: String,
        energy_wh: u64,
        expires_ms: u32,
    },
    Confirmed {
        session: String,
        accepted: bool,
    },
    /// Central rejected an order about a session.
    Rejected {
        session: String,
        reason: &'static str,
        detail: String,
    },
    BadLine {
        line: u64,
        detail: String,
    },
    FileFinished {
        requests: u64,
        bad_lines: u64,
    },
    Hint {
        text: String,
    },
}

impl Notification {
    pub(crate) fn requested(request: &DriverRequest) -> Self {
        Self::Requested {
            request_id: request.id.clone(),
            charging_point: request.charging_point.to_string(),
            energy_wh: request.energy.wh(),
            line: request.line,
        }
    }

    pub(crate) fn ended(request: &DriverRequest, outcome: RequestOutcome) -> Self {
        Self::Ended {
            request_id: request.id.clone(),
            charging_point: request.charging_point.to_string(),
            line: request.line,
            outcome,
        }
    }

    pub(crate) fn step(step: &Step) -> Self {
        Self::Step {
            request_id: step.request_id.clone(),
            session: step.session_id.clone(),
            charging_point: step.charging_point_id.clone(),
            progress: format::progress(step.progress()),
            reason: step.reason().code(),
            detail: if step.detail.is_empty() && step.reason() != proto::link::v1::Reason::Unspecified {
                step.reason().in_words().to_owned()
            } else {
                step.detail.clone()
            },
            place: step.place.clone(),
            price_e4: step.price_e4,
            currency: step.currency.clone(),
        }
    }

    pub(crate) fn offers(list: ChargingPointList) -> Self {
        let offers = list.offers.into_iter().map(|o| Offer {
            id: o.id,
            place: o.place,
            price_e4: o.price_e4,
            currency: o.currency,
        });
        Self::Offers { offers: offers.collect() }
    }

    pub(crate) fn history(history: History) -> Self {
        Self::History {
            tickets: history.tickets,
            total_sessions: history.total_sessions,
            total_energy_wh: history.total_energy_wh,
            total_amount_minor: history.total_amount_minor,
            currency: history.currency,
        }
    }

    pub(crate) fn confirmation_requested(asked: &ConfirmRequest) -> Self {
        Self::ConfirmationRequested {
            session: asked.session_id.clone(),
            charging_point: asked.charging_point_id.clone(),
            place: asked.place.clone(),
            price_e4: asked.price_e4,
            currency: asked.currency.clone(),
            energy_wh: asked.energy_wh,
            expires_ms: asked.expires_ms,
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enrolled { driver } => write!(f, "enrolled as {driver}"),
            Self::LinkUp { address, key_no } => write!(f, "linked to Central at {address} under key {key_no}"),
            Self::CannotReachCentral { detail } => write!(f, "cannot reach Central: {}", escaped(detail)),
            Self::AuthStatus { reason, detail } => write!(f, "Central reports {reason}: {}", escaped(detail)),
            Self::Unintelligible { count } => write!(f, "unintelligible messages from Central ({count})"),
            Self::Requested { charging_point, energy_wh, line, .. } => {
                let line = line.map(|n| format!("line {n}: ")).unwrap_or_default();
                write!(f, "{line}asking for a supply at {charging_point}, {}", format::energy(*energy_wh))
            }
            Self::Waiting { detail, .. } => write!(f, "{}; asking again", escaped(detail)),
            Self::Step { charging_point, progress, detail, place, price_e4, currency, .. } => {
                write!(f, "{progress} at {charging_point}")?;
                if !place.is_empty() {
                    write!(f, " ({})", escaped(place))?;
                }
                if *price_e4 > 0 && *progress == "authorised" {
                    write!(f, ", {} {currency}/kWh", Price::from_e4(*price_e4))?;
                }
                if detail.is_empty() { Ok(()) } else { write!(f, ": {}", escaped(detail)) }
            }
            Self::Running(r) => write!(
                f,
                "{}: {}, {}, {} W",
                r.charging_point,
                Energy::from_wh(r.energy_wh),
                format::money(r.amount_minor, &r.currency),
                r.power_w
            ),
            Self::Ticket(ticket) => write!(f, "{}", PrintedTicket(ticket)),
            Self::Ended { charging_point, line, outcome, .. } => {
                let line = line.map(|n| format!("line {n}: ")).unwrap_or_default();
                write!(f, "{line}{charging_point}: {outcome}")
            }
            Self::Offers { offers } if offers.is_empty() => write!(f, "no charging point is available now"),
            Self::Offers { offers } => {
                let lines = offers.iter().map(|o| {
                    let price = Price::from_e4(o.price_e4);
                    format!("  {:<20} {} {}/kWh  {}", o.id, price, o.currency, escaped(&o.place))
                });
                write!(f, "available now:\n{}", lines.collect::<Vec<_>>().join("\n"))
            }
            Self::History { tickets, total_sessions, total_energy_wh, total_amount_minor, currency } => {
                for ticket in tickets {
                    writeln!(f, "  {}", ticket::line(ticket))?;
                }
                write!(
                    f,
                    "{total_sessions} sessions, {}, {}",
                    Energy::from_wh(*total_energy_wh),
                    format::money(*total_amount_minor, currency)
                )
            }
            Self::ConfirmationRequested {
                session,
                charging_point,
                place,
                price_e4,
                currency,
                energy_wh,
                expires_ms,
            } => write!(
                f,
                "{charging_point}{} asks you to pay for a supply ({}, {} {currency}/kWh): \
                 confirm {session} or refuse {session} within {} s",
                if place.is_empty() { String::new() } else { format!(" ({})", escaped(place)) },
                format::energy(*energy_wh),
                Price::from_e4(*price_e4),
                expires_ms / 1000
            ),
            Self::Confirmed { session, accepted: true } => write!(f, "confirmed the supply {session}"),
            Self::Confirmed { session, accepted: false } => write!(f, "refused the supply {session}"),
            Self::Rejected { session, detail, .. } => write!(f, "rejected for session {session}: {}", escaped(detail)),
            Self::BadLine { line, detail } => write!(f, "line {line} skipped: {}", escaped(detail)),
            Self::FileFinished { requests, bad_lines } => {
                write!(f, "the file is finished: {requests} requests, {bad_lines} bad lines skipped")
            }
            Self::Hint { text } => f.write_str(&escaped(text)),
        }
    }
}
