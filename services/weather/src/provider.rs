//! Who knows the temperature: one trait, a provider behind it, and how its answers fail.

mod open_meteo;
mod openweather;
mod simulated;

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use reqwest::{Client, StatusCode, header};
use rustls::RootCertStore;
use serde_json::Value;

use crate::{ProviderConfig, ProviderKind, frost::Temperature, key::ApiKey};

pub(crate) use self::{open_meteo::OpenMeteo, openweather::OpenWeather, simulated::Simulated};

/// More than any provider needs to answer with.
const LARGEST_ANSWER: usize = 64 * 1024;
/// A provider that is too busy and does not say for how long is left alone for this time.
const BUSY: Duration = Duration::from_secs(30);
/// Nor longer than this, whatever it says.
const LONGEST_BUSY: Duration = Duration::from_secs(3600);

/// Why there is no temperature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProviderError {
    #[error("{0}")]
    KeyRefused(String),
    #[error("the provider says that too much is asked of it (429); it is asked again in {} s", .0.as_secs())]
    Busy(Duration),
    #[error("the provider knows no city {0:?}: name it as the provider does, or remove it")]
    UnknownCity(Arc<str>),
    #[error("{0}")]
    Unavailable(String),
    #[error("the provider's answer is not usable: {0}")]
    Unusable(String),
}

/// A source of temperatures. Each call makes one request, so that the budget is kept.
pub(crate) trait Provider: fmt::Debug + Send + Sync {
    /// Of the outdoor air in the city now. Nothing: another request is needed, as where the city had to be found first.
    fn ask<'a>(&'a self, city: &'a Arc<str>) -> BoxFuture<'a, Result<Option<Temperature>, ProviderError>>;
}

/// The provider that is configured.
///
/// # Errors
/// Where no HTTP client can be made.
pub(crate) fn of(config: &ProviderConfig, key: Arc<ApiKey>) -> anyhow::Result<Arc<dyn Provider>> {
    let http = Http::new(config.provider_timeout)?;
    Ok(match config.provider {
        ProviderKind::OpenWeather => Arc::new(OpenWeather::new(http, config.weather_url.as_deref(), key)),
        ProviderKind::Simulated => Arc::new(Simulated(mesh::clock::Clock::system())),
        ProviderKind::OpenMeteo => Arc::new(OpenMeteo::new(http, config.weather_url.as_deref())),
    })
}

/// The client of a provider: no redirects, bounded answers, a deadline.
#[derive(Clone, Debug)]
pub(crate) struct Http(Client);

impl Http {
    fn new(timeout: Duration) -> anyhow::Result<Self> {
        let roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            // Not the system's: a host may have none.
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout)
            .build()?;
        Ok(Self(client))
    }

    /// The JSON at `url`, which may hold a secret in `query`: no error shows it.
    async fn json(&self, url: &str, query: &[(&str, &str)]) -> Result<HttpAnswer, ProviderError> {
        let failed = |error: reqwest::Error| {
            let why = if error.is_timeout() { "no answer in time".to_owned() } else { mesh::client::explain(&error) };
            ProviderError::Unavailable(format!("cannot reach {url}: {why}"))
        };
        let mut response = self.0.get(url).query(query).send().await.map_err(failed)?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Err(ProviderError::Busy(retry_after(response.headers())));
        }
        if status.is_server_error() || status.is_redirection() {
            return Err(ProviderError::Unavailable(format!("{url} answers {status}")));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(ProviderError::Unusable(format!("it is longer than {LARGEST_ANSWER} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        let json = serde_json::from_slice(&body).map_err(|error| ProviderError::Unusable(format!("no JSON: {error}")));
        Ok(HttpAnswer { status, json })
    }
}

/// How a provider answered, neither too busy nor out of order.
struct HttpAnswer {
    status: StatusCode,
    json: Result<Value, ProviderError>,
}

impl HttpAnswer {
    /// The JSON of an answer that is in order.
    fn ok(self, url: &str) -> Result<Value, ProviderError> {
        if !self.status.is_success() {
            return Err(ProviderError::Unavailable(format!("{url} answers {}", self.status)));
        }
        self.json
    }
}

/// Seconds; a date, which is allowed as well, is taken for the usual time.
fn retry_after(headers: &header::HeaderMap) -> Duration {
    let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    seconds.map_or(BUSY, Duration::from_secs).clamp(Duration::from_secs(1), LONGEST_BUSY)
}

/// The number that an answer holds at `pointer`, as a temperature.
fn temperature_at(json: &Value, pointer: &str) -> Result<Temperature, ProviderError> {
    let number = json.pointer(pointer).and_then(Value::as_f64);
    let number = number.ok_or_else(|| ProviderError::Unusable(format!("it has no number at {pointer}")))?;
    Temperature::from_celsius(number)
        .ok_or_else(|| ProviderError::Unusable(format!("{number} is no temperature of air in °C")))
}

#[cfg(test)]
mod tests;
