//! Registry's HTTPS door, as monitors use it. The certificates that it trusts come with the token, and later with the
//! identity; the system's own play no part.

use std::sync::{Arc, Mutex, PoisonError};

use mesh::client::{ClientConfig, Https, explain, https};
use proto::{
    ChargingPointId,
    enrolment::{EnrolBody, Enrolled, EnrolmentStatus, EnrolmentToken, PeerKind, RefusalBody, SecretText, Trust},
    link::v1::Reason,
};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

/// Calls under way at once, however many monitors share the door.
const AT_ONCE: usize = 8;

/// Why Registry did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    #[error("cannot reach Registry: {0}")]
    Unreachable(String),
    #[error("{message}")]
    Refused {
        /// By its code.
        reason: String,
        message: String,
    },
}

impl RegistryError {
    pub fn is(&self, reason: Reason) -> bool {
        matches!(self, Self::Refused { reason: code, .. } if code == reason.code())
    }

    /// Whether the same token may be accepted later.
    pub fn may_pass(&self) -> bool {
        [Reason::NotReadmitted, Reason::TooManyAttempts, Reason::Overloaded, Reason::Unavailable]
            .into_iter()
            .any(|reason| self.is(reason))
    }
}

/// The door at one address. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Door {
    address: Arc<str>,
    at_once: Arc<Semaphore>,
    /// The client for the roots used last.
    client: Arc<Mutex<Option<(String, Https)>>>,
}

impl Door {
    /// `address`: `host:port`, or a URL with nothing behind the port.
    pub fn new(address: &str) -> Self {
        let address = address.trim().trim_start_matches("https://").trim_end_matches('/');
        Self { address: address.into(), at_once: Arc::new(Semaphore::new(AT_ONCE)), client: Arc::default() }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub async fn enrol(&self, body: &EnrolBody) -> Result<Enrolled, RegistryError> {
        let token: EnrolmentToken = body.token.expose().parse().map_err(|error| RegistryError::Refused {
            reason: Reason::TokenInvalid.code().to_owned(),
            message: format!("{error}"),
        })?;
        let path = format!("/v1/{}", PeerKind::ChargingPoint.collection());
        self.call(token.roots_pem(), Method::POST, &path, |request| request.json(body)).await
    }

    pub async fn status(
        &self,
        id: &ChargingPointId,
        credential: &SecretText,
        trust: &Trust,
    ) -> Result<EnrolmentStatus, RegistryError> {
        self.about(Method::GET, id, credential, trust).await
    }

    pub async fn remove(
        &self,
        id: &ChargingPointId,
        credential: &SecretText,
        trust: &Trust,
    ) -> Result<(), RegistryError> {
        self.about(Method::DELETE, id, credential, trust).await.map(|_: EnrolmentStatus| ())
    }

    async fn about(
        &self,
        method: Method,
        id: &ChargingPointId,
        credential: &SecretText,
        trust: &Trust,
    ) -> Result<EnrolmentStatus, RegistryError> {
        let path = format!("/v1/{}/{id}", PeerKind::ChargingPoint.collection());
        self.call(trust.roots_pem(), method, &path, |request| request.bearer_auth(credential.expose())).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        roots_pem: String,
        method: Method,
        path: &str,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<T, RegistryError> {
        let unreachable = |why: String| RegistryError::Unreachable(format!("{} ({})", why, self.address));
        let https = self.client(roots_pem).map_err(unreachable)?;
        // Closed never: the door lives as long as its semaphore.
        let _turn = self.at_once.acquire().await;
        let response = with(https.request(method, path)).send().await.map_err(|e| unreachable(explain(&e)))?;
        let status = response.status();
        let text = response.bytes().await.map_err(|error| unreachable(explain(&error)))?;
        if status.is_success() {
            return serde_json::from_slice(&text).map_err(|e| unreachable(format!("it answered something else: {e}")));
        }
        match serde_json::from_slice::<RefusalBody>(&text) {
            // That it cannot now is no word on the token or the credential.
            Ok(refusal) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(unreachable(refusal.message))
            }
            Ok(refusal) => Err(RegistryError::Refused { reason: refusal.reason, message: refusal.message }),
            Err(_) => Err(unreachable(format!("it answered {status}"))),
        }
    }

    fn client(&self, roots_pem: String) -> Result<Https, String> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, https)) = client.as_ref().filter(|(roots, _)| *roots == roots_pem) {
            return Ok(https.clone());
        }
        let made =
            https("registry", &self.address, &roots_pem, &ClientConfig::default()).map_err(|e| format!("{e:#}"))?;
        *client = Some((roots_pem, made.clone()));
        Ok(made)
    }
}
