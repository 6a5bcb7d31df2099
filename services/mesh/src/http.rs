//! HTTPS server for clients without a certificate of the mesh: the process's identity, TLS 1.3, HTTP/1.1 and HTTP/2. A
//! client that is slow with its handshake, headers or body is cut off, an idle connection is closed, and every
//! connection has a maximum age, so that unauthenticated clients cannot use up all connections.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::ConnectInfo,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::{
    access_log::AccessLog,
    identity::TlsIdentity,
    limiter::network,
    process::Context,
    server::{Acceptor, Caps, Limits},
};

const STREAMS: u32 = 64;

/// Timeouts of connections of unauthenticated clients.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "HTTPS")]
#[group(skip)]
pub struct HttpsTimeouts {
    /// Time after which an HTTPS connection without a request is closed
    #[arg(long, env = "CHARGEMESH_HTTPS_IDLE", value_name = "DURATION", default_value = "15s",
          value_parser = crate::duration::parse)]
    pub https_idle: Duration,
    /// Maximum age of an HTTPS connection, busy or not
    #[arg(long, env = "CHARGEMESH_HTTPS_MAX_AGE", value_name = "DURATION", default_value = "5m",
          value_parser = crate::duration::parse)]
    pub https_max_age: Duration,
}

impl Default for HttpsTimeouts {
    fn default() -> Self {
        Self { https_idle: Duration::from_secs(15), https_max_age: Duration::from_secs(300) }
    }
}

/// The limits of the server, and where it reports refused clients.
#[derive(Clone, Debug)]
pub struct HttpsSettings {
    pub limits: Limits,
    pub timeouts: HttpsTimeouts,
    pub access_log: AccessLog,
}

/// Binds `address`, announces it as `listener`, and serves `app` until the process stops. Handlers find the peer's
/// address as `ConnectInfo<SocketAddr>`.
///
/// # Errors
/// A sentence that names the address where it cannot be bound.
pub async fn start(
    ctx: &Context,
    identity: &TlsIdentity,
    settings: HttpsSettings,
    listener: &'static str,
    address: SocketAddr,
    app: Router,
) -> anyhow::Result<SocketAddr> {
    let socket = crate::process::bind(listener, address).await?;
    let address = socket.local_addr()?;
    let acceptor = Acceptor::new(ctx, listener, socket, &Caps::from(&settings.limits), &settings.access_log);
    let (identity, stop) = (identity.clone(), ctx.stop.clone());
    ctx.listening(listener, address)?;
    ctx.spawn(listener, async move {
        let handle = move |tls, address| one(app.clone(), settings.clone(), tls, address, stop.clone());
        let holder = |_: &TlsStream<TcpStream>, address: SocketAddr| network(address.ip()).to_string();
        acceptor.run(move || identity.open_door(), holder, handle).await;
        Ok(())
    });
    Ok(address)
}

async fn one(
    app: Router,
    settings: HttpsSettings,
    tls: TlsStream<TcpStream>,
    address: SocketAddr,
    stop: CancellationToken,
) {
    let HttpsSettings { limits, timeouts, .. } = settings;
    let within = limits.default_deadline;
    let (requests, running) = watch::channel(0_usize);
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
        let begun = RequestGuard::begin(&requests);
        let answer = answer(app.clone().call(request.map(axum::body::Body::new)), within);
        async move {
            let answer = answer.await;
            drop(begun);
            answer
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.tls_timeout);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(limits.ping_interval).max_concurrent_streams(STREAMS);
    let mut http = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(tls), service));
    tokio::select! {
        result = http.as_mut() => return log(result, address),
        () = stop.cancelled() => {}
        () = idle(running, timeouts.https_idle) => {}
        () = tokio::time::sleep(timeouts.https_max_age) => {}
    }
    // Running requests finish within their own time limit; a response that the client does not read is dropped then.
    http.as_mut().graceful_shutdown();
    match tokio::time::timeout(within, http).await {
        Ok(result) => log(result, address),
        Err(_) => tracing::debug!(%address, "connection dropped: it did not end"),
    }
}

fn log(result: Result<(), Box<dyn std::error::Error + Send + Sync>>, address: SocketAddr) {
    if let Err(error) = result {
        tracing::debug!(%address, error, "connection ended");
    }
}

/// Counts one request while it runs.
struct RequestGuard(watch::Sender<usize>);

impl RequestGuard {
    fn begin(requests: &watch::Sender<usize>) -> Self {
        requests.send_modify(|count| *count += 1);
        Self(requests.clone())
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Waits until no request has been running for `limit`.
async fn idle(mut running: watch::Receiver<usize>, limit: Duration) {
    loop {
        let quiet = *running.borrow_and_update() == 0;
        let wait = if quiet { limit } else { Duration::MAX };
        match tokio::time::timeout(wait, running.changed()).await {
            Ok(Ok(())) => {}
            // No request can begin any more.
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Limits the time of a request, which includes reading its body.
async fn answer<F>(work: F, within: Duration) -> Result<Response, Infallible>
where
    F: Future<Output = Result<Response, Infallible>>,
{
    tokio::time::timeout(within, work)
        .await
        .unwrap_or_else(|_| Ok((StatusCode::REQUEST_TIMEOUT, "it took too long; try again\n").into_response()))
}
