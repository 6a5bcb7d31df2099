//! Why a request was refused.

use std::time::Duration;

use proto::link::v1::Reason;

/// A reason for programs and a sentence for a person. The sentence never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Error {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    /// How long the caller must wait before the same can succeed, where that is known.
    pub(crate) retry_after: Option<Duration>,
}

impl Error {
    pub(crate) fn until(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }
}

pub(crate) fn refuse(reason: Reason, detail: impl Into<String>) -> Error {
    Error { reason, detail: detail.into(), retry_after: None }
}
