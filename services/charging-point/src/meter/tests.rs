use proptest::prelude::*;

use super::*;

fn battery() -> Profile {
    Profile::Battery(Battery {
        rated_w: 22_000,
        ramp_w_per_s: 5_500,
        capacity_wh: 60_000,
        initial_permille: 200,
        taper_from_permille: 800,
    })
}

/// Any instant: tests count from it.
fn zero() -> Instant {
    mesh::clock::Clock::system().now().mono
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn power_ramps_up_holds_and_tapers_by_state_of_charge() {
    let start = zero();
    let mut meter = Meter::start(battery(), Energy::ZERO, Speed::REAL, start);
    assert_eq!(meter.advance(start).power_w, 0);
    assert_eq!(meter.advance(start + ms(1000)).power_w, 5_500);
    let held = meter.advance(start + ms(60_000));
    assert_eq!((held.power_w, held.voltage_mv, held.current_ma), (22_000, 227_800, 32_191));
    assert!(held.temperature_dc > 300, "the connector warms: {held:?}");
    // From 20 % to 80 % of 60 kWh are 36 kWh; after that it tapers.
    let tapering = meter.advance(start + ms(2 * 3_600_000));
    assert!(tapering.charge_permille > 800 && tapering.power_w < 22_000, "{tapering:?}");
    let full = meter.advance(start + ms(9 * 3_600_000));
    assert_eq!((full.charge_permille, full.power_w), (1000, 0));
    assert!((47_990..=48_010).contains(&full.energy.wh()), "{full:?}");
}

#[test]
fn the_requested_energy_is_met_exactly_even_beyond_the_battery_spec_3_5() {
    for wish in [1, 999, 5_000, 48_001, 200_000] {
        let (start, wish) = (zero(), Energy::from_wh(wish));
        let mut meter = Meter::start(battery(), wish, Speed::REAL, start);
        let end = meter.advance(start + ms(100 * 3_600_000));
        assert_eq!((end.energy, end.power_w, meter.limit_met()), (wish, 0, true));
    }
}

#[test]
fn a_faster_meter_delivers_the_same_in_less_time() {
    let start = zero();
    let mut real = Meter::start(battery(), Energy::ZERO, Speed::REAL, start);
    let mut fast = Meter::start(battery(), Energy::ZERO, "60".parse().unwrap(), start);
    assert_eq!(real.advance(start + ms(600_000)), fast.advance(start + ms(10_000)));
}

#[test]
fn a_recorded_session_is_a_straight_line_to_exactly_its_energy() {
    let start = zero();
    let profile = Profile::Even { energy: Energy::from_wh(4_216), over: ms(4_800_000) };
    let mut meter = Meter::start(profile, Energy::from_wh(4_216), "600".parse().unwrap(), start);
    assert_eq!(meter.ends_at(), Some(start + ms(8_000)));
    assert_eq!(meter.advance(start + ms(4_000)).energy, Energy::from_wh(2_108));
    assert_eq!(meter.advance(start + ms(4_000)).power_w, 3_162);
    assert_eq!(meter.advance(start + ms(7_999)).energy, Energy::from_wh(4_215));
    assert!(!meter.limit_met());
    assert_eq!(meter.advance(start + ms(8_000)).energy, Energy::from_wh(4_216));
    assert!(meter.limit_met());
    assert_eq!(meter.advance(start + ms(80_000)).energy, Energy::from_wh(4_216));
}

#[test]
fn speeds_are_numbers_with_at_most_three_places() {
    for (text, shown) in [("1", "1.000"), ("0.5", "0.500"), ("3600", "3600.000"), ("0.001", "0.001")] {
        assert_eq!(text.parse::<Speed>().unwrap().to_string(), shown);
    }
    for bad in ["", "0", "-1", "1.0001", "1e3", "99999999", "x"] {
        assert!(bad.parse::<Speed>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn the_sum_is_exact_whatever_the_pattern_of_looks(
        looks in prop::collection::vec(1u64..7_000, 1..60),
        limit in prop_oneof![Just(0u64), 1u64..2_000],
        speed in prop_oneof![Just("1"), Just("60"), Just("0.25"), Just("977.123")],
    ) {
        let (start, speed, limit) = (zero(), speed.parse().unwrap(), Energy::from_wh(limit));
        let mut often = Meter::start(battery(), limit, speed, start);
        let mut at = 0;
        let mut last = Energy::ZERO;
        for look in looks {
            at += look;
            let energy = often.advance(start + ms(at)).energy;
            prop_assert!(energy >= last, "a register never runs backwards");
            last = energy;
        }
        let mut once = Meter::start(battery(), limit, speed, start);
        prop_assert_eq!(often.advance(start + ms(at)), once.advance(start + ms(at)));
        prop_assert!(limit == Energy::ZERO || last <= limit);
    }

    #[test]
    fn a_recorded_session_delivers_exactly_its_energy_and_never_more(
        wh in 0u64..100_000, minutes in 1u64..3_000, looks in prop::collection::vec(0u64..1_000, 0..40), speed in 1u32..100_000,
    ) {
        let start = zero();
        let (energy, over) = (Energy::from_wh(wh), Duration::from_secs(minutes * 60));
        let speed: Speed = speed.to_string().parse().unwrap();
        let mut meter = Meter::start(Profile::Even { energy, over }, energy, speed, start);
        let end = meter.ends_at().unwrap();
        for look in looks {
            let at = start + (end - start) * u32::try_from(look).unwrap() / 1000;
            prop_assert!(meter.advance(at).energy <= energy);
        }
        prop_assert_eq!(meter.advance(end).energy, energy);
    }
}
