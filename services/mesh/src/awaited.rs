//! A dependency that a role may have to wait for, such as its database (SPEC 1.7). The role's listeners are open
//! meanwhile, so that the role stays in its Service and answers with a refusal that says why (SPEC 9.1); as soon as the
//! dependency is there, the same listeners serve.
//!
//! A listener checks at each call or connection, by [`Awaited::get`] or, for a gRPC service, by [`Awaited::service`],
//! which is innermost in the server's stack: a caller without permission is refused before.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::{Arc, OnceLock},
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::future::Either;
use proto::link::v1::Reason;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, server::NamedService};
use tower::Service;

use crate::{
    health::{Component, Health},
    process::Misuse,
    status::with_reason,
};

const AGAIN: Duration = Duration::from_secs(1);

/// A dependency, once it is there. Cheap to clone; clones share one state.
pub struct Awaited<T>(Arc<AwaitedState<T>>);

struct AwaitedState<T> {
    /// The name of the dependency, for people and health.
    what: &'static str,
    component: Component,
    why: ArcSwap<String>,
    behind: OnceLock<T>,
}

impl<T> Awaited<T> {
    /// `what` names the dependency; `health` gets a component of that name.
    pub fn new(health: &Health, what: &'static str) -> Self {
        let (component, why) = (health.component(what), ArcSwap::from_pointee("it is being opened".to_owned()));
        Self(Arc::new(AwaitedState { what, component, why, behind: OnceLock::new() }))
    }

    /// The dependency.
    ///
    /// # Errors
    /// A sentence that says why it is not there yet. It may name a path or address: show it only to authorized callers.
    pub fn get(&self) -> Result<&T, String> {
        let AwaitedState { what, why, behind, .. } = &*self.0;
        behind.get().ok_or_else(|| format!("the {what} cannot be used yet: {}", why.load()))
    }

    /// Calls `open` until it succeeds; `None` where the process stops before.
    ///
    /// # Errors
    /// The first error for which `passes` is false, since waiting does not mend it.
    pub async fn opened<D, E, F>(
        &self,
        stop: &CancellationToken,
        open: impl Fn() -> F,
        passes: impl Fn(&E) -> bool,
    ) -> Result<Option<D>, Misuse>
    where
        E: fmt::Display,
        F: Future<Output = Result<D, E>>,
    {
        loop {
            match stop.run_until_cancelled(open()).await {
                None => return Ok(None),
                Some(Ok(opened)) => {
                    self.0.why.store(Arc::new("it is being read".to_owned()));
                    return Ok(Some(opened));
                }
                Some(Err(error)) if passes(&error) => {
                    self.0.component.degraded(format!("waits: {error}"));
                    self.0.why.store(Arc::new(error.to_string()));
                }
                Some(Err(error)) => return Err(Misuse::new(error.to_string())),
            }
            if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                return Ok(None);
            }
        }
    }

    /// Provides the dependency: from now on the listeners serve. A second call has no effect.
    pub fn arrived(&self, behind: T) {
        if self.0.behind.set(behind).is_ok() {
            self.0.component.ready();
        }
    }

    /// A gRPC service that needs the dependency.
    pub fn service<S>(&self, of: fn(&T) -> S) -> AwaitedService<T, S> {
        AwaitedService { awaited: self.clone(), of }
    }
}

impl<T> Clone for Awaited<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Awaited<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Awaited").field("what", &self.0.what).field("why", &self.get().err()).finish()
    }
}

/// Refuses every call, and says why, until its dependency is there.
pub struct AwaitedService<T, S> {
    awaited: Awaited<T>,
    of: fn(&T) -> S,
}

impl<T, S> Clone for AwaitedService<T, S> {
    fn clone(&self) -> Self {
        Self { awaited: self.awaited.clone(), of: self.of }
    }
}

impl<T, S> Service<http::Request<Body>> for AwaitedService<T, S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<S::Response, Infallible>>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        // tonic's services are always ready too: outer layers of the stack limit the number of calls.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.awaited.get() {
            Ok(behind) => Either::Left((self.of)(behind).call(request)),
            Err(why) => {
                let refusal = with_reason(Reason::Unavailable, why);
                Either::Right(ready(Ok(refusal.into_http())))
            }
        }
    }
}

impl<T, S: NamedService> NamedService for AwaitedService<T, S> {
    const NAME: &'static str = S::NAME;
}

impl<T, S> fmt::Debug for AwaitedService<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AwaitedService").field(&self.awaited).finish()
    }
}
