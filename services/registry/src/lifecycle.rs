//! Audits the start and the stop of Registry.

use crate::{
    audit::{Actor, RegistryAction, RegistryEntry},
    identity_service::IdentityService,
};

/// Audits the start of Registry.
///
/// # Errors
/// If the database cannot be written.
pub(crate) async fn started(service: &IdentityService) -> Result<(), store::StoreError> {
    let now_ms = service.now().wall_ms;
    let version = env!("CARGO_PKG_VERSION");
    let entry = RegistryEntry::done(now_ms, &Actor::registry(), RegistryAction::RoleStarted, "registry")
        .with("version", version);
    service.write(vec![entry]).await
}

/// Audits the stop of Registry.
pub(crate) async fn stopped(service: &IdentityService) {
    let entry = RegistryEntry::done(service.now().wall_ms, &Actor::registry(), RegistryAction::RoleStopped, "registry");
    if let Err(error) = service.write(vec![entry]).await {
        tracing::warn!(error = error.to_string(), "the audit entry of the stop could not be written");
    }
}
