//! Central as a whole while its database is not migrated yet.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use mesh::{
    certs::Authority,
    client::{Channel, ClientConfig, RoleAddress, channel},
    health::Readiness,
    identity::TlsIdentity,
    process::Context,
};
use proto::{
    Caller,
    central::v1::{GetChargingPointRequest, charging_points_client::ChargingPointsClient},
    link::v1::{Busy, Reason},
};
use store::{Database, central::SCHEMA};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};
use tonic::{Code, Status};

use crate::Config;

const DAY: Duration = Duration::from_secs(24 * 3600);
const ENQ: u8 = 0x05;

#[derive(Parser)]
struct TestCli {
    #[command(flatten)]
    config: Config,
}

/// A Central whose database nobody has made.
struct WaitingCentral {
    folder: TempDir,
    ctx: Context,
    running: JoinHandle<anyhow::Result<()>>,
}

impl WaitingCentral {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Self {
        mesh::process::install_cryptography();
        let folder = TempDir::new().unwrap();
        let authority = Authority::create(&folder.path().join("authority"), "mesh.test", DAY).unwrap();
        authority.issue_role(Caller::Central, &folder.path().join("central"), &[], DAY, false).unwrap();
        let ana = folder.path().join("ana");
        authority.issue_person(Caller::Operator, &"ana".parse().unwrap(), &ana, DAY, false).unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (data, identity) = (path("data"), path("central"));
        let args = ["central", "--data", &data, "--identity", &identity, "--registry", "127.0.0.1:1"];
        let addresses = ["--grpc-address", "127.0.0.1:0", "--link-address", "127.0.0.1:0"];
        let config = TestCli::parse_from(args.into_iter().chain(addresses).chain(more.iter().copied())).config;
        let ctx = Context::detached("central");
        let running = tokio::spawn(crate::run(config, ctx.clone()));
        Self { folder, ctx, running }
    }

    fn address(&self, door: &str) -> Option<SocketAddr> {
        self.ctx.address_of(door).map(|address| address.parse().unwrap())
    }

    /// Both doors are open, and it has looked for its database.
    async fn until_it_waits(&self) {
        let waits = || self.address("link").is_some() && self.ctx.health.readiness() == Readiness::Degraded;
        self.until("it waits", async || waits()).await;
    }

    fn ana(&self) -> ChargingPointsClient<Channel> {
        let identity = TlsIdentity::load(&self.folder.path().join("ana")).unwrap();
        let central = RoleAddress::new("central", [self.address("grpc").unwrap().to_string()]);
        ChargingPointsClient::new(channel(&identity, central, &ClientConfig::default()))
    }

    async fn ask(&self, ana: &ChargingPointsClient<Channel>) -> Status {
        let request = GetChargingPointRequest { id: "CP-1".into() };
        ana.clone().get(request).await.expect_err("there is no charging point")
    }

    async fn migrate(&self) {
        Database::migrate(&self.database(), SCHEMA).await.unwrap();
    }

    fn database(&self) -> String {
        format!("sqlite:{}", self.folder.path().join("data/central.db").display())
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let patience = async {
            while !is_so().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), patience).await.expect(what);
    }

    async fn stop(self) {
        self.ctx.stop.cancel();
        self.running.await.unwrap().unwrap();
        self.ctx.ended().await.unwrap();
    }
}

