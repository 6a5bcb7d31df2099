//! Why a turn was not committed.

use super::{OnceRow, RequestIdReused};

/// Why a turn was refused. Nothing of it is durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitRefusal {
    #[error("the driver has an open session")]
    DriverBusy,
    #[error("the charging point has an open session")]
    ChargingPointBusy,
    #[error("the request was answered before")]
    Repeated(Box<OnceRow>),
    #[error(transparent)]
    RequestIdReused(RequestIdReused),
    #[error("this part of the order was done, overtaken or cancelled before")]
    OrderItemSettled,
    #[error("the ticket has been corrected meanwhile")]
    CorrectedMeanwhile,
    #[error("the session was billed before")]
    AlreadyBilled,
    #[error("the charging point is owned by another, or has changed meanwhile")]
    Fenced,
    /// A later attempt may succeed.
    #[error("not durable now: {0}")]
    Unavailable(String),
    /// A constraint was violated, so repeating it does not help.
    #[error("rejected: {0}")]
    Rejected(String),
}
