//! The commands of a driver: the same at its screen and through `chargemesh ctl`.

use serde_json::Value;

use crate::{request::DriverOrder, request_file::parse_kwh};

use proto::{ChargingPointId, Energy, enrolment::SecretText};

/// A typed or sent command.
#[derive(Clone, Debug)]
pub(crate) enum UserCommand {
    /// `request CP-ID [kWh]`; the event loop draws the request's id.
    Request {
        charging_point: ChargingPointId,
        energy: Energy,
    },
    Order(DriverOrder),
    /// Work through this file from its first line.
    Load(String),
    /// Authenticate with the credential again, after Central refused it.
    Authenticate,
    /// Enrol again with this token, after a removal or a reissue.
    Enrol(SecretText),
    /// Show the tickets on disk.
    Tickets,
    Status,
    Help,
    Quit,
}

pub(crate) const HELP: &str = "\
\x20 list                       list the charging points that are available now
  request CP-ID [kWh]        ask for a supply; without kWh it lasts until unplugged
  stop [SESSION]             end a supply
  confirm [SESSION]          agree to pay for a manual supply
  refuse [SESSION]           refuse to pay for a manual supply
  load FILE                  work through a file of requests: one CP-ID[,kWh] per line
  history [N]                show the last N tickets (20) and the totals, from Central
  tickets                    print the tickets stored here
  authenticate               authenticate again after Central refused the credential
  enrol TOKEN                enrol again, after a removal or with a reissued token
  status                     show link, requests, supplies and file
  quit                       end the driver";

/// Parses a typed line; nothing for an empty one.
pub(crate) fn parse(line: &str) -> Option<Result<UserCommand, String>> {
    let mut words = line.split_whitespace();
    let command = words.next()?;
    let args: Vec<&str> = words.collect();
    Some(word(command, &args))
}

/// Parses a command of the control socket, whose arguments are a list, or an object with the names below.
pub(crate) fn from_control(command: &str, args: &Value) -> Result<UserCommand, String> {
    let named = |name: &str| args.get(name).and_then(text_of);
    let args: Vec<String> = match args {
        Value::Array(list) => list.iter().filter_map(text_of).collect(),
        Value::Object(_) => {
            ["charging_point", "kwh", "session", "file", "limit", "token"].into_iter().filter_map(named).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => text_of(args).into_iter().collect(),
    };
    word(command, &args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn word(command: &str, args: &[&str]) -> Result<UserCommand, String> {
    let session = || args.first().map(|s| (*s).to_owned());
    let at_most = |n: usize| match args.get(n) {
        Some(extra) => Err(format!("{command:?} takes no argument {extra:?}; type help")),
        None => Ok(()),
    };
    match command {
        "list" | "charging-points" => at_most(0).map(|()| UserCommand::Order(DriverOrder::ListChargingPoints)),
        "request" => {
            at_most(2)?;
            let id = args.first().ok_or("request which charging point? request CP-ID [kWh]")?;
            let energy = args.get(1).map_or(Ok(Energy::ZERO), |kwh| parse_kwh(kwh))?;
            Ok(UserCommand::Request { charging_point: id.parse().map_err(|e| format!("{e}"))?, energy })
        }
        "stop" => at_most(1).map(|()| UserCommand::Order(DriverOrder::Stop(session()))),
        "confirm" => at_most(1).map(|()| UserCommand::Order(DriverOrder::Confirm(session(), true))),
        "refuse" => at_most(1).map(|()| UserCommand::Order(DriverOrder::Confirm(session(), false))),
        "load" => at_most(1)
            .and_then(|()| session().ok_or_else(|| "load which file? load FILE".to_owned()))
            .map(UserCommand::Load),
        "history" => {
            at_most(1)?;
            let limit = args.first().map_or(Ok(20), |n| n.parse().map_err(|_| format!("{n:?} is not a number")))?;
            Ok(UserCommand::Order(DriverOrder::ListHistory(limit)))
        }
        "enrol" => at_most(1)
            .and_then(|()| session().ok_or_else(|| "enrol with which token? enrol TOKEN".to_owned()))
            .map(|token| UserCommand::Enrol(SecretText::new(token))),
        "authenticate" => at_most(0).map(|()| UserCommand::Authenticate),
        "tickets" => at_most(0).map(|()| UserCommand::Tickets),
        "status" => at_most(0).map(|()| UserCommand::Status),
        "help" | "?" => Ok(UserCommand::Help),
        "quit" | "exit" => Ok(UserCommand::Quit),
        other => Err(format!("{other:?} is not a command; type help")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Commands hold secrets and cannot be compared; their debug text shows all but the secrets.
    fn shown(word: Result<UserCommand, String>) -> String {
        format!("{word:?}")
    }

    #[test]
    fn what_is_typed_and_what_ctl_sends_mean_the_same_spec_1_9() {
        let request =
            shown(Ok(UserCommand::Request { charging_point: "CP-1".parse().unwrap(), energy: Energy::from_wh(7500) }));
        assert_eq!(shown(parse(" request CP-1 7.5 ").unwrap()), request);
        assert_eq!(shown(from_control("request", &json!(["CP-1", "7.5"]))), request);
        assert_eq!(shown(from_control("request", &json!({"charging_point": "CP-1", "kwh": 7.5}))), request);
        assert_eq!(shown(from_control("stop", &Value::Null)), shown(Ok(UserCommand::Order(DriverOrder::Stop(None)))));
        assert!(parse("  ").is_none());
        assert!(!shown(parse("enrol cmt1.secret").unwrap()).contains("secret"));
    }

    #[test]
    fn a_mistake_is_answered_with_what_to_do() {
        for (line, says) in [
            ("request", "request CP-ID"),
            ("request ../x", "is not an id"),
            ("request CP-1 much", "is not an energy"),
            ("stop a b", "takes no argument"),
            ("fly", "type help"),
            ("history x", "not a number"),
        ] {
            let error = parse(line).unwrap().unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}
