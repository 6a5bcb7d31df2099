//! The deadline of a call: the caller's (`grpc-timeout`), at most the server's limit, or the server's default. The
//! server ends a call slightly before the caller's own deadline, so that the caller receives what was too slow. A
//! deadline does not apply to a stream once it has begun.

use std::time::{Duration, Instant};

use axum::{body::Body, extract::State, http::Request, middleware::Next, response::Response};
use http::HeaderMap;
use proto::link::v1::Reason;

use crate::{clock::Clock, policy, status::with_reason};

const HEADER: &str = "grpc-timeout";
/// This fraction of the caller's time, up to the maximum margin, is left for the response to travel back.
const MARGIN: u32 = 20;
const MAX_MARGIN: Duration = Duration::from_millis(200);

/// When the response is due; in the extensions of a request with a deadline.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

#[derive(Clone, Copy)]
pub(super) struct Deadlines {
    pub(super) clock: Clock,
    pub(super) default: Duration,
    pub(super) max: Duration,
}

impl Deadlines {
    fn of(&self, headers: &HeaderMap, path: &str) -> Option<Duration> {
        let asked = parse_grpc_timeout(headers).map(|asked| asked - (asked / MARGIN).min(MAX_MARGIN));
        let streaming = policy::rule(path).is_some_and(|rule| rule.streaming);
        asked.or((!streaming).then_some(self.default)).map(|limit| limit.min(self.max))
    }
}

pub(super) async fn keep(State(deadlines): State<Deadlines>, mut request: Request<Body>, next: Next) -> Response {
    let Some(limit) = deadlines.of(request.headers(), request.uri().path()) else {
        return next.run(request).await;
    };
    let path = request.uri().path().to_owned();
    request.extensions_mut().insert(Deadline(deadlines.clock.mono() + limit));
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let text = format!("{path} took longer than {} ms", limit.as_millis());
            with_reason(Reason::DeadlineExceeded, text).into_http()
        }
    }
}

/// Parses `grpc-timeout`.
pub(crate) fn parse_grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // The protocol allows at most eight digits.
    let number: u64 = Some(number).filter(|number| number.len() <= 8)?.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Sets `grpc-timeout` to `limit`.
pub(crate) fn grpc_timeout(headers: &mut HeaderMap, limit: Duration) {
    let ms = limit.as_millis().clamp(1, 99_999_999);
    if let Ok(value) = http::HeaderValue::try_from(format!("{ms}m")) {
        headers.insert(HEADER, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_timeout_is_read_as_the_protocol_writes_it() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, http::HeaderValue::from_static(text));
            parse_grpc_timeout(&headers)
        };
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "m", "1", "1x", "-1m", "999999999m", "1.5S"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_server_answers_before_its_caller_gives_up() {
        let clock = Clock::system();
        let deadlines = Deadlines { clock, default: Duration::from_secs(10), max: Duration::from_secs(60) };
        let of = |asked: Option<Duration>, path| {
            let mut headers = HeaderMap::new();
            asked.into_iter().for_each(|asked| grpc_timeout(&mut headers, asked));
            deadlines.of(&headers, path)
        };
        let (unary, stream) = ("/chargemesh.central.v1.Sessions/Get", "/chargemesh.central.v1.Sessions/Watch");
        assert_eq!(of(Some(Duration::from_secs(1)), unary), Some(Duration::from_millis(950)));
        assert_eq!(of(Some(Duration::from_secs(20)), unary), Some(Duration::from_millis(19_800)));
        assert_eq!(of(Some(Duration::from_secs(3600)), unary), Some(Duration::from_secs(60)));
        assert_eq!(of(None, unary), Some(Duration::from_secs(10)));
        assert_eq!(of(None, stream), None);
    }
}
