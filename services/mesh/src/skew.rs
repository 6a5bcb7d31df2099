//! Checks whether this host's clock agrees with a peer's (SPEC 10.8: a role whose clock is off by more than a setting,
//! 1 s by default, is degraded), by the time in every gRPC response and by Central's answer to `ReadClock` on the link.

use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::{
    client::RoleAddress,
    clock::Now,
    health::{Component, Health},
    server::TIME_HEADER,
};

/// Settings of roles that get Central's time over the link.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Clock")]
#[group(skip)]
pub struct Config {
    /// How far this host's clock may differ from Central's before the role is degraded
    #[arg(long, env = "CHARGEMESH_MAX_CLOCK_SKEW", value_name = "DURATION", default_value = "1s",
          value_parser = crate::duration::parse)]
    pub max_clock_skew: Duration,
    /// Interval at which to ask Central for the time; it is also asked at each opening of a link
    #[arg(long, env = "CHARGEMESH_CLOCK_READ_EVERY", value_name = "DURATION", default_value = "60s",
          value_parser = crate::duration::parse_some)]
    pub clock_read_every: Duration,
}

impl Config {
    pub fn reading(&self) -> SkewSettings {
        SkewSettings { every: self.clock_read_every, max: self.max_clock_skew }
    }
}

/// The settings of a [`ClockReader`].
#[derive(Clone, Copy, Debug)]
pub struct SkewSettings {
    pub every: Duration,
    pub max: Duration,
}

impl Default for SkewSettings {
    fn default() -> Self {
        Self { every: Duration::from_secs(60), max: Duration::from_secs(1) }
    }
}

/// Decides when to read Central's clock and compares it with this host's. Pure.
#[derive(Clone, Copy, Debug)]
pub struct ClockReader {
    settings: SkewSettings,
    due: Option<Instant>,
    asked: Option<(u64, Now)>,
    ahead_ms: i64,
}

impl ClockReader {
    pub fn new(settings: SkewSettings) -> Self {
        Self { settings, due: None, asked: None, ahead_ms: 0 }
    }

    /// A link has opened: asks now, and forgets a question on an earlier link.
    pub fn begin(&mut self, now: Instant) {
        (self.due, self.asked) = (Some(now), None);
    }

    /// There is no link: asks nothing.
    pub fn pause(&mut self) {
        (self.due, self.asked) = (None, None);
    }

    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The message `id` asked for the time.
    pub fn asked(&mut self, id: u64, now: Now) {
        (self.due, self.asked) = (Some(now.mono + self.settings.every), Some((id, now)));
    }

    /// Central's answer to the message `to`. An answer that took longer than the maximum difference is ignored.
    pub fn told(&mut self, to: u64, at_ms: i64, now: Now) {
        let Some((_, began)) = self.asked.take_if(|(id, _)| *id == to) else { return };
        if let Some(ahead_ms) = surely_ahead_ms(began, now, at_ms, self.settings.max) {
            self.ahead_ms = ahead_ms;
        }
    }

    /// A sentence that says how wrong this host's clock is, if it is.
    pub fn trouble(&self) -> Option<String> {
        in_words(self.ahead_ms, self.settings.max, "Central")
    }
}

/// Compares the clocks at each response of one peer.
pub(crate) struct Skew<'a> {
    pub(crate) health: &'a Health,
    pub(crate) target: &'a RoleAddress,
    pub(crate) max: Duration,
}

impl Skew<'_> {
    pub(crate) fn compare(&self, headers: &HeaderMap, began: Now, ended: Now) {
        let Some(theirs) = headers.get(TIME_HEADER).and_then(|value| value.to_str().ok()?.parse().ok()) else { return };
        let Some(ahead_ms) = surely_ahead_ms(began, ended, theirs, self.max) else { return };
        let trouble = in_words(ahead_ms, self.max, &self.target.to_string());
        report(self.health, &format!("clock against {}", self.target.role()), trouble);
    }
}

