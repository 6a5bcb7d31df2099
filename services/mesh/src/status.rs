//! A [`Reason`] as a gRPC status and back (SPEC 13: an error carries a code and a reason, never prose alone).

use std::{collections::HashMap, fmt::Display, time::Duration};

use proto::{Retry, link::v1::Reason};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

/// Of every `google.rpc.ErrorInfo` of ours.
pub const DOMAIN: &str = "chargemesh";

/// A refusal: the reason in words, then `detail` (which value, what to do), with the reason as `ErrorInfo`.
pub fn refuse(reason: Reason, detail: impl Display) -> Status {
    let detail = detail.to_string();
    let text =
        if detail.is_empty() { reason.in_words().to_owned() } else { format!("{}: {detail}", reason.in_words()) };
    with_reason(reason, text)
}

/// As [`refuse`], with all of its text given.
pub(crate) fn with_reason(reason: Reason, text: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason.code(), DOMAIN, HashMap::new());
    Status::with_error_details(reason.grpc_code(), text, details)
}

/// The reason that a status of ours carries.
pub fn reason_of(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    Some(Reason::of_code(&info.reason).unwrap_or(Reason::Unrecognised))
}

/// `status`, with the time after which the call can succeed, as `RetryInfo`.
pub fn retry_after(status: &Status, wait: Duration) -> Status {
    let mut details = status.get_error_details();
    details.set_retry_info(Some(wait));
    Status::with_error_details(status.code(), status.message(), details)
}

/// The time that [`retry_after`] put in.
pub fn wait_of(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

/// Whether the call may be made again: by its reason, or where this build does not know that, by its code.
pub fn retry_of(status: &Status) -> Retry {
    let known = reason_of(status).filter(|reason| *reason != Reason::Unrecognised);
    known.map_or_else(|| Retry::of_grpc_code(status.code()), Reason::retry)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_refusal_carries_its_code_its_reason_and_words_spec_13() {
        let status = refuse(Reason::DriverBusy, "D-1 is at CP-7");
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(reason_of(&status), Some(Reason::DriverBusy));
        assert_eq!(status.message(), "the driver has a supply already: D-1 is at CP-7");
        assert_eq!(reason_of(&Status::internal("x")), None);
    }

    #[test]
    fn a_refusal_says_when_to_come_again_and_keeps_its_reason_spec_8_2() {
        let status = retry_after(&refuse(Reason::TooManyAttempts, ""), Duration::from_millis(12_500));
        assert_eq!(
            (wait_of(&status), reason_of(&status)),
            (Some(Duration::from_millis(12_500)), Some(Reason::TooManyAttempts))
        );
        assert_eq!(wait_of(&refuse(Reason::TooManyAttempts, "")), None);
    }

    #[test]
    fn every_reason_survives_the_status() {
        for reason in (0..200).filter_map(|n| Reason::try_from(n).ok()).filter(|r| *r != Reason::Unspecified) {
            assert_eq!(reason_of(&refuse(reason, "")), Some(reason));
        }
    }
    #[test]
    fn a_call_is_repeated_by_its_reason_or_where_that_is_not_known_by_its_code() {
        assert_eq!(retry_of(&refuse(Reason::NotReadmitted, "")), Retry::AfterAPersonActs);
        let newer = |code| {
            let details = ErrorDetails::with_error_info("NEWER_THAN_THIS", DOMAIN, HashMap::new());
            Status::with_error_details(code, "", details)
        };
        assert_eq!(retry_of(&newer(Code::Unavailable)), Retry::SameIdLater);
        assert_eq!(retry_of(&newer(Code::Internal)), Retry::Never);
        assert_eq!(retry_of(&Status::unavailable("no connection")), Retry::SameIdLater);
    }
}
