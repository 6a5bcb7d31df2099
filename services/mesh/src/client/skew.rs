//! Compares this host's clock with the peer's, from the time that every answer carries (SPEC 10.8: a role more than
//! 1 s off is degraded; how much is a setting).

use std::time::Duration;

use http::HeaderMap;

use crate::{clock::Now, health::Health, server::TIME_HEADER};

use super::Target;

pub(super) struct Skew<'a> {
    pub(super) health: &'a Health,
    pub(super) target: &'a Target,
    pub(super) max: Duration,
}

impl Skew<'_> {
    pub(super) fn compare(&self, headers: &HeaderMap, began: Now, ended: Now) {
        let Some(theirs) = headers.get(TIME_HEADER).and_then(|value| value.to_str().ok()?.parse().ok()) else { return };
        let took_ms = in_ms(ended.mono.saturating_duration_since(began.mono));
        let max_ms = in_ms(self.max);
        let Some(ahead_ms) = surely_ahead_ms(began.wall_ms, took_ms, theirs, max_ms) else { return };
        let (health, target) = (self.health, self.target);
        let name = format!("clock against {}", target.role());
        if ahead_ms.abs() > max_ms {
            let way = if ahead_ms > 0 { "behind" } else { "ahead of" };
            let ms = ahead_ms.abs();
            let why = format!("this host's clock is {ms} ms {way} that of {target}; set it by NTP");
            health.component(name).degraded(why);
        } else if health.report().components.contains_key(&name) {
            health.component(name).ready();
        }
    }
}

fn in_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// How far the peer is ahead of us at least, or nothing where the answer took too long to tell.
fn surely_ahead_ms(began_ms: i64, took_ms: i64, theirs_ms: i64, max_ms: i64) -> Option<i64> {
    // It was stamped at some moment of the call: the middle is right within half of it.
    let ahead = theirs_ms - (began_ms + took_ms / 2);
    (took_ms / 2 <= max_ms).then(|| ahead.signum() * (ahead.abs() - took_ms / 2).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_duration_of_the_call_cannot_explain_is_a_difference_spec_10_8() {
        assert_eq!(surely_ahead_ms(10_000, 100, 10_050, 1000), Some(0));
        assert_eq!(surely_ahead_ms(10_000, 100, 12_050, 1000), Some(1950));
        assert_eq!(surely_ahead_ms(10_000, 100, 8_050, 1000), Some(-1950));
        assert_eq!(surely_ahead_ms(10_000, 1000, 11_400, 1000), Some(400));
        assert_eq!(surely_ahead_ms(10_000, 60_000, 10_000, 1000), None, "a call that took a minute says nothing");
    }

    #[test]
    fn how_far_a_clock_may_be_off_is_a_setting_spec_10_8() {
        let (health, target) = (Health::default(), Target::new("central", ["127.0.0.1:1"]));
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(TIME_HEADER), 12_000.into())]);
        let now = Now { wall_ms: 10_000, ..crate::clock::Clock::system().now() };
        let compare = |max| Skew { health: &health, target: &target, max }.compare(&headers, now, now);
        compare(Duration::from_secs(3));
        assert!(health.report().components.is_empty());
        compare(Duration::from_secs(1));
        assert_eq!(health.readiness(), crate::health::Readiness::Degraded);
        compare(Duration::from_secs(3));
        assert_eq!(health.readiness(), crate::health::Readiness::Ready);
    }
}
