//! The plain admin port of every role, for the machine's own supervisor and Prometheus: `/healthz` (alive), `/readyz`
//! (can answer, with reasons), `/metrics`. It shows no secret and takes no order.

use axum::{
    Json, Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{health::Health, metrics::Metrics};

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
