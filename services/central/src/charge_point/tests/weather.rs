//! Frost beside the other causes (SPEC 3.5, 6).

use super::*;

fn weather(blocks: bool, stops_supplies: bool) -> Observation {
    let temperature = if blocks { "-5.0 °C" } else { "3.0 °C" };
    Observation::Weather(Some(CityWeather {
        city: "Alicante".into(),
        blocks,
        stops_supplies,
        temperature: temperature.into(),
    }))
}

fn frost(harness: &mut PointHarness) {
    harness.observe(0, weather(true, true));
}

fn thaw(harness: &mut PointHarness) {
    harness.observe(0, weather(false, true));
}

#[test]
fn frost_blocks_with_its_temperature_and_the_thaw_unblocks_spec_6_2() {
    let mut harness = PointHarness::ready();
    frost(&mut harness);
    assert_eq!(harness.state(0), State::OutOfOrder);
    let view = harness.points[0].view(&harness.settings, harness.now);
    assert_eq!(view.detail, format!("frost in {}: -5.0 °C", harness.record(0).city));
    assert!(harness.record(0).weather_blocked, "durable, for a restart without Weather");
    harness.request("s1", "r1");
    assert!(harness.record(0).open.is_none() && harness.points[0].pending.ask.is_none());
    thaw(&mut harness);
    assert_eq!(harness.state(0), State::Available);
    let noted = |wanted: AuditAction| harness.store.actions.iter().filter(|action| **action == wanted).count();
    assert_eq!((noted(AuditAction::WeatherBlocked), noted(AuditAction::WeatherUnblocked)), (1, 1));
}

#[test]
fn a_charging_point_that_an_operator_stopped_stays_stopped_at_the_thaw_spec_6_2() {
    let mut harness = PointHarness::ready();
    harness.order(PointOrder::Stop);
    frost(&mut harness);
    assert_eq!(harness.points[0].causes(&harness.settings, harness.now), [Cause::OperatorStop, Cause::Weather]);
    thaw(&mut harness);
    assert_eq!(harness.points[0].causes(&harness.settings, harness.now), [Cause::OperatorStop]);
    frost(&mut harness);
    harness.order(PointOrder::Resume);
    assert_eq!(harness.state(0), State::OutOfOrder, "an operator's resume does not end the frost");
}

#[test]
fn frost_stops_a_running_supply_which_is_billed_for_that_reason_spec_3_5() {
    let mut harness = PointHarness::supplying();
    frost(&mut harness);
    assert_eq!(harness.state(0), State::OutOfOrder);
    assert_eq!(harness.record(0).open.as_ref().map(|open| open.reason), Some(Reason::Frost));
    harness.ended("s1", 1_000, 1_700, Reason::Frost);
    let ticket = harness.ticket("s1").expect("one bill");
    assert_eq!((ticket.reason(), ticket.energy_wh), (Reason::Frost, 700));
}

#[test]
fn where_the_policy_says_so_a_supply_ends_by_itself_and_the_frost_blocks_then_spec_3_5() {
    let mut harness = PointHarness::supplying();
    harness.observe(0, weather(true, false));
    assert_eq!(harness.state(0), State::Supplying);
    assert_eq!(harness.record(0).open.as_ref().map(|open| open.reason), Some(Reason::Unspecified));
    harness.ended("s1", 1_000, 1_700, Reason::Unplugged);
    assert_eq!(harness.ticket("s1").map(|ticket| ticket.reason()), Some(Reason::Unplugged));
    assert_eq!(harness.state(0), State::OutOfOrder);
}

#[test]
fn frost_releases_a_reservation_under_either_policy_without_a_ticket_spec_3_2() {
    for stops_supplies in [true, false] {
        let mut harness = PointHarness::reserved();
        harness.observe(0, weather(true, stops_supplies));
        assert_eq!(harness.session("s1").state, SessionState::Released);
        assert_eq!((harness.session("s1").reason, harness.ticket("s1").is_none()), (Reason::Frost, true));
    }
}

#[test]
fn a_request_that_frost_overtakes_is_refused_spec_3_2() {
    let mut harness = PointHarness::ready();
    harness.request("s1", "r1");
    assert!(harness.points[0].pending.ask.is_some());
    frost(&mut harness);
    assert!(harness.points[0].pending.ask.is_none());
    harness.accept("s1");
    assert!(harness.record(0).open.is_none());
}

#[test]
fn frost_counts_at_once_and_is_made_durable_as_soon_as_the_store_takes_it_spec_9() {
    let mut harness = PointHarness::supplying();
    harness.store.fail = Some("the disk is full".to_owned());
    frost(&mut harness);
    assert_eq!(harness.state(0), State::OutOfOrder);
    assert!(!harness.record(0).weather_blocked);
    harness.store.fail = None;
    harness.pass(1_000);
    assert!(harness.record(0).weather_blocked);
    assert_eq!(harness.record(0).open.as_ref().map(|open| open.reason), Some(Reason::Frost));
}

#[test]
fn a_block_of_before_a_restart_stands_until_weather_is_heard_spec_6_5() {
    let mut harness = PointHarness::ready();
    harness.points[0].record.weather_blocked = true;
    harness.observe(0, Observation::Weather(None));
    assert_eq!(harness.state(0), State::OutOfOrder);
    thaw(&mut harness);
    assert_eq!(harness.state(0), State::Available);
}
