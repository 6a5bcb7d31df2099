//! [`Reason`] in words, for people and for `google.rpc.ErrorInfo`.

use crate::link::v1::Reason;

impl Reason {
    /// The name without its prefix, as `ErrorInfo.reason` and the audit carry it: `DRIVER_BUSY`.
    pub fn code(self) -> &'static str {
        if self == Self::Unspecified { "NONE" } else { self.as_str_name().trim_start_matches("REASON_") }
    }

    /// What a person is told, as the end of a sentence: "refused: …".
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Unspecified => "done",
            Self::UnknownChargingPoint => "there is no such charging point",
            Self::UnknownDriver => "there is no such driver",
            Self::Disconnected => "the charging point is disconnected",
            Self::Broken => "the charging point is broken",
            Self::OutOfOrder => "the charging point is out of order",
            Self::Occupied => "the charging point is supplying somebody else",
            Self::Reserved => "the charging point is reserved",
            Self::DriverBusy => "the driver has a supply already",
            Self::RefusedByChargingPoint => "the charging point itself refused",
            Self::NotConfirmed => "the driver did not confirm",
            Self::Unavailable => "it cannot be made durable now; try again",
            Self::Overloaded => "Central is overloaded; try again later",
            Self::Invalid => "the request is not valid",
            Self::NotFound => "there is no such thing",
            Self::NoAnswer => "the charging point did not answer in time",
            Self::Fenced => "another Central owns the charging point now",
            Self::Unplugged => "unplugged at the charging point",
            Self::StoppedByDriver => "stopped by the driver",
            Self::EnergyReached => "the requested energy was reached",
            Self::StoppedByOperator => "stopped by an operator",
            Self::Fault => "a fault of the charging point",
            Self::Frost => "frost",
            Self::KeyRenewed => "the charging point's key was renewed",
            Self::KeyRevoked => "the charging point's key was revoked",
            Self::ReservationExpired => "the reservation expired",
            Self::SettledWithoutReport => "the charging point never reported the end; settled at the last known value",
            Self::TimeReached => "the charging time is over",
            Self::Removed => "the identity was removed",
            Self::NotEnrolled => "not enrolled",
            Self::WrongCredential => "the credential is wrong",
            Self::CredentialVoid => "the credential is void",
            Self::NoKey => "there is no valid key",
            Self::TooManyAttempts => "too many attempts; wait",
            Self::AlreadyEnrolled => "already enrolled; show the old credential or a one-use token for this id",
            Self::TokenInvalid => "the enrolment token is not valid for this",
            Self::TokenExpired => "the enrolment token has expired",
            Self::TokenSpent => "the enrolment token has no uses left",
            Self::NotReadmitted => "the id was removed; an operator must readmit it",
            Self::Quarantined => "quarantined after repeated takeovers, until an operator releases it",
            Self::RegistryUnreachable => "Registry cannot be reached; try again",
            Self::NotAllowed => "the caller may not do this",
            Self::ExpectationFailed => "the order would reach another number of charging points than expected",
            Self::RequestIdMissing => "the request needs a request_id",
        }
    }

    /// Whether a supply can end with it (SPEC 3.5), so that it may stand on a ticket.
    pub fn ends_a_supply(self) -> bool {
        matches!(
            self,
            Self::Unplugged
                | Self::StoppedByDriver
                | Self::EnergyReached
                | Self::StoppedByOperator
                | Self::Fault
                | Self::Frost
                | Self::KeyRenewed
                | Self::KeyRevoked
                | Self::SettledWithoutReport
                | Self::TimeReached
                | Self::Removed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_a_code_without_its_prefix() {
        assert_eq!(Reason::DriverBusy.code(), "DRIVER_BUSY");
        assert_eq!(Reason::Unspecified.code(), "NONE");
    }
}
