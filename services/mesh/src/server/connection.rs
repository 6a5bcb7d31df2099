//! One connection of the mesh: determines the caller once, then serves HTTP/2 until the connection ends, the process
//! stops, or the operator is removed.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::Acceptor;
use crate::{access_log::AccessLog, identity::TlsIdentity, policy::DenyList, principal::Principal, x509};

/// Time from the removal of an operator, which ends the operator's streams, to the end of the connection.
const REMOVED_GRACE: Duration = Duration::from_secs(1);

/// Stored in the extensions of every request of a connection.
#[derive(Debug)]
pub(super) struct ServerConnection {
    /// The caller, or why the certificate names none.
    pub(super) principal: Result<Principal, String>,
    /// Cancelled when the operator at the other end is removed.
    pub(super) removed: CancellationToken,
    /// Cancelled when the process stops.
    pub(super) stopping: CancellationToken,
    pub(super) access_log: AccessLog,
}

#[derive(Clone)]
pub(super) struct Connections {
    pub(super) app: Router,
    pub(super) identity: TlsIdentity,
    pub(super) denied: DenyList,
    pub(super) access_log: AccessLog,
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
        let principal = self.who(&tls, address);
        let name = principal.as_ref().ok().and_then(|principal| principal.name.clone());
        let (removed, stopping) = (CancellationToken::new(), self.stop.clone());
        let access_log = self.access_log.clone();
        let connection = Arc::new(ServerConnection { principal, removed: removed.clone(), stopping, access_log });
        let denied = async {
            match &name {
                Some(name) => self.denied.denied(name).await,
                None => std::future::pending().await,
            }
            removed.cancel();
        };
        let app = self.app.clone();
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(connection.clone());
            app.clone().call(request.map(axum::body::Body::new))
        });
        let mut http = pin!(self.http().serve_connection(TokioIo::new(tls), service));
        tokio::select! {
            result = http.as_mut() => return log(result, address),
            () = self.stop.cancelled() => {}
            () = denied => {
                http.as_mut().graceful_shutdown();
                // Calls are still refused with a reason for a while; then the connection is closed.
                drop(tokio::time::timeout(REMOVED_GRACE, http).await);
                return;
            }
        }
        http.as_mut().graceful_shutdown();
        log(http.await, address);
    }

    fn who(&self, tls: &TlsStream<TcpStream>, address: SocketAddr) -> Result<Principal, String> {
        let uris = tls.get_ref().1.peer_certificates().and_then(<[_]>::first).map(x509::uris).unwrap_or_default();
        let domain = self.identity.domain().map_err(|error| error.to_string())?;
        let principal = Principal::from_uris(&uris, &domain, address).map_err(|error| error.to_string());
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
    let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    certificate.map(x509::uris).unwrap_or_default().join(" ")
}

fn log(result: hyper::Result<()>, address: SocketAddr) {
    if let Err(error) = result {
        tracing::debug!(%address, %error, "connection ended");
    }
}
