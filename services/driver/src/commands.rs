//! What a person types at the driver's screen, and what `chargemesh ctl` sends: one vocabulary.

use serde_json::Value;

use crate::{request::DriverOrder, request_file::parse_kwh};

use proto::{ChargingPointId, Energy, enrolment::SecretText};

/// A typed or sent command.
#[derive(Clone, Debug)]
pub(crate) enum DriverCommand {
    /// `request CP-ID [kWh]`; the request's id is drawn by the rim.
    Request {
        charging_point: ChargingPointId,
        energy: Energy,
    },
    Order(DriverOrder),
    /// Work off this file from its first line.
    Load(String),
    /// Try again with the credential, after Central refused it.
    Authenticate,
    /// Enrol anew with this token, after a removal or a reissue.
    Enrol(SecretText),
    /// Tickets on disk.
    Tickets,
    Status,
    Help,
    Quit,
}

pub(crate) const HELP: &str = "\
\x20 list                       the charging points that are available now
  request CP-ID [kWh]        ask for a supply; without kWh until unplugged
  stop [SESSION]             end my supply
  confirm [SESSION]          pay for a manual supply that names me
  refuse [SESSION]           do not
  load FILE                  work off a file: one CP-ID[,kWh] a line
  history [N]                my last tickets and totals, from Central
  tickets                    the tickets stored here, to print
  authenticate               try again after Central refused my credential
  enrol TOKEN                enrol anew, after a removal or with a reissued token
  status                     link, requests, supplies, file
  quit";

/// A typed line; nothing for an empty one.
pub(crate) fn parse(line: &str) -> Option<Result<DriverCommand, String>> {
    let mut words = line.split_whitespace();
    let command = words.next()?;
    let args: Vec<&str> = words.collect();
    Some(word(command, &args))
}

/// A command of the control socket: its arguments are a list of texts, or an object with the names used here.
pub(crate) fn from_control(command: &str, args: &Value) -> Result<DriverCommand, String> {
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

fn word(command: &str, args: &[&str]) -> Result<DriverCommand, String> {
    let session = || args.first().map(|s| (*s).to_owned());
    let at_most = |n: usize| match args.get(n) {
        Some(extra) => Err(format!("{extra:?} is too much after {command:?}; type help")),
        None => Ok(()),
    };
    match command {
        "list" | "charging-points" => at_most(0).map(|()| DriverCommand::Order(DriverOrder::ListChargingPoints)),
        "request" => {
            at_most(2)?;
            let id = args.first().ok_or("request which charging point? request CP-ID [kWh]")?;
            let energy = args.get(1).map_or(Ok(Energy::ZERO), |kwh| parse_kwh(kwh))?;
            Ok(DriverCommand::Request { charging_point: id.parse().map_err(|e| format!("{e}"))?, energy })
        }
        "stop" => at_most(1).map(|()| DriverCommand::Order(DriverOrder::Stop(session()))),
        "confirm" => at_most(1).map(|()| DriverCommand::Order(DriverOrder::Confirm(session(), true))),
        "refuse" => at_most(1).map(|()| DriverCommand::Order(DriverOrder::Confirm(session(), false))),
        "load" => at_most(1)
            .and_then(|()| session().ok_or_else(|| "load which file? load FILE".to_owned()))
            .map(DriverCommand::Load),
        "history" => {
            at_most(1)?;
            let limit = args.first().map_or(Ok(20), |n| n.parse().map_err(|_| format!("{n:?} is not a number")))?;
            Ok(DriverCommand::Order(DriverOrder::ListHistory(limit)))
        }
        "enrol" => at_most(1)
            .and_then(|()| session().ok_or_else(|| "enrol with which token? enrol TOKEN".to_owned()))
            .map(|token| DriverCommand::Enrol(SecretText::new(token))),
        "authenticate" => at_most(0).map(|()| DriverCommand::Authenticate),
        "tickets" => at_most(0).map(|()| DriverCommand::Tickets),
        "status" => at_most(0).map(|()| DriverCommand::Status),
        "help" | "?" => Ok(DriverCommand::Help),
        "quit" | "exit" => Ok(DriverCommand::Quit),
        other => Err(format!("{other:?} is not a command; type help")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Words hold secrets and are not compared; what they mean shows in their text, secrets apart.
    fn shown(word: Result<DriverCommand, String>) -> String {
        format!("{word:?}")
    }

    #[test]
    fn what_is_typed_and_what_ctl_sends_mean_the_same_spec_1_9() {
        let request = shown(Ok(DriverCommand::Request {
            charging_point: "CP-1".parse().unwrap(),
            energy: Energy::from_wh(7500),
        }));
        assert_eq!(shown(parse(" request CP-1 7.5 ").unwrap()), request);
        assert_eq!(shown(from_control("request", &json!(["CP-1", "7.5"]))), request);
        assert_eq!(shown(from_control("request", &json!({"charging_point": "CP-1", "kwh": 7.5}))), request);
        assert_eq!(shown(from_control("stop", &Value::Null)), shown(Ok(DriverCommand::Order(DriverOrder::Stop(None)))));
        assert!(parse("  ").is_none());
        assert!(!shown(parse("enrol cmt1.secret").unwrap()).contains("secret"));
    }

    #[test]
    fn a_mistake_is_answered_with_what_to_do() {
        for (line, says) in [
            ("request", "request CP-ID"),
            ("request ../x", "is not an id"),
            ("request CP-1 much", "is not an energy"),
            ("stop a b", "too much"),
            ("fly", "type help"),
            ("history x", "not a number"),
        ] {
            let error = parse(line).unwrap().unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}
