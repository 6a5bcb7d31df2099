//! Weather as a whole: over real mutual TLS, with a stand-in provider and a stand-in Central.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, Uri},
    response::IntoResponse as _,
};
use clap::Parser;
use mesh::{
    certs::Authority,
    client::{Channel, ClientConfig, RoleAddress, channel},
    identity::{IdentityConfig, TlsIdentity},
    process::Context,
};
use proto::{
    Caller,
    central::v1::{conditions_server::*, *},
    timestamp,
    weather::v1::{weather_client::WeatherClient, *},
};
use tempfile::TempDir;
use tonic::{Code, Request, Response, Status};

use crate::Config;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A provider over HTTP that answers what the test says, by the query's first value.
#[derive(Clone)]
pub(crate) struct StandIn(Arc<StandInState>);

struct StandInState {
    address: std::net::SocketAddr,
    answers: Mutex<HashMap<String, (u16, String)>>,
    seen: Mutex<Vec<String>>,
}

impl StandIn {
    /// As an answer's status: there is none.
    pub(crate) const HANGS: u16 = 0;
    /// What it says with 429.
    pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(7);

    pub(crate) async fn start() -> Self {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let stand_in = Self(Arc::new(StandInState { address, answers: Mutex::default(), seen: Mutex::default() }));
        let app = Router::new().fallback(Self::answer).with_state(stand_in.clone());
        tokio::spawn(async move { axum::serve(socket, app).await });
        stand_in
    }

