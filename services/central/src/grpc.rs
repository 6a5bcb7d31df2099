//! `central.v1` over mutual TLS: converts between the contract and the loop, the boards and the store. Who may call what
//! is the contract's policy, kept by mesh's server before anything here runs.

mod audit;
mod charging_points;
mod convert;
mod corrections;
mod orders;
mod sessions;

pub(crate) use self::{
    audit::AuditService, charging_points::ChargingPointsService, orders::Orders, sessions::SessionsService,
};
pub(crate) use convert::{session, tickets};

use mesh::principal::Principal;
use proto::link::v1::Reason;
use store::{StoreError, central::Refusal};
use tonic::{Request, Status};

use crate::charge_point::Origin;

/// Who calls, for the audit.
fn origin<T>(request: &Request<T>) -> Result<Origin, Status> {
    let principal = Principal::of(request)?;
    Ok(Origin::new(principal.to_string(), principal.address.to_string()))
}

/// The only way from the store's errors to a status.
fn unread(error: StoreError) -> Status {
    match error {
        StoreError::Unavailable(why) | StoreError::Contended(why) => mesh::status::refuse(Reason::Unavailable, why),
        StoreError::Rejected(why) => mesh::status::refuse(Reason::Invalid, why),
    }
}

/// The only way from the store's refusals to a status.
fn unwritten(refusal: Refusal) -> Status {
    let reason = match &refusal {
        Refusal::DriverBusy => Reason::DriverBusy,
        Refusal::ChargingPointBusy => Reason::Occupied,
        Refusal::Fenced | Refusal::AlreadyBilled => Reason::Fenced,
        Refusal::Repeated(_) | Refusal::RepeatedOrder(_) | Refusal::Rejected(_) => Reason::Invalid,
        Refusal::Unavailable(_) => Reason::Unavailable,
    };
    mesh::status::refuse(reason, refusal)
}
