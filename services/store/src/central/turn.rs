//! What Central wants made durable at once, and how that can end.

use std::fmt;

use ring::rand::{SecureRandom as _, SystemRandom};

use super::{
    AuditEntry, AuditRow, ChargingPointRow, CorrectionRow, DiscrepancyRow, KeyRow, MirroredIdentityRow,
    MirroredOperatorRow, OrderRow, OutboxEvent, RequestRow, SessionRow, TicketRow,
};

/// Names a turn, so that "did it arrive?" has an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TurnId([u8; 16]);

impl TurnId {
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub fn random() -> Self {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).expect("the operating system has randomness");
        Self(bytes)
    }
}

impl fmt::Display for TurnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for TurnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What must be true of a charging point for a turn to count. Either raises its version by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// It is still owned under this epoch, and no other turn came between.
    Owned { cp_id: String, epoch: i64, version: i64 },
    /// Takes it over, under the next epoch; with `expected_owner` only from that one (empty: nobody).
    Takeover { cp_id: String, owner: String, expected_owner: Option<String> },
}

/// Applied whole or not at all.
#[derive(Clone, Debug)]
pub struct Turn {
    pub id: TurnId,
    /// For metrics: what kind of turn, such as `authorise`.
    pub name: &'static str,
    /// `None`: what is written belongs to no charging point.
    pub guard: Option<Guard>,
    pub writes: Vec<RowWrite>,
}

#[derive(Clone, Debug)]
pub enum RowWrite {
    /// New to Central; one that is known stays as it is.
    AddChargingPoint(ChargingPointRow),
    /// Everything but owner, epoch, version and last turn.
    ChargingPoint(ChargingPointRow),
    /// Refused with `DriverBusy` or `ChargingPointBusy`.
    OpenSession(SessionRow),
    UpdateSession(SessionRow),
    /// Refused with `AlreadyBilled`.
    Ticket(TicketRow),
    /// Only by the driver it is due to; a second time changes nothing.
    TicketAcknowledged {
        session_id: String,
        driver_id: String,
        at_ms: i64,
    },
    /// Under the number that was the next when it was decided. Refused with `CorrectedMeanwhile`.
    Correction(CorrectionRow),
    /// The first of a session counts.
    Discrepancy(DiscrepancyRow),
    /// Refused with `Repeated`.
    Request(RequestRow),
    /// Refused with `RepeatedOrder`.
    Order(OrderRow),
    UpdateOrder(OrderRow),
    /// Inserted or replaced; put the one that retires before the one that becomes active.
    Key(KeyRow),
    Identity(MirroredIdentityRow),
    Operator(MirroredOperatorRow),
    /// All of Registry's changes up to this revision are here.
    Mirrored(i64),
    Event(OutboxEvent),
    /// The broker has it.
    Published {
        writer: String,
        sequence: i64,
        at_ms: i64,
    },
    Audit(AuditEntry),
}

impl RowWrite {
    /// Whether a rule of the rows may say no to it.
    pub(super) fn is_refusable(&self) -> bool {
        matches!(self, Self::OpenSession(_) | Self::Ticket(_) | Self::Correction(_) | Self::Request(_) | Self::Order(_))
    }
}

/// On disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Of the guard's charging point, now; 0 without a guard.
    pub epoch: i64,
    pub version: i64,
    /// The turn's audit entries as numbered and chained.
    pub audit: Vec<AuditRow>,
}

/// Why a turn was dropped whole. Nothing of it is on disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitRefusal {
    #[error("the driver has an open session")]
    DriverBusy,
    #[error("the charging point has an open session")]
    ChargingPointBusy,
    #[error("the request was answered before")]
    Repeated(Box<RequestRow>),
    #[error("the order was given before")]
    RepeatedOrder(Box<OrderRow>),
    #[error("the ticket has been corrected meanwhile")]
    CorrectedMeanwhile,
    #[error("the session was billed before")]
    AlreadyBilled,
    #[error("the charging point is owned by another, or has changed meanwhile")]
    Fenced,
    /// Later may be better.
    #[error("not durable now: {0}")]
    Unavailable(String),
    /// A constraint: a fault of the caller's that repeating does not heal.
    #[error("rejected: {0}")]
    Rejected(String),
}
