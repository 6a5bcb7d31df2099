//! How a failed command ends: with one message on standard error and an exit code, never with a backtrace.
//!
//! 1: it failed (something cannot be reached, is broken, or cannot be done now). 2: wrong usage or invalid input, which
//! the caller can correct. 3: it was understood and refused, with the reason.

use std::process::ExitCode;

use mesh::{
    process::Misuse,
    status::{reason_of, retry_of},
};
use proto::{Retry, link::v1::Reason};
use tonic::{Code, Status};

use crate::output::{ReaderGone, note};

/// The server understood the command and refused it: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("refused ({}): {text}", reason.code())]
pub(crate) struct CommandRefused {
    reason: Reason,
    text: String,
}

impl CommandRefused {
    pub(crate) fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

/// A gRPC error as a failure, a misuse or a refusal, which have different exit codes.
pub(crate) fn of_status(status: &Status) -> anyhow::Error {
    let text = crate::output::escaped(status.message());
    match (status.code(), reason_of(status)) {
        (Code::InvalidArgument, _) => Misuse::new(text).into(),
        (Code::Unimplemented, _) => {
            anyhow::anyhow!("the server is of another version and does not have this method: {text}")
        }
        (_, Some(reason)) if retry_of(status) != Retry::SameIdLater => CommandRefused::new(reason, text).into(),
        (code, _) => anyhow::anyhow!("{} ({code:?})", if text.is_empty() { "no answer" } else { &text }),
    }
}

/// Whether an order that ended with this error may have been carried out all the same, or may be where it is repeated.
pub(crate) fn may_have_been_done(error: &anyhow::Error, status: &Status) -> bool {
    let is_refusal = error.is::<CommandRefused>() || error.is::<Misuse>();
    !is_refusal && !matches!(status.code(), Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied)
}

/// Prints the error with its causes, and gives the exit code.
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