/// The first two bytes that a caller hears: what answers his `ENQ`.
async fn call(link: SocketAddr) -> ([u8; 2], TcpStream) {
    let mut stream = TcpStream::connect(link).await.unwrap();
    stream.write_all(&[ENQ]).await.unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await.unwrap();
    (answer, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_awaited_both_doors_refuse_and_then_serve_on_the_same_ports_spec_9_1() {
    let central = WaitingCentral::start();
    central.until_it_waits().await;
    let (grpc, link, ana) = (central.address("grpc"), central.address("link").unwrap(), central.ana());
    let refused = central.ask(&ana).await;
    assert_eq!((refused.code(), mesh::status::reason_of(&refused)), (Code::Unavailable, Some(Reason::Unavailable)));
    let words = refused.message();
    assert!(words.starts_with("the database cannot be used yet: ") && words.contains("chargemesh migrate"), "{words}");

    // NACK 0, one busy frame with its counter and a time, EOT (SPEC 4.2).
    let (answer, mut rest) = call(link).await;
    assert_eq!(answer, [0x15, 0]);
    let mut frame = Vec::new();
    rest.read_to_end(&mut frame).await.unwrap();
    let busy = prost::Message::encode_to_vec(&Busy { retry_after_ms: 2000 });
    assert!(frame.windows(busy.len()).any(|bytes| bytes == busy), "{frame:02x?}");
    assert_eq!((frame.first(), frame.last()), (Some(&0x02), Some(&0x04)), "{frame:02x?}");
    let metrics = central.ctx.metrics.encode().unwrap();
    assert!(metrics.contains(r#"links_refused_total{reason="BUSY"} 1"#), "{metrics}");

    central.migrate().await;
    central.until("it serves", async || central.ask(&ana).await.code() == Code::NotFound).await;
    assert_eq!(call(link).await.0, [0x06, 0], "ACK 0");
    assert_eq!((central.address("grpc"), central.address("link")), (grpc, Some(link)));
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_central_on_one_database_refuses_in_words_and_serves_when_the_first_has_gone_spec_10_8() {
    let first = WaitingCentral::start();
    first.until_it_waits().await;
    first.migrate().await;
    let ana = first.ana();
    first.until("the first serves", async || first.ask(&ana).await.code() == Code::NotFound).await;

    let second = WaitingCentral::start_with(&["--database", &first.database()]);
    second.until_it_waits().await;
    let ben = second.ana();
    let refused = second.ask(&ben).await;
    assert!(refused.message().contains("another Central (central-"), "{refused}");
    assert_eq!(first.ask(&ana).await.code(), Code::NotFound, "the first serves on");

    first.ctx.stop.cancel();
    first.running.await.unwrap().unwrap();
    first.ctx.ended().await.unwrap();
    second.until("the second serves", async || second.ask(&ben).await.code() == Code::NotFound).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_nothing_to_a_central_that_waits_holds_few_connections_and_not_for_long_spec_9_1() {
    let central = WaitingCentral::start();
    central.until_it_waits().await;
    let link = central.address("link").unwrap();
    let begun = central.ctx.clock.mono();
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(link).await.unwrap());
    }
    let ended = async |stream: &mut TcpStream, within: Duration| {
        tokio::time::timeout(within, stream.read(&mut [0; 1])).await.is_ok()
    };
    let at_once =
        futures::future::join_all(silent.iter_mut().map(|stream| ended(stream, Duration::from_secs(1)))).await;
    let cut_off = at_once.iter().filter(|ended| **ended).count();
    assert!(cut_off >= 44, "{cut_off} were cut off without a word");
    for stream in &mut silent {
        assert!(ended(stream, Duration::from_secs(20)).await);
    }
    let lasted = central.ctx.clock.mono().duration_since(begun);
    assert!(lasted >= Duration::from_secs(2), "who was let in had time to say something");
    assert_eq!(call(link).await.0, [0x15, 0], "then there is room for whoever speaks");
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_central_that_waits_in_order_spec_9() {
    let central = WaitingCentral::start();
    central.until_it_waits().await;
    // Somebody who has called and somebody who says nothing hold nothing up.
    let link = central.address("link").unwrap();
    let _silent = TcpStream::connect(link).await.unwrap();
    let _called = call(link).await;
    let folder = central.folder.path().to_owned();
    central.stop().await;
    assert!(!folder.join("data/central.db").exists(), "and nothing was made of the database");
    assert!(TcpStream::connect(link).await.is_err(), "nobody listens any more");
}
