//! Open-Meteo's forecast (<https://open-meteo.com/en/docs>), which needs no key. It knows coordinates only, so a city is
//! found by its geocoding service first.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{FutureExt as _, future::BoxFuture};

use super::{Http, Provider, ProviderError, temperature_at};
use crate::frost::Temperature;

const GEOCODING: &str = "https://geocoding-api.open-meteo.com";
const FORECAST: &str = "https://api.open-meteo.com";

/// Latitude and longitude, as the answer had them.
type Coordinates = (String, String);

#[derive(Debug)]
pub(crate) struct OpenMeteo {
    http: Http,
    geocoding: String,
    forecast: String,
    /// One for each city that was asked for.
    found: Mutex<HashMap<Arc<str>, Coordinates>>,
}

impl OpenMeteo {
    pub(super) fn new(http: Http, url: Option<&str>) -> Self {
        let base = |usual: &str| url.unwrap_or(usual).trim_end_matches('/').to_owned();
        let (geocoding, forecast) =
            (format!("{}/v1/search", base(GEOCODING)), format!("{}/v1/forecast", base(FORECAST)));
        Self { http, geocoding, forecast, found: Mutex::default() }
    }

    fn known(&self, city: &Arc<str>) -> Option<Coordinates> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).get(city).cloned()
    }

    async fn current(&self, city: &Arc<str>) -> Result<Option<Temperature>, ProviderError> {
        let Some((latitude, longitude)) = self.known(city) else { return self.find(city).await.map(|()| None) };
        let query = [("latitude", latitude.as_str()), ("longitude", &longitude), ("current", "temperature_2m")];
        let answer = self.http.json(&self.forecast, &query).await?.ok(&self.forecast)?;
        temperature_at(&answer, "/current/temperature_2m").map(Some)
    }

    async fn find(&self, city: &Arc<str>) -> Result<(), ProviderError> {
        let query = [("name", city.as_ref()), ("count", "1"), ("format", "json")];
        let answer = self.http.json(&self.geocoding, &query).await?.ok(&self.geocoding)?;
        let place = answer.pointer("/results/0").ok_or_else(|| ProviderError::UnknownCity(city.clone()))?;
        let number = |name: &str| place.get(name).and_then(serde_json::Value::as_f64).map(|number| number.to_string());
        let coordinates = number("latitude").zip(number("longitude"));
        let coordinates = coordinates.ok_or_else(|| ProviderError::Unusable("the place has no coordinates".into()))?;
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(city.clone(), coordinates);
        Ok(())
    }
}

impl Provider for OpenMeteo {
    fn ask<'a>(&'a self, city: &'a Arc<str>) -> BoxFuture<'a, Result<Option<Temperature>, ProviderError>> {
        self.current(city).boxed()
    }
}
