//! Limits on the connections of unauthenticated peers and of a single caller.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use proto::Caller;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::Code;

use super::network::{LOCAL, MeshNetwork, READ, call, counting, until};
use crate::{
    access_log::AccessLog,
    http::{HttpsSettings, HttpsTimeouts},
    process::Context,
    server::Limits,
};

const LONG: Duration = Duration::from_secs(60);

async fn strangers(count: usize, address: SocketAddr) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..count {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    silent
}

#[tokio::test]
async fn silent_strangers_of_one_network_keep_nobody_out_however_many_they_are() {
    let network = MeshNetwork::new();
    let limits = Limits { max_handshakes: 64, tls_timeout: LONG, ..Limits::default() };
    let central = network.central_with(counting().0, limits, LOCAL.parse().unwrap()).await;
    let mut silent = strangers(300, central.address).await;
    call(&network.channel(Caller::Operator, central.address), READ).await.unwrap();
    assert!(matches!(silent[0].read(&mut [0; 1]).await, Ok(0) | Err(_)), "the oldest went");
    let metrics = central.ctx.metrics.encode().unwrap();
    assert!(metrics.contains(r#"chargemesh_grpc_refused_total{cause="full"} 29"#), "{metrics}");
}

#[tokio::test]
async fn a_name_that_opens_more_than_its_share_of_connections_loses_its_own_oldest() {
    let network = MeshNetwork::new();
    let limits = Limits { max_connections: 16, ..Limits::default() };
    let central = network.central_with(counting().0, limits, LOCAL.parse().unwrap()).await;
    let registry = network.channel(Caller::Registry, central.address);
    // Refused, but heard.
    assert_eq!(call(&registry, READ).await.unwrap_err().code(), Code::PermissionDenied);
    let viewers: Vec<_> = (0..20).map(|_| network.channel(Caller::Viewer, central.address)).collect();
    for viewer in &viewers {
        call(viewer, READ).await.unwrap();
    }
    let operator = network.channel(Caller::Operator, central.address);
    call(&operator, READ).await.unwrap();
    assert_eq!(call(&registry, READ).await.unwrap_err().code(), Code::PermissionDenied);
    until("two of the viewer's are left", async || {
        central.ctx.metrics.encode().unwrap().contains("chargemesh_grpc_connections 4\n")
    })
    .await;
}

/// An HTTPS door with a short page, and one that nobody reads to its end.
struct HttpsServer {
    network: MeshNetwork,
    ctx: Context,
    address: SocketAddr,
}

impl HttpsServer {
    async fn new(https_idle: Duration, https_max_age: Duration) -> Self {
        let (network, ctx) = (MeshNetwork::new(), Context::detached("registry"));
        let app =
            Router::new().route("/short", get(async || "short")).route("/long", get(async || "x".repeat(64 << 20)));
        let limits = Limits { default_deadline: Duration::from_millis(200), tls_timeout: LONG, ..Limits::default() };
        let access_log = AccessLog::new(ctx.clock, limits.access_log_interval);
        let settings = HttpsSettings { limits, timeouts: HttpsTimeouts { https_idle, https_max_age }, access_log };
        let (identity, address) = (network.identity(Caller::Registry), LOCAL.parse().unwrap());
        let address = crate::http::start(&ctx, &identity, settings, "https", address, app).await.unwrap();
        Self { network, ctx, address }
    }

    async fn connect(&self, protocol: &str) -> TlsStream<TcpStream> {
        let mut tls = crate::identity::anonymous_client(&self.network.authority.roots_pem().unwrap()).unwrap();
        tls.alpn_protocols = vec![protocol.into()];
        let tcp = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(Arc::new(tls)).connect("registry".try_into().unwrap(), tcp).await.unwrap()
    }

    async fn is_left_alone(&self) {
        until("nobody is at the door", async || {
            self.ctx.metrics.encode().unwrap().contains("chargemesh_https_connections 0\n")
        })
        .await;
    }
}

const GET_SHORT: &[u8] = b"GET /short HTTP/1.1\r\nHost: registry\r\n\r\n";
const GET_LONG: &[u8] = b"GET /long HTTP/1.1\r\nHost: registry\r\n\r\n";
/// The preface of HTTP/2 and an empty frame of settings.
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn an_https_connection_that_asks_nothing_is_closed() {
    let door = HttpsServer::new(Duration::from_millis(100), LONG).await;
    for (protocol, said) in [("http/1.1", &b""[..]), ("http/1.1", GET_SHORT), ("h2", b""), ("h2", HTTP_2)] {
        let mut tls = door.connect(protocol).await;
        tls.write_all(said).await.unwrap();
        let mut heard = Vec::new();
        drop(tokio::time::timeout(LONG, tls.read_to_end(&mut heard)).await.expect("it ends"));
        assert_eq!(heard.is_empty(), said.is_empty(), "{protocol}: {heard:?}");
    }
    door.is_left_alone().await;
}

#[tokio::test]
async fn an_https_connection_that_asks_on_and_on_is_closed_at_its_greatest_age() {
    let door = HttpsServer::new(LONG, Duration::from_millis(300)).await;
    let mut tls = door.connect("http/1.1").await;
    let mut answers = 0;
    while tls.write_all(GET_SHORT).await.is_ok() && matches!(tls.read(&mut [0; 1024]).await, Ok(1..)) {
        answers += 1;
    }
    assert!(answers > 1, "{answers}");
    door.is_left_alone().await;
}

#[tokio::test]
async fn an_https_answer_that_nobody_reads_holds_no_place() {
    let door = HttpsServer::new(Duration::from_millis(100), LONG).await;
    let mut tls = door.connect("http/1.1").await;
    tls.write_all(GET_LONG).await.unwrap();
    tls.read_exact(&mut [0; 16]).await.unwrap();
    door.is_left_alone().await;
}

#[tokio::test]
async fn one_network_holds_no_more_than_its_share_of_https_connections() {
    let network = MeshNetwork::new();
    let ctx = Context::detached("registry");
    let limits = Limits { max_connections: 32, ..Limits::default() };
    let access_log = AccessLog::new(ctx.clock, limits.access_log_interval);
    let settings = HttpsSettings { limits, timeouts: HttpsTimeouts::default(), access_log };
    let (identity, app) = (network.identity(Caller::Registry), Router::new().route("/short", get(async || "short")));
    let address = crate::http::start(&ctx, &identity, settings, "https", LOCAL.parse().unwrap(), app).await.unwrap();
    let door = HttpsServer { network, ctx, address };
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(door.connect("h2").await);
    }
    let mut honest = door.connect("http/1.1").await;
    honest.write_all(GET_SHORT).await.unwrap();
    honest.read_exact(&mut [0; 16]).await.unwrap();
    until("an eighth is left", async || {
        door.ctx.metrics.encode().unwrap().contains("chargemesh_https_connections 4\n")
    })
    .await;
}
