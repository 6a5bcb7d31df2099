use std::sync::{Arc, Mutex};

use serde_json::json;

use super::*;

/// What a role is ordered by these keys, but for its status.
async fn ordered(keys: &'static [KeyBinding], pressed: &str) -> Vec<(String, Value)> {
    let orders = Arc::new(Mutex::new(Vec::new()));
    let (noted, typed) = (orders.clone(), mpsc::channel(1).1);
    let handler = move |request: ControlRequest| {
        if request.command != "status" {
            noted.lock().unwrap().push((request.command, request.args));
        }
        std::future::ready(Ok(json!({ "charging_point": "CP-1" })))
    };
    let mut screen = Screen { handler, line: engine_line, keys, typed, pending: None };
    for key in pressed.chars() {
        screen.press(key).await;
    }
    drop(screen);
    Arc::into_inner(orders).unwrap().into_inner().unwrap()
}

async fn commands(keys: &'static [KeyBinding], pressed: &str) -> Vec<String> {
    ordered(keys, pressed).await.into_iter().map(|(command, _)| command).collect()
}

#[tokio::test]
async fn a_charging_point_is_removed_only_where_its_id_is_typed_spec_11_3() {
    assert_eq!(commands(MONITOR_KEYS, "xCP-1\n").await, ["remove"]);
    for slip in ["x", "x\n", "xy\n", "xCP-2\n", "xCP-1\x1b\n"] {
        assert!(commands(MONITOR_KEYS, slip).await.is_empty(), "{slip:?}");
    }
    assert_eq!(commands(MONITOR_KEYS, "xno\na").await, ["authenticate"], "the next key counts again");
}

#[tokio::test]
async fn breaking_and_spoiling_ask_first_and_other_keys_do_not_spec_11_2() {
    assert_eq!(commands(ENGINE_KEYS, "bysy").await, ["break", "spoil-key"]);
    assert!(commands(ENGINE_KEYS, "bnsnb\n").await.is_empty());
    assert_eq!(commands(ENGINE_KEYS, "purk").await, ["plug", "unplug", "repair", "repair-key"]);
}

#[tokio::test]
async fn a_manual_supply_says_that_no_driver_means_the_charging_points_own_account_spec_3_1() {
    let manual = ENGINE_KEYS.iter().find(|key| key.key == 'm').copied().unwrap();
    let pending =
        PendingCommand { key: manual, args: Map::new(), text: String::new(), id: String::new(), confirmed: true };
    assert!(pending.line().contains("empty: the charging point's own account"), "{}", pending.line());
    let order = ordered(ENGINE_KEYS, "m\n7.5\n").await;
    assert_eq!(order, [("supply".to_owned(), json!({"driver": "", "kwh": "7.5"}))]);
}

#[test]
fn a_state_that_is_wider_than_the_window_is_wrapped_and_never_cut_spec_11_2() {
    let state = "CP-1 ENROLLED, key ACTIVE; cannot reach Central: nobody answers at 127.0.0.1:7400 | unplugged";
    for width in [9, 20, 40, 200] {
        let lines = wrapped(state, width);
        assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}: {lines:?}");
        assert_eq!(lines.concat().replace(' ', ""), state.replace(' ', ""));
    }
    assert_eq!(wrapped("as it is", 8), ["as it is"]);
    assert_eq!(wrapped("two lines", 8), ["two", "lines"]);
}
