//! Reports of Weather against the whole of Central but its network.

use std::time::Duration;

use mesh::principal::Principal;
use proto::{Caller, ChargingPointId, central::v1 as contract};

use super::*;
use crate::{
    charge_point::PointOrder,
    settings::CentralSettings,
    testing::{TestCentral, ana},
};

fn condition(city: &str, frost: Frost, celsius: f64) -> CityCondition {
    CityCondition {
        city: city.into(),
        frost: frost.into(),
        temperature_celsius: Some(celsius),
        policy: FrostPolicy::StopNow.into(),
        ..CityCondition::default()
    }
}

fn service(central: &TestCentral) -> ConditionsService {
    ConditionsService { shared: Arc::clone(&central.shared), event_loop: central.event_loop.clone() }
}

async fn report(central: &TestCentral, suspended: bool, conditions: Vec<CityCondition>) -> Result<Vec<String>, Status> {
    let mut request = Request::new(ReportConditionsRequest { conditions, suspended });
    let address = "192.0.2.7:1".parse().unwrap();
    request.extensions_mut().insert(Principal { caller: Caller::Weather, name: None, address });
    service(central).report(request).await.map(|answer| answer.into_inner().cities)
}

async fn frozen(central: &TestCentral, id: &ChargingPointId, wanted: bool) {
    let is = |point: &contract::ChargingPoint| point.causes.contains(&i32::from(contract::Cause::Weather));
    central.until(|| central.shared.points.get(id).is_some_and(|point| is(&point) == wanted)).await;
}

async fn list(central: &TestCentral) -> ListConditionsResponse {
    service(central).list(Request::new(ListConditionsRequest::default())).await.unwrap().into_inner()
}

#[tokio::test]
async fn frost_blocks_the_charging_points_of_its_city_those_that_move_in_and_those_that_join_spec_6_2_6_3() {
    let central = TestCentral::new(CentralSettings::default(), 10).await;
    let id = central.charging_points(1).await.remove(0);
    let frost = || vec![condition("Oslo", Frost::Present, -5.0), condition("Alicante", Frost::None, 20.0)];
    assert_eq!(report(&central, false, frost()).await.unwrap(), ["Alicante"], "the cities to watch");
    frozen(&central, &id, false).await;
    let to = |city: &str| PointOrder::Move { city: city.into(), place: None };
    central.orders.one(&id, to("Oslo"), ana()).await;
    frozen(&central, &id, true).await;
    assert_eq!(report(&central, false, frost()).await.unwrap(), ["Oslo"]);
    central.orders.one(&id, to("Alicante"), ana()).await;
    frozen(&central, &id, false).await;

    report(&central, false, vec![condition("Alicante", Frost::Present, -1.0)]).await.unwrap();
    frozen(&central, &id, true).await;
    let all = central.charging_points(2).await;
    frozen(&central, &all[1], true).await;
    assert_eq!(list(&central).await.blocked_charging_points, 2);
    report(&central, false, vec![]).await.unwrap();
    report(&central, false, vec![condition("Alicante", Frost::Unspecified, 0.0)]).await.unwrap();
    frozen(&central, &id, true).await;
    report(&central, false, vec![condition("Alicante", Frost::None, 1.0)]).await.unwrap();
    frozen(&central, &id, false).await;
    frozen(&central, &all[1], false).await;
    while central.audited("FROST_ENDED").await.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(central.audited("WEATHER_BLOCKED").await.len(), 3, "each charging point that it touched");
}

#[tokio::test]
async fn a_suspended_policy_and_a_city_that_is_not_watched_block_nothing_spec_6_4() {
    let central = TestCentral::new(CentralSettings::default(), 10).await;
    let id = central.charging_points(1).await.remove(0);
    let frost = || vec![condition("Alicante", Frost::Present, -5.0)];
    report(&central, false, frost()).await.unwrap();
    frozen(&central, &id, true).await;
    report(&central, true, frost()).await.unwrap();
    frozen(&central, &id, false).await;
    assert!(list(&central).await.suspended);
    report(&central, false, frost()).await.unwrap();
    frozen(&central, &id, true).await;
    report(&central, false, vec![condition("Alicante", Frost::NotWatched, -5.0)]).await.unwrap();
    frozen(&central, &id, false).await;
    report(&central, false, frost()).await.unwrap();
    frozen(&central, &id, true).await;
    let roofed = CityCondition { policy: FrostPolicy::Ignore.into(), ..condition("Alicante", Frost::Present, -5.0) };
    report(&central, false, vec![roofed]).await.unwrap();
    frozen(&central, &id, false).await;
}

#[tokio::test]
async fn temperatures_are_stale_where_weather_falls_silent_spec_6_5() {
    let settings = CentralSettings { weather_silence: Duration::from_millis(50), ..CentralSettings::default() };
    let central = TestCentral::new(settings, 10).await;
    report(&central, false, vec![condition("Oslo", Frost::Present, -5.0)]).await.unwrap();
    let oslo = || central.shared.conditions.lock().is_silent(Duration::from_millis(50), central.shared.clock.now());
    central.until(oslo).await;
    let listed = list(&central).await;
    assert!(listed.conditions[0].stale && listed.reported_time.is_some());
}

#[tokio::test]
async fn a_report_that_makes_no_sense_is_refused_by_its_fields() {
    let central = TestCentral::new(CentralSettings::default(), 10).await;
    for wrong in [
        condition("", Frost::None, 1.0),
        condition("Oslo", Frost::None, f64::NAN),
        CityCondition { policy: 0, ..condition("Oslo", Frost::None, 1.0) },
        CityCondition { frost: 9, ..condition("Oslo", Frost::None, 1.0) },
    ] {
        let refused = report(&central, false, vec![wrong]).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}
