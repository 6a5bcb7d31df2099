//! Repeats unanswered calls, only where the contract marks the method as idempotent, and only within the call's
//! deadline and the channel's retry budget.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use tonic::{Code, Status, body::Body};
use tower::retry::budget::Budget as _;

use super::Channel;
use crate::server::grpc_timeout;

const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// One unary call.
pub(super) struct RetriedCall<'a> {
    pub(super) channel: &'a Channel,
    pub(super) idempotent: bool,
    pub(super) limit: Duration,
}

impl RetriedCall<'_> {
    pub(super) async fn run(self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let (mut parts, body) = request.into_parts();
        let due = self.channel.shared.clock.mono() + self.limit;
        grpc_timeout(&mut parts.headers, self.limit);
        if !self.idempotent {
            return self.channel.attempt(http::Request::from_parts(parts, body)).await;
        }
        // The caller made this body, a single message, so its size needs no limit.
        let body = body.collect().await?.to_bytes();
        let shared = &self.channel.shared;
        shared.budget.deposit();
        let mut number = 1;
        loop {
            let result = self.channel.attempt(http::Request::from_parts(parts.clone(), whole(body.clone()))).await;
            if number == ATTEMPTS || !unanswered(&result) || !shared.budget.withdraw() {
                return result;
            }
            tokio::time::sleep(pause(number)).await;
            number += 1;
            grpc_timeout(&mut parts.headers, due.saturating_duration_since(shared.clock.mono()));
        }
    }
}

fn whole(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes))
}

/// Whether there was no answer, or the server is unavailable.
fn unanswered(result: &Result<http::Response<Body>, Status>) -> bool {
    let status = match result {
        Ok(response) => Status::from_header_map(response.headers()).map(|status| status.code()),
        Err(status) => Some(status.code()),
    };
    status == Some(Code::Unavailable)
}

/// Doubles with each attempt; between half and all of it at random, so that clients that lost a server together do not
/// return together.
fn pause(attempt: u32) -> Duration {
    let full = FIRST_PAUSE * 2u32.pow(attempt - 1);
    full.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
