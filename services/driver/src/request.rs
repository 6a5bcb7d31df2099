//! A request for a supply: what is asked for, what is known while it runs, and how it ended.

use std::fmt;

use mesh::screen::escaped;
use proto::{ChargingPointId, Energy};
use serde::{Deserialize, Serialize};

/// How to answer a manual supply that names this driver (SPEC 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ConfirmPolicy {
    /// Confirm each one.
    Always,
    /// Refuse each one.
    Never,
    /// Ask the person.
    #[default]
    Ask,
}

/// A request for a supply. It is on disk from before it is sent until it has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverRequest {
    /// Unique among the driver's requests. Central answers a repeated id with its first answer, so repeating is safe.
    pub id: String,
    pub charging_point: ChargingPointId,
    /// Energy that is asked for; zero: until unplugged.
    #[serde(rename = "energy_wh")]
    pub energy: Energy,
    /// The line of the file that it was read from.
    pub line: Option<u64>,
    /// The session that Central reserved for it.
    pub session: Option<String>,
}

/// An order of a person, a file or a program to the driver's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DriverOrder {
    Request(DriverRequest),
    /// A request made by a person, who is told when it cannot be sent now.
    ByHand(DriverRequest),
    /// Ends this session, or the only one.
    Stop(Option<String>),
    /// Confirms or refuses this manual supply, or the only one that waits for an answer.
    Confirm(Option<String>, bool),
    ListChargingPoints,
    ListHistory(u32),
}

/// A session that the driver pays for, as Central reported it last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunningSupply {
    pub session: String,
    pub charging_point: String,
    pub step: &'static str,
    pub energy_wh: u64,
    pub amount_minor: i64,
    pub currency: String,
    pub power_w: u32,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum RequestOutcome {
    /// Its ticket is on disk.
    Billed {
        session: String,
    },
    Refused {
        reason: &'static str,
        detail: String,
    },
    /// Reserved, and nothing was supplied.
    Released {
        reason: &'static str,
        detail: String,
    },
    /// The charging point is lost; the ticket follows when the session is settled.
    Settling {
        session: String,
    },
}

impl fmt::Display for RequestOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Billed { .. } => write!(f, "done, the ticket is stored"),
            Self::Refused { detail, .. } => write!(f, "refused: {}", escaped(detail)),
            Self::Released { detail, .. } => write!(f, "released: {}", escaped(detail)),
            Self::Settling { .. } => write!(f, "the charging point is lost; the ticket follows when it is settled"),
        }
    }
}
