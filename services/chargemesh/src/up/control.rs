//! The commands on the control socket of a running network (SPEC 1.8, 1.9): `chargemesh ctl DATA/run/up.sock COMMAND`.

use std::sync::Weak;

use mesh::control::{ControlRefusal, ControlRequest};
use proto::Price;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{RunningNetwork, fault_proxy::ProxyMode, network::LocalNetwork, plan::NewPoint, process::ProcessCommand};

const HELP: &str = "\
status                                     every process with its process id, state and addresses
add-charging-point [id=] [city=] [place=] [price=]
remove-charging-point ID                   ends its processes and removes its identity
add-driver [id=]
remove-driver ID
kill PROCESS                               SIGKILL; the supervisor starts it again
restart PROCESS                            SIGTERM, and a start when it has ended
pause PROCESS                              SIGSTOP
continue PROCESS                           SIGCONT
fill-disk PROCESS [BYTES]                  its writes fail past so many bytes of each file (default 0)
free-disk PROCESS                          undoes fill-disk
cut PROCESS                                closes its connections, of central all, and refuses new ones (needs --drills)
silence PROCESS                            its connections stay open but carry nothing (needs --drills)
mend PROCESS                               undoes cut and silence
stop                                       ends the whole network in order";

pub(super) async fn answer(
    running: Weak<RunningNetwork>,
    stop: CancellationToken,
    request: ControlRequest,
) -> Result<Value, ControlRefusal> {
    let Some(running) = running.upgrade() else { return Err("the network is ending".to_owned().into()) };
    let args = &request.args;
    let known = parameters(&request.command)
        .ok_or_else(|| ControlRefusal::misuse(format!("no command {:?}; `help` lists them", request.command)))?;
    check(&request.command, args, known).map_err(ControlRefusal::misuse)?;
    let supervisor = &running.network.supervisor;
    let first = |what: &str| {
        text(args, what, 0).ok_or_else(|| ControlRefusal::misuse(format!("which {what}? {} NAME", request.command)))
    };
    let done = match request.command.as_str() {
        "help" => Ok(json!({ "help": HELP })),
        "status" => {
            let a = &running.network.addresses;
            Ok(json!({
                "pid": std::process::id(),
                "central_grpc": a.central_grpc, "central_link": a.central_link,
                "registry_grpc": a.registry_grpc, "registry_https": a.registry_https,
                "processes": super::health::examined(supervisor.status().await).await,
            }))
        }
        "add-charging-point" => {
            let price = text(args, "price", 3).map(|p| p.parse::<Price>());
            let price = price.transpose().map_err(|error| ControlRefusal::misuse(error.to_string()))?;
            let new = NewPoint {
                id: text(args, "id", 0),
                city: text(args, "city", 1),
                place: text(args, "place", 2),
                price_e4: price.map(Price::e4),
            };
            running.add_point(new).await.map(|point| json!(point))
        }
        "add-driver" => running.add_driver(text(args, "id", 0)).await.map(|driver| json!(driver)),
        "remove-charging-point" => running.remove_point(&first("id")?).await.map(|()| Value::Null),
        "remove-driver" => running.remove_driver(&first("id")?).await.map(|()| Value::Null),
        "stop" => {
            stop.cancel();
            Ok(Value::Null)
        }
        what => return command_process(&running.network, &first("process")?, what, args).await.map(|()| Value::Null),
    };
    Ok(done?)
}

/// Commands on one process or its connections.
async fn command_process(
    network: &LocalNetwork,
    process: &str,
    what: &str,
    args: &Value,
) -> Result<(), ControlRefusal> {
    let command = match what {
        "kill" => ProcessCommand::Kill,
        "restart" => ProcessCommand::Restart,
        "pause" => ProcessCommand::Pause,
        "continue" => ProcessCommand::Continue,
        "fill-disk" => {
            let room = text(args, "room", 1).unwrap_or_else(|| "0".to_owned());
            ProcessCommand::FillDisk(
                room.parse().map_err(|_| ControlRefusal::misuse(format!("{room:?} is not a number of bytes")))?,
            )
        }
        "free-disk" => ProcessCommand::FreeDisk,
        "cut" => return Ok(network.fault_proxy.set(process, ProxyMode::Cut)?),
        "silence" => return Ok(network.fault_proxy.set(process, ProxyMode::Silent)?),
        "mend" => return Ok(network.fault_proxy.set(process, ProxyMode::Open)?),
        other => return Err(format!("no command {other:?}").into()),
    };
    Ok(network.supervisor.command(process, command).await?)
}

/// The names of a command's arguments, in the order in which they may be given without names; `None` for an unknown
/// command.
fn parameters(command: &str) -> Option<&'static [&'static str]> {
    match command {
        "help" | "status" | "stop" => Some(&[]),
        "add-charging-point" => Some(&["id", "city", "place", "price"]),
        "add-driver" | "remove-charging-point" | "remove-driver" => Some(&["id"]),
        "kill" | "restart" | "pause" | "continue" | "free-disk" | "cut" | "silence" | "mend" => Some(&["process"]),
        "fill-disk" => Some(&["process", "room"]),
        _ => None,
    }
}

/// Rejects unknown arguments: ignoring a misspelt name would do something else than was asked for.
fn check(command: &str, args: &Value, known: &[&str]) -> Result<(), String> {
    let extra = match args {
        Value::Object(map) => map.keys().find(|name| !known.contains(&name.as_str())).cloned(),
        Value::Array(list) => list.get(known.len()).map(ToString::to_string),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    };
    match extra {
        Some(extra) if known.is_empty() => Err(format!("{command} takes no arguments; remove {extra}")),
        Some(extra) => Err(format!("{command} has no argument {extra}; it takes {}", known.join(", "))),
        None => Ok(()),
    }
}

/// The argument of this name, or at this position of a list.
fn text(args: &Value, name: &str, place: usize) -> Option<String> {
    let value = match args {
        Value::Array(list) => list.get(place),
        Value::Object(map) => map.get(name),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }?;
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_argument_is_an_error_spec_1_9() {
        let check = |command: &str, args: Value| check(command, &args, parameters(command).unwrap());
        let error = check("add-charging-point", json!({ "prise": "0.9", "city": "Elche" })).unwrap_err();
        assert_eq!(error, "add-charging-point has no argument prise; it takes id, city, place, price");
        assert_eq!(check("add-charging-point", json!({ "price": "0.9" })), Ok(()));
        assert_eq!(check("add-charging-point", json!(["CP-7", "Elche"])), Ok(()));
        assert!(check("kill", json!(["central", "registry"])).is_err());
        assert!(check("stop", json!({ "process": "central" })).unwrap_err().contains("takes no arguments"));
    }

    #[test]
    fn help_names_every_command_with_its_arguments_spec_1_9() {
        let named = HELP.lines().filter_map(|line| line.split_whitespace().next());
        let unknown: Vec<_> = named.filter(|command| parameters(command).is_none()).collect();
        assert_eq!(unknown, Vec::<&str>::new());
    }
}
