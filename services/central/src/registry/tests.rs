//! Central as the client of a Registry that a test holds in its hands.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use mesh::{
    certs::Authority,
    client::{ClientConfig, RoleAddress, channel},
    health::ComponentState,
    identity::TlsIdentity,
    server::{Limits, Server},
};
use proto::{
    Caller, ChargingPointId,
    central::v1::KeyState,
    link::v1::{Part, Reason},
    registry::v1::{self as contract, identities_server, identities_server::IdentitiesServer, *},
};
use tonic::{Request, Response};

use super::*;
use crate::{
    charge_point::PointOrder,
    event_loop::Arrival,
    testing::{TestCentral, ana},
};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Knows one charging point.
#[derive(Clone)]
struct Registry {
    identity: Arc<Mutex<contract::Identity>>,
    voided: Arc<Mutex<Vec<String>>>,
    away: Arc<AtomicBool>,
    /// Does what is asked, and answers that it is away.
    mute: Arc<AtomicBool>,
}

impl Registry {
    fn new(id: &ChargingPointId) -> Self {
        let (kind, state) = (Kind::ChargingPoint.into(), IdentityState::Enrolled.into());
        let identity = contract::Identity { kind, id: id.to_string(), state, incarnation: 1, ..Default::default() };
        let identity = Arc::new(Mutex::new(identity));
        Self { identity, voided: Arc::default(), away: Arc::default(), mute: Arc::default() }
    }

    /// Serves, and whoever asks it on behalf of `central`.
    async fn start(&self, central: &TestCentral) -> Verifier {
        mesh::process::install_cryptography();
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(&folder.path().join("authority"), "mesh.test", YEAR).unwrap();
        let identity = |role, name| {
            authority.issue_role(role, &folder.path().join(name), &[], YEAR, false).unwrap();
            TlsIdentity::load(&folder.path().join(name)).unwrap()
        };
        let (own, caller) = (identity(Caller::Registry, "registry"), identity(Caller::Central, "central"));
        let server =
            Server::new(&central.ctx, &own, Limits::default()).add_service(IdentitiesServer::new(self.clone()));
        let address = server.start("grpc", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let channel = channel(&caller, RoleAddress::new("registry", [address.to_string()]), &ClientConfig::default());
        Verifier::new(channel, Arc::clone(&central.shared), central.event_loop.clone())
    }

    fn now(&self) -> contract::Identity {
        self.identity.lock().unwrap().clone()
    }

    /// Enrols it anew; what its stream says of it.
    fn enrols(&self) -> IdentityEvent {
        let mut identity = self.identity.lock().unwrap();
        identity.set_state(IdentityState::Enrolled);
        identity.incarnation += 1;
        let event = Some(Event::Identity(identity.clone()));
        IdentityEvent { revision: 10 * identity.incarnation, event }
    }
}

#[tonic::async_trait]
impl identities_server::Identities for Registry {
    type WatchStream = tokio_stream::Empty<Result<IdentityEvent, Status>>;

    async fn void(&self, request: Request<VoidRequest>) -> Result<Response<VoidResponse>, Status> {
        if self.away.load(Ordering::Relaxed) {
            return Err(Status::deadline_exceeded("away"));
        }
        let (mut voided, id) = (self.voided.lock().unwrap(), request.into_inner().request_id);
        let changed = !voided.contains(&id);
        if changed {
            voided.push(id);
            self.identity.lock().unwrap().set_state(IdentityState::Void);
        }
        if self.mute.load(Ordering::Relaxed) {
            return Err(Status::deadline_exceeded("done, but the answer is lost"));
        }
        Ok(Response::new(VoidResponse { changed, identity: Some(self.now()) }))
    }

    async fn verify(&self, _: Request<VerifyRequest>) -> Result<Response<VerifyResponse>, Status> {
        Ok(Response::new(VerifyResponse { reason_code: String::new(), identity: Some(self.now()) }))
    }

