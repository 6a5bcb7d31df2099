//! What is wrong with the fields of a request: all of it is found before anything is done, and each field is named
//! (SPEC 7.3, 13). The answer is INVALID_ARGUMENT with a `google.rpc.BadRequest`.

use std::{collections::HashMap, fmt::Display, str::FromStr};

use proto::{Timestamp, link::v1::Reason, millis};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::status::DOMAIN;

/// Violations that an answer lists: it travels in a header.
const LISTED: usize = 20;
/// The first second after the year 9999, which no timestamp reaches.
const END_OF_TIME_S: i64 = 253_402_300_800;
/// The first second of the year 1.
const BEGIN_OF_TIME_S: i64 = -62_135_596_800;

/// Collects what is wrong with a request. What a check answers counts only after [`FieldChecks::finish`].
#[derive(Debug, Default)]
pub struct FieldChecks {
    violations: Vec<(String, String)>,
}

impl FieldChecks {
    /// Says what is wrong with a field, named as in the contract.
    pub fn wrong(&mut self, field: impl Into<String>, why: impl Display) {
        self.violations.push((field.into(), why.to_string()));
    }

    /// A field that would change something and so must be there.
    pub fn required<T: Default>(&mut self, field: &str, value: Option<T>) -> T {
        value.unwrap_or_else(|| {
            self.wrong(field, "it is missing, and nothing is taken for granted");
            T::default()
        })
    }

    /// A text that must not be empty.
    pub fn not_empty(&mut self, field: &str, text: &str) {
        if text.trim().is_empty() {
            self.wrong(field, "it is missing");
        }
    }

    /// A text that means something; nothing where it does not.
    pub fn parsed<T: FromStr<Err: Display>>(&mut self, field: &str, text: &str) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(_) if text.is_empty() => {
                self.wrong(field, "it is missing");
                None
            }
            Err(error) => {
                self.wrong(field, error);
                None
            }
        }
    }

    /// A value of an enumeration of the contract, which knows this number.
    pub fn known<E: TryFrom<i32> + Default>(&mut self, field: &str, number: i32) -> E {
        E::try_from(number).unwrap_or_else(|_| {
            self.wrong(field, format!("{number} is none of its values"));
            E::default()
        })
    }

    /// A known value other than the unspecified one.
    pub fn specified<E: TryFrom<i32> + Default>(&mut self, field: &str, number: i32) -> E {
        if number == 0 {
            self.wrong(field, "it is missing, and nothing is taken for granted");
        }
        self.known(field, number)
    }

    /// From when and until when, in milliseconds since 1970; 0: no bound. `fields` are their names.
    pub fn span(&mut self, fields: [&str; 2], times: [Option<&Timestamp>; 2]) -> (i64, i64) {
        for (field, time) in fields.into_iter().zip(times) {
            let is_time = |time: &Timestamp| {
                (BEGIN_OF_TIME_S..END_OF_TIME_S).contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos)
            };
            if time.is_some_and(|time| !is_time(time)) {
                self.wrong(field, "it is no time from the year 1 to the year 9999");
            }
        }
        let [from, until] = times.map(millis);
        if times.iter().all(Option::is_some) && until < from {
            self.wrong(fields[1], format!("it is before {}", fields[0]));
        }
        (from, until)
    }

    /// # Errors
    /// Where anything is wrong, with each field.
    pub fn finish(self) -> Result<(), Status> {
        if self.violations.is_empty() { Ok(()) } else { Err(self.into_status()) }
    }

    fn into_status(mut self) -> Status {
        let more = self.violations.len().saturating_sub(LISTED);
        self.violations.truncate(LISTED);
        let fields: Vec<_> = self.violations.iter().map(|(field, _)| field.as_str()).collect();
        let metadata = HashMap::from([("fields".to_owned(), fields.join(","))]);
        let words: Vec<_> = self.violations.iter().map(|(field, why)| format!("{field}: {why}")).collect();
        let mut text = format!("{}: {}", Reason::Invalid.in_words(), words.join("; "));
        if more > 0 {
            text += &format!("; and {more} more");
        }
        let mut details = ErrorDetails::with_error_info(Reason::Invalid.code(), DOMAIN, metadata);
        for (field, why) in self.violations {
            details.add_bad_request_violation(field, why);
        }
        Status::with_error_details(Code::InvalidArgument, text, details)
    }
}

