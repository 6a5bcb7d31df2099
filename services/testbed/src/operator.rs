//! An operator of the network under test, with a client of every service.

use std::path::Path;

use mesh::{
    client::{self, Channel, ClientConfig, RoleAddress},
    identity::TlsIdentity,
};
use proto::{
    central::v1::{
        AuditEntry, AuditFilter, ChargingPoint, ChargingPointKey, GetChargingPointRequest, Ids, KeyState,
        ListAuditRequest, ListChargingPointsRequest, ListSessionsRequest, ListTicketsRequest, OrderRequest, Selector,
        Session, Ticket, audit_client::AuditClient, charging_points_client::ChargingPointsClient, selector::Which,
        sessions_client::SessionsClient,
    },
    link::v1::Reason,
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
        let request = CreateTokenRequest { uses: Some(uses), ..any_token() };
        Ok(self.identities.clone().create_token(request).await?.into_inner().token)
    }

    pub async fn charging_point(&self, id: &str) -> Result<ChargingPoint, tonic::Status> {
        let request = GetChargingPointRequest { id: id.to_owned() };
        Ok(self.charging_points.clone().get(request).await?.into_inner())
    }

    /// Every charging point.
    pub async fn all_charging_points(&self) -> anyhow::Result<Vec<ChargingPoint>> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListChargingPointsRequest { page_size: 10_000, page_token, ..Default::default() };
            let page = self.charging_points.clone().list(request).await?.into_inner();
            all.extend(page.charging_points);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
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

/// A token for one identity of any kind and id, for a day.
pub fn any_token() -> CreateTokenRequest {
    CreateTokenRequest {
        request_id: fresh_id(),
        kinds: vec![Kind::ChargingPoint.into(), Kind::Driver.into()],
        id_pattern: "*".into(),
        city: String::new(),
        uses: Some(1),
        lifetime: Some(proto::Duration { seconds: 86_400, nanos: 0 }),
    }
}

/// The number of its key; 0: it has none.
pub fn key_no(cp: &ChargingPoint) -> u64 {
    cp.key.as_ref().and_then(|key| key.number).unwrap_or_default()
}

pub fn key_state(cp: &ChargingPoint) -> KeyState {
    cp.key.as_ref().map(ChargingPointKey::state).unwrap_or_default()
}

/// What it has supplied in its session; 0 without one.
pub fn energy_wh(cp: &ChargingPoint) -> u64 {
    cp.session.as_ref().map(|session| session.energy_wh).unwrap_or_default()
}

/// Its session's; empty without one.
pub fn active_session(cp: &ChargingPoint) -> String {
    cp.session.as_ref().map(|session| session.session_id.clone()).unwrap_or_default()
}

/// Why the supply ended.
pub fn ended_by(ticket: &Ticket) -> Reason {
    Reason::of_code(&ticket.reason_code).unwrap_or_default()
}

/// As a JSON object.
pub fn parameters(entry: &AuditEntry) -> serde_json::Value {
    entry.parameters.as_ref().map(proto::json_of).unwrap_or_default()
}

/// A request id that was never used before.
pub fn fresh_id() -> String {
    format!("test-{:032x}", rand::random::<u128>())
}
