//! Registry's HTTPS interface, as those use it who enrol there (SPEC 7.4). The certificates that it trusts come with the
//! token, and later with the identity; the system's own play no part.

use std::sync::{Arc, Mutex, PoisonError};

use proto::{
    Retry,
    enrolment::{EnrolBody, Enrolled, EnrolmentStatus, EnrolmentToken, PeerKind, RefusalBody, SecretText, Trust},
    link::v1::Reason,
};
use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use crate::client::{ClientConfig, Https, explain, https};

/// Calls under way at once, however many peers share the client.
const AT_ONCE: usize = 8;

/// Why Registry did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    #[error("cannot reach Registry: {0}")]
    Unreachable(String),
    #[error("{message}")]
    Refused { reason: Reason, message: String },
}

impl RegistryError {
    /// Registry does not know the identity.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason.ends_an_enrolment())
    }

    /// Whether the same token may be accepted later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused { reason, .. } => reason.retry() != Retry::Never,
        }
    }
}

/// Something that Registry is asked.
#[derive(Clone, Debug)]
pub enum RegistryCall {
    Enrol(Box<EnrolBody>),
    /// How this identity stands.
    Status(Shown),
    Remove(Shown),
}

/// An identity that proves itself to Registry.
#[derive(Clone, Debug)]
pub struct Shown {
    pub id: String,
    pub credential: SecretText,
    pub trust: Trust,
}

/// The answer to a [`RegistryCall`].
#[derive(Debug)]
pub enum RegistryAnswer {
    Enrolled(Result<Box<Enrolled>, RegistryError>),
    Status(Result<Box<EnrolmentStatus>, RegistryError>),
    Removed(Result<(), RegistryError>),
}

impl RegistryAnswer {
    /// True for any answer from Registry, including a refusal.
    pub(super) fn has_come(&self) -> bool {
        let error = match self {
            Self::Enrolled(result) => result.as_ref().err(),
            Self::Status(result) => result.as_ref().err(),
            Self::Removed(result) => result.as_ref().err(),
        };
        !matches!(error, Some(RegistryError::Unreachable(_)))
    }
}

/// Registry at one address. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct RegistryClient {
    kind: PeerKind,
    address: Arc<str>,
    at_once: Arc<Semaphore>,
    /// The client for the roots used last.
    https: Arc<Mutex<Option<(String, Https)>>>,
}

impl RegistryClient {
    /// `address`: `host:port`, or a URL with nothing behind the port.
    pub fn new(kind: PeerKind, address: &str) -> Self {
        let address = address.trim().trim_start_matches("https://").trim_end_matches('/');
        Self { kind, address: address.into(), at_once: Arc::new(Semaphore::new(AT_ONCE)), https: Arc::default() }
    }

    pub async fn call(&self, call: RegistryCall) -> RegistryAnswer {
        match call {
            RegistryCall::Enrol(body) => RegistryAnswer::Enrolled(self.enrol(&body).await.map(Box::new)),
            RegistryCall::Status(shown) => RegistryAnswer::Status(self.about(Method::GET, shown).await.map(Box::new)),
            RegistryCall::Remove(shown) => RegistryAnswer::Removed(self.about(Method::DELETE, shown).await.map(drop)),
        }
    }

    async fn enrol(&self, body: &EnrolBody) -> Result<Enrolled, RegistryError> {
        let token: EnrolmentToken = body
            .token
            .expose()
            .parse()
            .map_err(|error| RegistryError::Refused { reason: Reason::TokenInvalid, message: format!("{error}") })?;
        let path = format!("/v1/{}", self.kind.collection());
        self.send(token.roots_pem(), Method::POST, &path, |request| request.json(body)).await
    }

    async fn about(&self, method: Method, shown: Shown) -> Result<EnrolmentStatus, RegistryError> {
        let path = format!("/v1/{}/{}", self.kind.collection(), shown.id);
        let bearer = |request: RequestBuilder| request.bearer_auth(shown.credential.expose());
        self.send(shown.trust.roots_pem(), method, &path, bearer).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        roots_pem: String,
        method: Method,
        path: &str,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<T, RegistryError> {
        let unreachable = |why: String| RegistryError::Unreachable(format!("{} ({})", why, self.address));
        let https = self.https(roots_pem).map_err(unreachable)?;
        // The semaphore is never closed.
        let _permit = self.at_once.acquire().await;
        let response = with(https.request(method, path)).send().await.map_err(|e| unreachable(explain(&e)))?;
        let status = response.status();
        let text = response.bytes().await.map_err(|error| unreachable(explain(&error)))?;
        if status.is_success() {
            return serde_json::from_slice(&text).map_err(|e| unreachable(format!("it answered something else: {e}")));
        }
        match serde_json::from_slice::<RefusalBody>(&text) {
            // That it cannot now says nothing of the token or the credential.
            Ok(refusal) if refusal.is_undecided(status.as_u16()) => Err(unreachable(refusal.message)),
            Ok(refusal) => Err(RegistryError::Refused { reason: refusal.reason(), message: refusal.message }),
            Err(_) => Err(unreachable(format!("it answered {status}"))),
        }
    }

    fn https(&self, roots_pem: String) -> Result<Https, String> {
        let mut client = self.https.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, https)) = client.as_ref().filter(|(roots, _)| *roots == roots_pem) {
            return Ok(https.clone());
        }
        let made =
            https("registry", &self.address, &roots_pem, &ClientConfig::default()).map_err(|e| format!("{e:#}"))?;
        *client = Some((roots_pem, made.clone()));
        Ok(made)
    }
}
