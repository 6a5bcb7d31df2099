//! The times of a recording, in one of the ways in which people write them.
//!
//! Pure. An offset from UTC is kept, never dropped: without it, sessions would be in the wrong order, and one over a change
//! of daylight saving time would last an hour too long or too short.

use clap::ValueEnum;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset, format_description::well_known::Rfc2822};

/// The order of the parts of a date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum DateFormat {
    /// Year first: 2019-03-01T06:20:00-08:00, 2019/03/01 06:20
    #[default]
    Iso,
    /// Month first, as in the United States: 7/29/2011 20:17, 07/29/2011 8:17 PM PDT
    MonthFirst,
    /// Day first: 29/07/2011 20:17, 29.7.2011 20:17
    DayFirst,
    /// As in e-mails: Wed, 25 Apr 2018 11:08:04 GMT
    #[value(name = "rfc2822")]
    Rfc2822,
}

/// A time as a recording has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordedTime {
    /// By the clock at the station, where there is no offset; such a time is taken for UTC.
    pub(super) at: OffsetDateTime,
    pub(super) has_offset: bool,
}

impl DateFormat {
    fn example(self) -> &'static str {
        match self {
            Self::Iso => "2019-03-01T06:20:00 or 2019-03-01 06:20-08:00",
            Self::MonthFirst => "7/29/2011 20:17, month first",
            Self::DayFirst => "29/07/2011 20:17, day first",
            Self::Rfc2822 => "Wed, 25 Apr 2018 11:08:04 GMT",
        }
    }

    /// # Errors
    /// What is wrong with the text, as the rest of a sentence that begins with the name of its column.
    pub(super) fn parse(self, text: &str) -> Result<RecordedTime, String> {
        let bad = |why: Option<String>| {
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            format!("{text:?} is not a time such as {}{why}; see --dates", self.example())
        };
        if self == Self::Rfc2822 {
            let at = OffsetDateTime::parse(text, &Rfc2822).map_err(|_| bad(None))?;
            return Ok(RecordedTime { at: at.to_offset(UtcOffset::UTC), has_offset: true });
        }
        let (date, rest) = text.split_once(['T', ' ']).ok_or_else(|| bad(None))?;
        let date = self.date(date).ok_or_else(|| bad(None))?;
        let rest = rest.trim();
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.').unwrap_or(rest.len());
        let (clock, tail) = rest.split_at(end);
        let (afternoon, zone) = half_of_day(tail.trim());
        let time = clock_time(clock, afternoon).ok_or_else(|| bad(None))?;
        let offset = match zone {
            "" => None,
            zone => Some(utc_offset(zone).ok_or_else(|| {
                bad(Some(format!(
                    "the offset {zone:?} is neither like +02:00 nor UTC, EST, EDT, CST, CDT, MST, MDT, PST, PDT"
                )))
            })?),
        };
        let at = PrimitiveDateTime::new(date, time).assume_offset(offset.unwrap_or(UtcOffset::UTC));
        Ok(RecordedTime { at: at.to_offset(UtcOffset::UTC), has_offset: offset.is_some() })
    }

    fn date(self, text: &str) -> Option<Date> {
        let parts: Vec<&str> = text.split(['-', '/', '.']).collect();
        let [first, second, third] = parts.as_slice() else { return None };
        let (year, month, day) = match self {
            Self::MonthFirst => (third, first, second),
            Self::DayFirst => (third, second, first),
            Self::Iso | Self::Rfc2822 => (first, second, third),
        };
        let year = (year.len() == 4).then(|| number(year)).flatten()?;
        let month = Month::try_from(u8::try_from(number(month)?).ok()?).ok()?;
        Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(number(day)?).ok()?).ok()
    }
}

/// A number without a sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Whether AM or PM leads the text, and what follows it.
fn half_of_day(text: &str) -> (Option<bool>, &str) {
    let word = text.get(..2).map(str::to_ascii_uppercase);
    let rest = text.get(2..).unwrap_or_default().trim_start();
    match word.as_deref() {
        Some("AM") => (Some(false), rest),
        Some("PM") => (Some(true), rest),
        _ => (None, text),
    }
}

