//! `central.v1.ChargingPoints`.

use std::{collections::HashSet, sync::Arc};

use futures::stream::BoxStream;
use mesh::{
    field_checks::{FieldChecks, with_metadata, wrong_field},
    paging::AskedPage,
    status::refuse,
};
use proto::{
    ChargingPointId, PeerId,
    central::v1::{
        charging_points_server::ChargingPoints,
        order::{self as order_kind, Ordered},
        *,
    },
    link::v1::Reason,
    registry::v1::TokenCreated,
};
use store::central::{CommitRefusal, PageRequest, RowWrite};
use tonic::{Request, Response, Status};

use super::{Orders, once::OnceCall, origin, refused, selection, unwritten};
use crate::{
    audit::{AuditAction, AuditRecord},
    digest::digest,
    order,
    origin::Origin,
    registry::Verifier,
    rows,
    shared::SharedState,
    watch,
};

#[derive(Debug)]
pub(crate) struct ChargingPointsService {
    pub shared: Arc<SharedState>,
    pub orders: Orders,
    pub registry: Verifier,
}

const RESTORE: &str = "Restore";

/// An order as its request says it.
struct OrderAsked<'a> {
    request_id: &'a str,
    selector: Option<&'a Selector>,
    expected: Option<u32>,
    reason: &'a str,
    ordered: Ordered,
}

impl ChargingPointsService {
    /// As the board has it, with its telemetry.
    fn shown(&self, point: &ChargingPoint) -> ChargingPoint {
        let telemetry = point.id.parse().ok().and_then(|id| self.shared.telemetry.shown(&id));
        ChargingPoint { telemetry, ..point.clone() }
    }

    async fn give<T>(
        &self,
        request: &Request<T>,
        mut checks: FieldChecks,
        asked: OrderAsked<'_>,
    ) -> Result<Response<Order>, Status> {
        let OrderAsked { request_id, selector, expected, reason, ordered } = asked;
        let by = origin(request)?.because(reason);
        let scope = selection::scope(&mut checks, selector);
        if let Err(why) = order::check_reason(reason) {
            checks.wrong("reason", why);
        }
        if let Err(status) = checks.finish() {
            return Err(refused(&self.shared, &by, order::method(&ordered), &selection::object(selector), status).await);
        }
        self.orders.give(request_id.to_owned(), scope, expected, ordered, by).await.map(Response::new)
    }

    async fn order(&self, request: Request<OrderRequest>, ordered: Ordered) -> Result<Response<Order>, Status> {
        let OrderRequest { request_id, selector, expected, reason } = request.get_ref();
        let asked = OrderAsked { request_id, selector: selector.as_ref(), expected: *expected, reason, ordered };
        self.give(&request, FieldChecks::default(), asked).await
    }

    /// A one-use token for a new enrolment of what was revoked (SPEC 4.7). Registry answers one that it made as long as
    /// it may be shown, also when the token has been used and nothing is revoked any more.
    async fn restored(&self, by: &Origin, request_id: String, id: &str) -> Result<RestoreResponse, Status> {
        let id = parse(id)?;
        // Seen before its request is looked for: under a request id that is still unknown then, nothing was restored.
        let point = self.shared.points.get(&id);
        let call = OnceCall::new(&by.actor, &request_id, RESTORE, [id.to_string().into_bytes()]);
        if call.first_answer(&self.shared).await?.is_some() {
            return self.reissued(by, &request_id, id).await.map(|(_, restored)| restored);
        }
        let point = point.ok_or_else(|| unknown(&id))?;
        if point.key.as_ref().map(ChargingPointKey::state).unwrap_or_default() != KeyState::Revoked {
            let status = refuse(Reason::WrongState, format!("{id} is not revoked, so there is nothing to restore"));
            return Err(with_metadata(&status, [("id", id.to_string())]));
        }
        let (token_id, restored) = self.reissued(by, &request_id, id.clone()).await?;
        let now = self.shared.clock.now();
        let entry = AuditRecord::new(AuditAction::Restored, format!("charging-point/{id}")).with("token", &token_id);
        // Without the token, which is stored nowhere.
        let once = RowWrite::Once(call.row(&[], now.wall_ms));
        match self.shared.store.write("restore", vec![once, RowWrite::Audit(rows::audit(&entry.by(by, now)))]).await {
            Ok(_) | Err(CommitRefusal::Repeated(_)) => Ok(restored),
            Err(refusal) => Err(unwritten(refusal)),
        }
    }