/// Reports the comparison as a component of the role's health, once there has been trouble.
pub fn report(health: &Health, component: &str, trouble: Option<String>) {
    if trouble.is_some() || health.report().components.contains_key(component) {
        let component: Component = health.component(component);
        trouble.map_or_else(|| component.ready(), |why| component.degraded(why));
    }
}

fn in_words(ahead_ms: i64, max: Duration, whose: &str) -> Option<String> {
    let way = if ahead_ms > 0 { "behind" } else { "ahead of" };
    let ms = ahead_ms.unsigned_abs();
    (Duration::from_millis(ms) > max)
        .then(|| format!("this host's clock is {ms} ms {way} that of {whose}; set it by NTP"))
}

/// By how much at least the peer's clock is ahead; `None` where the answer took too long to tell.
fn surely_ahead_ms(began: Now, ended: Now, theirs_ms: i64, max: Duration) -> Option<i64> {
    let took = ended.mono.saturating_duration_since(began.mono);
    // The peer read its clock at some moment of the call: the middle of the call is at most half of it off.
    let half_ms = in_ms(took / 2);
    let ahead = theirs_ms.saturating_sub(began.wall_ms.saturating_add(half_ms));
    (took / 2 <= max).then(|| ahead.signum() * ahead.saturating_abs().saturating_sub(half_ms).max(0))
}

fn in_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    fn began() -> Now {
        Now { wall_ms: 10_000, ..Clock::system().now() }
    }

    fn after(began: Now, ms: u64) -> Now {
        Now { mono: began.mono + Duration::from_millis(ms), wall_ms: began.wall_ms + i64::try_from(ms).unwrap() }
    }

    #[test]
    fn only_what_the_duration_of_the_call_cannot_explain_is_a_difference_spec_10_8() {
        let began = began();
        let surely = |took_ms, theirs_ms| surely_ahead_ms(began, after(began, took_ms), theirs_ms, SECOND);
        assert_eq!(surely(100, 10_050), Some(0));
        assert_eq!(surely(100, 12_050), Some(1950));
        assert_eq!(surely(100, 8_050), Some(-1950));
        assert_eq!(surely(1000, 11_400), Some(400));
        assert_eq!(surely(60_000, 10_000), None, "a call that took a minute says nothing");
        assert_eq!(surely(0, i64::MIN), Some(-i64::MAX), "absurd, and no panic");
    }

    #[test]
    fn how_far_a_clock_may_be_off_is_a_setting_spec_10_8() {
        let (health, target) = (Health::default(), RoleAddress::new("central", ["127.0.0.1:1"]));
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(TIME_HEADER), 12_000.into())]);
        let now = began();
        let compare = |max| Skew { health: &health, target: &target, max }.compare(&headers, now, now);
        compare(Duration::from_secs(3));
        assert!(health.report().components.is_empty());
        compare(SECOND);
        assert_eq!(health.readiness(), crate::health::Readiness::Degraded);
        compare(Duration::from_secs(3));
        assert_eq!(health.readiness(), crate::health::Readiness::Ready);
    }

    #[test]
    fn central_s_clock_is_read_at_each_opening_and_from_time_to_time_spec_10_8() {
        let (mut reading, now) = (ClockReader::new(SkewSettings::default()), began());
        assert_eq!(reading.due(), None, "nobody can be asked");
        reading.begin(now.mono);
        assert_eq!(reading.due(), Some(now.mono));
        reading.asked(7, now);
        assert_eq!(reading.due(), Some(now.mono + Duration::from_secs(60)));
        reading.told(6, 99_000, after(now, 10));
        assert_eq!(reading.trouble(), None, "the answer to another question");
        reading.told(7, 7_000, after(now, 10));
        let trouble = reading.trouble().unwrap();
        assert!(trouble.starts_with("this host's clock is 3000 ms ahead of that of Central"), "{trouble}");
        reading.pause();
        assert!(reading.trouble().is_some() && reading.due().is_none(), "it stays wrong while nobody is asked");
        reading.begin(now.mono);
        reading.asked(8, now);
        reading.told(8, 10_000, now);
        assert_eq!(reading.trouble(), None);
    }
}
