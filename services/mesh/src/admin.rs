//! The plain-HTTP admin port of every role, for supervisors and Prometheus: `/healthz` (alive), `/readyz` (can answer,
//! with reasons), `/metrics`. It shows no secrets and accepts no commands.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::{
    health::{Health, Report},
    metrics::Metrics,
};

/// Maximum size of a report, in bytes.
const LONGEST: u64 = 1 << 20;

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let app = router(health, metrics);
    Ok(axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await?)
}

/// The health report of the role whose admin port is at `address`.
///
/// # Errors
/// A sentence that says why there is no report.
pub async fn report_of(address: SocketAddr, within: Duration) -> Result<Report, String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        // HTTP/1.0: the end of the connection ends the response.
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(LONGEST).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(within, ask).await;
    let answer = answer.map_err(|_| format!("no answer within {} ms", within.as_millis()))?;
    let answer = answer.map_err(|error| error.to_string())?;
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
    let answer = answer.get(body..).unwrap_or_default();
    serde_json::from_slice(answer).map_err(|error| format!("its answer is no report: {error}"))
}

fn router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(async move || readiness(&health)))
        .route("/metrics", get(async move || exposition(&metrics)))
}

fn readiness(health: &Health) -> impl IntoResponse + use<> {
    let report = health.report();
    let code = if report.status.serves() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(report))
}

fn exposition(metrics: &Metrics) -> impl IntoResponse + use<> {
    match metrics.encode() {
        Ok(text) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "a metric could not be written\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_role_is_asked_how_it_is_and_a_silent_one_is_named_spec_12_1() {
        let (listener, health) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Health::default());
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        health.component("database").starting("waits: there is none");
        tokio::spawn(serve(listener, health.clone(), Metrics::new("central"), stop.clone()));
        let report = report_of(address, Duration::from_secs(10)).await.unwrap();
        assert_eq!(report, health.report(), "the reason comes with it, though it is not ready");

        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let why = report_of(silent.local_addr().unwrap(), Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(why, "no answer within 50 ms");
    }
}
