//! Registry as a whole, with real mutual TLS and HTTPS on free ports. Each test has a certificate authority and a
//! database of its own.

use std::{path::Path, sync::Mutex, time::Duration};

use clap::Parser;
use mesh::{
    certs::Authority as Certificates,
    client::{Channel, ClientConfig, Https, RoleAddress, channel, https},
    identity::TlsIdentity,
    process::Context,
};
use proto::{
    Caller,
    registry::v1::{identities_client::IdentitiesClient, operators_client::OperatorsClient, *},
};
use store::{Database, registry::SCHEMA};
use tempfile::TempDir;
use tonic::Status;

use crate::Config;

mod audit;
mod awaiting_database;
mod enrol;
mod https;
mod operators;
mod postgresql;
mod requests;
mod verify;
mod watch;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The command line that the binary parses.
#[derive(Parser)]
#[command(args_override_self = true)]
struct RegistryCli {
    #[command(flatten)]
    config: Config,
}

/// A mesh with one Registry.
struct RegistryNetwork {
    dir: TempDir,
    certificates: Certificates,
    url: String,
    extra: Vec<&'static str>,
    ctx: Context,
    /// The address of Central's gRPC; empty: none.
    central: String,
}

impl RegistryNetwork {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With additional flags, on SQLite.
    async fn with(extra: &[&'static str]) -> Self {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite:{}", dir.path().join("registry.db").display());
        Self::at(dir, url, extra, "").await
    }

    async fn at(dir: TempDir, url: String, extra: &[&'static str], central: &str) -> Self {
        Database::migrate(&url, SCHEMA).await.unwrap();
        let mut network = Self::made(dir, url, extra, central);
        network.run().await;
        network
    }

    /// Not running, with a database that was not migrated.
    fn unmigrated() -> Self {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite:{}", dir.path().join("registry.db").display());
        Self::made(dir, url, &[], "")
    }

    fn made(dir: TempDir, url: String, extra: &[&'static str], central: &str) -> Self {
        mesh::process::install_cryptography();
        let certificates = Certificates::create(&dir.path().join("authority"), "mesh.test", YEAR).unwrap();
        let ctx = Context::detached("registry");
        let (extra, central) = (extra.to_vec(), central.to_owned());
        let network = Self { dir, certificates, url, extra, ctx, central };
        network.role(Caller::Registry, "registry");
        network.role(Caller::Central, "central");
        network
    }

    fn role(&self, role: Caller, name: &str) {
        self.certificates.issue_role(role, &self.path(name), &[], YEAR, false).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> Config {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (data, identity) = (text(&self.path("data")), text(&self.path("registry")));
        let mut args = vec!["test", "--data", &data, "--identity", &identity, "--database", &self.url];
        args.extend(["--grpc-address", "127.0.0.1:0", "--https-address", "127.0.0.1:0", "--central", &self.central]);
        // Cheap hashes, because these tests do not test their strength.
        args.extend(["--hash-memory", "8", "--hash-passes", "1"]);
        args.extend(&self.extra);
        RegistryCli::try_parse_from(args).unwrap().config
    }

    async fn run(&mut self) {
        crate::run(self.config(), self.ctx.clone()).await.unwrap();
    }

    /// Stops Registry and starts it again with the same data.
    async fn restart(&mut self) {
        self.stop().await;
        self.ctx = Context::detached("registry");
        self.run().await;
    }

    async fn stop(&self) {
        self.ctx.stop.cancel();
        self.ctx.ended().await.unwrap();
    }

    fn channel(&self, identity: &str) -> Channel {
        let address = self.ctx.address_of("grpc").unwrap();
        let identity = TlsIdentity::load(&self.path(identity)).unwrap();
        channel(&identity, RoleAddress::new("registry", [address]), &ClientConfig::default())
    }

    fn person(&self, role: Caller, name: &str) -> Channel {
        if !self.path(name).exists() {
            self.certificates.issue_person(role, &name.parse().unwrap(), &self.path(name), YEAR, false).unwrap();
        }
        self.channel(name)
    }

    fn operator(&self) -> IdentitiesClient<Channel> {
        IdentitiesClient::new(self.person(Caller::Operator, "anna"))
    }

    fn operators(&self) -> OperatorsClient<Channel> {
        OperatorsClient::new(self.person(Caller::Operator, "anna"))
    }

    fn central(&self) -> IdentitiesClient<Channel> {
        IdentitiesClient::new(self.channel("central"))
    }

    /// An HTTPS client that trusts only these roots, such as a token's.
    fn door(&self, roots_pem: &str) -> Https {
        let address = self.ctx.address_of("https").unwrap();
        https("registry", &address, roots_pem, &ClientConfig::default()).unwrap()
    }

    /// An HTTPS client that trusts the roots of the certificate authority.
    fn own_door(&self) -> Https {
        self.door(&self.certificates.roots_pem().unwrap())
    }

    /// A token for any charging point, with this many uses.
    async fn token(&self, uses: u32) -> String {
        let request = CreateTokenRequest { uses: Some(uses), ..token_request() };
        self.operator().create_token(request).await.unwrap().into_inner().token
    }

    /// Enrols the id as an operator and returns its credential.
    async fn enrolled(&self, id: &str) -> String {
        let request = EnrolRequest { request_id: request_id(), ..enrol_request(id) };
        self.operator().enrol(request).await.unwrap().into_inner().credential
    }

    async fn verify(&self, id: &str, credential: &str) -> Result<VerifyResponse, Status> {
        let kind = Kind::ChargingPoint as i32;
        let credential = credential.as_bytes().to_vec();
        let request = VerifyRequest { kind, id: id.into(), credential, address: "192.0.2.1".into() };
        self.central().verify(request).await.map(tonic::Response::into_inner)
    }

    async fn database(&self) -> Database {
        Database::open(&self.url, SCHEMA).await.unwrap()
    }
}

impl Drop for RegistryNetwork {
    fn drop(&mut self) {
        self.ctx.stop.cancel();
    }
}

fn enrol_request(id: &str) -> EnrolRequest {
    EnrolRequest {
        kind: Kind::ChargingPoint as i32,
        id: id.into(),
        city: "Oslo".into(),
        place: "Quay 1".into(),
        price_e4: Some(3950),
        ..Default::default()
    }
}

/// A token for any identity, with one use within an hour.
fn token_request() -> CreateTokenRequest {
    CreateTokenRequest {
        request_id: request_id(),
        kinds: vec![Kind::ChargingPoint as i32, Kind::Driver as i32],
        id_pattern: "*".into(),
        city: String::new(),
        uses: Some(1),
        lifetime: Some(proto::Duration { seconds: 3_600, nanos: 0 }),
    }
}

/// A new request id at each call.
fn request_id() -> String {
    static LAST: Mutex<u64> = Mutex::new(0);
    let mut last = LAST.lock().unwrap();
    *last += 1;
    format!("request-{last}")
}

fn reason(status: &Status) -> &'static str {
    mesh::status::reason_of(status).map_or("none", |reason| reason.code())
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let patience = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), patience).await.expect("it did not come to that");
}
