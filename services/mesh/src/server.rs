//! The one gRPC server stack: mutual TLS 1.3, the layers of [`stack`], health, reflection (v1 and v1alpha, with the
//! policy options), and an orderly end: no new connections, running calls finish, streams end with a status.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{Router, middleware::from_fn_with_state, response::IntoResponse};
use tonic::{body::Body, server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{Service, ServiceBuilder};

use crate::{access_log::AccessLog, health::Health, identity::TlsIdentity, policy::DenyList, process::Context};

mod accept;
mod admission;
mod authorization;
mod certificate;
mod connection;
mod deadline;
mod ending;
mod metering;
mod request_id;

pub(crate) use accept::{Acceptor, Caps};
pub use deadline::Deadline;
pub(crate) use deadline::{grpc_timeout, parse_grpc_timeout};
pub(crate) use metering::TIME_HEADER;

/// Limits of a server.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Server")]
#[group(skip)]
pub struct Limits {
    /// Maximum number of concurrent calls; a call beyond it is refused at once as overloaded
    #[arg(long, env = "CHARGEMESH_MAX_CALLS", value_name = "N", default_value_t = 1024)]
    pub max_calls: usize,
    /// Maximum number of connections; each caller, or each network on the HTTPS listener, has at most an eighth of them
    /// and loses its oldest beyond that
    #[arg(long, env = "CHARGEMESH_MAX_CONNECTIONS", value_name = "N", default_value_t = 4096)]
    pub max_connections: usize,
    /// Maximum number of unfinished TLS handshakes; each network (an IPv4 address, an IPv6 /64) has at most an eighth
    /// of them and loses its oldest beyond that
    #[arg(long, env = "CHARGEMESH_MAX_HANDSHAKES", value_name = "N", default_value_t = 1024)]
    pub max_handshakes: usize,
    /// Time limit of a TLS handshake
    #[arg(long, env = "CHARGEMESH_TLS_TIMEOUT", value_name = "DURATION", default_value = "5s",
          value_parser = crate::duration::parse_some)]
    pub tls_timeout: Duration,
    /// Time limit of a call that has no deadline of its own
    #[arg(long, env = "CHARGEMESH_DEFAULT_DEADLINE", value_name = "DURATION", default_value = "10s",
          value_parser = crate::duration::parse_some)]
    pub default_deadline: Duration,
    /// Maximum time limit of a call; streams have none once they have begun
    #[arg(long, env = "CHARGEMESH_MAX_DEADLINE", value_name = "DURATION", default_value = "5m",
          value_parser = crate::duration::parse_some)]
    pub max_deadline: Duration,
    /// Interval of pings on an idle connection; it is closed when a ping stays unanswered for half of this time
    #[arg(long, env = "CHARGEMESH_PING_INTERVAL", value_name = "DURATION", default_value = "10s",
          value_parser = crate::duration::parse_some)]
    pub ping_interval: Duration,
    /// How long refusals of one kind and origin, and repeated logins of a person, are counted before the count becomes
    /// one audit entry
    #[arg(long, env = "CHARGEMESH_ACCESS_LOG_INTERVAL", value_name = "DURATION", default_value = "1m",
          value_parser = crate::duration::parse)]
    pub access_log_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_calls: 1024,
            max_connections: 4096,
            max_handshakes: 1024,
            tls_timeout: Duration::from_secs(5),
            default_deadline: Duration::from_secs(10),
            max_deadline: Duration::from_secs(300),
            ping_interval: Duration::from_secs(10),
            access_log_interval: Duration::from_secs(60),
        }
    }
}

/// Builds a server.
#[derive(Debug)]
pub struct Server {
    ctx: Context,
    identity: TlsIdentity,
    limits: Limits,
    denied: DenyList,
    access_log: AccessLog,
    routes: Routes,
    names: Vec<&'static str>,
}

impl Server {
    pub fn new(ctx: &Context, identity: &TlsIdentity, limits: Limits) -> Self {
        let (ctx, identity, denied) = (ctx.clone(), identity.clone(), DenyList::default());
        let access_log = AccessLog::new(ctx.clock, limits.access_log_interval);
        Self { ctx, identity, limits, denied, access_log, routes: Routes::default(), names: Vec::new() }
    }

    /// Uses this list of removed operators, which the follower of Registry maintains.
    #[must_use]
    pub fn deny_list(mut self, denied: &DenyList) -> Self {
        self.denied = denied.clone();
        self
    }

