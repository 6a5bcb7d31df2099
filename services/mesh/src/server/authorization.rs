//! Authorization: checks the caller's principal against the method's policy (default deny) and against the list of
//! removed operators. A running call ends when its caller is removed. Refusals are reported to the audit (SPEC 8.1).

use std::sync::Arc;

use axum::{body::Body, http::Request, middleware::Next, response::Response};
use proto::link::v1::Reason;
use tonic::Status;

use super::connection::ServerConnection;
use crate::{policy, principal::Principal, status::refuse};

pub(super) async fn authorize(mut request: Request<Body>, next: Next) -> Response {
    let Some(connection) = request.extensions().get::<Arc<ServerConnection>>().cloned() else {
        return Status::unauthenticated("no certificate was shown").into_http();
    };
    match allowed(&connection, request.uri().path()) {
        Ok(principal) => request.extensions_mut().insert(principal),
        Err(status) => return status.into_http(),
    };
    tokio::select! {
        biased;
        () = connection.removed.cancelled() => removed(&connection).into_http(),
        response = next.run(request) => response,
    }
}

fn allowed(connection: &ServerConnection, path: &str) -> Result<Principal, Status> {
    let principal = connection.principal.clone().map_err(Status::unauthenticated)?;
    let rule = policy::rule(path);
    // Only known methods go to the audit by name, so that callers cannot choose its content.
    let what = rule.map_or("unknown method", |rule| rule.path);
    if connection.removed.is_cancelled() {
        connection.access_log.authenticated(what, Reason::Removed.code(), &principal);
        return Err(removed(connection));
    }
    let Some(rule) = rule else {
        connection.access_log.authenticated(what, Reason::NotAllowed.code(), &principal);
        return Err(refuse(Reason::NotAllowed, format!("there is no method {path}, or no policy for it")));
    };
    if rule.callers.contains(&principal.caller) {
        Ok(principal)
    } else {
        connection.access_log.authenticated(what, Reason::NotAllowed.code(), &principal);
        tracing::debug!(%principal, path, "refused by policy");
        Err(refuse(Reason::NotAllowed, format!("{principal} may not call {path}")))
    }
}

pub(super) fn removed(connection: &ServerConnection) -> Status {
    let who = connection.principal.as_ref().map(ToString::to_string).unwrap_or_default();
    refuse(Reason::Removed, format!("{who} may not call any more"))
}
