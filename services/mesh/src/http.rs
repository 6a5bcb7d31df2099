//! An HTTPS door for those who have no certificate of the mesh: the same identity, TLS 1.3, HTTP/1.1 and HTTP/2.
//! Who is slow with his handshake, headers or body is cut off, so that strangers cannot hold the door.

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
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::{
    identity::Identity,
    process::Context,
    server::{Acceptor, Caps, Limits},
    visitors::Visitors,
};

const STREAMS: u32 = 64;

/// Binds `address`, announces it as `listener`, and serves `app` until the process stops. Handlers find the peer's
/// address as `ConnectInfo<SocketAddr>`; `visitors` hear of those who are turned away.
///
/// # Errors
/// A sentence that names the address where it cannot be bound.
pub async fn start(
    ctx: &Context,
    identity: &Identity,
    limits: &Limits,
    visitors: &Visitors,
    listener: &'static str,
    address: SocketAddr,
    app: Router,
) -> anyhow::Result<SocketAddr> {
    let socket = crate::process::bind(listener, address).await?;
    let address = socket.local_addr()?;
    let acceptor = Acceptor::new(ctx, listener, socket, &Caps::from(limits), visitors);
    let (identity, stop, limits) = (identity.clone(), ctx.stop.clone(), limits.clone());
    ctx.listening(listener, address)?;
    ctx.spawn(listener, async move {
        let handle = move |tls, address| one(app.clone(), limits.clone(), tls, address, stop.clone());
        acceptor.run(move || identity.open_door(), handle).await;
        Ok(())
    });
    Ok(address)
}

async fn one(app: Router, limits: Limits, tls: TlsStream<TcpStream>, address: SocketAddr, stop: CancellationToken) {
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
        answer(app.clone().call(request.map(axum::body::Body::new)), limits.default_deadline)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.tls_timeout);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(limits.ping_interval).max_concurrent_streams(STREAMS);
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

/// In time, or not at all: the request's body is read within it.
async fn answer<F>(work: F, within: Duration) -> Result<Response, Infallible>
where
    F: Future<Output = Result<Response, Infallible>>,
{
    tokio::time::timeout(within, work)
        .await
        .unwrap_or_else(|_| Ok((StatusCode::REQUEST_TIMEOUT, "it took too long; try again\n").into_response()))
}
