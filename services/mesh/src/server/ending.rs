//! Ends streams with a status: at once when the caller at the other end may call no more; when the process stops, as soon
//! as a stream has nothing more to send. Without it one watcher would delay every shutdown until the grace time is
//! over.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{body::Body, http::Request, middleware::Next, response::Response};
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::{authorization::over, connection::ServerConnection};

pub(super) async fn end(request: Request<Body>, next: Next) -> Response {
    let connection = request.extensions().get::<Arc<ServerConnection>>().cloned();
    let response = next.run(request).await;
    match connection {
        Some(connection) if !response.body().is_end_stream() => {
            response.map(|body| Body::new(Ending::new(body, connection)))
        }
        Some(_) | None => response,
    }
}

struct Ending {
    body: Body,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    connection: Arc<ServerConnection>,
    ended: bool,
}

impl Ending {
    fn new(body: Body, connection: Arc<ServerConnection>) -> Self {
        let over = Box::pin(connection.over.clone().cancelled_owned());
        let stopping = Box::pin(connection.stopping.clone().cancelled_owned());
        Self { body, over, stopping, connection, ended: false }
    }

    fn end_with(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        Poll::Ready(match status.add_header(&mut trailers) {
            Ok(()) => Some(Ok(Frame::trailers(trailers))),
            Err(status) => Some(Err(axum::Error::new(status))),
        })
    }
}

impl HttpBody for Ending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.over.as_mut().poll(cx).is_ready() {
            let status = over(&self.connection);
            return self.end_with(&status);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        match self.stopping.as_mut().poll(cx) {
            Poll::Ready(()) => self.end_with(&Status::unavailable("the server is stopping; connect again")),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
