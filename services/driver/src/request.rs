//! A request for a supply: what is asked for, what is known while it runs, and how it ended.

use std::fmt;

use mesh::screen::escaped;
use proto::{ChargingPointId, Energy};
use serde::{Deserialize, Serialize};

/// What becomes of a manual supply that names this driver (SPEC 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ConfirmPolicy {
    /// Every one is confirmed.
    Always,
    /// Every one is refused.
    Never,
    /// The person is asked.
    #[default]
    Ask,
}

/// A supply wished for. Kept on disk from before it is sent until it is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupplyRequest {
    /// Unique for the driver; the same id gets the first answer, so asking again is safe.
    pub id: String,
    pub charging_point: ChargingPointId,
    /// Zero: until unplugged.
    #[serde(rename = "energy_wh")]
    pub energy: Energy,
    /// The line of the file it came from.
    pub line: Option<u64>,
    /// Known once Central has reserved.
    pub session: Option<String>,
}

/// What a person, a file or a program wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DriverOrder {
    Request(SupplyRequest),
    /// Made by a person, who is told where it cannot be sent now.
    ByHand(SupplyRequest),
    /// The named session, or the only one.
    Stop(Option<String>),
    /// The named session, or the only one that waits for a word.
    Confirm(Option<String>, bool),
    ListChargingPoints,
    ListHistory(u32),
}

/// A session of this driver that runs.
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
