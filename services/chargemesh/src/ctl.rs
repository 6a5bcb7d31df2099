//! `chargemesh ctl`: sends a command to a role's control socket (SPEC 1.9), which offers what the role's screen does.

use std::path::PathBuf;

use clap::Args;
use mesh::{
    control::{self, ControlError, ControlRequest},
    process::Misuse,
};
use proto::link::v1::Reason;
use serde_json::{Map, Value};

use crate::{
    failure::CommandRefused,
    output::{Output, escaped, line},
};

/// Send a command to a role's control socket, which offers what the role's screen does
#[derive(Debug, Args)]
#[command(after_help = "\
An argument with '=' is named: its value is a number, true, false, or else a text. Arguments without '=' are taken in
order.

Examples:
  chargemesh ctl data/run/up.sock status
  chargemesh ctl data/run/up.sock add-charging-point
  chargemesh ctl data/run/up.sock kill CP-1/engine
  chargemesh ctl data/run/CP-1-engine.sock plug
  chargemesh ctl data/run/driver-D-1.sock request CP-1 7.5
  kubectl exec cp-0 -c engine -- chargemesh ctl /run/chargemesh/engine.sock spoil-key")]
pub(crate) struct Ctl {
    /// Control socket of the role (its --control-socket)
    #[arg(value_name = "SOCKET", env = "CHARGEMESH_CONTROL_SOCKET")]
    socket: PathBuf,
    /// Command to send; `help` lists the commands of the role
    command: String,
    /// Arguments of the command
    args: Vec<String>,
    /// Maximum wait for the answer
    #[arg(long, env = "CHARGEMESH_CALL_TIMEOUT", value_name = "DURATION", default_value = "30s",
          value_parser = mesh::duration::parse_some)]
    timeout: std::time::Duration,
    #[command(flatten)]
    output: Output,
}

impl Ctl {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let request = ControlRequest::new(self.command, arguments(&self.args));
        let asked = tokio::time::timeout(self.timeout, control::ask(&self.socket, &request)).await;
        let answer = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(ControlError::Refused(text))) => {
                return Err(CommandRefused::new(Reason::Invalid, lines(&text)).into());
            }
            Ok(Err(ControlError::Misuse(text))) => return Err(Misuse::new(lines(&text)).into()),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => anyhow::bail!("{} did not answer within {:?}", self.socket.display(), self.timeout),
        };
        if self.output.json {
            return line(&serde_json::to_string(&answer)?);
        }
        match &answer {
            Value::Null => Ok(()),
            Value::String(text) => line(text),
            Value::Object(map) if map.len() == 1 && map.values().all(Value::is_string) => {
                map.values().filter_map(Value::as_str).try_for_each(line)
            }
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                line(&serde_json::to_string_pretty(&answer)?)
            }
        }
    }
}

/// Text of a role, such as its help, with control characters escaped in each line.
fn lines(text: &str) -> String {
    text.lines().map(escaped).collect::<Vec<_>>().join("\n")
}

/// An object where every argument is named, else a list.
fn arguments(words: &[String]) -> Value {
    let named: Option<Vec<(&str, &str)>> = words.iter().map(|word| word.split_once('=')).collect();
    match named {
        _ if words.is_empty() => Value::Null,
        Some(pairs) => {
            Value::Object(pairs.into_iter().map(|(name, text)| (name.to_owned(), value(text))).collect::<Map<_, _>>())
        }
        None => Value::Array(words.iter().map(|word| value(word)).collect()),
    }
}

/// Numbers and booleans become JSON's; an id that looks like a number still works, since roles read both.
fn value(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => match text.parse::<u64>() {
            Ok(number) if number.to_string() == text => Value::from(number),
            Ok(_) | Err(_) => Value::from(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_keeps_its_lines_and_has_its_control_characters_escaped() {
        assert_eq!(
            lines("no command; there are:\n  plug\n  un\x1bplug"),
            "no command; there are:\n  plug\n  un\\u{1b}plug"
        );
    }

    #[test]
    fn arguments_become_a_list_and_named_ones_an_object() {
        let arguments = |words: &[&str]| arguments(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(arguments(&[]), Value::Null);
        assert_eq!(arguments(&["CP-1", "7.5"]), json!(["CP-1", "7.5"]));
        assert_eq!(arguments(&["wh=700", "driver=ann", "on=true"]), json!({"wh": 700, "driver": "ann", "on": true}));
        assert_eq!(arguments(&["007"]), json!(["007"]), "an id with leading zeros stays a text");
    }
}