    async fn answer(State(stand_in): State<Self>, uri: Uri) -> axum::response::Response {
        stand_in.0.seen.lock().unwrap().push(uri.to_string());
        let query = uri.query().unwrap_or_default();
        let wanted = query.split('&').next().and_then(|first| first.split_once('=')).map_or("", |(_, value)| value);
        let missing = if uri.path().starts_with("/v1") { (200, "{}".to_owned()) } else { (404, "{}".to_owned()) };
        let (status, body) = stand_in.0.answers.lock().unwrap().get(wanted).cloned().unwrap_or(missing);
        if query.contains("appid=") && !query.ends_with("appid=right") {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        if status == Self::HANGS {
            std::future::pending::<()>().await;
        }
        let retry_after = [("retry-after", Self::RETRY_AFTER.as_secs().to_string())];
        (StatusCode::from_u16(status).unwrap(), retry_after, body).into_response()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    pub(crate) fn set(&self, city: &str, status: u16, body: &str) {
        self.0.answers.lock().unwrap().insert(city.to_owned(), (status, body.to_owned()));
    }

    fn degrees(&self, city: &str, celsius: f64) {
        self.set(city, 200, &format!(r#"{{"main":{{"temp":{celsius}}}}}"#));
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.0.seen.lock().unwrap().clone()
    }
}

/// A Central that has charging points in Oslo, and remembers what it was told.
#[derive(Clone, Default)]
struct CentralStandIn {
    reports: Arc<Mutex<Vec<ReportConditionsRequest>>>,
}

#[tonic::async_trait]
impl Conditions for CentralStandIn {
    async fn report(
        &self,
        request: Request<ReportConditionsRequest>,
    ) -> Result<Response<ReportConditionsResponse>, Status> {
        self.reports.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ReportConditionsResponse { cities: vec!["Oslo".into()] }))
    }

    async fn list(&self, _: Request<ListConditionsRequest>) -> Result<Response<ListConditionsResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
}

impl CentralStandIn {
    async fn start(network: &WeatherNetwork, ctx: &Context, address: &str) -> Self {
        let central = Self::default();
        let identity = IdentityConfig { identity: network.path("central") };
        let identity = TlsIdentity::open(ctx, &identity).unwrap();
        let server = mesh::server::Server::new(ctx, &identity, mesh::server::Limits::default());
        let server = server.add_service(ConditionsServer::new(central.clone()));
        server.start("grpc", address.parse().unwrap()).await.unwrap();
        central
    }

    fn latest(&self, city: &str) -> Option<CityCondition> {
        let reports = self.reports.lock().unwrap();
        reports.last()?.conditions.iter().find(|condition| condition.city == city).cloned()
    }
}

#[derive(Parser)]
#[command(args_override_self = true)]
struct WeatherArgs {
    #[command(flatten)]
    config: Config,
}

/// A mesh with one Weather.
struct WeatherNetwork {
    dir: TempDir,
    authority: Authority,
    provider: StandIn,
    ctx: Context,
}

impl WeatherNetwork {
    async fn new() -> Self {
        mesh::process::install_cryptography();
        let dir = TempDir::new().unwrap();
        let authority = Authority::create(&dir.path().join("authority"), "mesh.test", YEAR).unwrap();
        for (role, name) in [(Caller::Weather, "weather"), (Caller::Central, "central")] {
            authority.issue_role(role, &dir.path().join(name), &[], YEAR, false).unwrap();
        }
        for (role, name) in [(Caller::Operator, "ana"), (Caller::Viewer, "vic")] {
            authority.issue_person(role, &name.parse().unwrap(), &dir.path().join(name), YEAR, false).unwrap();
        }
        std::fs::write(dir.path().join("key"), "right").unwrap();
        Self { dir, authority, provider: StandIn::start().await, ctx: Context::detached("weather") }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    async fn run(&self, central: &str) {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (data, identity) = (text(&self.path("data")), text(&self.path("weather")));
        let (key, url) = (text(&self.path("key")), self.provider.url());
        let mut args = vec!["test", "--data", &data, "--identity", &identity, "--grpc-address", "127.0.0.1:0"];
        args.extend(["--central", central, "--weather-url", &url, "--key-file", &key]);
        args.extend(["--every", "100ms", "--requests-per-minute", "6000", "--report-every", "300ms"]);
        crate::run(WeatherArgs::try_parse_from(args).unwrap().config, self.ctx.clone()).await.unwrap();
    }

    async fn restart(&mut self, central: &str) {
        self.ctx.stop.cancel();
        self.ctx.ended().await.unwrap();
        self.ctx = Context::detached("weather");
        self.run(central).await;
    }

    fn client(&self, identity: &str) -> WeatherClient<Channel> {
        let identity = TlsIdentity::load(&self.path(identity)).unwrap();
        let target = RoleAddress::new("weather", [self.ctx.address_of("grpc").unwrap()]);
        WeatherClient::new(channel(&identity, target, &ClientConfig::default()))
    }
}

impl Drop for WeatherNetwork {
    fn drop(&mut self) {
        self.ctx.stop.cancel();
        let _kept_until_here = &self.authority;
    }
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let patience = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), patience).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn drill(city: &str, celsius: Option<f64>, end_ms: i64) -> OverrideRequest {
    OverrideRequest {
        request_id: "r".into(),
        city: city.into(),
        temperature_celsius: celsius,
        end_time: timestamp(end_ms),
    }
}

#[tokio::test]
async fn frost_and_its_end_reach_central_also_where_either_was_restarted_spec_6_5() {
    let mut network = WeatherNetwork::new().await;
    network.provider.degrees("Oslo", -5.0);
    let ctx = Context::detached("central");
    let central = CentralStandIn::start(&network, &ctx, "127.0.0.1:0").await;
    let address = ctx.address_of("grpc").unwrap();
    network.run(&address).await;
    let is = |central: &CentralStandIn, frost: Frost| central.latest("Oslo").is_some_and(|c| c.frost() == frost);
    until("frost is reported", async || is(&central, Frost::Present)).await;
    let condition = central.latest("Oslo").unwrap();
    assert_eq!((condition.temperature_celsius, condition.stale), (Some(-5.0), false));

    ctx.stop.cancel();
    ctx.ended().await.unwrap();
    network.provider.degrees("Oslo", 3.0);
    let ctx = Context::detached("central");
    let central = CentralStandIn::start(&network, &ctx, &address).await;
    until("the thaw is reported to a Central that comes back", async || is(&central, Frost::None)).await;

    network.provider.degrees("Oslo", -1.0);
    until("frost again", async || is(&central, Frost::Present)).await;
    network.provider.degrees("Oslo", 0.2);
    until("0.2", async || central.latest("Oslo").is_some_and(|c| c.temperature_celsius == Some(0.2))).await;
    central.reports.lock().unwrap().clear();
    network.restart(&address).await;
    until("a report after a restart", async || central.latest("Oslo").is_some_and(|c| !c.stale)).await;
    assert!(is(&central, Frost::Present), "0.2 is within the hysteresis of a frost before the restart");
    ctx.stop.cancel();
}

#[tokio::test]
async fn a_wrong_key_and_an_unreachable_provider_are_said_and_the_frost_stays_until_the_key_is_changed_spec_6_5() {
    let network = WeatherNetwork::new().await;
    network.provider.degrees("Oslo", -5.0);
    let ctx = Context::detached("central");
    let central = CentralStandIn::start(&network, &ctx, "127.0.0.1:0").await;
    network.run(&ctx.address_of("grpc").unwrap()).await;
    until("frost", async || central.latest("Oslo").is_some_and(|c| c.frost() == Frost::Present)).await;

    std::fs::write(network.path("key"), "wrong").unwrap();
    let says = |words: &str| central.latest("Oslo").is_some_and(|c| c.stale && c.detail.contains(words));
    until("the refused key is said", async || says("refuses the key")).await;
    assert_eq!(central.latest("Oslo").unwrap().frost(), Frost::Present);
    let health = format!("{:?}", network.ctx.health.report());
    assert!(health.contains("refuses the key") && !health.contains("wrong"), "{health}");

    std::fs::write(network.path("key"), "right").unwrap();
    network.provider.degrees("Oslo", 5.0);
    until("the thaw, without a restart", async || central.latest("Oslo").is_some_and(|c| c.frost() == Frost::None))
        .await;
    network.provider.set("Oslo", 500, "");
    until("the broken provider is said", async || says("answers 500")).await;
    let listed = network.client("vic").list(ListCitiesRequest::default()).await.unwrap().into_inner();
    assert!(listed.provider.unwrap().detail.contains("answers 500"));
    ctx.stop.cancel();
}

#[tokio::test]
async fn operators_add_and_remove_cities_drill_and_suspend_spec_6_3_6_4() {
    let network = WeatherNetwork::new().await;
    network.provider.degrees("Oslo", 5.0);
    network.provider.degrees("Rome", 20.0);
    let ctx = Context::detached("central");
    let central = CentralStandIn::start(&network, &ctx, "127.0.0.1:0").await;
    network.run(&ctx.address_of("grpc").unwrap()).await;
    until("Oslo is watched", async || central.latest("Oslo").is_some_and(|c| c.frost() == Frost::None)).await;
    let mut ana = network.client("ana");
    let add = AddCityRequest { request_id: "r".into(), city: "Rome".into() };
    assert!(ana.add(add.clone()).await.unwrap().into_inner().added);
    until("Rome is measured", async || central.latest("Rome").is_some_and(|c| c.frost() == Frost::None)).await;
    assert_eq!(network.client("vic").add(add).await.unwrap_err().code(), Code::PermissionDenied);

    let end = network.ctx.clock.wall_ms() + 60_000;
    let city = ana.r#override(drill("Rome", Some(-3.0), end)).await.unwrap().into_inner();
    assert_eq!(city.drill_end_time, timestamp(end));
    until("the drill's frost", async || central.latest("Rome").is_some_and(|c| c.drill && c.frost() == Frost::Present))
        .await;
    for wrong in [drill("Rome", Some(-300.0), end), drill("Rome", Some(-3.0), 0), drill("", None, 0)] {
        assert_eq!(ana.r#override(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(ana.r#override(drill("Bergen", None, 0)).await.unwrap_err().code(), Code::NotFound);
    ana.r#override(drill("Rome", None, 0)).await.unwrap();
    until("the drill's end", async || central.latest("Rome").is_some_and(|c| c.frost() == Frost::None)).await;

    ana.suspend(SuspendRequest { request_id: "r".into(), suspended: Some(true) }).await.unwrap();
    until("the suspension", async || central.reports.lock().unwrap().last().is_some_and(|report| report.suspended))
        .await;
    assert_eq!(ana.suspend(SuspendRequest::default()).await.unwrap_err().code(), Code::InvalidArgument);
    ana.remove(RemoveCityRequest { request_id: "r".into(), city: "Oslo".into() }).await.unwrap();
    until("Oslo's end", async || central.latest("Oslo").is_some_and(|c| c.frost() == Frost::NotWatched)).await;
    ctx.stop.cancel();
}
