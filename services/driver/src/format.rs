//! Text for people: times, money, energy, steps and reasons.

use proto::{
    Currency, Energy, Money,
    link::v1::{Progress, Reason},
};
use time::{OffsetDateTime, macros::format_description};

/// Formats milliseconds since 1970 as a time in UTC.
pub fn utc(ms: i64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|t| t.format(format).ok())
        .map_or_else(|| format!("{ms} ms"), |text| format!("{text} UTC"))
}

pub(crate) fn progress(progress: Progress) -> &'static str {
    match progress {
        Progress::Unspecified => "unknown",
        Progress::Received => "received",
        Progress::Asking => "asking",
        Progress::Authorised => "authorised",
        Progress::Supplying => "supplying",
        Progress::Refused => "refused",
        Progress::Released => "released",
        Progress::Settling => "settling",
        Progress::Fault => "fault",
        Progress::LinkLost => "link lost",
    }
}

pub(crate) fn money(minor: i64, currency: &str) -> Money {
    Money { minor, currency: currency.parse::<Currency>().unwrap_or_default() }
}

pub(crate) fn energy(wh: u64) -> String {
    if wh == 0 { "until unplugged".to_owned() } else { Energy::from_wh(wh).to_string() }
}

/// A reason in words, with the detail that Central gave.
pub(crate) fn reason(reason: Reason, detail: &str) -> String {
    if detail.is_empty() { reason.in_words().to_owned() } else { format!("{} ({detail})", reason.in_words()) }
}
