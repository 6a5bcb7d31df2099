//! Metrics of rate, errors and duration of every method, and the server's time in every response, by which callers
//! check their clocks (SPEC 10.8).

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Instant,
};

use axum::{body::Body, extract::State, http::Request, middleware::Next, response::Response};
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};
use tonic::{Code, Status};

use crate::{clock::Clock, metrics::seconds, policy, process::Context};

/// The server's time when the response began, milliseconds since 1970.
pub(crate) const TIME_HEADER: &str = "chargemesh-time-ms";

#[derive(Clone)]
pub(super) struct Meters {
    clock: Clock,
    calls: Family<Vec<(&'static str, String)>, Counter>,
    seconds: Family<[(&'static str, &'static str); 1], Histogram>,
    running: Gauge,
}

impl Meters {
    pub(super) fn new(ctx: &Context) -> Self {
        let seconds = Family::new_with_constructor(seconds as fn() -> Histogram);
        Self {
            clock: ctx.clock,
            calls: ctx.metrics.register("grpc_server_calls", "Calls ended, by method and code", Family::default()),
            seconds: ctx.metrics.register("grpc_server_seconds", "Duration of calls that are no streams", seconds),
            running: ctx.metrics.register("grpc_server_running", "Calls and streams under way", Gauge::default()),
        }
    }
}

pub(super) async fn measure(State(meters): State<Meters>, request: Request<Body>, next: Next) -> Response {
    // Only known paths become labels: callers must not be able to create labels.
    let rule = policy::rule(request.uri().path());
    let method = rule.map_or("unknown", |rule| rule.path);
    let streaming = rule.is_some_and(|rule| rule.streaming);
    let call = MeasuredCall { method, streaming, began: meters.clock.mono(), code: None, meters };
    call.meters.running.inc();
    let mut response = next.run(request).await;
    response.headers_mut().insert(TIME_HEADER, call.meters.clock.wall_ms().into());
    let mut body = Measured { body: axum::body::Body::empty(), call };
    body.call.ended(response.headers());
    response.map(|inner| {
        body.body = inner;
        Body::new(body)
    })
}

/// Counted when dropped, so that a call that its caller cancelled counts too.
struct MeasuredCall {
    meters: Meters,
    method: &'static str,
    streaming: bool,
    began: Instant,
    code: Option<Code>,
}

impl MeasuredCall {
    /// The status code in the headers, if there is one.
    fn ended(&mut self, headers: &HeaderMap) {
        self.code = self.code.or_else(|| Status::from_header_map(headers).map(|status| status.code()));
    }
}

impl Drop for MeasuredCall {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        let labels = vec![("method", self.method.to_owned()), ("code", format!("{code:?}"))];
        self.meters.calls.get_or_create(&labels).inc();
        self.meters.running.dec();
        if !self.streaming {
            let took = self.meters.clock.mono().saturating_duration_since(self.began);
            self.meters.seconds.get_or_create(&[("method", self.method)]).observe(took.as_secs_f64());
        }
    }
}

struct Measured {
    body: Body,
    call: MeasuredCall,
}

impl HttpBody for Measured {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.ended(trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
