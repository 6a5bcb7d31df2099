//! One connection of the mesh: determines the caller once, then serves HTTP/2 until the connection ends, the process
//! stops, the operator is removed, or the certificate that opened it is good no more (SPEC 10.8).

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::Router;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::{
    Acceptor,
    certificate::{Lapse, ShownCertificate},
};
use crate::{access_log::AccessLog, clock::Clock, identity::TlsIdentity, policy::DenyList, principal::Principal};

/// Time from the end of a caller's right to call, which ends his streams, to the end of the connection.
const OVER_GRACE: Duration = Duration::from_secs(1);
/// How often the certificate of a connection is judged again; each call judges it too.
const JUDGE_EVERY: Duration = Duration::from_secs(1);

/// Why nobody may call on a connection any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndCause {
    /// The operator was removed.
    Removed,
    Lapsed(Lapse),
}

/// Stored in the extensions of every request of a connection.
pub(super) struct ServerConnection {
    /// The caller, or why the certificate names none.
    pub(super) principal: Result<Principal, String>,
    certificate: ShownCertificate,
    identity: TlsIdentity,
    clock: Clock,
    cause: OnceLock<EndCause>,
    /// Cancelled when nobody may call on this connection any more.
    pub(super) over: CancellationToken,
    /// Cancelled when the process stops.
    pub(super) stopping: CancellationToken,
    pub(super) access_log: AccessLog,
}

impl ServerConnection {
    /// Why nobody may call any more, as it is now.
    pub(super) fn end_cause(&self) -> Option<EndCause> {
        if self.cause.get().is_none()
            && let Err(lapse) = self.certificate.judge(&self.identity, self.clock.wall_ms().div_euclid(1000))
        {
            self.end(EndCause::Lapsed(lapse));
        }
        self.cause.get().copied()
    }

    fn end(&self, cause: EndCause) {
        // The first one counts.
        let _other = self.cause.set(cause);
        self.over.cancel();
    }

    /// Ends when the certificate is good no more.
    async fn lapses(&self) {
        while self.end_cause().is_none() {
            let _rung = self.over.run_until_cancelled(tokio::time::sleep(JUDGE_EVERY)).await;
        }
    }
}

#[derive(Clone)]
pub(super) struct Connections {
    pub(super) app: Router,
    pub(super) identity: TlsIdentity,
    pub(super) denied: DenyList,
    pub(super) access_log: AccessLog,
    pub(super) clock: Clock,
    pub(super) streams: u32,
    /// A peer that answers no ping is considered gone (SPEC 9, network cut).
    pub(super) ping_interval: Duration,
    pub(super) stop: CancellationToken,
}

impl Connections {
    pub(super) async fn serve(self, acceptor: Acceptor) {
        let (identity, shared) = (self.identity.clone(), Arc::new(self));
        let handle = move |tls, address| {
            let shared = shared.clone();
            async move { shared.one(tls, address).await }
        };
        acceptor.run(move || identity.mutual(), holder, handle).await;
    }

    async fn one(&self, tls: TlsStream<TcpStream>, address: SocketAddr) {
        let connection = Arc::new(self.connection(&tls, address));
        let name = connection.principal.as_ref().ok().and_then(|principal| principal.name.clone());
        let denied = async {
            match &name {
                Some(name) => self.denied.denied(name).await,
                None => std::future::pending().await,
            }
            connection.end(EndCause::Removed);
        };
        let (app, of_requests) = (self.app.clone(), connection.clone());
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(of_requests.clone());
            app.clone().call(request.map(axum::body::Body::new))
        });
        let mut http = pin!(self.http().serve_connection(TokioIo::new(tls), service));
        tokio::select! {
            result = http.as_mut() => return log(result, address),
            () = self.stop.cancelled() => {}
            () = async { tokio::select! { () = denied => {} () = connection.lapses() => {} } } => {
                http.as_mut().graceful_shutdown();
                // Calls are still refused with a reason for a while; then the connection is closed.
                drop(tokio::time::timeout(OVER_GRACE, http).await);
                return;
            }
        }
        http.as_mut().graceful_shutdown();
        log(http.await, address);
    }

    fn connection(&self, tls: &TlsStream<TcpStream>, address: SocketAddr) -> ServerConnection {
        let certificate = ShownCertificate::new(tls.get_ref().1.peer_certificates().unwrap_or_default());
        ServerConnection {
            principal: self.who(&certificate.uris(), address),
            certificate,
            identity: self.identity.clone(),
            clock: self.clock,
            cause: OnceLock::new(),
            over: CancellationToken::new(),
            stopping: self.stop.clone(),
            access_log: self.access_log.clone(),
        }
    }

    fn who(&self, uris: &[String], address: SocketAddr) -> Result<Principal, String> {
        let domain = self.identity.domain().map_err(|error| error.to_string())?;
        let principal = Principal::from_uris(uris, &domain, address).map_err(|error| error.to_string());
        match &principal {
            Ok(principal) => {
                tracing::debug!(%principal, %address, "connected");
                self.login(principal);
            }
            Err(error) => {
                tracing::warn!(%address, error, "connected with a certificate that names no known caller");
                self.access_log.unauthenticated("grpc", "CERTIFICATE_NAMES_NOBODY", Some(address.ip()));
            }
        }
        principal
    }

    /// Counts logins of persons; roles do not log in.
    fn login(&self, principal: &Principal) {
        match &principal.name {
            Some(name) if !self.denied.contains(name) => self.access_log.login(principal),
            // Every call of a removed operator is refused and counted there.
            Some(_) | None => {}
        }
    }

    fn http(&self) -> http2::Builder<TokioExecutor> {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .keep_alive_interval(self.ping_interval)
            .keep_alive_timeout(self.ping_interval / 2)
            .max_concurrent_streams(self.streams)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        http
    }
}

/// The holder of a connection: what the certificate names.
fn holder(tls: &TlsStream<TcpStream>, _: SocketAddr) -> String {
    ShownCertificate::new(tls.get_ref().1.peer_certificates().unwrap_or_default()).uris().join(" ")
}

fn log(result: hyper::Result<()>, address: SocketAddr) {
    if let Err(error) = result {
        tracing::debug!(%address, %error, "connection ended");
    }
}