    /// Reports logins and refused callers to this log.
    #[must_use]
    pub fn access_log(mut self, access_log: &AccessLog) -> Self {
        self.access_log = access_log.clone();
        self
    }

    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Error = std::convert::Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes = self.routes.add_service(service);
        self
    }

    /// Replaces the routes, for tests.
    #[cfg(test)]
    pub(crate) fn with_routes(mut self, routes: Routes) -> Self {
        self.routes = routes;
        self
    }

    /// Binds `address`, announces it as `listener`, and serves until the process stops.
    ///
    /// # Errors
    /// A sentence that names the address where it cannot be bound.
    pub async fn start(mut self, listener: &'static str, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        let socket = crate::process::bind(listener, address).await?;
        let address = socket.local_addr()?;
        self.add_health();
        self.add_reflection().context("the contracts cannot be described for reflection")?;
        let meters = metering::Meters::new(&self.ctx);
        let app = stack(self.routes.prepare(), &self.ctx, &self.limits, meters);
        let caps = Caps::from(&self.limits);
        let acceptor = Acceptor::new(&self.ctx, listener, socket, &caps, &self.access_log);
        let connections = connection::Connections {
            app,
            identity: self.identity,
            denied: self.denied,
            access_log: self.access_log,
            clock: self.ctx.clock,
            ping_interval: self.limits.ping_interval,
            streams: u32::try_from(self.limits.max_calls).unwrap_or(u32::MAX),
            stop: self.ctx.stop.clone(),
        };
        self.ctx.listening(listener, address)?;
        self.ctx.spawn(listener, async move {
            connections.serve(acceptor).await;
            Ok(())
        });
        Ok(address)
    }

    fn add_health(&mut self) {
        let (reporter, service) = tonic_health::server::health_reporter();
        self.routes = std::mem::take(&mut self.routes).add_service(service);
        let (health, names, stop) = (self.ctx.health.clone(), self.names.clone(), self.ctx.stop.clone());
        self.ctx.spawn("grpc health", async move {
            stop.run_until_cancelled(follow(&health, &reporter, &names)).await;
            for name in names.iter().chain(&[""]) {
                reporter.set_service_status(*name, ServingStatus::NotServing).await;
            }
            Ok(())
        });
    }

    fn add_reflection(&mut self) -> Result<(), tonic_reflection::server::Error> {
        use tonic_reflection::{pb, server::Builder};
        let ours = [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ];
        let builder = || {
            let sets = [
                proto::DESCRIPTORS,
                tonic_health::pb::FILE_DESCRIPTOR_SET,
                pb::v1::FILE_DESCRIPTOR_SET,
                pb::v1alpha::FILE_DESCRIPTOR_SET,
                // Lets a reflection client show the ErrorInfo of a refusal.
                tonic_types::pb::FILE_DESCRIPTOR_SET,
            ];
            let builder = Builder::configure().include_reflection_service(false);
            let builder = sets.into_iter().fold(builder, Builder::register_encoded_file_descriptor_set);
            self.names.iter().chain(&ours).fold(builder, |builder, name| builder.with_service_name(*name))
        };
        let (v1, v1alpha) = (builder().build_v1()?, builder().build_v1alpha()?);
        self.routes = std::mem::take(&mut self.routes).add_service(v1).add_service(v1alpha);
        Ok(())
    }
}

/// The layers, from the outermost to the innermost.
fn stack(routes: Routes, ctx: &Context, limits: &Limits, meters: metering::Meters) -> Router {
    let clock = ctx.clock;
    let deadlines = deadline::Deadlines { clock, default: limits.default_deadline, max: limits.max_deadline };
    let admission = Arc::new(tokio::sync::Semaphore::new(limits.max_calls));
    routes.into_axum_router().layer(
        ServiceBuilder::new()
            // Outermost, so that it counts the answers of every other layer.
            .layer(from_fn_with_state(meters, metering::measure))
            // Outside of every layer that can refuse, so that a stream of any kind ends with a status.
            .layer(axum::middleware::from_fn(ending::end))
            // Load shedding and concurrency limit: admits or refuses a call at once, before any work is done.
            .layer(from_fn_with_state(admission, admission::admit))
            // Inside the limit, so that a call that timed out returns its permit.
            .layer(from_fn_with_state(deadlines, deadline::keep))
            // Nothing further in runs for a caller without permission.
            .layer(axum::middleware::from_fn(authorization::authorize))
            // Reads the request's body, so it comes after authorization.
            .layer(axum::middleware::from_fn(request_id::require)),
    )
}

async fn follow(health: &Health, reporter: &HealthReporter, names: &[&'static str]) {
    let mut changes = health.subscribe();
    loop {
        let serves = changes.borrow_and_update().serves();
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in names.iter().chain(&[""]) {
            reporter.set_service_status(*name, status).await;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
