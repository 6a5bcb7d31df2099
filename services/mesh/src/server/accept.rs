//! Accepts connections. Each TLS handshake runs in a task of its own, within a time limit and its network's share of
//! handshakes, so that a slow or silent peer delays no other. Established connections are limited per holder.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use rustls::{CertificateError, ServerConfig};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Limits;
use crate::{
    access_log::AccessLog,
    clock::Clock,
    descriptors::ConnectionKind,
    identity::TlsIdentityError,
    limiter::{ConnectionLimiter, LimiterBounds, Permit, network},
    process::Context,
};

/// Sockets beyond those that are admitted.
const SPARE: usize = 16;
/// Minimum time between two log lines of a listener about refused connections; the metric counts them all.
const SAY_EVERY_MS: i64 = 10_000;

/// Limits of a listener.
#[derive(Clone, Debug)]
pub(crate) struct Caps {
    pub(crate) connections: usize,
    pub(crate) handshakes: usize,
    pub(crate) timeout: Duration,
}

impl From<&Limits> for Caps {
    fn from(limits: &Limits) -> Self {
        Self {
            connections: ConnectionKind::Callers.capped(limits.max_connections),
            handshakes: ConnectionKind::Handshakes.capped(limits.max_handshakes),
            timeout: limits.tls_timeout,
        }
    }
}

impl Caps {
    /// Sockets at the same time. Some more than the limiters admit, so that a newcomer can always be accepted and take the
    /// place of another, which is about to be closed.
    fn sockets(&self) -> usize {
        self.connections.saturating_add(self.handshakes).saturating_add(SPARE).min(Semaphore::MAX_PERMITS)
    }
}

/// A bound listener.
pub(crate) struct Acceptor {
    socket: TcpListener,
    shared: Arc<ListenerState>,
    handshakes: Arc<ConnectionLimiter<IpAddr>>,
    /// Of sockets that are accepted and not closed yet; without one nothing more is accepted.
    sockets: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Cancelled: accept no new connections.
    stop: CancellationToken,
    /// Cancelled: drop all connections.
    hard: CancellationToken,
    drain: Duration,
}

struct ListenerState {
    name: &'static str,
    clock: Clock,
    timeout: Duration,
    /// Permits of established connections, by holder.
    connections: Arc<ConnectionLimiter<String>>,
    open: Gauge,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
    said_at_ms: AtomicI64,
    access_log: AccessLog,
}

impl Acceptor {
    pub(crate) fn new(
        ctx: &Context,
        name: &'static str,
        socket: TcpListener,
        caps: &Caps,
        access_log: &AccessLog,
    ) -> Self {
        let open = Gauge::default();
        let refused = Family::default();
        let shared = ListenerState {
            name,
            clock: ctx.clock,
            timeout: caps.timeout,
            connections: ConnectionLimiter::new(LimiterBounds::shared(caps.connections)),
            open: ctx.metrics.register(&format!("{name}_connections"), "Open connections", open),
            refused: ctx.metrics.register(&format!("{name}_refused"), "Connections refused, by cause", refused),
            said_at_ms: AtomicI64::new(0),
            access_log: access_log.clone(),
        };
        Self {
            socket,
            shared: Arc::new(shared),
            handshakes: ConnectionLimiter::new(LimiterBounds::shared(caps.handshakes)),
            sockets: Arc::new(Semaphore::new(caps.sockets())),
            tasks: TaskTracker::new(),
            stop: ctx.stop.clone(),
            hard: CancellationToken::new(),
            // Shorter than the process's grace time, so that it ends in order.
            drain: ctx.grace.mul_f32(0.8),
        }
    }

