//! Why a request was refused.

use proto::link::v1::Reason;

/// A reason for programs and a sentence for a person. The sentence never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Error {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
}

pub(crate) fn refuse(reason: Reason, detail: impl Into<String>) -> Error {
    Error { reason, detail: detail.into() }
}
