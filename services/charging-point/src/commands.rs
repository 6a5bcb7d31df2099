//! The commands of an engine and of a monitor: the same for the keys of the terminal and for the control socket (SPEC
//! 1.9, 11.2, 11.3).

use mesh::control::{ControlRefusal, ControlRequest};
use proto::{Energy, enrolment::SecretText};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    args::{Args, kwh},
    engine::{self, drive::EngineHandle},
    monitor::{self, drive::MonitorHandle},
};

pub(crate) const ENGINE_HELP: &str = "\
  status                   show state, session, meter, links and warnings
  plug                     plug the vehicle in
  unplug                   unplug the vehicle; this ends the supply
  supply [DRIVER] [KWH]    start a manual supply, paid by DRIVER, who must confirm it, or by the charging point's own
                           account; it ends at KWH or, without KWH, when unplugged
  break                    simulate a fault; this ends the supply
  repair                   end the fault
  spoil-key                drill: corrupt the keys of link and telemetry (needs --drills)
  repair-key               end the drill";

pub(crate) const MONITOR_HELP: &str = "\
  status                   show enrolment, key, the engine's health, links and warnings
  enrol TOKEN              enrol with an enrolment token, or with the token of a restore or reissue
  remove                   remove this charging point at Registry
  authenticate             authenticate at Central with the credential now
  maintenance on|off       take the charging point out of order for maintenance, or back into service
  disconnect               close the link to Central until the command connect
  connect                  open the link to Central again";

/// Carries out a command of an engine.
pub(crate) async fn engine(engine: EngineHandle, request: ControlRequest) -> Result<Value, ControlRefusal> {
    use engine::Action;
    let args = Args(&request.args);
    let action = match request.command.as_str() {
        "status" => return Ok(shown(engine.status().await)?),
        "help" => return Ok(Value::from(ENGINE_HELP)),
        "plug" => Action::Plug,
        "unplug" => Action::Unplug,
        "supply" => supply(&args).map_err(ControlRefusal::misuse)?,
        "break" => Action::Break,
        "repair" => Action::Repair,
        "spoil-key" => Action::SpoilKey,
        "repair-key" => Action::RepairKey,
        other => return Err(unknown(other, ENGINE_HELP)),
    };
    let done = engine.act(action).await;
    let after = engine.status().await.map(|s| s.headline);
    Ok(answered(&request.command, done, after)?)
}

/// Carries out a command of a monitor.
pub(crate) async fn monitor(monitor: MonitorHandle, request: ControlRequest) -> Result<Value, ControlRefusal> {
    use monitor::Action;
    let args = Args(&request.args);
    let action = match request.command.as_str() {
        "status" => return Ok(shown(monitor.status().await)?),
        "help" => return Ok(Value::from(MONITOR_HELP)),
        "enrol" => {
            let token = args.get("token", 0).ok_or_else(|| ControlRefusal::misuse("which token? enrol TOKEN"))?;
            Action::Enrol(SecretText::new(token))
        }
        "remove" => Action::Remove,
        "authenticate" => Action::Authenticate,
        "maintenance" => match args.get("on", 0).as_deref() {
            Some("on") => Action::Maintenance(true),
            Some("off") => Action::Maintenance(false),
            Some(_) | None => return Err(ControlRefusal::misuse("maintenance on, or maintenance off?")),
        },
        "disconnect" => Action::Disconnect,
        "connect" => Action::Connect,
        other => return Err(unknown(other, MONITOR_HELP)),
    };
    let done = monitor.act(action).await;
    let after = monitor.status().await.map(|s| s.headline);
    Ok(answered(&request.command, done, after)?)
}

fn supply(args: &Args<'_>) -> Result<engine::Action, String> {
    let (driver, energy) = match (args.get("driver", 0), args.get("kwh", 1)) {
        // A single argument that is a number is the energy; the charging point's own account pays.
        (Some(word), None) if kwh(&word).is_ok() => (String::new(), Some(word)),
        (driver, energy) => (driver.filter(|d| d != "-").unwrap_or_default(), energy),
    };
    let energy = energy.map_or(Ok(Energy::ZERO), |text| kwh(&text))?;
    Ok(engine::Action::Supply { driver, energy })
}

fn shown(status: Option<impl Serialize>) -> Result<Value, String> {
    let status = status.ok_or("the process is stopping")?;
    serde_json::to_value(status).map_err(|error| error.to_string())
}

fn answered(command: &str, done: Result<(), String>, after: Option<String>) -> Result<Value, String> {
    done?;
    Ok(json!({ "done": command, "now": after.unwrap_or_default() }))
}

fn unknown(command: &str, help: &str) -> ControlRefusal {
    ControlRefusal::misuse(format!("no command {command:?}; there are:\n{help}"))
}
