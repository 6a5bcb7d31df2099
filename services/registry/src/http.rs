//! The HTTPS API (SPEC 7.4, 13): enrolment for charging points and drivers, which have no certificate of the mesh. The
//! JSON types are in [`proto::enrolment`].

use std::net::{IpAddr, SocketAddr};

use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, Path},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use mesh::awaited::Awaited;
use proto::{
    PeerId,
    enrolment::{
        Blob, CredentialState, EnrolBody, Enrolled, EnrolmentStatus, PeerKind, RefusalBody, SecretText, Trust,
    },
    link::v1::Reason,
    millis,
    registry::v1::{self as contract, EnrolRequest, IdentityState},
};
use serde::Serialize;

use crate::{
    RegistryServices,
    audit::Actor,
    error::{Error, refuse},
    identity_service::{Enroller, IdentityService},
    rows,
};

/// Maximum size of an enrolment request: a token with two roots and two pins, and some text.
const MAX_BODY: usize = 32 * 1024;

pub(crate) fn router(awaited: Awaited<RegistryServices>) -> Router {
    Router::new()
        .route("/v1/{collection}", post(enrol))
        .route("/v1/{collection}/{id}", get(status).delete(leave))
        .fallback(async || ErrorResponse::not_found("there is nothing here; see /v1/charging-points and /v1/drivers"))
        .method_not_allowed_fallback(async || {
            ErrorResponse(
                StatusCode::METHOD_NOT_ALLOWED,
                refuse(Reason::Invalid, "POST to enrol, GET or DELETE with an id"),
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(awaited)
}

type From = ConnectInfo<SocketAddr>;
type JsonResult<T> = Result<(StatusCode, NoStore<T>), ErrorResponse>;

/// Refuses every request while the database is not open yet. Why it is not open stands in the log and at `/readyz`
/// only, because an unauthenticated caller must not learn where the database is.
impl FromRequestParts<Awaited<RegistryServices>> for IdentityService {
    type Rejection = ErrorResponse;

    async fn from_request_parts(_: &mut Parts, awaited: &Awaited<RegistryServices>) -> Result<Self, ErrorResponse> {
        let behind = awaited.get();
        let not_yet = |_| refuse(Reason::Unavailable, "Registry's database cannot be used yet; try again").into();
        behind.map(|behind| behind.service.clone()).map_err(not_yet)
    }
}

async fn enrol(
    service: IdentityService,
    ConnectInfo(from): From,
    Path(collection): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> JsonResult<Enrolled> {
    let kind = kind(&collection)?;
    let body = json(&headers, body)?;
    let request = EnrolRequest {
        request_id: body.request_id,
        token: body.token.expose().to_owned(),
        kind: rows::kind_no(kind),
        id: body.id,
        city: body.city,
        place: body.place,
        price_e4: Some(body.price_e4).filter(|price| *price > 0),
        old_credential: body.old_credential.expose().to_owned(),
    };
    let enrolled = service.enrol(Enroller::Bearer(Some(address(from))), request).await?;
    let credential = SecretText::new(enrolled.credential.as_str());
    let status = told(&service, kind, &enrolled.identity);
    Ok((StatusCode::CREATED, NoStore(Enrolled { credential, status })))
}

async fn status(
    service: IdentityService,
    ConnectInfo(from): From,
    Path((collection, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> JsonResult<EnrolmentStatus> {
    let (kind, peer) = peer(&collection, &id)?;
    let verified = service.verify_credential("STANDING", &peer, bearer(&headers)?, Some(address(from))).await?;
    Ok((StatusCode::OK, NoStore(told(&service, kind, &rows::told(&verified.identity)))))
}

async fn leave(
    service: IdentityService,
    ConnectInfo(from): From,
    Path((collection, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> JsonResult<EnrolmentStatus> {
    let (kind, peer) = peer(&collection, &id)?;
    let address = Some(address(from));
    let verified = service.verify_credential("LEAVE", &peer, bearer(&headers)?, address).await?;
    let left = service.leave(verified, Actor { name: peer.to_string(), address }).await?;
    Ok((StatusCode::OK, NoStore(told(&service, kind, &rows::told(&left)))))
}

fn address(from: SocketAddr) -> IpAddr {
    from.ip().to_canonical()
}

fn kind(collection: &str) -> Result<PeerKind, ErrorResponse> {
    let unknown = "there is no such collection; enrol at /v1/charging-points or /v1/drivers";
    PeerKind::from_collection(collection).ok_or_else(|| ErrorResponse::not_found(unknown))
}

fn peer(collection: &str, id: &str) -> Result<(PeerKind, PeerId), ErrorResponse> {
    let kind = kind(collection)?;
    let peer = kind.peer(id).map_err(|error| refuse(Reason::Invalid, error.to_string()))?;
    Ok((kind, peer))
}

/// The credential of the header `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Result<&str, ErrorResponse> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let credential =
        value.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let missing = || refuse(Reason::WrongCredential, "send the credential as \"Authorization: Bearer cmc1…\"");
    Ok(credential.ok_or_else(missing)?.1)
}

fn json(
    headers: &HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<EnrolBody, ErrorResponse> {
    let invalid = |detail: String| refuse(Reason::Invalid, detail);
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        let refusal = invalid("send JSON, with the header Content-Type: application/json".into());
        return Err(ErrorResponse(StatusCode::UNSUPPORTED_MEDIA_TYPE, refusal));
    }
    let body =
        body.map_err(|error| ErrorResponse(error.status(), invalid(format!("at most {MAX_BODY} bytes: {error}"))))?;
    // The parser's position is safe to show; its message is not, see `category`.
    serde_json::from_slice(&body).map_err(|error| {
        let at = format!("line {}, column {}", error.line(), error.column());
        invalid(format!("this is not a valid enrolment request ({at}): {}", category(&error))).into()
    })
}

/// A fixed sentence in place of serde's message, which can quote a value and so a token.
fn category(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Eof => "the JSON ends too early",
        serde_json::error::Category::Syntax => "the JSON is broken",
        serde_json::error::Category::Data => {
            "a field is missing, unknown or of a wrong type; there are request_id and id, and token, old_credential, \
             city, place, price_e4 where needed"
        }
        serde_json::error::Category::Io => "it could not be read",
    }
}

fn told(service: &IdentityService, kind: PeerKind, identity: &contract::Identity) -> EnrolmentStatus {
    let state = match identity.state() {
        IdentityState::Enrolled => CredentialState::Enrolled,
        IdentityState::Void => CredentialState::Void,
        IdentityState::Removed | IdentityState::Unspecified => CredentialState::Removed,
    };
    let trust = Trust {
        pins: service.pins().into_iter().map(|pin| Blob(pin.to_vec())).collect(),
        roots: service.roots().into_iter().map(Blob).collect(),
    };
    EnrolmentStatus {
        kind,
        id: identity.id.clone(),
        state,
        city: identity.city.clone(),
        place: identity.place.clone(),
        price_e4: identity.price_e4.unwrap_or_default(),
        enrolled_at_ms: millis(identity.enrol_time.as_ref()),
        incarnation: identity.incarnation,
        trust,
    }
}

/// A response that no cache may store.
struct NoStore<T>(T);

impl<T: Serialize> IntoResponse for NoStore<T> {
    fn into_response(self) -> Response {
        ([(header::CACHE_CONTROL, "no-store")], axum::Json(self.0)).into_response()
    }
}

/// An error with the HTTP status under which it is sent.
pub(crate) struct ErrorResponse(StatusCode, Error);

impl ErrorResponse {
    fn not_found(detail: &str) -> Self {
        Self(StatusCode::NOT_FOUND, refuse(Reason::NotFound, detail))
    }
}

impl std::convert::From<Error> for ErrorResponse {
    fn from(refusal: Error) -> Self {
        // The build refuses a status outside 400 to 599.
        let status = StatusCode::from_u16(refusal.reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self(status, refusal)
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let Self(status, refusal) = self;
        let message = format!("{}: {}", refusal.reason.in_words(), refusal.detail);
        let wait = refusal.retry_after.map_or(5, |wait| wait.as_secs().saturating_add(1));
        let body = axum::Json(RefusalBody { reason: refusal.reason.code().to_owned(), message });
        let mut response = (status, [(header::CACHE_CONTROL, "no-store")], body).into_response();
        match status {
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(wait));
            }
            _ => {}
        }
        response
    }
}