    async fn reissued(
        &self,
        by: &Origin,
        request_id: &str,
        id: ChargingPointId,
    ) -> Result<(String, RestoreResponse), Status> {
        // At Registry all are Central's requests, whoever's they are here.
        let request_id = format!("restore/{}", digest([by.actor.as_bytes().to_vec(), request_id.as_bytes().to_vec()]));
        let token = self.registry.reissue(request_id, &PeerId::ChargingPoint(id)).await?;
        let TokenCreated { token_id, token: enrolment_token, expire_time } = token;
        Ok((token_id, RestoreResponse { enrolment_token, expire_time }))
    }
}

/// Whom a watcher of a city knows: of any other he is told nothing, least of all that it is removed.
struct InCity {
    /// Empty: every city.
    city: String,
    known: HashSet<String>,
}

impl InCity {
    fn new(city: String) -> Self {
        Self { city, known: HashSet::new() }
    }

    fn restarted(&mut self) {
        self.known.clear();
    }

    /// Remembers one that is.
    fn is_in(&mut self, point: &ChargingPoint) -> bool {
        let is_in = self.city.is_empty() || point.city == self.city;
        if is_in && !self.city.is_empty() {
            self.known.insert(point.id.clone());
        }
        is_in
    }

    /// Whether he is to be told.
    fn left(&mut self, id: &str) -> bool {
        self.city.is_empty() || self.known.remove(id)
    }
}

#[tonic::async_trait]
impl ChargingPoints for ChargingPointsService {
    async fn list(
        &self,
        request: Request<ListChargingPointsRequest>,
    ) -> Result<Response<ListChargingPointsResponse>, Status> {
        let (mut wanted, mut checks) = (request.into_inner(), FieldChecks::default());
        let page = AskedPage::of(&mut wanted, &mut checks);
        let state: ChargingPointState = checks.known("state", wanted.state);
        checks.finish()?;
        let matches = |point: &ChargingPoint| {
            (wanted.city.is_empty() || point.city == wanted.city)
                && (state == ChargingPointState::Unspecified || point.state() == state)
        };
        let all = self.shared.points.all().into_iter();
        let following =
            all.filter(|(id, point)| page.after().is_none_or(|after| id.as_str() > after) && matches(point));
        let (charging_points, next_page_token) = page.cut(following.map(|(id, point)| (id.into(), self.shown(&point))));
        Ok(Response::new(ListChargingPointsResponse { charging_points, next_page_token }))
    }

    async fn get(&self, request: Request<GetChargingPointRequest>) -> Result<Response<ChargingPoint>, Status> {
        let id = parse(&request.get_ref().id)?;
        let point = self.shared.points.get(&id).ok_or_else(|| unknown(&id))?;
        Ok(Response::new(self.shown(&point)))
    }

    type WatchStream = BoxStream<'static, Result<ChargingPointEvent, Status>>;

    async fn watch(&self, request: Request<WatchChargingPointsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        use charging_point_event::Event;
        let city = request.into_inner().city;
        let (watcher, shared) = (self.shared.points.watch(), Arc::clone(&self.shared));
        let mut told = InCity::new(city);
        let events = super::convert::stream(watcher, move |change| {
            let event = match change {
                watch::BoardChange::Restarted => {
                    told.restarted();
                    Event::Restarted(Restarted {})
                }
                watch::BoardChange::Synchronised => Event::Synchronised(Synchronised {}),
                watch::BoardChange::Removed(id) => {
                    let id = String::from(id);
                    told.left(&id).then_some(Event::Removed(id))?
                }
                // One that moved away is no longer of this city.
                watch::BoardChange::Put(point) if !told.is_in(&point) => {
                    told.left(&point.id).then(|| Event::Removed(point.id.clone()))?
                }
                watch::BoardChange::Put(point) => {
                    let telemetry = point.id.parse().ok().and_then(|id| shared.telemetry.shown(&id));
                    Event::Changed(ChargingPoint { telemetry, ..(*point).clone() })
                }
            };
            Some(ChargingPointEvent { event: Some(event) })
        });
        Ok(Response::new(events))
    }

    async fn stop(&self, request: Request<OrderRequest>) -> Result<Response<Order>, Status> {
        self.order(request, Ordered::Stop(order_kind::Stop {})).await
    }

    async fn resume(&self, request: Request<OrderRequest>) -> Result<Response<Order>, Status> {
        self.order(request, Ordered::Resume(order_kind::Resume {})).await
    }

