//! Authorization: checks the caller's principal against the method's policy (default deny), and whether it may still
//! call: it was not removed, and its certificate is still good. A running call ends when it may not. Refusals are reported to the audit (SPEC 8.1).

use std::sync::Arc;

use axum::{body::Body, http::Request, middleware::Next, response::Response};
use proto::link::v1::Reason;
use tonic::Status;

use super::{
    certificate::Lapse,
    connection::{EndCause, ServerConnection},
};
use crate::{clock, policy, principal::Principal, status::refuse};

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
        () = connection.over.cancelled() => over(&connection).into_http(),
        response = next.run(request) => response,
    }
}

fn allowed(connection: &ServerConnection, path: &str) -> Result<Principal, Status> {
    let principal = connection.principal.clone().map_err(Status::unauthenticated)?;
    let rule = policy::rule(path);
    // Only known methods go to the audit by name, so that callers cannot choose its content.
    let what = rule.map_or("unknown method", |rule| rule.path);
    if let Some(cause) = connection.end_cause() {
        let reason = match cause {
            EndCause::Removed => Reason::Removed.code(),
            EndCause::Lapsed(Lapse::Expired(_)) => "CERTIFICATE_EXPIRED",
            EndCause::Lapsed(Lapse::Retired) => "CERTIFICATE_FOREIGN",
        };
        connection.access_log.authenticated(what, reason, &principal);
        return Err(over(connection));
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

/// Why nobody may call any more on a connection that is over. Who has a better certificate by now connects with it: for
/// him the server is unavailable only on this connection.
pub(super) fn over(connection: &ServerConnection) -> Status {
    let who = connection.principal.as_ref().map(ToString::to_string).unwrap_or_default();
    let lapsed = |how: &str| {
        let text = format!("the certificate of {who} {how}; renew it with `chargemesh certs`, then connect again");
        refuse(Reason::Unavailable, text)
    };
    match connection.end_cause() {
        Some(EndCause::Lapsed(Lapse::Expired(at))) => lapsed(&format!("expired on {}", clock::in_words(at))),
        Some(EndCause::Lapsed(Lapse::Retired)) => lapsed("is signed by a root that is retired"),
        Some(EndCause::Removed) | None => refuse(Reason::Removed, format!("{who} may not call any more")),
    }
}
