//! Load shedding and concurrency limit: a call is admitted or refused at once and never queued. A stream returns its
//! permit as soon as it has begun.

use std::sync::Arc;

use axum::{extract::State, http::Request, middleware::Next, response::Response};
use proto::link::v1::Reason;
use tokio::sync::Semaphore;

use crate::status::refuse;

pub(super) async fn admit(
    State(places): State<Arc<Semaphore>>,
    request: Request<axum::body::Body>,
    next: Next,
) -> Response {
    let Ok(place) = places.try_acquire() else {
        return refuse(Reason::Overloaded, "too many calls at the same time").into_http();
    };
    let response = next.run(request).await;
    drop(place);
    response
}
