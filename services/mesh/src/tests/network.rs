//! A small mesh: an authority in a temporary folder, servers that do what a test asks, and calls by path.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{Router, response::Response};
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use proto::{Caller, OperatorName};
use tempfile::TempDir;
use tonic::{Status, body::Body, service::Routes};
use tower::Service as _;

use crate::{
    access_log::{AccessEntry, AccessLog},
    certs::Authority,
    client::{self, Channel, ClientConfig, RoleAddress},
    identity::TlsIdentity,
    policy::DenyList,
    principal::role_of,
    process::Context,
    server::{Limits, Server},
};

pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const LOCAL: &str = "127.0.0.1:0";

/// Any method that operators may call and that is neither a stream nor in need of a request id.
pub(super) const READ: &str = "/chargemesh.central.v1.Sessions/Get";
pub(super) const STREAM: &str = "/chargemesh.central.v1.Sessions/Watch";
/// Operators may, twice they may not.
pub(super) const NOT_IDEMPOTENT: &str = "/chargemesh.registry.v1.Identities/CreateToken";

pub(super) struct MeshNetwork {
    pub(super) dir: TempDir,
    pub(super) authority: Authority,
}

impl MeshNetwork {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("authority"), "mesh.test", 365 * DAY).unwrap();
        Self { dir, authority }
    }

    /// The folder of an identity, made if it is not there.
    pub(super) fn folder(&self, caller: Caller) -> PathBuf {
        let out = self.dir.path().join(role_of(caller));
        if !out.exists() {
            self.issue(caller, "anna", &out, 90 * DAY);
        }
        out
    }

    pub(super) fn issue(&self, caller: Caller, name: &str, out: &std::path::Path, lifetime: Duration) {
        match caller {
            Caller::Viewer | Caller::Operator => {
                self.authority.issue_person(caller, &name.parse().unwrap(), out, lifetime, true).unwrap();
            }
            Caller::Central | Caller::Registry | Caller::Weather | Caller::Dashboard => {
                self.authority.issue_role(caller, out, &[], lifetime, true).unwrap();
            }
        }
    }

    pub(super) fn identity(&self, caller: Caller) -> TlsIdentity {
        TlsIdentity::load(&self.folder(caller)).unwrap()
    }

    pub(super) async fn central(&self, router: Router) -> RunningServer {
        self.central_with(router, Limits::default(), LOCAL.parse().unwrap()).await
    }

    pub(super) async fn central_with(&self, router: Router, limits: Limits, address: SocketAddr) -> RunningServer {
        let (mut ctx, denied) = (Context::detached("central"), DenyList::default());
        ctx.grace = Duration::from_secs(3);
        let access_log = AccessLog::new(ctx.clock, limits.access_log_interval);
        let server =
            Server::new(&ctx, &self.identity(Caller::Central), limits).deny_list(&denied).access_log(&access_log);
        let address = server.with_routes(Routes::from(router)).start("grpc", address).await.unwrap();
        RunningServer { ctx, address, denied, access_log }
    }

    pub(super) fn channel(&self, caller: Caller, address: impl ToString) -> Channel {
        channel(&self.identity(caller), address)
    }
}

pub(super) struct RunningServer {
    pub(super) ctx: Context,
    pub(super) address: SocketAddr,
    pub(super) denied: DenyList,
    pub(super) access_log: AccessLog,
}

impl RunningServer {
    /// What the audit of the role would be told now.
    pub(super) async fn told(&self) -> Vec<AccessEntry> {
        let (over, told) = (tokio_util::sync::CancellationToken::new(), std::sync::Mutex::new(Vec::new()));
        over.cancel();
        let write = async |entries| -> Result<(), Status> {
            told.lock().unwrap().extend(entries);
            Ok(())
        };
        self.access_log.write_to(over, write).await;
        told.into_inner().unwrap()
    }

    pub(super) async fn stop(self) {
        self.ctx.stop.cancel();
        self.ctx.ended().await.unwrap();
    }
}

pub(super) fn channel(identity: &TlsIdentity, address: impl ToString) -> Channel {
    client::channel(identity, RoleAddress::new("central", [address.to_string()]), &ClientConfig::default())
}

pub(super) fn anna() -> OperatorName {
    "anna".parse().unwrap()
}

/// Answers every method with OK and counts the calls.
pub(super) fn counting() -> (Router, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    let router = Router::new().fallback(async move || {
        counted.fetch_add(1, Ordering::SeqCst);
        answer(tonic::Code::Ok)
    });
    (router, count)
}

/// Answers every method with one message that never ends.
pub(super) fn endless() -> Router {
    Router::new().fallback(async || {
        let first = futures::stream::iter([Ok::<_, Status>(Frame::data(Bytes::from_static(&[0; 5])))]);
        let body = StreamBody::new(first.chain(futures::stream::pending()));
        let body = axum::body::Body::new(body);
        http::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    })
}

pub(super) fn answer(code: tonic::Code) -> Response {
    Status::new(code, "").into_http()
}

/// A message whose field 1 is `r`: a request id, where one is needed.
pub(super) fn request(path: &str) -> http::Request<Body> {
    with_body(path, &[0, 0, 0, 0, 3, 0x0a, 1, b'r'])
}

pub(super) fn with_body(path: &str, body: &'static [u8]) -> http::Request<Body> {
    let request = http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    request.body(Body::new(Full::new(Bytes::from_static(body)))).unwrap()
}

pub(super) async fn call(channel: &Channel, path: &str) -> Result<(), Status> {
    send(channel, request(path)).await
}

pub(super) async fn send(channel: &Channel, request: http::Request<Body>) -> Result<(), Status> {
    let (head, body) = channel.clone().call(request).await?.into_parts();
    let status = match Status::from_header_map(&head.headers) {
        Some(status) => status,
        None => trailers(body).await?,
    };
    if status.code() == tonic::Code::Ok { Ok(()) } else { Err(status) }
}

/// The status at the end of a stream.
pub(super) async fn trailers(body: Body) -> Result<Status, Status> {
    let all = body.collect().await?;
    Ok(all.trailers().and_then(Status::from_header_map).unwrap_or_else(|| Status::unknown("no trailers")))
}

pub(super) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let met = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), met).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}
