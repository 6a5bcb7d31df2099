//! A call that changes something (SPEC 7.3): under which request id, and at which network. Both are said before the call
//! is made, so that a person who sees no answer can repeat it, and it is done once.

use clap::Args;
use tonic::{Response, Status};

use super::connection::{AskedRole, OperatorConnection};
use crate::{failure::of_status, output::note};

/// The id of an order.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RequestArgs {
    /// Repeat an order under the id that it had: it gets its first answer, and nothing is done twice
    #[arg(long, value_name = "ID", value_parser = given_id)]
    request_id: Option<String>,
}

/// Central's and Registry's bound for a request id, in bytes.
const LONGEST: usize = 128;

fn given_id(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
        return Err(format!("it is a text of at most {LONGEST} bytes, as an earlier order printed it"));
    }
    Ok(text.to_owned())
}

/// A new id for a request that must not be carried out twice.
pub(crate) fn new_request_id() -> String {
    format!("cli-{:032x}", rand::random::<u128>())
}

/// An order that is about to be given.
#[derive(Debug)]
pub(crate) struct OrderCall {
    pub(crate) request_id: String,
}

impl RequestArgs {
    /// Says on standard error where the order goes and under which id.
    pub(crate) fn announce(self, connection: &OperatorConnection, role: AskedRole) -> anyhow::Result<OrderCall> {
        let request_id = self.request_id.unwrap_or_else(new_request_id);
        note(&format!("to {}, request {request_id}", connection.describe(role)?));
        Ok(OrderCall { request_id })
    }
}

impl OrderCall {
    pub(crate) fn id(&self) -> String {
        self.request_id.clone()
    }

    /// The answer. Where it is not known whether the order was carried out, the error says how to give it again.
    pub(crate) fn answered<T>(&self, answer: Result<Response<T>, Status>) -> anyhow::Result<T> {
        let status = match answer {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        let error = of_status(&status);
        if !crate::failure::may_have_been_done(&error, &status) {
            return Err(error);
        }
        let id = &self.request_id;
        Err(anyhow::anyhow!("{error:#}; it may have been done: repeat with --request-id {id}, and it is done once"))
    }
}

#[cfg(test)]
mod tests {
    use mesh::status::refuse;
    use proto::link::v1::Reason;

    use super::*;

    #[test]
    fn an_order_without_an_answer_says_how_it_is_repeated_spec_7_3() {
        let call = OrderCall { request_id: "cli-7".into() };
        let failed = |status: Status| call.answered::<()>(Err(status)).unwrap_err().to_string();
        for unknown in [
            Status::deadline_exceeded("no answer in time"),
            Status::unavailable("connection lost"),
            Status::cancelled("x"),
            Status::unknown("x"),
            refuse(Reason::Unavailable, ""),
            refuse(Reason::DeadlineExceeded, ""),
        ] {
            let text = failed(unknown);
            assert!(text.contains("repeat with --request-id cli-7"), "{text}");
        }
        for known in [
            refuse(Reason::UnknownChargingPoint, "CP-9"),
            refuse(Reason::Invalid, "amount"),
            Status::unimplemented("no such method"),
            Status::unauthenticated("no certificate"),
        ] {
            let text = failed(known);
            assert!(!text.contains("--request-id"), "{text}");
        }
    }

    #[test]
    fn an_id_that_no_server_would_take_is_refused_at_once() {
        assert_eq!(given_id("cli-7"), Ok("cli-7".to_owned()));
        for bad in ["", "a\nb", &"x".repeat(129)] {
            assert!(given_id(bad).is_err(), "{bad}");
        }
    }
}
