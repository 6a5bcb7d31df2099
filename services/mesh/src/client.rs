//! The one gRPC client stack: a channel that connects at its first use, reconnects by itself, keeps a deadline, repeats
//! only methods that the contract marks as idempotent, and says which address failed and why.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use tonic::{Status, body::Body, transport::Endpoint};
use tower::{Service, ServiceExt as _, retry::budget::TpsBudget};

use crate::{
    clock::Clock,
    health::{Component, Health},
    identity::TlsIdentity,
    policy,
    server::parse_grpc_timeout,
    skew::Skew,
};

mod connect;
mod https;
mod retry;

pub use connect::{ConnectError, RoleAddress, host_and_port, https_address};
pub use https::{Https, explain, https};
use retry::RetriedCall;

/// Timeouts of a client.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Client")]
#[group(skip)]
pub struct ClientConfig {
    /// Time limit for connecting to one address
    #[arg(long, env = "CHARGEMESH_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "5s",
          value_parser = crate::duration::parse_some)]
    pub connect_timeout: Duration,
    /// Time limit of a call, its repetitions included
    #[arg(long, env = "CHARGEMESH_CALL_TIMEOUT", value_name = "DURATION", default_value = "10s",
          value_parser = crate::duration::parse_some)]
    pub call_timeout: Duration,
    /// Interval of pings on an idle connection; it is closed when a ping stays unanswered for half of this time
    #[arg(long, env = "CHARGEMESH_KEEP_ALIVE", value_name = "DURATION", default_value = "10s",
          value_parser = crate::duration::parse_some)]
    pub keep_alive: Duration,
    /// How far this host's clock may differ from a peer's before the role is degraded
    #[arg(long, env = "CHARGEMESH_MAX_CLOCK_SKEW", value_name = "DURATION", default_value = "1s",
          value_parser = crate::duration::parse)]
    pub max_clock_skew: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { connect_timeout: s(5), call_timeout: s(10), keep_alive: s(10), max_clock_skew: s(1) }
    }
}

/// For `FooClient::new(channel)`. Cheap to clone; all clones share a connection.
#[derive(Clone)]
pub struct Channel {
    inner: tonic::transport::Channel,
    shared: Arc<ChannelState>,
    watch: Option<Arc<Watch>>,
}

struct ChannelState {
    target: RoleAddress,
    call_timeout: Duration,
    max_skew: Duration,
    clock: Clock,
    /// At most a fifth of the calls, plus two a second, may be repetitions, so that retries do not overload a server.
    budget: TpsBudget,
}

/// Reports the peer's state to the role's health.
struct Watch {
    health: Health,
    component: OnceLock<Component>,
    last: AtomicU8,
}

/// A channel to `target`, verified as its role. Connects when it is first used.
pub fn channel(identity: &TlsIdentity, target: RoleAddress, settings: &ClientConfig) -> Channel {
    // A placeholder for the authority of requests: the connector has the addresses and does TLS.
    let endpoint = Endpoint::from_static("http://chargemesh")
        .http2_keep_alive_interval(settings.keep_alive)
        .keep_alive_timeout(settings.keep_alive / 2)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    let connector = connect::Connector::new(identity.clone(), target.clone(), settings.connect_timeout);
    let inner = endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let connector = connector.clone();
        async move { connector.connect().await }
    }));
    let budget = TpsBudget::new(Duration::from_secs(10), 2, 0.2);
    let ClientConfig { call_timeout, max_clock_skew: max_skew, .. } = *settings;
    let shared = ChannelState { target, call_timeout, max_skew, clock: Clock::system(), budget };
    Channel { inner, shared: Arc::new(shared), watch: None }
}

impl Channel {
    /// Reports to `health` when the peer is unreachable, when it answers again, and when its clock differs.
    #[must_use]
    pub fn watched_by(mut self, health: &Health) -> Self {
        let (health, last) = (health.clone(), AtomicU8::new(UNKNOWN));
        self.watch = Some(Arc::new(Watch { health, component: OnceLock::new(), last }));
        self
    }

    pub fn target(&self) -> &RoleAddress {
        &self.shared.target
    }

    async fn send(self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let rule = policy::rule(request.uri().path());
        if rule.is_some_and(|rule| rule.streaming) {
            // A stream has no deadline and is not repeated here: its reader knows where to resume.
            return self.attempt(request).await;
        }
        let limit = parse_grpc_timeout(request.headers()).unwrap_or(self.shared.call_timeout);
        let call = RetriedCall { channel: &self, idempotent: rule.is_some_and(|rule| rule.idempotent), limit };
        tokio::time::timeout(limit, call.run(request)).await.unwrap_or_else(|_| {
            let ms = limit.as_millis();
            Err(Status::deadline_exceeded(format!("{} did not answer within {ms} ms", self.shared.target)))
        })
    }

    /// Makes the call once.
    async fn attempt(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let began = self.shared.clock.now();
        let result = self.inner.clone().oneshot(request).await;
        let result = result.map_err(|error| connect::in_words(&self.shared.target, &error));
        if let Some(watch) = &self.watch {
            watch.learn(&self.shared.target, result.as_ref().err());
            if let Ok(response) = &result {
                let ChannelState { target, max_skew, clock, .. } = &*self.shared;
                let skew = Skew { health: &watch.health, target, max: *max_skew };
                skew.compare(response.headers(), began, clock.now());
            }
        }
        result
    }
}

const UNKNOWN: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

impl Watch {
    /// Takes a lock only when the state changes.
    fn learn(&self, target: &RoleAddress, error: Option<&Status>) {
        let now = if error.is_some() { DOWN } else { UP };
        let before = self.last.swap(now, Ordering::Relaxed);
        let component = || self.component.get_or_init(|| self.health.component(target.role()));
        match error {
            Some(error) => component().degraded(error.message()),
            None if before != UP => component().ready(),
            None => {}
        }
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // Each attempt waits for the connection itself, within the call's deadline.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.shared.target).finish()
    }
}
