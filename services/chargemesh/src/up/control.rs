//! What can be done to a running network (SPEC 1.8, 1.9): `chargemesh ctl DATA/run/up.sock COMMAND`.

use std::sync::Weak;

use mesh::control::Request;
use proto::Price;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Running, part::Deed, plan::PointWish};

const HELP: &str = "\
status                                     every part with its process id, state and addresses
add-charging-point [id=] [city=] [place=] [price=]
remove-charging-point ID                   its processes end, its identity is removed
add-driver [id=]
remove-driver ID
kill PART                                  SIGKILL; it is started again
restart PART                               ends it in order and starts it again
pause PART                                 SIGSTOP
continue PART                              SIGCONT
stop                                       ends the whole network in order";

pub(super) async fn answer(running: Weak<Running>, stop: CancellationToken, request: Request) -> Result<Value, String> {
    let Some(running) = running.upgrade() else { return Err("the network is ending".to_owned()) };
    let args = &request.args;
    let supervisor = &running.network.supervisor;
    let first = |what: &str| text(args, what, 0).ok_or_else(|| format!("which {what}? {} NAME", request.command));
    match request.command.as_str() {
        "help" => Ok(json!({ "help": HELP })),
        "status" => {
            let a = &running.network.addresses;
            Ok(json!({
                "pid": std::process::id(),
                "central_grpc": a.central_grpc, "central_link": a.central_link,
                "registry_grpc": a.registry_grpc, "registry_https": a.registry_https,
                "parts": supervisor.status().await,
            }))
        }
        "add-charging-point" => {
            let price = text(args, "price", 3).map(|p| p.parse::<Price>().map_err(|e| e.to_string())).transpose()?;
            let wish = PointWish {
                id: text(args, "id", 0),
                city: text(args, "city", 1),
                place: text(args, "place", 2),
                price_e4: price.map(Price::e4),
            };
            running.add_point(wish).await.map(|point| json!(point))
        }
        "add-driver" => running.add_driver(text(args, "id", 0)).await.map(|driver| json!(driver)),
        "remove-charging-point" => running.remove_point(&first("id")?).await.map(|()| Value::Null),
        "remove-driver" => running.remove_driver(&first("id")?).await.map(|()| Value::Null),
        "kill" => supervisor.deed(&first("part")?, Deed::Kill).await.map(|()| Value::Null),
        "restart" => supervisor.deed(&first("part")?, Deed::Restart).await.map(|()| Value::Null),
        "pause" => supervisor.deed(&first("part")?, Deed::Pause).await.map(|()| Value::Null),
        "continue" => supervisor.deed(&first("part")?, Deed::Continue).await.map(|()| Value::Null),
        "stop" => {
            stop.cancel();
            Ok(Value::Null)
        }
        other => Err(format!("no command {other:?}; `help` lists them")),
    }
}

/// Named, or by its place in a list.
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