/// One field is wrong.
pub fn wrong_field(field: &str, why: impl Display) -> Status {
    let mut checks = FieldChecks::default();
    checks.wrong(field, why);
    checks.into_status()
}

/// The same refusal, with what it is about as metadata of its `google.rpc.ErrorInfo`.
pub fn with_metadata<const N: usize>(status: &Status, metadata: [(&str, String); N]) -> Status {
    let mut details = status.get_error_details();
    if let Some(info) = details.error_info() {
        let mut all = info.metadata.clone();
        all.extend(metadata.map(|(name, value)| (name.to_owned(), value)));
        let (reason, domain) = (info.reason.clone(), info.domain.clone());
        details.set_error_info(reason, domain, all);
    }
    Status::with_error_details(status.code(), status.message(), details)
}

#[cfg(test)]
mod tests {
    use proto::{central::v1::ChargingPointState, timestamp};

    use super::*;
    use crate::status::{reason_of, refuse};

    fn violations(status: &Status) -> Vec<String> {
        let request = status.get_details_bad_request().into_iter();
        request.flat_map(|request| request.field_violations).map(|violation| violation.field).collect()
    }

    #[test]
    fn every_field_that_is_wrong_is_named_spec_7_3() {
        let mut checks = FieldChecks::default();
        checks.required::<u32>("price_e4", None);
        checks.not_empty("session_id", " ");
        checks.known::<ChargingPointState>("state", 99);
        checks.specified::<ChargingPointState>("kind", 0);
        checks.parsed::<proto::ChargingPointId>("id", "no id");
        let status = checks.finish().unwrap_err();
        assert_eq!((status.code(), reason_of(&status)), (Code::InvalidArgument, Some(Reason::Invalid)));
        let all = ["price_e4", "session_id", "state", "kind", "id"];
        assert_eq!(violations(&status), all);
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata["fields"], all.join(","));
        assert!(status.message().contains("state: 99 is none of its values"), "{}", status.message());
    }

    #[test]
    fn what_is_right_passes() {
        let mut checks = FieldChecks::default();
        assert!(!checks.required("on", Some(false)));
        assert_eq!(checks.known::<ChargingPointState>("state", 6), ChargingPointState::Available);
        assert_eq!(checks.parsed::<u32>("n", "7"), Some(7));
        assert!(checks.finish().is_ok());
    }

    #[test]
    fn a_turned_span_and_what_is_no_time_are_wrong_spec_7_3() {
        let spanned = |from: Option<Timestamp>, until: Option<Timestamp>| {
            let mut checks = FieldChecks::default();
            let span = checks.span(["from_time", "until_time"], [from.as_ref(), until.as_ref()]);
            checks.finish().map(|()| span).map_err(|status| violations(&status))
        };
        assert_eq!(spanned(timestamp(5), timestamp(5)), Ok((5, 5)));
        assert_eq!(spanned(timestamp(6), None), Ok((6, 0)));
        assert_eq!(spanned(timestamp(6), timestamp(5)), Err(vec!["until_time".to_owned()]));
        for (seconds, nanos) in [(END_OF_TIME_S, 0), (BEGIN_OF_TIME_S - 1, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(spanned(Some(Timestamp { seconds, nanos }), None), Err(vec!["from_time".to_owned()]));
        }
    }

    #[test]
    fn an_answer_lists_so_many_violations_that_it_still_travels() {
        let mut checks = FieldChecks::default();
        (0..10_000).for_each(|n| checks.wrong(format!("selector.ids.ids[{n}]"), "it is no id"));
        let status = checks.finish().unwrap_err();
        assert_eq!(violations(&status).len(), LISTED);
        assert!(status.message().ends_with("and 9980 more"), "{}", status.message());
    }

    #[test]
    fn a_refusal_says_what_it_is_about() {
        let status = refuse(Reason::ExpectationFailed, "51");
        let status = with_metadata(&status, [("matched", "51".to_owned())]);
        assert_eq!(reason_of(&status), Some(Reason::ExpectationFailed));
        assert_eq!(status.get_details_error_info().unwrap().metadata["matched"], "51");
    }
}