    async fn set_maintenance(&self, request: Request<SetMaintenanceRequest>) -> Result<Response<Order>, Status> {
        let SetMaintenanceRequest { request_id, selector, expected, on, reason } = request.get_ref();
        let mut checks = FieldChecks::default();
        let ordered = Ordered::SetMaintenance(order_kind::SetMaintenance { on: checks.required("on", *on) });
        let asked = OrderAsked { request_id, selector: selector.as_ref(), expected: *expected, reason, ordered };
        self.give(&request, checks, asked).await
    }

    async fn rotate(&self, request: Request<OrderRequest>) -> Result<Response<Order>, Status> {
        self.order(request, Ordered::Rotate(order_kind::Rotate {})).await
    }

    async fn renew(&self, request: Request<OrderRequest>) -> Result<Response<Order>, Status> {
        self.order(request, Ordered::Renew(order_kind::Renew {})).await
    }

    async fn revoke(&self, request: Request<OrderRequest>) -> Result<Response<Order>, Status> {
        self.order(request, Ordered::Revoke(order_kind::Revoke {})).await
    }

    async fn restore(&self, request: Request<RestoreRequest>) -> Result<Response<RestoreResponse>, Status> {
        let by = origin(&request)?;
        let RestoreRequest { request_id, id } = request.into_inner();
        let object = format!("charging-point/{}", order::clipped(&id));
        match self.restored(&by, request_id, &id).await {
            Ok(restored) => Ok(Response::new(restored)),
            Err(status) => Err(refused(&self.shared, &by, RESTORE, &object, status).await),
        }
    }

    async fn release(&self, request: Request<OrderRequest>) -> Result<Response<Order>, Status> {
        self.order(request, Ordered::Release(order_kind::Release {})).await
    }

    async fn set_price(&self, request: Request<SetPriceRequest>) -> Result<Response<Order>, Status> {
        let SetPriceRequest { request_id, selector, expected, price_e4 } = request.get_ref();
        let mut checks = FieldChecks::default();
        let price_e4 = checks.required("price_e4", *price_e4);
        let ordered = Ordered::SetPrice(order_kind::SetPrice { price_e4 });
        let asked = OrderAsked { request_id, selector: selector.as_ref(), expected: *expected, reason: "", ordered };
        self.give(&request, checks, asked).await
    }

    async fn set_rated_power(&self, request: Request<SetRatedPowerRequest>) -> Result<Response<Order>, Status> {
        let SetRatedPowerRequest { request_id, selector, expected, rated_power_w } = request.get_ref();
        let mut checks = FieldChecks::default();
        let rated_power_w = checks.required("rated_power_w", *rated_power_w);
        let ordered = Ordered::SetRatedPower(order_kind::SetRatedPower { rated_power_w });
        let asked = OrderAsked { request_id, selector: selector.as_ref(), expected: *expected, reason: "", ordered };
        self.give(&request, checks, asked).await
    }

    async fn r#move(&self, request: Request<MoveRequest>) -> Result<Response<Order>, Status> {
        let MoveRequest { request_id, id, city, place } = request.get_ref();
        let (mut checks, reason) = (FieldChecks::default(), "");
        checks.not_empty("city", city);
        for (field, name) in [("city", Some(city)), ("place", place.as_ref())] {
            if let Some(Err(why)) = name.map(|name| order::check_name(name)) {
                checks.wrong(field, why);
            }
        }
        let ordered = Ordered::Move(order_kind::Move { city: city.clone(), place: place.clone() });
        let id = checks.parsed::<ChargingPointId>("id", id).map_or_else(|| order::clipped(id), String::from);
        let selector = Selector { which: Some(selector::Which::Ids(Ids { ids: vec![id] })) };
        let asked = OrderAsked { request_id, selector: Some(&selector), expected: None, reason, ordered };
        self.give(&request, checks, asked).await
    }

    async fn get_order(&self, request: Request<GetOrderRequest>) -> Result<Response<Order>, Status> {
        let id = &request.get_ref().order_id;
        named("order_id", id)?;
        Ok(Response::new(self.orders.get(id).await?))
    }

    async fn list_orders(&self, request: Request<ListOrdersRequest>) -> Result<Response<ListOrdersResponse>, Status> {
        let (mut wanted, mut checks) = (request.into_inner(), FieldChecks::default());
        let page = AskedPage::of(&mut wanted, &mut checks);
        checks.finish()?;
        let (orders, next_page_token) = page.read(|size, token| self.orders.list(PageRequest { size, token })).await?;
        Ok(Response::new(ListOrdersResponse { orders, next_page_token }))
    }

    async fn cancel_order(&self, request: Request<CancelOrderRequest>) -> Result<Response<Order>, Status> {
        let by = origin(&request)?;
        let id = &request.get_ref().order_id;
        named("order_id", id)?;
        match self.orders.cancel(id, &by).await {
            Ok(order) => Ok(Response::new(order)),
            Err(status) => {
                let object = format!("order/{}", order::clipped(id));
                Err(refused(&self.shared, &by, "CancelOrder", &object, status).await)
            }
        }
    }
}

