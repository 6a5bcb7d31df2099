//! OpenWeather's current weather (<https://openweathermap.org/current>), which needs a key.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use reqwest::StatusCode;

use super::{Http, Provider, ProviderError, temperature_at};
use crate::{frost::Temperature, key::ApiKey};

const URL: &str = "https://api.openweathermap.org";

#[derive(Debug)]
pub(crate) struct OpenWeather {
    http: Http,
    url: String,
    key: Arc<ApiKey>,
}

impl OpenWeather {
    pub(super) fn new(http: Http, url: Option<&str>, key: Arc<ApiKey>) -> Self {
        let url = format!("{}/data/2.5/weather", url.unwrap_or(URL).trim_end_matches('/'));
        Self { http, url, key }
    }

    async fn current(&self, city: &Arc<str>) -> Result<Option<Temperature>, ProviderError> {
        let key = self.key.read().await.map_err(ProviderError::KeyRefused)?;
        // Degrees Celsius; without it the answer is in Kelvin.
        let query = [("q", city.as_ref()), ("units", "metric"), ("appid", key.as_str())];
        let answer = self.http.json(&self.url, &query).await?;
        match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ProviderError::KeyRefused(format!(
                "OpenWeather refuses the key of {} ({}); put a valid one there",
                self.key.source(),
                answer.status.as_u16()
            ))),
            StatusCode::NOT_FOUND => Err(ProviderError::UnknownCity(city.clone())),
            _ => temperature_at(&answer.ok(&self.url)?, "/main/temp").map(Some),
        }
    }
}

impl Provider for OpenWeather {
    fn ask<'a>(&'a self, city: &'a Arc<str>) -> BoxFuture<'a, Result<Option<Temperature>, ProviderError>> {
        self.current(city).boxed()
    }
}
