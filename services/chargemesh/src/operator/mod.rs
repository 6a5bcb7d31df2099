//! What operators order and look at (SPEC 7): every method of Central's and Registry's gRPC as a subcommand.
//!
//! One request is one call; lists page by themselves. `--json` prints the messages of the public API as protobuf's JSON.

pub(crate) mod api_message;
pub(crate) mod audit;
pub(crate) mod charging_points;
pub(crate) mod cities;
pub(crate) mod connection;
pub(crate) mod events;
pub(crate) mod identities;
pub(crate) mod order_call;
pub(crate) mod orders;
pub(crate) mod readings;
pub(crate) mod sessions;
pub(crate) mod status;
mod tables;
pub(crate) mod tickets;
mod topics;
mod verify_tickets;

use proto::{Price, central::v1::Ids, central::v1::Selector, central::v1::selector};

/// A length of time up to now, or a UTC time.
pub(crate) fn since(text: &str) -> Result<i64, String> {
    let now = mesh::clock::Clock::system().wall_ms();
    if let Ok(length) = mesh::duration::parse(text) {
        return Ok(now - i64::try_from(length.as_millis()).unwrap_or(i64::MAX));
    }
    let parsed = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
    let day = || {
        let format = time::macros::format_description!("[year]-[month]-[day]");
        time::Date::parse(text, format).ok().map(|day| day.midnight().assume_utc())
    };
    // As tables print it.
    let printed = || {
        let (minutes, seconds) = (
            time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]"),
            time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"),
        );
        let text = text.trim_end_matches("UTC").trim_end();
        let at =
            time::PrimitiveDateTime::parse(text, seconds).or_else(|_| time::PrimitiveDateTime::parse(text, minutes));
        at.ok().map(time::PrimitiveDateTime::assume_utc)
    };
    match parsed.ok().or_else(day).or_else(printed) {
        Some(at) => Ok(i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)),
        None => Err(format!(
            "{text:?} is neither a time ago (15m, 2h, 7d) nor a UTC time (2026-03-01, 2026-03-01T06:20:00Z)"
        )),
    }
}

/// SelectorArgs charging points an order is for.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SelectorArgs {
    /// Charging points by id
    #[arg(value_name = "CP-ID")]
    ids: Vec<String>,
    /// All of a city
    #[arg(long, value_name = "CITY")]
    city: Option<String>,
    /// All of the network
    #[arg(long)]
    all: bool,
}

impl SelectorArgs {
    pub(crate) fn selector(&self) -> Option<Selector> {
        let which = match (&self.city, self.all) {
            (Some(city), _) => selector::Which::City(city.clone()),
            (None, true) => selector::Which::All(true),
            (None, false) => selector::Which::Ids(Ids { ids: self.ids.clone() }),
        };
        Some(Selector { which: Some(which) })
    }
}

/// `0.3950` to ten-thousandths.
pub(crate) fn price(text: &str) -> Result<u32, String> {
    text.parse::<Price>().map(Price::e4).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_given_as_a_length_a_day_or_a_moment() {
        assert_eq!(since("2019-03-01"), Ok(1_551_398_400_000));
        assert_eq!(since("2019-03-01T00:00:01Z"), Ok(1_551_398_401_000));
        assert_eq!(since(&driver::utc(1_551_398_401_000)), Ok(1_551_398_401_000), "as tables print it");
        assert_eq!(since("2019-03-01 00:01"), Ok(1_551_398_460_000));
        let hour_ago = since("1h").unwrap();
        assert!(since("2h").unwrap() < hour_ago);
        assert!(since("yesterday").unwrap_err().contains("7d"));
    }
}