pub(super) fn parse(id: &str) -> Result<ChargingPointId, Status> {
    let (mut checks, field) = (FieldChecks::default(), "id");
    let parsed = checks.parsed(field, id);
    checks.finish()?;
    parsed.ok_or_else(|| wrong_field(field, "it is missing"))
}

/// A text that names what the request is about.
pub(super) fn named(field: &str, text: &str) -> Result<(), Status> {
    let mut checks = FieldChecks::default();
    checks.not_empty(field, text);
    checks.finish()
}

fn unknown(id: &ChargingPointId) -> Status {
    with_metadata(&refuse(Reason::UnknownChargingPoint, id), [("id", id.to_string())])
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use mesh::{
        certs::Authority,
        client::{Channel, ClientConfig, RoleAddress, channel},
        identity::TlsIdentity,
    };

    use super::*;
    use crate::testing::{TestCentral, asked_by_ana};

    /// There is no Registry: what gets as far is unavailable.
    fn nowhere() -> Channel {
        mesh::process::install_cryptography();
        let (folder, day) = (tempfile::tempdir().unwrap(), Duration::from_secs(24 * 3600));
        let authority = Authority::create(&folder.path().join("authority"), "mesh.test", day).unwrap();
        let central = folder.path().join("central");
        authority.issue_role(proto::Caller::Central, &central, &[], day, false).unwrap();
        let settings = ClientConfig { call_timeout: Duration::from_millis(200), ..ClientConfig::default() };
        channel(&TlsIdentity::load(&central).unwrap(), RoleAddress::new("registry", ["127.0.0.1:1"]), &settings)
    }

    pub(in crate::grpc) fn service(rim: &TestCentral) -> ChargingPointsService {
        let (shared, orders) = (Arc::clone(&rim.shared), rim.orders.clone());
        let registry = Verifier::new(nowhere(), Arc::clone(&rim.shared), rim.event_loop.clone());
        ChargingPointsService { shared, orders, registry }
    }

    #[tokio::test]
    async fn a_restore_that_is_said_again_is_registrys_to_answer_and_no_other_entry_spec_7_3() {
        let central = TestCentral::new(crate::settings::CentralSettings::default(), 10).await;
        central.charging_points(2).await;
        let service = service(&central);
        let restore = |request_id: &str, id: &str| {
            let request = RestoreRequest { request_id: request_id.into(), id: id.into() };
            service.restore(asked_by_ana(request))
        };
        let refused = restore("r1", "CP001").await.unwrap_err();
        assert!(refused.message().contains("is not revoked"), "{}", refused.message());
        // As the restore of what was revoked then left it.
        let call = OnceCall::new("operator/ana", "r1", RESTORE, [b"CP001".to_vec()]);
        central.write(vec![RowWrite::Once(call.row(&[], 1))]).await;
        let again = restore("r1", "CP001").await.unwrap_err();
        assert!(!again.message().contains("is not revoked"), "{}", again.message());
        assert!(restore("r1", "CP002").await.unwrap_err().message().contains("with other content"));
        assert_eq!(central.audited("RESTORED").await, []);
    }

    #[test]
    fn a_watcher_of_a_city_hears_nothing_of_what_was_never_in_it_spec_13() {
        let point = |id: &str, city: &str| ChargingPoint { id: id.into(), city: city.into(), ..Default::default() };
        let mut told = InCity::new("Elche".into());
        assert!(!told.is_in(&point("CP-4", "Valencia")) && !told.left("CP-4"), "never there");
        assert!(told.is_in(&point("CP-3", "Elche")));
        assert!(!told.is_in(&point("CP-3", "Valencia")) && told.left("CP-3"), "it moved away");
        assert!(!told.left("CP-3"), "and is said to once");
        assert!(told.is_in(&point("CP-3", "Elche")), "and came back");
        told.restarted();
        assert!(!told.left("CP-3"), "a snapshot begins with nothing");
        let mut all = InCity::new(String::new());
        assert!(all.is_in(&point("CP-4", "Valencia")) && all.left("CP-4") && all.left("CP-9"));
    }
}
