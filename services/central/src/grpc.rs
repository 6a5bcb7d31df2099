//! `central.v1` over mutual TLS: converts between the contract and the loop, the boards and the store. Who may call what
//! is the contract's policy, kept by mesh's server before anything here runs.

mod audit;
mod charging_points;
mod conditions;
pub(crate) mod convert;
mod corrections;
mod once;
mod orders;
mod selection;
mod sessions;
mod stored;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    audit::AuditService, charging_points::ChargingPointsService, conditions::ConditionsService, orders::Orders,
    sessions::SessionsService,
};
pub(crate) use convert::{charging_point, reading, session};

use mesh::{
    principal::Principal,
    status::{reason_of, refuse},
};
use proto::link::v1::Reason;
use store::{
    StoreError,
    central::{CommitRefusal, RowWrite},
};
use tonic::{Request, Status};

use crate::{
    audit::{AuditAction, AuditRecord},
    order,
    origin::Origin,
    rows,
    shared::SharedState,
};

/// What an operator was refused is an entry as what he was granted (SPEC 8.1). Hands the status on.
async fn refused(shared: &SharedState, by: &Origin, method: &'static str, object: &str, status: Status) -> Status {
    let reason = reason_of(&status).unwrap_or_default();
    let by = by.clone().because(order::clipped(&by.reason));
    let entry = AuditRecord::new(AuditAction::OrderRefused, object).with("method", method);
    let entry = entry.outcome(reason, &order::clipped(status.message())).by(&by, shared.clock.now());
    if let Err(error) = shared.store.write("refusal", vec![RowWrite::Audit(rows::audit(&entry))]).await {
        tracing::warn!(%error, order.method = method, "a refusal could not be noted");
    }
    status
}

/// Who calls, for the audit.
fn origin<T>(request: &Request<T>) -> Result<Origin, Status> {
    let principal = Principal::of(request)?;
    Ok(Origin::new(principal.to_string(), principal.address.to_string()))
}

/// The only way from the store's errors to a status.
pub(crate) fn unread(error: StoreError) -> Status {
    match error {
        StoreError::Unavailable(why) | StoreError::Contended(why) => refuse(Reason::Unavailable, why),
        StoreError::Rejected(why) => refuse(Reason::Invalid, why),
    }
}

/// The only way from the store's refusals to a status.
fn unwritten(refusal: CommitRefusal) -> Status {
    let reason = match &refusal {
        CommitRefusal::DriverBusy => Reason::DriverBusy,
        CommitRefusal::ChargingPointBusy => Reason::Occupied,
        CommitRefusal::Fenced | CommitRefusal::AlreadyBilled => Reason::Fenced,
        CommitRefusal::Repeated(_)
        | CommitRefusal::RequestIdReused(_)
        | CommitRefusal::OrderItemSettled
        | CommitRefusal::Rejected(_) => Reason::Invalid,
        CommitRefusal::CorrectedMeanwhile | CommitRefusal::Unavailable(_) => Reason::Unavailable,
    };
    refuse(reason, refusal)
}
