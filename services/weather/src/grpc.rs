//! `weather.v1` over mutual TLS: converts between the contract and the loop. Who may call what is the contract's policy,
//! kept by mesh's server before anything here runs.

use std::sync::Arc;

use futures::{StreamExt as _, stream::BoxStream};
use mesh::{clock::Clock, field_checks::FieldChecks, paging::AskedPage, principal::Principal, status::refuse};
use proto::{
    central::v1::FrostPolicy,
    link::v1::Reason,
    millis,
    weather::v1::{weather_server::Weather, *},
};
use serde_json::json;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::{
    audit::{self, WeatherAudit},
    cities::{CityOrder, OrderRefused},
    convert,
    event_loop::{OrderFailed, WeatherHandle},
    frost::Temperature,
};

const LONGEST_NAME: usize = 128;

#[derive(Clone, Debug)]
pub(crate) struct WeatherService {
    pub(crate) handle: WeatherHandle,
    pub(crate) audit: WeatherAudit,
    pub(crate) clock: Clock,
}

/// The only way from a failed order to a status.
fn status(failed: &OrderFailed) -> Status {
    match failed {
        OrderFailed::Refused(refused @ OrderRefused::NotWatched(_)) => refuse(Reason::NotFound, refused),
        OrderFailed::Refused(refused @ OrderRefused::End) => {
            let mut checks = FieldChecks::default();
            checks.wrong("end_time", refused);
            checks.finish().err().unwrap_or_else(|| refuse(Reason::Invalid, refused))
        }
        OrderFailed::Refused(refused @ OrderRefused::TooMany) => refuse(Reason::Overloaded, refused),
        OrderFailed::NotSaved(why) => refuse(Reason::Unavailable, why),
    }
}

fn city_name(checks: &mut FieldChecks, name: &str) -> Arc<str> {
    checks.not_empty("city", name);
    if name.len() > LONGEST_NAME {
        checks.wrong("city", format!("it is longer than {LONGEST_NAME} bytes"));
    }
    name.into()
}

impl WeatherService {
    /// Carries an order out and notes it.
    async fn order<T>(
        &self,
        request: &Request<T>,
        (order, city): (CityOrder, &str),
        (action, parameters): (&'static str, serde_json::Value),
    ) -> Result<(), Status> {
        let principal = Principal::of(request)?;
        let full = || refuse(Reason::Unavailable, "too many audit entries wait for Central; try again when it is back");
        let room = self.audit.room().ok_or_else(full)?;
        if self.handle.order(order).await.map_err(|failed| status(&failed))? {
            let object = if city.is_empty() { "weather".to_owned() } else { format!("city/{city}") };
            let who = (principal.to_string(), principal.address.ip().to_string());
            room.send(audit::entry((&who.0, &who.1), (action, object), &parameters, self.clock.wall_ms()));
        }
        Ok(())
    }

    /// As it is now.
    fn city(&self, name: &str) -> Result<Response<City>, Status> {
        let state = self.handle.state();
        let state = state.borrow();
        let is_it = |city: &&City| city.condition.as_ref().is_some_and(|condition| condition.city == name);
        let city = state.cities.iter().find(is_it).cloned();
        city.map(Response::new).ok_or_else(|| refuse(Reason::NotFound, name))
    }
}

#[tonic::async_trait]
impl Weather for WeatherService {
    async fn list(&self, request: Request<ListCitiesRequest>) -> Result<Response<ListCitiesResponse>, Status> {
        let mut checks = FieldChecks::default();
        let page = AskedPage::of(&mut request.into_inner(), &mut checks);
        checks.finish()?;
        let state = Arc::clone(&self.handle.state().borrow());
        let named = state.cities.iter().map(|city| {
            let name = city.condition.as_ref().map(|condition| condition.city.clone()).unwrap_or_default();
            (name, city.clone())
        });
        let rest = named.filter(|(name, _)| page.after().is_none_or(|after| name.as_str() > after));
        let (cities, next_page_token) = page.cut(rest);
        let (suspended, provider) = (state.suspended, state.provider.clone());
        Ok(Response::new(ListCitiesResponse { cities, suspended, provider, next_page_token }))
    }

    async fn add(&self, request: Request<AddCityRequest>) -> Result<Response<City>, Status> {
        let mut checks = FieldChecks::default();
        let city = city_name(&mut checks, &request.get_ref().city);
        checks.finish()?;
        self.order(&request, (CityOrder::Add(city.clone()), &city), (audit::CITY_ADDED, json!({}))).await?;
        self.city(&city)
    }

    async fn remove(&self, request: Request<RemoveCityRequest>) -> Result<Response<RemoveCityResponse>, Status> {
        let mut checks = FieldChecks::default();
        let city = city_name(&mut checks, &request.get_ref().city);
        checks.finish()?;
        self.order(&request, (CityOrder::Remove(city.clone()), &city), (audit::CITY_REMOVED, json!({}))).await?;
        Ok(Response::new(RemoveCityResponse {}))
    }

    async fn r#override(&self, request: Request<OverrideRequest>) -> Result<Response<City>, Status> {
        let mut checks = FieldChecks::default();
        let asked = request.get_ref();
        let city = city_name(&mut checks, &asked.city);
        let temperature = asked.temperature_celsius.and_then(Temperature::from_celsius);
        if asked.temperature_celsius.is_some() && temperature.is_none() {
            checks.wrong("temperature_celsius", "it is from -90 to 60");
        }
        if asked.temperature_celsius.is_some() {
            checks.span(["end_time", "end_time"], [asked.end_time.as_ref(), None]);
            checks.required("end_time", asked.end_time);
        }
        checks.finish()?;
        let until_ms = millis(asked.end_time.as_ref());
        let (order, entry) = match temperature {
            Some(temperature) => {
                let parameters = json!({ "temperature": temperature.to_string(), "until_ms": until_ms });
                let order = CityOrder::Override { city: city.clone(), temperature, until_ms };
                (order, (audit::DRILL_BEGUN, parameters))
            }
            None => (CityOrder::EndOverride(city.clone()), (audit::DRILL_ENDED, json!({}))),
        };
        self.order(&request, (order, &city), entry).await?;
        self.city(&city)
    }

    async fn set_policy(&self, request: Request<SetPolicyRequest>) -> Result<Response<City>, Status> {
        let mut checks = FieldChecks::default();
        let city = city_name(&mut checks, &request.get_ref().city);
        let asked = checks.specified::<FrostPolicy>("policy", request.get_ref().policy);
        checks.finish()?;
        let policy = convert::policy_of(asked).ok_or_else(|| refuse(Reason::Invalid, "policy"))?;
        let parameters = json!({ "policy": asked.as_str_name() });
        let order = CityOrder::SetPolicy { city: city.clone(), policy };
        self.order(&request, (order, &city), (audit::POLICY_SET, parameters)).await?;
        self.city(&city)
    }

    async fn suspend(&self, request: Request<SuspendRequest>) -> Result<Response<SuspendResponse>, Status> {
        let mut checks = FieldChecks::default();
        let suspended = checks.required("suspended", request.get_ref().suspended);
        checks.finish()?;
        let action = if suspended { audit::SUSPENDED } else { audit::RESUMED };
        self.order(&request, (CityOrder::Suspend(suspended), ""), (action, json!({}))).await?;
        Ok(Response::new(SuspendResponse {}))
    }

    type WatchStream = BoxStream<'static, Result<WeatherState, Status>>;

    async fn watch(&self, _: Request<WatchCitiesRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let states = WatchStream::new(self.handle.state());
        Ok(Response::new(states.map(|state| Ok(state.as_ref().clone())).boxed()))
    }
}
