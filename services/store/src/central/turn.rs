//! A turn: the writes that become durable together, and why that can be refused.

use std::fmt;

use ring::rand::{SecureRandom as _, SystemRandom};

use super::{
    AuditEntry, AuditRow, ChargingPointRow, CorrectionRow, DiscrepancyRow, KeyRow, MirroredIdentityRow,
    MirroredOperatorRow, OnceRow, OrderItemRow, OrderRow, OutboxEvent, SessionRow, TicketRow,
};

/// The id of a turn, by which the database can tell whether it arrived.
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

/// The condition on a charging point under which a turn is applied. It also raises the version by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The charging point is owned under this epoch, and no turn came after this version.
    Owned { cp_id: String, epoch: i64, version: i64 },
    /// Takes the charging point over under the next epoch; with `expected_owner` only from that owner (empty: from
    /// none).
    Takeover { cp_id: String, owner: String, expected_owner: Option<String> },
}

impl Guard {
    pub(super) fn cp_id(&self) -> &str {
        match self {
            Self::Owned { cp_id, .. } | Self::Takeover { cp_id, .. } => cp_id,
        }
    }
}

/// Writes that are applied together or not at all.
#[derive(Clone, Debug)]
pub struct Turn {
    pub id: TurnId,
    /// The kind of turn in metrics, such as `authorise`.
    pub name: &'static str,
    /// `None`: the writes belong to no charging point.
    pub guard: Option<Guard>,
    pub writes: Vec<RowWrite>,
}

#[derive(Clone, Debug)]
pub enum RowWrite {
    /// Inserts a new charging point; an existing one is not changed.
    AddChargingPoint(ChargingPointRow),
    /// Updates every column except owner, epoch, version and last turn.
    ChargingPoint(ChargingPointRow),
    /// Refused with `DriverBusy` or `ChargingPointBusy`.
    OpenSession(SessionRow),
    UpdateSession(SessionRow),
    /// Refused with `AlreadyBilled`.
    Ticket(TicketRow),
    /// Only for the ticket's own driver; a second time changes nothing.
    TicketAcknowledged {
        session_id: String,
        driver_id: String,
        at_ms: i64,
    },
    /// Under the number that was next when it was decided. Refused with `CorrectedMeanwhile`.
    Correction(CorrectionRow),
    /// Only the first discrepancy of a session is stored.
    Discrepancy(DiscrepancyRow),
    /// Refused with `Repeated` or `RequestIdReused`.
    Once(OnceRow),
    /// Settles the pending items that the order overtakes, with an entry like `overtaken` about each.
    Order {
        order: OrderRow,
        items: Vec<OrderItemRow>,
        overtaken: AuditEntry,
    },
    /// Settles a pending item. Refused with `OrderItemSettled`.
    OrderItem(OrderItemRow),
    /// Settles all pending items of an order. Refused with `OrderItemSettled` if there are none.
    CancelOrder(String),
    /// Inserts or replaces. A turn must retire the old active key before it activates the new one.
    Key(KeyRow),
    /// How long Central has run in all, in milliseconds.
    RunningTime(i64),
    Identity(MirroredIdentityRow),
    Operator(MirroredOperatorRow),
    /// The mirror of Registry is complete up to this revision.
    Mirrored(i64),
    /// What shows that this database is older than what Central has signed (SPEC 10.5).
    LedgerBehind(String),
    Event(OutboxEvent),
    /// The writer's events with these numbers, the last included, were published.
    Published {
        writer: String,
        first: i64,
        last: i64,
        at_ms: i64,
    },
    Audit(AuditEntry),
}

impl RowWrite {
    /// Whether a rule of the rows may refuse it.
    pub(super) fn is_refusable(&self) -> bool {
        matches!(
            self,
            Self::OpenSession(_)
                | Self::Ticket(_)
                | Self::Correction(_)
                | Self::Once(_)
                | Self::OrderItem(_)
                | Self::CancelOrder(_)
        )
    }
}

/// The turn is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The epoch of the guard's charging point after the turn; 0 without a guard.
    pub epoch: i64,
    pub version: i64,
    /// The turn's audit entries, numbered and chained.
    pub audit: Vec<AuditRow>,
}
