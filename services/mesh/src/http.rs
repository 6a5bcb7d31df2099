//! An HTTPS door for those who have no certificate of the mesh: the same identity, TLS 1.3, HTTP/1.1 and HTTP/2.
//! Who is slow with his handshake, headers or body is cut off, who asks nothing is sent away, and nobody stays for ever,
//! so that strangers cannot hold the door.

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

/// How long whoever proved nothing may stay.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "HTTPS")]
#[group(skip)]
pub struct Patience {
    /// An HTTPS connection without a request for so long is closed
    #[arg(long, env = "CHARGEMESH_HTTPS_IDLE", value_name = "DURATION", default_value = "15s",
          value_parser = crate::duration::parse)]
    pub https_idle: Duration,
    /// The longest that an HTTPS connection is kept, whatever it asks
    #[arg(long, env = "CHARGEMESH_HTTPS_MAX_AGE", value_name = "DURATION", default_value = "5m",
          value_parser = crate::duration::parse)]
    pub https_max_age: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { https_idle: Duration::from_secs(15), https_max_age: Duration::from_secs(300) }
    }
}

/// What the door keeps to, and who hears of those it turns away.
#[derive(Clone, Debug)]
pub struct HttpsSettings {
    pub limits: Limits,
    pub patience: Patience,
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
    let HttpsSettings { limits, patience, .. } = settings;
    let within = limits.default_deadline;
    let (requests, under_way) = watch::channel(0_usize);
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
        () = idle(under_way, patience.https_idle) => {}
        () = tokio::time::sleep(patience.https_max_age) => {}
    }
    // What is under way is answered within its own time; an answer that nobody reads holds the place no longer.
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

/// One request, counted while it lasts.
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

/// Until no request has been under way for `patience`.
async fn idle(mut under_way: watch::Receiver<usize>, patience: Duration) {
    loop {
        let quiet = *under_way.borrow_and_update() == 0;
        let patience = if quiet { patience } else { Duration::MAX };
        match tokio::time::timeout(patience, under_way.changed()).await {
            Ok(Ok(())) => {}
            // Nothing more can begin.
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// In time, or not at all: the request's body is read within it.
async fn answer<F>(work: F, within: Duration) -> Result<Response, Infallible>
where
    F: Future<Output = Result<Response, Infallible>>,
{
    tokio::time::timeout(within, work)
        .await
        .unwrap_or_else(|_| Ok((StatusCode::REQUEST_TIMEOUT, "it took too long; try again\n").into_response()))
}