fn clock_time(text: &str, afternoon: Option<bool>) -> Option<Time> {
    let parts: Vec<&str> = text.split(':').collect();
    let (hour, minute, second) = match parts.as_slice() {
        [hour, minute] => (hour, minute, "0"),
        [hour, minute, second] => (hour, minute, *second),
        _ => return None,
    };
    let hour = match (number(hour)?, afternoon) {
        (hour, None) => hour,
        (hour @ 1..=12, Some(afternoon)) => hour % 12 + if afternoon { 12 } else { 0 },
        (_, Some(_)) => return None,
    };
    let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
    let nanos = number(&format!("{:0<9}", fraction.get(..9).unwrap_or(fraction)))?;
    let small = |n: u32| u8::try_from(n).ok();
    Time::from_hms_nano(small(hour)?, small(number(minute)?)?, small(number(second)?)?, nanos).ok()
}

/// `Z`, `+02`, `+0200`, `+02:00`, or a name of RFC 2822.
fn utc_offset(text: &str) -> Option<UtcOffset> {
    let hours = match text.to_ascii_uppercase().as_str() {
        "Z" | "UTC" | "GMT" | "UT" => Some(0),
        "EDT" => Some(-4),
        "EST" | "CDT" => Some(-5),
        "CST" | "MDT" => Some(-6),
        "MST" | "PDT" => Some(-7),
        "PST" => Some(-8),
        _ => None,
    };
    if let Some(hours) = hours {
        return UtcOffset::from_hms(hours, 0, 0).ok();
    }
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits.replace(':', "")),
        ("-" | "\u{2212}", digits) => (-1, digits.replace(':', "")),
        _ => return None,
    };
    let part = |at: usize| number(digits.get(at..at + 2)?).and_then(|n| i32::try_from(n).ok());
    let (hours, minutes) = match digits.len() {
        2 => (part(0)?, 0),
        4 => (part(0)?, part(2)?),
        _ => return None,
    };
    (minutes < 60).then(|| UtcOffset::from_whole_seconds(sign * (hours * 3600 + minutes * 60)).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn an_offset_is_kept_in_each_way_in_which_it_is_written() {
        let at = datetime!(2018-04-25 11:08:04 UTC);
        for (format, text) in [
            (DateFormat::Iso, "2018-04-25T11:08:04Z"),
            (DateFormat::Iso, "2018-04-25 04:08:04-07:00"),
            (DateFormat::Iso, "2018/04/25 11:08:04+00"),
            (DateFormat::Iso, "2018-04-25T13:08:04.000+0200"),
            (DateFormat::Rfc2822, "Wed, 25 Apr 2018 11:08:04 GMT"),
            (DateFormat::MonthFirst, "4/25/2018 4:08:04 AM PDT"),
            (DateFormat::MonthFirst, "04/25/2018 11:08:04 UTC"),
            (DateFormat::DayFirst, "25.4.2018 13:08:04 +02:00"),
        ] {
            assert_eq!(format.parse(text), Ok(RecordedTime { at, has_offset: true }), "{text}");
        }
    }

    #[test]
    fn a_time_without_offset_says_so() {
        let at = datetime!(2011-07-29 20:17 UTC);
        for (format, text) in [
            (DateFormat::Iso, "2011-07-29T20:17:00"),
            (DateFormat::Iso, "2011-07-29 20:17"),
            (DateFormat::MonthFirst, "7/29/2011 20:17"),
            (DateFormat::MonthFirst, "7/29/2011 8:17:00 PM"),
            (DateFormat::DayFirst, "29/07/2011 20:17"),
        ] {
            assert_eq!(format.parse(text), Ok(RecordedTime { at, has_offset: false }), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_in_the_named_format_is_refused_with_an_example() {
        for (format, text) in [
            (DateFormat::Iso, "yesterday"),
            (DateFormat::Iso, "2019-03-01"),
            (DateFormat::Iso, "7/29/2011 20:17"),
            (DateFormat::Iso, "2019-03-01 25:00"),
            (DateFormat::Iso, "2019-03-01 06:20 Mars"),
            (DateFormat::Iso, "2019-03-01 06:20 +2"),
            (DateFormat::MonthFirst, "29/7/2011 20:17"),
            (DateFormat::MonthFirst, "7/29/11 20:17"),
            (DateFormat::MonthFirst, "7/29/2011 20:17 PM"),
            (DateFormat::DayFirst, "7/29/2011 20:17"),
            (DateFormat::Rfc2822, "2019-03-01T06:20:00Z"),
        ] {
            let why = format.parse(text).unwrap_err();
            assert!(why.contains("is not a time such as") && why.contains("--dates"), "{why}");
        }
        assert!(DateFormat::Iso.parse("2019-03-01 06:20 Mars").unwrap_err().contains("offset \"Mars\""));
    }
}