    async fn enrol(&self, _: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn remove(&self, _: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list(&self, _: Request<ListIdentitiesRequest>) -> Result<Response<ListIdentitiesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn watch(&self, _: Request<tonic::Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn reissue(&self, _: Request<ReissueRequest>) -> Result<Response<TokenCreated>, Status> {
        Ok(Response::new(TokenCreated::default()))
    }

    async fn readmit(&self, _: Request<ReadmitRequest>) -> Result<Response<ReadmitResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn create_token(&self, _: Request<CreateTokenRequest>) -> Result<Response<TokenCreated>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_tokens(&self, _: Request<ListTokensRequest>) -> Result<Response<ListTokensResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn revoke_token(&self, _: Request<RevokeTokenRequest>) -> Result<Response<RevokeTokenResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn pins(&self, _: Request<PinsRequest>) -> Result<Response<PinsResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// One charging point under key 1, its Registry, and what Central does to make void what is revoked.
async fn revocable() -> (TestCentral, ChargingPointId, Registry, Verifier) {
    let central = TestCentral::new(CentralSettings::default(), 10).await;
    let id = central.charging_points(1).await.remove(0);
    central.authenticate(PeerId::ChargingPoint(id.clone())).await;
    central.both_parts(&id, 1).await;
    let registry = Registry::new(&id);
    let verifier = registry.start(&central).await;
    tokio::spawn(void(verifier.clone(), central.ctx.clone()));
    (central, id, registry, verifier)
}

fn detail(central: &TestCentral, id: &ChargingPointId) -> String {
    central.shown(id).detail
}

async fn told(central: &TestCentral, events: Vec<IdentityEvent>) {
    take(&central.shared, &central.event_loop, &DenyList::default(), events).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_credential_undoes_no_revocation_while_registry_is_away_spec_4_7() {
    let (central, id, registry, verifier) = revocable().await;
    registry.away.store(true, Ordering::Relaxed);
    central.orders.one(&id, PointOrder::Revoke, ana()).await;
    let component = || central.ctx.health.report().components.remove("revocations at Registry");
    central
        .until(|| matches!(component(), Some(ComponentState::Degraded { reason }) if reason.contains("CP001")))
        .await;
    assert!(verifier.reissue("r".to_owned(), &PeerId::ChargingPoint(id.clone())).await.is_err(), "not void yet");

    told(&central, vec![registry.enrols()]).await;
    // Its turn comes after Registry's word.
    central.orders.one(&id, PointOrder::Resume, ana()).await;
    assert_eq!(central.key_state(&id), KeyState::Revoked);
    assert!(detail(&central, &id).contains("not void yet"), "{}", detail(&central, &id));

    registry.away.store(false, Ordering::Relaxed);
    central
        .until(|| !detail(&central, &id).contains("not void yet") && component() == Some(ComponentState::Ready))
        .await;
    assert_eq!((registry.now().state(), registry.now().incarnation), (IdentityState::Void, 2));
    assert_eq!(central.key_state(&id), KeyState::Revoked);

    verifier.reissue("r".to_owned(), &PeerId::ChargingPoint(id.clone())).await.unwrap();
    told(&central, vec![registry.enrols()]).await;
    central.until(|| central.key_state(&id) == KeyState::Deleted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_restoration_stands_though_central_never_heard_that_it_was_void_spec_4_7() {
    let (central, id, registry, _) = revocable().await;
    registry.mute.store(true, Ordering::Relaxed);
    central.orders.one(&id, PointOrder::Revoke, ana()).await;
    central.until(|| registry.now().state() == IdentityState::Void).await;
    told(&central, vec![registry.enrols()]).await;
    registry.mute.store(false, Ordering::Relaxed);
    central.until(|| central.key_state(&id) == KeyState::Deleted).await;
    assert_eq!(registry.now().state(), IdentityState::Enrolled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_comes_after_a_removal_is_worth_nothing_spec_7_4() {
    let (central, id, registry, verifier) = revocable().await;
    let mut removed = registry.now();
    removed.set_state(IdentityState::Removed);
    told(&central, vec![IdentityEvent { revision: 7, event: Some(Event::Identity(removed)) }]).await;
    let verdict = verifier.verify(&PeerId::ChargingPoint(id.clone()), b"", "192.0.2.1".parse().unwrap()).await;
    assert!(matches!(verdict, CredentialVerdict::Undecided(Reason::RegistryUnreachable, ..)), "{verdict:?}");
    let read = move |conn: &mut store::Conn| MirroredIdentityRow::find(conn, Kind::ChargingPoint.into(), id.as_str());
    let mirrored = central.shared.store.read("test", read).await.unwrap().unwrap();
    assert_eq!(mirrored.state, i32::from(IdentityState::Removed));
}

/// Nobody writes until the answer is dropped.
async fn occupied(central: &TestCentral) -> std::sync::mpsc::Sender<()> {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (database, (begun, has_begun)) = (central.shared.store.database.clone(), tokio::sync::oneshot::channel());
    let mut begun = Some(begun);
    let work = move |_: &mut store::Conn| {
        let _told = begun.take().map(|begun: tokio::sync::oneshot::Sender<()>| begun.send(()));
        let _until_dropped = released.recv();
        Ok::<_, store::Abort<()>>(())
    };
    tokio::spawn(async move { database.transaction("test", work).await });
    has_begun.await.unwrap();
    release
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_removed_is_out_while_nothing_can_be_written_spec_7_3_spec_7_4() {
    let central = TestCentral::new(CentralSettings::default(), 10).await;
    let driver = PeerId::Driver(central.driver("D1").await);
    central.authenticate(driver.clone()).await;
    central.until(|| central.shared.directory.usable(&driver, 1).is_some()).await;
    let (link, send_queue) = central.link();
    let (peer, from, part) = (driver.clone(), "192.0.2.1:8".into(), Part::Driver);
    let arrival = Arrival { link, peer, part, key_no: 1, from, highest_epoch: 0, send_queue: send_queue.clone() };
    central.event_loop.send(Message::Arrived(Box::new(arrival))).await;

    let release = occupied(&central).await;
    let identity = contract::Identity {
        kind: Kind::Driver.into(),
        id: "D1".into(),
        state: IdentityState::Removed.into(),
        incarnation: 1,
        ..Default::default()
    };
    let operator = contract::Operator { name: "bob".into(), role: 0, removed: true };
    let events = vec![
        IdentityEvent { revision: 7, event: Some(Event::Identity(identity)) },
        IdentityEvent { revision: 8, event: Some(Event::Operator(operator)) },
    ];
    let (denied, bob) = (DenyList::default(), "bob".parse().unwrap());
    let (shared, event_loop, list) = (Arc::clone(&central.shared), central.event_loop.clone(), denied.clone());
    let taken = tokio::spawn(async move { take(&shared, &event_loop, &list, events).await });
    central.until(|| send_queue.is_closed() && denied.contains(&bob)).await;
    assert!(central.shared.directory.usable(&driver, 1).is_none(), "nor does it come back");
    drop(release);
    taken.await.unwrap().unwrap();
    central.until(|| central.shared.directory.openable(&driver, 1).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_charging_point_is_shown_and_ordered_no_more_while_nothing_can_be_written_spec_7_4() {
    let (central, id, registry, _) = revocable().await;
    let release = occupied(&central).await;
    let mut removed = registry.now();
    removed.set_state(IdentityState::Removed);
    let event = IdentityEvent { revision: 7, event: Some(Event::Identity(removed)) };
    let (shared, event_loop) = (Arc::clone(&central.shared), central.event_loop.clone());
    let taken = tokio::spawn(async move { take(&shared, &event_loop, &DenyList::default(), vec![event]).await });
    central.until(|| central.shared.points.get(&id).is_none()).await;
    let outcome = central.orders.one(&id, PointOrder::Stop, ana()).await;
    assert!(
        matches!(outcome, crate::charge_point::OrderOutcome::Failed(Reason::UnknownChargingPoint, _)),
        "{outcome:?}"
    );
    assert!(central.shared.directory.usable(&PeerId::ChargingPoint(id.clone()), 1).is_none());
    drop(release);
    taken.await.unwrap().unwrap();

    told(&central, vec![registry.enrols()]).await;
    central.until(|| central.key_state(&id) == KeyState::Deleted).await;
}

#[test]
fn the_pins_of_another_central_are_told_from_its_own_spec_4_4() {
    let ours = [[1; 32], [2; 32]].map(PublicKey::from_bytes);
    assert!(are_ours(&ours, &[vec![1; 32], vec![2; 32]]));
    for other in [vec![], vec![vec![1; 32]], vec![vec![3; 32], vec![2; 32]]] {
        assert!(!are_ours(&ours, &other), "{other:?}");
    }
}

#[test]
fn when_to_come_again_is_handed_on_as_registry_says_it_spec_8_2() {
    let wait = Duration::from_millis(12_500);
    let status = mesh::status::retry_after(&mesh::status::refuse(Reason::TooManyAttempts, ""), wait);
    let verdict = CredentialVerdict::of_failure(&status);
    assert!(
        matches!(verdict, CredentialVerdict::Undecided(Reason::TooManyAttempts, _, Some(told)) if told == wait),
        "{verdict:?}"
    );
}
