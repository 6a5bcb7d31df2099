//! What a person can order at an engine or a monitor: one vocabulary for the terminal's keys and the control socket
//! (SPEC 1.9, 11.2, 11.3).

use mesh::control::{ControlRefusal, ControlRequest};
use proto::{Energy, enrolment::SecretText};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    args::{Args, kwh},
    engine::{EngineAction, event_loop::EngineHandle},
    monitor::{MonitorAction, event_loop::MonitorHandle},
};

pub(crate) const ENGINE_HELP: &str = "\
  status                   state, session, meter, links, warnings
  plug                     plug the vehicle in
  unplug                   pull it out; ends the supply
  supply [DRIVER] [KWH]    manual supply: on the charging point's own account, or a driver's, who must confirm;
                           a single number is the energy; without it until unplugged
  break                    a fault; ends the supply
  repair                   end of the fault
  spoil-key                drill: spoil the keys of link and telemetry (needs --drills)
  repair-key               end of the drill";

pub(crate) const MONITOR_HELP: &str = "\
  status                   enrolment, key, engine's health, links, warnings
  enrol TOKEN              enrol with an enrolment token, or one of a restore or reissue
  remove                   remove this charging point at Registry
  authenticate             show the credential to Central now
  maintenance on|off       out of order for maintenance, and back
  disconnect               close the link to Central until told to connect
  connect                  open it again";

/// Carries out a command of an engine.
pub(crate) async fn engine(engine: EngineHandle, request: ControlRequest) -> Result<Value, ControlRefusal> {
    let args = Args(&request.args);
    let action = match request.command.as_str() {
        "status" => return Ok(shown(engine.status().await)?),
        "help" => return Ok(Value::from(ENGINE_HELP)),
        "plug" => EngineAction::Plug,
        "unplug" => EngineAction::Unplug,
        "supply" => supply(&args).map_err(ControlRefusal::misuse)?,
        "break" => EngineAction::Break,
        "repair" => EngineAction::Repair,
        "spoil-key" => EngineAction::SpoilKey,
        "repair-key" => EngineAction::RepairKey,
        other => return Err(unknown(other, ENGINE_HELP)),
    };
    let done = engine.act(action).await;
    let after = engine.status().await.map(|s| s.headline);
    Ok(answered(&request.command, done, after)?)
}

/// Carries out a command of a monitor.
pub(crate) async fn monitor(monitor: MonitorHandle, request: ControlRequest) -> Result<Value, ControlRefusal> {
    let args = Args(&request.args);
    let action = match request.command.as_str() {
        "status" => return Ok(shown(monitor.status().await)?),
        "help" => return Ok(Value::from(MONITOR_HELP)),
        "enrol" => {
            let token = args.get("token", 0).ok_or_else(|| ControlRefusal::misuse("which token? enrol TOKEN"))?;
            MonitorAction::Enrol(SecretText::new(token))
        }
        "remove" => MonitorAction::Remove,
        "authenticate" => MonitorAction::Authenticate,
        "maintenance" => match args.get("on", 0).as_deref() {
            Some("on") => MonitorAction::Maintenance(true),
            Some("off") => MonitorAction::Maintenance(false),
            Some(_) | None => return Err(ControlRefusal::misuse("maintenance on, or maintenance off?")),
        },
        "disconnect" => MonitorAction::Disconnect,
        "connect" => MonitorAction::Connect,
        other => return Err(unknown(other, MONITOR_HELP)),
    };
    let done = monitor.act(action).await;
    let after = monitor.status().await.map(|s| s.headline);
    Ok(answered(&request.command, done, after)?)
}

fn supply(args: &Args<'_>) -> Result<EngineAction, String> {
    let (driver, energy) = match (args.get("driver", 0), args.get("kwh", 1)) {
        // A single word that is a number is the energy, on the charging point's own account.
        (Some(word), None) if kwh(&word).is_ok() => (String::new(), Some(word)),
        (driver, energy) => (driver.filter(|d| d != "-").unwrap_or_default(), energy),
    };
    let energy = energy.map_or(Ok(Energy::ZERO), |text| kwh(&text))?;
    Ok(EngineAction::Supply { driver, energy })
}

fn shown(status: Option<impl Serialize>) -> Result<Value, String> {
    let status = status.ok_or("it is stopping")?;
    serde_json::to_value(status).map_err(|error| error.to_string())
}

fn answered(command: &str, done: Result<(), String>, after: Option<String>) -> Result<Value, String> {
    done?;
    Ok(json!({ "done": command, "now": after.unwrap_or_default() }))
}

fn unknown(command: &str, help: &str) -> ControlRefusal {
    ControlRefusal::misuse(format!("no command {command:?}; there are:\n{help}"))
}
