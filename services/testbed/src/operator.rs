//! An operator of the network under test, with a client of every service.

use std::path::Path;

use mesh::{
    client::{self, Channel, ClientConfig, RoleAddress},
    identity::TlsIdentity,
};
use proto::{
    central::v1::{
        AuditEntry, AuditFilter, ChargingPoint, GetChargingPointRequest, Ids, ListAuditRequest, ListSessionsRequest,
        ListTicketsRequest, OrderRequest, Selector, Session, audit_client::AuditClient,
        charging_points_client::ChargingPointsClient, selector::Which, sessions_client::SessionsClient,
    },
    link::v1::Ticket,
    registry::v1::{CreateTokenRequest, Kind, identities_client::IdentitiesClient, operators_client::OperatorsClient},
};

/// The clients of one person.
#[derive(Clone)]
pub struct Operator {
    pub charging_points: ChargingPointsClient<Channel>,
    pub sessions: SessionsClient<Channel>,
    pub audit: AuditClient<Channel>,
    pub identities: IdentitiesClient<Channel>,
    pub operators: OperatorsClient<Channel>,
}

impl Operator {
    /// Uses the identity in `folder`; connects with the first call.
    pub fn new(folder: &Path, central: &str, registry: &str) -> anyhow::Result<Self> {
        let identity = TlsIdentity::load(folder)?;
        let channel = |role, address: &str| {
            client::channel(&identity, RoleAddress::new(role, [address]), &ClientConfig::default())
        };
        let (central, registry) = (channel("central", central), channel("registry", registry));
        Ok(Self {
            charging_points: ChargingPointsClient::new(central.clone()),
            sessions: SessionsClient::new(central.clone()),
            audit: AuditClient::new(central),
            identities: IdentitiesClient::new(registry.clone()),
            operators: OperatorsClient::new(registry),
        })
    }

    /// Creates an enrolment token for `uses` identities of any kind and id.
    pub async fn token(&self, uses: u32) -> anyhow::Result<String> {
        let request =
            CreateTokenRequest { request_id: fresh_id(), kind: Kind::Unspecified.into(), uses, ..Default::default() };
        Ok(self.identities.clone().create_token(request).await?.into_inner().token)
    }

    pub async fn charging_point(&self, id: &str) -> Result<ChargingPoint, tonic::Status> {
        let request = GetChargingPointRequest { id: id.to_owned() };
        Ok(self.charging_points.clone().get(request).await?.into_inner())
    }

    /// Every session.
    pub async fn all_sessions(&self) -> anyhow::Result<Vec<Session>> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListSessionsRequest { page_size: 1000, page_token, ..Default::default() };
            let page = self.sessions.clone().list(request).await?.into_inner();
            all.extend(page.sessions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Every ticket.
    pub async fn all_tickets(&self) -> anyhow::Result<Vec<Ticket>> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListTicketsRequest { page_size: 1000, page_token, ..Default::default() };
            let page = self.sessions.clone().list_tickets(request).await?.into_inner();
            all.extend(page.tickets);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Audit entries of one action, and of one object where it is not empty.
    pub async fn audited(&self, action: &str, object: &str) -> anyhow::Result<Vec<AuditEntry>> {
        let filter = AuditFilter { action: action.to_owned(), object: object.to_owned(), ..Default::default() };
        let request = ListAuditRequest { filter: Some(filter), page_size: 1000, ..Default::default() };
        Ok(self.audit.clone().list(request).await?.into_inner().entries)
    }
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator").finish_non_exhaustive()
    }
}

/// An order for these charging points, with a request id of its own.
pub fn order(ids: &[&str]) -> OrderRequest {
    OrderRequest { request_id: fresh_id(), selector: Some(select(ids)), ..Default::default() }
}

pub fn select(ids: &[&str]) -> Selector {
    Selector { which: Some(Which::Ids(Ids { ids: ids.iter().map(|&id| id.to_owned()).collect() })) }
}

/// A request id that was never used before.
pub fn fresh_id() -> String {
    format!("test-{:032x}", rand::random::<u128>())
}
