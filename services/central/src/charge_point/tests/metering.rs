//! What is believed of a meter, and when Central stops a supply by itself (SPEC 3.8a).

use super::*;
use crate::settings::CentralSettings;

/// D1 is supplied at CP1 since meter 1,000, having asked for this much; CP1 has no more than 400 kW.
fn asked_for(energy: u64) -> PointHarness {
    let mut harness = PointHarness::ready();
    harness.settings = CentralSettings::default();
    let terms = SupplyTerms { energy: Energy::from_wh(energy), ..SupplyTerms::default() };
    harness.input(0, PointInput::Request(SupplyRequest { terms, ..harness::request("D1", "s1", "r1") }));
    harness.accept("s1");
    harness.started("s1", 1_000);
    harness.take_sent();
    harness
}

/// A second passes, and then the meter says so much.
fn a_second_later(harness: &mut PointHarness, meter: u64) -> Vec<String> {
    harness.pass(1_000);
    harness.meter("s1", meter);
    harness.take_sent()
}

#[test]
fn one_absurd_sample_reaches_no_screen_and_no_bill_and_is_audited_spec_3_8a() {
    let mut harness = asked_for(5_000);
    assert_eq!(a_second_later(&mut harness, 1_200), ["D1: running 200 Wh 8 EUR"]);
    assert!(a_second_later(&mut harness, 1_000_000_000).is_empty(), "neither shown nor taken for more than was asked");
    assert!(harness.store.actions.contains(&AuditAction::MeterImplausible));
    assert_eq!(harness.points[0].view(&harness.settings, harness.now).energy_wh, 200);
    assert_eq!(a_second_later(&mut harness, 1_300), ["D1: running 300 Wh 12 EUR"], "the right ones count again");
    harness.pass(60_000);
    harness.ended("s1", 1_000, 6_000, Reason::EnergyReached);
    assert_eq!(harness.ticket("s1").map(|t| (t.energy_wh, t.disputed_wh)), Some((5_000, 0)));
}

#[test]
fn central_stops_a_supply_that_passes_what_was_asked_for_spec_3_8a() {
    let mut harness = asked_for(50);
    assert_eq!(a_second_later(&mut harness, 1_050), ["D1: running 50 Wh 2 EUR"]);
    assert_eq!(
        a_second_later(&mut harness, 1_170),
        ["D1: running 150 Wh 6 EUR", "engine: stop s1 ENERGY_REACHED"],
        "and no more is shown than is paid for"
    );
    assert!(harness.store.actions.contains(&AuditAction::SupplyStopOrdered));
    assert_eq!(a_second_later(&mut harness, 1_180), ["D1: running 150 Wh 6 EUR"], "it is told once");
    harness.pass(60_000);
    assert_eq!(harness.session("s1").state, SessionState::Settling, "one that does not stop settles");
    harness.ended("s1", 1_000, 9_000, Reason::StoppedByOperator);
    let ticket = harness.ticket("s1").map(|t| (t.energy_wh, t.disputed_wh, t.reason()));
    assert_eq!(ticket, Some((150, 7_850, Reason::EnergyReached)));
}

#[test]
fn a_stop_that_could_not_be_stored_is_sent_when_it_can_be_spec_3_8a() {
    let mut harness = asked_for(50);
    harness.store.fail = Some("gone".into());
    assert_eq!(a_second_later(&mut harness, 1_100), ["D1: running 100 Wh 4 EUR"]);
    harness.store.fail = None;
    harness.pass(1_000);
    assert_eq!(harness.take_sent(), ["engine: stop s1 ENERGY_REACHED"]);
}

#[test]
fn the_limit_is_that_of_the_rated_power_and_rises_with_the_speed_of_a_simulation_spec_3_8a() {
    let accepted = |rated_w, simulated_speed| {
        let mut harness = asked_for(0);
        harness.settings = CentralSettings { simulated_speed, ..CentralSettings::default() };
        harness.order(PointOrder::SetRatedPower(rated_w));
        harness.take_sent();
        !a_second_later(&mut harness, 1_100).is_empty()
    };
    assert_eq!((accepted(0, 1), accepted(22_000, 1), accepted(22_000, 60)), (true, false, true));
}

#[test]
fn a_power_that_cannot_be_is_not_shown_spec_3_8a() {
    let mut harness = asked_for(0);
    let session = SessionId::new("s1");
    harness.pass(1_000);
    let meter = Energy::from_wh(1_010);
    harness.observe(0, Observation::Meter { link: ENGINE, session, meter, power_w: u32::MAX });
    assert_eq!(harness.points[0].view(&harness.settings, harness.now).power_w, 400_000);
}

#[test]
fn an_engines_clock_that_is_wrong_is_shown_and_changes_no_bill_and_no_time_on_it_spec_3_8a() {
    for ahead_ms in [7_200_000, -7_200_000, 10_000] {
        let mut harness = PointHarness::ready();
        harness.settings = CentralSettings::default();
        harness.order(PointOrder::SetRatedPower(22_000));
        harness.observe(0, Observation::Clock { link: ENGINE, ahead_ms });
        assert_eq!(harness.points[0].view(&harness.settings, harness.now).clock_skew_ms, ahead_ms);
        harness.pass(5_000);
        harness.request("s1", "r1");
        harness.accept("s1");
        harness.pass(3_000);
        let (session, meter) = (SessionId::new("s1"), Energy::from_wh(1_000));
        let at = harness.now.wall_ms + ahead_ms;
        harness.input(0, PointInput::Started { session: session.clone(), meter, at, reply: Reply::None });
        harness.pass(20_000);
        let end = Energy::from_wh(1_120);
        let ended_at = harness.now.wall_ms + ahead_ms;
        let last = crate::session::Final { start: meter, end, reason: Reason::Unplugged, started_at: at, ended_at };
        harness.pass(2_000);
        harness.input(0, PointInput::Ended { session, last, reply: Reply::None });
        let ticket = harness.ticket("s1").unwrap();
        assert_eq!((ticket.energy_wh, ticket.disputed_wh), (120, 0), "{ahead_ms}");
        assert_eq!((ticket.started_at_ms, ticket.ended_at_ms), (8_000, 28_000), "{ahead_ms}");
    }
}
