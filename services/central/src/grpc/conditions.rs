//! `Conditions`: what Weather reports of the cities (SPEC 6).

use std::{collections::BTreeSet, sync::Arc};

use mesh::{field_checks::FieldChecks, paging::AskedPage};
use proto::{
    central::v1::{conditions_server::Conditions, *},
    timestamp,
};
use tonic::{Request, Response, Status};

use crate::{
    charge_point::CityWeather,
    event_loop::{LoopHandle, Message},
    shared::SharedState,
    upkeep,
};

/// Of a report.
const CITIES: usize = 10_000;
const LONGEST_NAME: usize = 256;

#[derive(Clone, Debug)]
pub(crate) struct ConditionsService {
    pub(crate) shared: Arc<SharedState>,
    pub(crate) event_loop: LoopHandle,
}

fn checked(request: &ReportConditionsRequest) -> Result<(), Status> {
    let mut checks = FieldChecks::default();
    if request.conditions.len() > CITIES {
        checks.wrong("conditions", format!("{} cities; at most {CITIES}", request.conditions.len()));
    }
    for (n, condition) in request.conditions.iter().enumerate() {
        checks.not_empty(&format!("conditions[{n}].city"), &condition.city);
        if condition.city.len() > LONGEST_NAME {
            checks.wrong(format!("conditions[{n}].city"), format!("it is longer than {LONGEST_NAME} bytes"));
        }
        checks.known::<Frost>(&format!("conditions[{n}].frost"), condition.frost);
        checks.specified::<FrostPolicy>(&format!("conditions[{n}].policy"), condition.policy);
        if condition.temperature_celsius.is_some_and(|celsius| !(-100.0..=100.0).contains(&celsius)) {
            checks.wrong(format!("conditions[{n}].temperature_celsius"), "no air has it");
        }
    }
    checks.finish()
}

/// What a city's weather does to its charging points; nothing: they stay as they are.
fn effect(condition: &CityCondition, suspended: bool) -> Option<CityWeather> {
    let frost = match condition.frost() {
        Frost::Unspecified if !suspended => return None,
        Frost::Present => !suspended && condition.policy() != FrostPolicy::Ignore,
        Frost::Unspecified | Frost::None | Frost::NotWatched => false,
    };
    let celsius = condition.temperature_celsius.map(|celsius| format!("{celsius:.1} °C"));
    let drill = if condition.drill { " (drill)" } else { "" };
    Some(CityWeather {
        city: condition.city.as_str().into(),
        blocks: frost,
        stops_supplies: condition.policy() == FrostPolicy::StopNow,
        temperature: celsius.map(|celsius| celsius + drill).unwrap_or_default().into(),
    })
}

#[tonic::async_trait]
impl Conditions for ConditionsService {
    async fn report(
        &self,
        request: Request<ReportConditionsRequest>,
    ) -> Result<Response<ReportConditionsResponse>, Status> {
        let by = super::origin(&request)?;
        let report = request.into_inner();
        checked(&report)?;
        let effects = report.conditions.iter().filter_map(|condition| effect(condition, report.suspended)).collect();
        if !self.event_loop.send(Message::Weather { reported: effects, by }).await {
            return Err(Status::unavailable("Central is stopping"));
        }
        {
            let mut known = self.shared.conditions.lock();
            known.conditions = report.conditions.into_iter().map(|one| (one.city.clone(), one)).collect();
            (known.suspended, known.at) = (report.suspended, Some(self.shared.clock.now()));
        }
        let points = self.shared.points.all();
        let cities: BTreeSet<_> = points.iter().map(|(_, point)| &point.city).filter(|city| !city.is_empty()).collect();
        Ok(Response::new(ReportConditionsResponse { cities: cities.into_iter().cloned().collect() }))
    }

    async fn list(&self, request: Request<ListConditionsRequest>) -> Result<Response<ListConditionsResponse>, Status> {
        let mut checks = FieldChecks::default();
        let page = AskedPage::of(&mut request.into_inner(), &mut checks);
        checks.finish()?;
        let (blocked, _) = upkeep::blocked(&self.shared);
        let known = self.shared.conditions.lock();
        let silent = known.is_silent(self.shared.settings.weather_silence, self.shared.clock.now());
        let shown = known.conditions.iter().filter(|(city, _)| page.after().is_none_or(|after| city.as_str() > after));
        let shown = shown.map(|(city, condition)| {
            (city.clone(), CityCondition { stale: condition.stale || silent, ..condition.clone() })
        });
        let (conditions, next_page_token) = page.cut(shown);
        Ok(Response::new(ListConditionsResponse {
            conditions,
            suspended: known.suspended,
            reported_time: known.at.and_then(|at| timestamp(at.wall_ms)),
            blocked_charging_points: u32::try_from(blocked).unwrap_or(u32::MAX),
            next_page_token,
        }))
    }
}

#[cfg(test)]
mod tests;
