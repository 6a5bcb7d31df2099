//! The state line of a screen (SPEC 11.2, 11.3): a status in one line, the most important part first.

use proto::Energy;
use serde_json::Value;
use time::{OffsetDateTime, macros::format_description};

/// Characters of a session's id that are shown; they suffice to tell sessions apart.
const SHORT: usize = 8;

/// An engine's status in one line.
pub(crate) fn engine_line(status: &Value) -> String {
    let mut line = text(status, "headline").to_owned();
    if let Some(session) = status.get("session").filter(|s| s.is_object()) {
        let energy = Energy::from_wh(number(session, "energy_wh"));
        line = format!("{line} | {energy}  {}  {} W", text(session, "amount"), number(session, "power_w"));
        if let Some(percent) = session.get("progress_percent").and_then(Value::as_u64) {
            line = format!("{line}  {percent} %");
        }
    }
    match text(status, "notice") {
        "" => line,
        notice => format!("{line} | {notice}"),
    }
}

/// A monitor's status in one line: state, links, session, key, and the first warning or else the last event.
pub(crate) fn monitor_line(status: &Value) -> String {
    let id = Some(text(status, "charging_point")).filter(|id| !id.is_empty()).unwrap_or("no id");
    let linked = flag(status, "/central/linked") && text(status, "state") != "UNKNOWN";
    let state = text(status, if linked { "state" } else { "enrolment" });
    let warning = status.pointer("/warnings/0").and_then(Value::as_str).unwrap_or_default();
    let last = if warning.is_empty() { text(status, "notice") } else { warning };
    let parts = [format!("{id} {state}"), links(status), session(status), key(status), last.to_owned()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" | ")
}

/// The links to engine, Central and Registry; those that are down come first.
fn links(status: &Value) -> String {
    let engine = match (flag(status, "/engine/paired"), flag(status, "/engine/healthy")) {
        (true, true) => Ok("engine"),
        (true, false) => Err("engine BROKEN"),
        (false, _) => Err("no engine"),
    };
    let central = match (flag(status, "/central/reachable"), flag(status, "/central/linked")) {
        (true, _) => Ok("Central"),
        (false, true) => Err("Central without key"),
        (false, false) => Err("no Central"),
    };
    let registry = match (flag(status, "/registry/asked"), status.pointer("/registry/trouble")) {
        (_, Some(Value::String(_))) => Err("no Registry"),
        (true, _) => Ok("Registry"),
        (false, _) => Err("Registry not asked yet"),
    };
    let all = [engine, central, registry];
    let wrong = all.iter().filter_map(|link| link.err()).collect::<Vec<_>>().join(", ");
    let right = all.iter().filter_map(|link| link.ok()).collect::<Vec<_>>().join(" ");
    match (wrong.as_str(), right.as_str()) {
        (wrong, "") => wrong.to_owned(),
        ("", right) => format!("{right} ok"),
        (wrong, right) => format!("{wrong}, {right} ok"),
    }
}

fn session(status: &Value) -> String {
    let Some(session) = status.get("session").filter(|s| s.is_object()) else { return String::new() };
    let id: String = text(session, "id").chars().take(SHORT).collect();
    let who = Some(text(session, "driver")).filter(|driver| !driver.is_empty()).unwrap_or("own account");
    format!("{id} {who} {}", Energy::from_wh(number(session, "energy_wh")))
}

fn key(status: &Value) -> String {
    let state = text(status, "key_state");
    let Some(key_no) = status.get("key_no").and_then(Value::as_u64) else { return format!("key {state}") };
    let format = format_description!("[day padding:none] [month repr:short] [hour]:[minute]");
    let expires = status.get("key_expires_at_ms").and_then(Value::as_i64).unwrap_or(0);
    let expires = OffsetDateTime::from_unix_timestamp(expires / 1000).ok().and_then(|at| at.format(format).ok());
    let rotating = if state == "ACTIVE" { String::new() } else { format!(" {state}") };
    format!("key {key_no}{rotating} to {}", expires.unwrap_or_default())
}

fn text<'a>(status: &'a Value, name: &str) -> &'a str {
    status.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn number(status: &Value, name: &str) -> u64 {
    status.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn flag(status: &Value, pointer: &str) -> bool {
    status.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn supplying() -> Value {
        json!({
            "charging_point": "CP-1", "enrolment": "ENROLLED", "state": "SUPPLYING",
            "engine": {"paired": true, "healthy": true},
            "central": {"reachable": true, "linked": true},
            "registry": {"asked": true, "trouble": null},
            "key_no": 3, "key_state": "ACTIVE", "key_expires_at_ms": 1_798_010_400_000_i64,
            "session": {"id": "s-0123456789", "driver": "ann", "energy_wh": 1_234, "power_w": 22_000},
            "warnings": [], "notice": null,
        })
    }

    #[test]
    fn the_monitors_line_shows_links_key_with_expiry_and_session_within_a_usual_width_spec_11_3() {
        let line = monitor_line(&supplying());
        let whole = "CP-1 SUPPLYING | engine Central Registry ok | s-012345 ann 1.234 kWh | key 3 to 23 Dec 07:20";
        assert_eq!(line, whole);
        assert!(line.len() < 100);
    }

    #[test]
    fn what_is_wrong_stands_before_what_is_right_spec_11_3() {
        let mut status = supplying();
        status["session"] = Value::Null;
        status["central"] = json!({"reachable": false, "linked": false});
        status["registry"] = json!({"asked": true, "trouble": "cannot reach Registry"});
        status["warnings"] = json!(["cannot reach Central: connection refused", "another"]);
        let line = monitor_line(&status);
        let whole = "CP-1 ENROLLED | no Central, no Registry, engine ok | key 3 to 23 Dec 07:20 | \
                     cannot reach Central: connection refused";
        assert_eq!(line, whole);
    }

    #[test]
    fn without_a_key_its_state_is_shown_spec_11_3() {
        let mut status = supplying();
        status["state"] = "OUT OF ORDER".into();
        status["central"] = json!({"reachable": false, "linked": true});
        (status["key_no"], status["key_state"]) = (Value::Null, "REVOKED".into());
        status["engine"]["healthy"] = false.into();
        assert!(monitor_line(&status).contains("| engine BROKEN, Central without key, Registry ok |"));
        assert!(monitor_line(&status).ends_with("| key REVOKED"));
    }
}
