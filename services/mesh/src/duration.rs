//! Durations in flags and environment variables: `500ms`, `10s`, `2m`, `1h`, `7d`.

use std::time::Duration;

/// Parses a duration, for `#[arg(value_parser = mesh::duration::parse)]`.
///
/// # Errors
/// A sentence that shows what a duration looks like.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration: a whole number and its unit, such as 500ms, 10s, 2m, 1h or 7d");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)
}

/// As [`parse`], for durations that must not be zero, such as a timeout or an interval.
///
/// # Errors
/// As [`parse`], and where the duration is zero.
pub fn parse_some(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err("it is longer than none: at least 1ms".to_owned()),
        some => Ok(some),
    }
}

/// As [`parse_some`], for durations that are stored in seconds, such as a lifetime.
///
/// # Errors
/// As [`parse`], and where the duration is less than a second.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        short if short < Duration::from_secs(1) => Err("it is at least 1s".to_owned()),
        some => Ok(some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_with_its_unit() {
        for (text, ms) in [("0s", 0), ("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)));
        }
        for bad in ["", "10", "s", "-1s", "1.5s", "10 s", "3w", "99999999999999999999s", "99999999999999999d"] {
            assert!(parse(bad).unwrap_err().contains("is not a duration"), "{bad}");
        }
    }

    #[test]
    fn a_timeout_of_nothing_is_none_and_a_lifetime_is_at_least_a_second() {
        assert_eq!(parse_some("1ms"), Ok(Duration::from_millis(1)));
        assert!(parse_some("0s").unwrap_err().contains("longer than none"));
        assert!(parse_some("soon").unwrap_err().contains("is not a duration"));
        assert_eq!(parse_seconds("1s"), Ok(Duration::from_secs(1)));
        for short in ["0d", "999ms"] {
            assert!(parse_seconds(short).unwrap_err().contains("at least 1s"), "{short}");
        }
    }
}
