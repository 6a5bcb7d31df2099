//! An HTTPS door for those who have no certificate of the mesh: the same identity, TLS 1.3, HTTP/1.1 and HTTP/2.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::{
    identity::Identity,
    process::Context,
    server::{Acceptor, Caps},
};

/// A stranger may hold this many connections and handshakes open, and no more.
const CAPS: Caps = Caps { connections: 1024, handshakes: 128, timeout: Duration::from_secs(5) };
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
const PING_EVERY: Duration = Duration::from_secs(20);

/// Binds `address`, announces it as `listener`, and serves `app` until the process stops. Handlers find the peer's
/// address as `ConnectInfo<SocketAddr>`.
///
/// # Errors
/// A sentence that names the address where it cannot be bound.
pub async fn start(
    ctx: &Context,
    identity: &Identity,
    listener: &'static str,
    address: SocketAddr,
    app: Router,
) -> anyhow::Result<SocketAddr> {
    let socket = crate::process::bind(listener, address).await?;
    let address = socket.local_addr()?;
    let acceptor = Acceptor::new(ctx, listener, socket, &CAPS);
    let (identity, stop) = (identity.clone(), ctx.stop.clone());
    ctx.listening(listener, address)?;
    ctx.spawn(listener, async move {
        let handle = move |tls, address| one(app.clone(), tls, address, stop.clone());
        acceptor.run(move || identity.open_door(), handle).await;
        Ok(())
    });
    Ok(address)
}

async fn one(app: Router, tls: TlsStream<TcpStream>, address: SocketAddr, stop: CancellationToken) {
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
        app.clone().call(request.map(axum::body::Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).max_concurrent_streams(64);
    let mut http = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(tls), service));
    let result = tokio::select! {
        result = http.as_mut() => result,
        () = stop.cancelled() => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%address, error, "connection ended");
    }
}
