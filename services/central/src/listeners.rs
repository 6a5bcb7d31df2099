//! Central's listeners, gRPC and link: open from the start, so that callers are told while the database is awaited (SPEC
//! 9.1).

use std::sync::Arc;

use mesh::{access_log::AccessLog, awaited::Awaited, identity::TlsIdentity, policy::DenyList, process::Context};
use proto::central::v1::{
    audit_server::AuditServer, charging_points_server::ChargingPointsServer, conditions_server::ConditionsServer,
    sessions_server::SessionsServer,
};

use crate::{
    Config,
    grpc::{AuditService, ChargingPointsService, ConditionsService, SessionsService},
    links::{Links, Port},
};

/// What the listeners serve once the database is there.
pub(crate) struct CentralServices {
    pub(crate) charging_points: ChargingPointsServer<ChargingPointsService>,
    pub(crate) sessions: SessionsServer<SessionsService>,
    pub(crate) audit: AuditServer<AuditService>,
    pub(crate) conditions: ConditionsServer<ConditionsService>,
    pub(crate) links: Arc<Links>,
}

/// Both listeners, and what the rest of Central shares with them.
pub(crate) struct Listeners {
    pub(crate) awaited: Awaited<CentralServices>,
    pub(crate) port: Arc<Port>,
    pub(crate) denied: DenyList,
    pub(crate) access_log: AccessLog,
}

impl Listeners {
    /// Binds, announces and answers: with refusals until what is awaited has arrived.
    ///
    /// # Errors
    /// A sentence that names the address that cannot be bound.
    pub(crate) async fn open(config: &Config, ctx: &Context, identity: &TlsIdentity) -> anyhow::Result<Self> {
        let awaited = Awaited::<CentralServices>::new(&ctx.health, "database");
        let denied = DenyList::default();
        let access_log = AccessLog::new(ctx.clock, config.limits.access_log_interval);
        mesh::server::Server::new(ctx, identity, config.limits.clone())
            .deny_list(&denied)
            .access_log(&access_log)
            .add_service(awaited.service(|behind| behind.charging_points.clone()))
            .add_service(awaited.service(|behind| behind.sessions.clone()))
            .add_service(awaited.service(|behind| behind.audit.clone()))
            .add_service(awaited.service(|behind| behind.conditions.clone()))
            .start("grpc", config.grpc_address)
            .await?;
        let port = Port::new(ctx, config.wire(), &access_log);
        port.open(ctx, config.link_address, awaited.clone(), |services| &services.links).await?;
        Ok(Self { awaited, port, denied, access_log })
    }
}

#[cfg(test)]
mod tests;
