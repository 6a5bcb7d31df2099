//! Accepts connections and brings their TLS handshakes to an end, each in a task of its own, under a time limit and
//! within its network's share: a slow or silent stranger holds up nobody. What is open then is shared out among those
//! whom it is for.

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
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Limits;
use crate::{
    access_log::AccessLog,
    clock::Clock,
    identity::TlsIdentityError,
    limiter::{ConnectionLimiter, LimiterBounds, Permit, network},
    process::Context,
};

/// At most one line a listener in this time about refused strangers; the metric counts them all.
const SAY_EVERY_MS: i64 = 10_000;

/// What a listener takes at most.
#[derive(Clone, Debug)]
pub(crate) struct Caps {
    pub(crate) connections: usize,
    pub(crate) handshakes: usize,
    pub(crate) timeout: Duration,
}

impl From<&Limits> for Caps {
    fn from(limits: &Limits) -> Self {
        Self { connections: limits.max_connections, handshakes: limits.max_handshakes, timeout: limits.tls_timeout }
    }
}

/// A bound listener.
pub(crate) struct Acceptor {
    socket: TcpListener,
    shared: Arc<ListenerState>,
    handshakes: Arc<ConnectionLimiter<IpAddr>>,
    tasks: TaskTracker,
    /// No new connections.
    stop: CancellationToken,
    /// Live connections are dropped.
    hard: CancellationToken,
    drain: Duration,
}

struct ListenerState {
    name: &'static str,
    clock: Clock,
    timeout: Duration,
    /// Those whose handshake is done, by holder.
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
            tasks: TaskTracker::new(),
            stop: ctx.stop.clone(),
            hard: CancellationToken::new(),
            // Done before the process is, so that it ends in order.
            drain: ctx.grace.mul_f32(0.8),
        }
    }

    /// Until the process stops and every connection has ended, or was dropped after most of the grace time.
    /// `config` is asked for each connection, so that a rotated identity is in use at once; `holder` says in whose share
    /// a connection is.
    pub(crate) async fn run<C, W, H, F>(self, config: C, holder: W, handle: H)
    where
        C: Fn() -> Result<Arc<ServerConfig>, TlsIdentityError>,
        W: Fn(&TlsStream<TcpStream>, SocketAddr) -> String + Clone + Send + 'static,
        H: Fn(TlsStream<TcpStream>, SocketAddr) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        while let Some(accepted) = self.stop.run_until_cancelled(self.socket.accept()).await {
            match accepted {
                Ok((tcp, address)) => self.take(tcp, address, &config, holder.clone(), handle.clone()),
                Err(error) => {
                    // Out of descriptors, mostly: those that end free some.
                    self.shared.refuse("accept", &error);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(self.socket);
        self.tasks.close();
        if tokio::time::timeout(self.drain, self.tasks.wait()).await.is_err() {
            tracing::warn!(listener = self.shared.name, connections = self.tasks.len(), "dropping what did not end");
            self.hard.cancel();
            self.tasks.wait().await;
        }
    }

    fn take<C, W, H, F>(&self, tcp: TcpStream, address: SocketAddr, config: &C, holder: W, handle: H)
    where
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
    // Small answers must not wait for the ACK of the one before.
    tcp.set_nodelay(true)?;
    TlsAcceptor::from(config).accept(tcp).await
}

impl ListenerState {
    /// One handshake, to its end or until its permit is needed.
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

    /// A connection, to its end or until its permit is needed.
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
