//! What a [`Reason`] means to whoever is given it. All of it stands on the reason's value in `reason.proto`; nothing in
//! the code sorts reasons by a list of its own.

use crate::link::v1::Reason;

/// Whether a refused request may be made again, under its request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It was decided: repeated, it gets the same answer.
    Never,
    /// Nothing was decided: repeat it after a pause.
    SameIdLater,
    /// It is refused until a person has done something about it.
    AfterAPersonActs,
}

/// The option `reason_class` of one reason.
struct ReasonClass {
    words: &'static str,
    #[cfg_attr(not(feature = "services"), expect(dead_code, reason = "gRPC comes with `services`"))]
    grpc_code: i32,
    http_status: u16,
    retry: Retry,
    ends_a_supply: bool,
    ends_an_enrolment: bool,
    counts_as_wrong_try: bool,
    ends_by_order_only: bool,
}

include!(concat!(env!("OUT_DIR"), "/reasons.rs"));

impl Reason {
    /// The name without its prefix, as `ErrorInfo.reason`, HTTP refusals and the audit carry it: `DRIVER_BUSY`.
    pub fn code(self) -> &'static str {
        if self == Self::Unspecified { "NONE" } else { self.as_str_name().trim_start_matches("REASON_") }
    }

    /// The reason with this [`Reason::code`], if this build knows it.
    pub fn of_code(code: &str) -> Option<Self> {
        Self::from_str_name(&format!("REASON_{code}"))
    }

    /// The reason with this number, as a message carries it. One that this build does not know is a refusal all the
    /// same, where the accessors of prost would take it for none.
    pub fn received(number: i32) -> Self {
        Self::try_from(number).unwrap_or(Self::Unrecognised)
    }

    /// What a person is told, as the end of a sentence: "refused: …".
    pub fn in_words(self) -> &'static str {
        self.class().words
    }

    /// The code of a gRPC status with this reason.
    #[cfg(feature = "services")]
    pub fn grpc_code(self) -> tonic::Code {
        tonic::Code::from_i32(self.class().grpc_code)
    }

    /// The status of an HTTP response with this reason.
    pub fn http_status(self) -> u16 {
        self.class().http_status
    }

    /// Whether the same request may be made again.
    pub fn retry(self) -> Retry {
        self.class().retry
    }

    /// Whether nothing was decided, so that the same request is to be repeated after a pause.
    pub fn is_undecided(self) -> bool {
        self.retry() == Retry::SameIdLater
    }

    /// Whether a supply can end with it (SPEC 3.5), so that it may stand on a ticket.
    pub fn ends_a_supply(self) -> bool {
        self.class().ends_a_supply
    }

    /// Whether only Central ends a supply so, and no charging point by itself.
    pub fn ends_by_order_only(self) -> bool {
        self.class().ends_by_order_only
    }

    /// Whether whoever is told so has no enrolment any more.
    pub fn ends_an_enrolment(self) -> bool {
        self.class().ends_an_enrolment
    }

    /// Whether a wrong secret was shown, so that it counts against the caller's address.
    pub fn counts_as_wrong_try(self) -> bool {
        self.class().counts_as_wrong_try
    }
}

impl Retry {
    /// By the code of a gRPC status, where it has no reason that this build knows.
    #[cfg(feature = "services")]
    pub fn of_grpc_code(code: tonic::Code) -> Self {
        use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable};
        let undecided = matches!(code, Aborted | Cancelled | DeadlineExceeded | ResourceExhausted | Unavailable);
        if undecided { Self::SameIdLater } else { Self::Never }
    }

    /// By the status of an HTTP response, where it has no reason that this build knows.
    pub fn of_http_status(status: u16) -> Self {
        if matches!(status, 408 | 429 | 502 | 503 | 504) { Self::SameIdLater } else { Self::Never }
    }
}

/// A field with the number of a reason, in JSON as its [`Reason::code`].
pub(crate) mod code_text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::link::v1::Reason;

    pub(crate) fn serialize<S: Serializer>(reason: &i32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Reason::received(*reason).code())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
        let code = String::deserialize(deserializer)?;
        let none = Reason::Unspecified;
        Ok(if code == none.code() { none } else { Reason::of_code(&code).unwrap_or(Reason::Unrecognised) }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Reason> {
        (0..200).filter_map(|number| Reason::try_from(number).ok())
    }

    #[test]
    fn a_reason_has_a_code_without_its_prefix() {
        assert_eq!(Reason::DriverBusy.code(), "DRIVER_BUSY");
        assert_eq!(Reason::Unspecified.code(), "NONE");
        assert!(all().skip(1).all(|reason| Reason::of_code(reason.code()) == Some(reason)));
        assert_eq!(Reason::of_code("NEWER_THAN_THIS"), None);
    }

    #[test]
    fn a_reason_that_this_build_does_not_know_is_a_refusal_that_ends_the_request() {
        assert_eq!(Reason::received(9_999), Reason::Unrecognised);
        assert_eq!(Reason::Unrecognised.retry(), Retry::Never);
        assert_eq!(Reason::received(Reason::Unspecified.into()), Reason::Unspecified);
    }

    #[test]
    fn who_does_not_know_a_reason_repeats_by_its_http_status_as_who_does() {
        for reason in all() {
            let by_status = Retry::of_http_status(reason.http_status());
            assert_eq!(by_status == Retry::SameIdLater, reason.is_undecided(), "{reason:?}");
        }
    }

    #[cfg(feature = "services")]
    #[test]
    fn who_does_not_know_a_reason_repeats_by_its_grpc_code_as_who_does() {
        for reason in all() {
            let by_code = Retry::of_grpc_code(reason.grpc_code());
            assert_eq!(by_code == Retry::SameIdLater, reason.is_undecided(), "{reason:?}");
        }
    }
}
