//! Compares this host's clock with the peer's, from the time that every answer carries (SPEC 10.8: a role more than
//! 1 s off is degraded).

use http::HeaderMap;

use crate::{clock::Now, health::Health, server::TIME_HEADER};

use super::Target;

const MAX_SKEW_MS: i64 = 1000;

pub(super) fn compare(health: &Health, target: &Target, headers: &HeaderMap, began: Now, ended: Now) {
    let Some(theirs) = headers.get(TIME_HEADER).and_then(|value| value.to_str().ok()?.parse().ok()) else { return };
    let took_ms = i64::try_from(ended.mono.saturating_duration_since(began.mono).as_millis()).unwrap_or(i64::MAX);
    let Some(ahead_ms) = surely_ahead_ms(began.wall_ms, took_ms, theirs) else { return };
    let name = format!("clock against {}", target.role());
    if ahead_ms.abs() > MAX_SKEW_MS {
        let way = if ahead_ms > 0 { "behind" } else { "ahead of" };
        let ms = ahead_ms.abs();
        health.component(name).degraded(format!("this host's clock is {ms} ms {way} that of {target}; set it by NTP"));
    } else if health.report().components.contains_key(&name) {
        health.component(name).ready();
    }
}

/// How far the peer is ahead of us at least, or nothing where the answer took too long to tell.
fn surely_ahead_ms(began_ms: i64, took_ms: i64, theirs_ms: i64) -> Option<i64> {
    // It was stamped at some moment of the call: the middle is right within half of it.
    let ahead = theirs_ms - (began_ms + took_ms / 2);
    (took_ms / 2 <= MAX_SKEW_MS).then(|| ahead.signum() * (ahead.abs() - took_ms / 2).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_duration_of_the_call_cannot_explain_is_a_difference_spec_10_8() {
        assert_eq!(surely_ahead_ms(10_000, 100, 10_050), Some(0));
        assert_eq!(surely_ahead_ms(10_000, 100, 12_050), Some(1950));
        assert_eq!(surely_ahead_ms(10_000, 100, 8_050), Some(-1950));
        assert_eq!(surely_ahead_ms(10_000, 1000, 11_400), Some(400));
        assert_eq!(surely_ahead_ms(10_000, 60_000, 10_000), None, "a call that took a minute says nothing");
    }
}
