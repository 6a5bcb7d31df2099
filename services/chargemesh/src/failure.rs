//! How a failed command ends: one sentence on standard error and an exit code, never a backtrace.
//!
//! 1: it failed (something cannot be reached, or broke). 2: wrong use or bad input, mended by the caller. 3: it was
//! understood and refused, with the reason.

use std::process::ExitCode;

use mesh::process::Misuse;
use proto::link::v1::Reason;
use tonic::{Code, Status};

use crate::output::{ReaderGone, note};

/// Understood and refused.
#[derive(Debug, thiserror::Error)]
#[error("refused ({}): {text}", reason.map_or("NOT_ALLOWED", |r| r.code()))]
pub(crate) struct CommandRefused {
    reason: Option<Reason>,
    text: String,
}

impl CommandRefused {
    pub(crate) fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason: Some(reason), text: text.into() }
    }
}

/// A gRPC answer that is no success, sorted by whose turn it is.
pub(crate) fn of_status(status: &Status) -> anyhow::Error {
    let text = crate::output::escaped(status.message());
    let reason = mesh::status::reason_of(status);
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Internal | Code::Unknown | Code::Cancelled => {
            anyhow::anyhow!("{} ({:?})", if text.is_empty() { "no answer" } else { &text }, status.code())
        }
        Code::InvalidArgument => Misuse::new(text).into(),
        Code::Unimplemented => anyhow::anyhow!("the server is of another version and does not know this: {text}"),
        Code::Ok
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::DataLoss
        | Code::Unauthenticated => CommandRefused { reason, text }.into(),
    }
}

/// Says the whole chain once.
pub(crate) fn exit(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error.is::<ReaderGone>() {
        return ExitCode::SUCCESS;
    }
    note(&format!("chargemesh: {error:#}"));
    if error.chain().any(|cause| cause.is::<CommandRefused>()) {
        return ExitCode::from(3);
    }
    ExitCode::from(mesh::process::exit_code(&error))
}
