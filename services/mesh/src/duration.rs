//! Durations as flags and variables carry them: `500ms`, `10s`, `2m`, `1h`, `7d`.

use std::time::Duration;

/// For `#[arg(value_parser = mesh::duration::parse)]`.
///
/// # Errors
/// Says which text is no duration and how one looks.
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
}
