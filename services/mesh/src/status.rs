//! The one table from [`Reason`] to gRPC code (SPEC 13: an error carries a code and a reason, never prose alone).

use std::{collections::HashMap, fmt::Display};

use proto::link::v1::Reason;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Of every `google.rpc.ErrorInfo` of ours.
pub const DOMAIN: &str = "chargemesh";

/// A refusal: the reason in words, then `detail` (which value, what to do), with the reason as `ErrorInfo`.
pub fn refuse(reason: Reason, detail: impl Display) -> Status {
    let detail = detail.to_string();
    let text =
        if detail.is_empty() { reason.in_words().to_owned() } else { format!("{}: {detail}", reason.in_words()) };
    with_reason(code_of(reason), reason, text)
}

/// As [`refuse`], where the code does not follow from the reason.
pub(crate) fn with_reason(code: Code, reason: Reason, text: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason.code(), DOMAIN, HashMap::new());
    Status::with_error_details(code, text, details)
}

/// The reason that a status of ours carries.
pub fn reason_of(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    Reason::from_str_name(&format!("REASON_{}", info.reason))
}

/// The gRPC code under which a refusal with this reason travels.
pub fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::Unspecified => Code::Unknown,
        Reason::UnknownChargingPoint | Reason::UnknownDriver | Reason::NotFound | Reason::NotEnrolled => Code::NotFound,
        Reason::Invalid | Reason::RequestIdMissing => Code::InvalidArgument,
        Reason::AlreadyEnrolled => Code::AlreadyExists,
        Reason::WrongCredential | Reason::CredentialVoid | Reason::NoKey => Code::Unauthenticated,
        Reason::NotAllowed
        | Reason::TokenInvalid
        | Reason::TokenExpired
        | Reason::TokenSpent
        | Reason::NotReadmitted
        | Reason::Removed => Code::PermissionDenied,
        Reason::Overloaded | Reason::TooManyAttempts => Code::ResourceExhausted,
        Reason::Unavailable | Reason::RegistryUnreachable => Code::Unavailable,
        Reason::NoAnswer => Code::DeadlineExceeded,
        Reason::Fenced => Code::Aborted,
        // The thing is there and the caller may ask, but its state forbids it now.
        Reason::Disconnected
        | Reason::Broken
        | Reason::OutOfOrder
        | Reason::Occupied
        | Reason::Reserved
        | Reason::DriverBusy
        | Reason::RefusedByChargingPoint
        | Reason::NotConfirmed
        | Reason::Quarantined
        | Reason::ExpectationFailed
        | Reason::Unplugged
        | Reason::StoppedByDriver
        | Reason::EnergyReached
        | Reason::StoppedByOperator
        | Reason::Fault
        | Reason::Frost
        | Reason::KeyRenewed
        | Reason::KeyRevoked
        | Reason::ReservationExpired
        | Reason::SettledWithoutReport
        | Reason::TimeReached => Code::FailedPrecondition,
    }
}

#[cfg(test)]
mod tests {
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
    fn every_reason_survives_the_status() {
        for reason in (0..200).filter_map(|n| Reason::try_from(n).ok()).filter(|r| *r != Reason::Unspecified) {
            assert_eq!(reason_of(&refuse(reason, "")), Some(reason));
        }
    }
}
