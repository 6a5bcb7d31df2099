//! What frost is (SPEC 6.2): a temperature below a threshold, which ends only beyond a hysteresis, so that a temperature
//! that trembles around the threshold does not switch charging points on and off.

use std::{fmt, str::FromStr};

/// A temperature of outdoor air, in thousandths of a degree Celsius. Only what air can have on Earth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Temperature(i32);

/// Somewhat beyond the records, which are -89.2 and 56.7.
const COLDEST: i32 = -90_000;
const HOTTEST: i32 = 60_000;

impl Temperature {
    /// Nothing where it is no number, or no temperature that outdoor air has: such as one in Kelvin or Fahrenheit.
    pub fn from_celsius(degrees: f64) -> Option<Self> {
        let is_possible = (f64::from(COLDEST)..=f64::from(HOTTEST)).contains(&(degrees * 1_000.0));
        #[expect(clippy::cast_possible_truncation, reason = "within the bounds of above")]
        let milli = (degrees * 1_000.0).round() as i32;
        is_possible.then_some(Self(milli))
    }

    pub fn celsius(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }
}

impl fmt::Display for Temperature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} °C", self.celsius())
    }
}

impl FromStr for Temperature {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let degrees = text.parse().ok().and_then(Self::from_celsius);
        degrees.ok_or_else(|| format!("{text:?} is no temperature in degrees Celsius from -90 to 60"))
    }
}

/// When frost begins and ends.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Frost")]
#[group(skip)]
pub struct FrostRule {
    /// Temperature in °C below which there is frost
    #[arg(
        long,
        env = "CHARGEMESH_WEATHER_THRESHOLD",
        value_name = "CELSIUS",
        default_value = "0",
        allow_hyphen_values = true
    )]
    pub threshold: Temperature,
    /// How far in °C the temperature must rise above the threshold before frost ends
    #[arg(long, env = "CHARGEMESH_WEATHER_HYSTERESIS", value_name = "CELSIUS", default_value = "0.5",
          value_parser = hysteresis)]
    pub hysteresis: Temperature,
    /// Count the threshold itself as frost
    #[arg(long, env = "CHARGEMESH_WEATHER_THRESHOLD_COUNTS")]
    pub threshold_counts: bool,
}

fn hysteresis(text: &str) -> Result<Temperature, String> {
    let degrees: Temperature = text.parse()?;
    if degrees.0 < 0 { Err(format!("a hysteresis is not negative: {text}")) } else { Ok(degrees) }
}

impl FrostRule {
    /// Whether there is frost at this temperature, where there was or was not before.
    pub fn is_frost(self, temperature: Temperature, before: bool) -> bool {
        let ends_at = if before { self.threshold.0.saturating_add(self.hysteresis.0) } else { self.threshold.0 };
        temperature.0 < ends_at || (self.threshold_counts && temperature.0 == ends_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn degrees(celsius: f64) -> Temperature {
        Temperature::from_celsius(celsius).unwrap()
    }

    fn rule(threshold_counts: bool) -> FrostRule {
        FrostRule { threshold: degrees(0.0), hysteresis: degrees(0.5), threshold_counts }
    }

    /// Whether there is frost after each of these temperatures, in turn.
    fn course(rule: FrostRule, temperatures: &[f64]) -> Vec<bool> {
        let mut frost = false;
        let mut judge = |celsius: &f64| {
            frost = rule.is_frost(degrees(*celsius), frost);
            frost
        };
        temperatures.iter().map(&mut judge).collect()
    }

    #[test]
    fn frost_begins_below_the_threshold_and_ends_beyond_the_hysteresis_spec_6_2() {
        let seen = course(rule(false), &[0.1, 0.0, -0.001, 0.0, 0.499, 0.5, 0.1, -5.0]);
        assert_eq!(seen, [false, false, true, true, true, false, false, true]);
    }

    #[test]
    fn the_threshold_itself_counts_where_that_is_set_spec_6_2() {
        assert_eq!(course(rule(true), &[0.001, 0.0, 0.5, 0.501]), [false, true, true, false]);
        let without = FrostRule { hysteresis: degrees(0.0), ..rule(true) };
        assert_eq!(course(without, &[0.0, 0.001, 0.0]), [true, false, true]);
    }

    #[test]
    fn what_air_cannot_have_is_no_temperature() {
        for celsius in [f64::NAN, f64::INFINITY, -300.0, 273.15, 60.1, -90.1] {
            assert_eq!(Temperature::from_celsius(celsius), None, "{celsius}");
        }
        assert_eq!((degrees(-5.0).to_string(), degrees(-5.0).celsius()), ("-5.0 °C".to_owned(), -5.0));
        assert!("warm".parse::<Temperature>().unwrap_err().contains("from -90 to 60"));
        assert!(hysteresis("-1").is_err());
    }
}