    /// Accepts until the process stops, then waits for every connection to end and drops those that are left after most
    /// of the grace time. `config` is called for each connection, so that a rotated identity is in use at once;
    /// `holder` names whose share a connection counts against.
    pub(crate) async fn run<C, W, H, F>(self, config: C, holder: W, handle: H)
    where
        C: Fn() -> Result<Arc<ServerConfig>, TlsIdentityError>,
        W: Fn(&TlsStream<TcpStream>, SocketAddr) -> String + Clone + Send + 'static,
        H: Fn(TlsStream<TcpStream>, SocketAddr) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let next = async || Some((Arc::clone(&self.sockets).acquire_owned().await.ok()?, self.socket.accept().await));
        while let Some(Some((place, accepted))) = self.stop.run_until_cancelled(next()).await {
            match accepted {
                Ok((tcp, address)) => self.take((tcp, place), address, &config, holder.clone(), handle.clone()),
                Err(error) => {
                    // Mostly out of file descriptors: wait until other connections end.
                    self.shared.refuse("accept", &error);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(self.socket);
        self.tasks.close();
        if tokio::time::timeout(self.drain, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                listener = self.shared.name,
                connections = self.tasks.len(),
                "dropping connections that did not end"
            );
            self.hard.cancel();
            self.tasks.wait().await;
        }
    }

    fn take<C, W, H, F>(
        &self,
        (tcp, place): (TcpStream, OwnedSemaphorePermit),
        address: SocketAddr,
        config: &C,
        holder: W,
        handle: H,
    ) where
        C: Fn() -> Result<Arc<ServerConfig>, TlsIdentityError>,
        W: Fn(&TlsStream<TcpStream>, SocketAddr) -> String + Send + 'static,
        H: Fn(TlsStream<TcpStream>, SocketAddr) -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let Some(handshake) = self.handshakes.acquire(network(address.ip()), self.shared.clock.mono()) else {
            return self.shared.too_many(address);
        };
        let config = match config() {
            Ok(config) => config,
            Err(error) => return self.shared.refuse("no identity", &error),
        };
        let (shared, hard) = (self.shared.clone(), self.hard.clone());
        self.tasks.spawn(async move {
            let one = async {
                if let Some(tls) = shared.shake(tcp, address, config, handshake).await {
                    shared.keep(tls, address, holder, handle).await;
                }
            };
            hard.run_until_cancelled(one).await;
            drop(place);
        });
    }
}

/// Why a handshake failed, for the audit.
fn reason_of(error: &io::Error) -> &'static str {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return "HANDSHAKE_FAILED";
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "of the many TLS errors these say something of who came")]
    match tls {
        rustls::Error::NoCertificatesPresented => "CERTIFICATE_MISSING",
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "CERTIFICATE_EXPIRED"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "CERTIFICATE_NOT_VALID_YET",
        rustls::Error::InvalidCertificate(_) => "CERTIFICATE_FOREIGN",
        _ => "HANDSHAKE_FAILED",
    }
}

async fn shake(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream<TcpStream>> {
    // Nagle's algorithm off, so that a small response is sent at once.
    tcp.set_nodelay(true)?;
    TlsAcceptor::from(config).accept(tcp).await
}

impl ListenerState {
    /// Runs one handshake, until it ends or its permit is evicted.
    async fn shake(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        config: Arc<ServerConfig>,
        permit: Permit<IpAddr>,
    ) -> Option<TlsStream<TcpStream>> {
        let shaking = permit.evicted.run_until_cancelled(tokio::time::timeout(self.timeout, shake(tcp, config)));
        match shaking.await {
            Some(Ok(Ok(tls))) => return Some(tls),
            Some(Ok(Err(error))) => {
                self.access_log.unauthenticated(self.name, reason_of(&error), Some(address.ip()));
                self.refuse("handshake", &format_args!("{address}: {error}"));
            }
            Some(Err(_)) => {
                self.access_log.unauthenticated(self.name, "HANDSHAKE_TOO_SLOW", Some(address.ip()));
                self.refuse("slow handshake", &address);
            }
            None => self.too_many(address),
        }
        None
    }

    /// Runs one connection, until it ends or its permit is evicted.
    async fn keep<W, H, F>(&self, tls: TlsStream<TcpStream>, address: SocketAddr, holder: W, handle: H)
    where
        W: Fn(&TlsStream<TcpStream>, SocketAddr) -> String,
        H: Fn(TlsStream<TcpStream>, SocketAddr) -> F,
        F: Future<Output = ()>,
    {
        let Some(permit) = self.connections.acquire(holder(&tls, address), self.clock.mono()) else {
            return self.too_many(address);
        };
        self.open.inc();
        let ended = permit.evicted.run_until_cancelled(handle(tls, address)).await;
        self.open.dec();
        if ended.is_none() {
            self.too_many(address);
        }
    }

    fn too_many(&self, address: SocketAddr) {
        self.access_log.unauthenticated(self.name, "TOO_MANY_CONNECTIONS", Some(address.ip()));
        self.refuse("full", &format_args!("{address}: too many connections or unfinished handshakes"));
    }

    fn refuse(&self, cause: &'static str, detail: &dyn std::fmt::Display) {
        self.refused.get_or_create(&[("cause", cause)]).inc();
        let (now, said) = (self.clock.wall_ms(), self.said_at_ms.load(Ordering::Relaxed));
        if now - said >= SAY_EVERY_MS {
            self.said_at_ms.store(now, Ordering::Relaxed);
            tracing::warn!(listener = self.name, cause, detail = detail.to_string(), "connection refused");
        } else {
            tracing::debug!(listener = self.name, cause, detail = detail.to_string(), "connection refused");
        }
    }
}
