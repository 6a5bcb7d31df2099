//! When something dies (SPEC 9): each test is a row and a column of the table.

use std::time::Duration;

use proto::link::v1::{Reason, State};
use serde_json::{Value, json};
use testbed::{
    network::{Network, PATIENCE},
    proxy::{Faults, Proxy},
    wait::until,
};

use crate::support::{QUICK, linked, one_of_each, only_ticket, plug, reserve, supply, until_printed};

/// What SPEC 2.4 and 9 give a change until it is shown.
const SHOWN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn monitor_dies_while_idle_spec_9() -> anyhow::Result<()> {
    let (network, mut post, driver) = one_of_each(&[], &[]).await?;
    post.monitor.kill();
    network.until_shown("CP-1", "DISCONNECTED", SHOWN, |cp| state(cp) == State::Disconnected).await?;
    driver.ask("request", json!(["CP-1"])).await?;
    until_printed(&driver, "over", &json!({"outcome": "refused", "reason": "DISCONNECTED"})).await?;
    post.until_engine("that its monitor is gone", PATIENCE, |s| s["monitor"]["reachable"] == json!(false)).await?;
    let refused = post.engine("supply", json!(["0.1"])).await.expect_err("no manual supply without a monitor");
    assert!(refused.to_string().contains("monitor"), "{refused}");
    post.monitor.restart()?;
    network.until_state("CP-1", State::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_dies_during_a_supply_which_goes_on_to_its_end_spec_9() -> anyhow::Result<()> {
    let (network, mut post, driver) = one_of_each(&[], &[]).await?;
    supply(&network, &post, &driver, "").await?;
    post.monitor.kill();
    let grey = network.until_shown("CP-1", "DISCONNECTED", SHOWN, |cp| state(cp) == State::Disconnected).await?;
    let before = grey.view.unwrap_or_default().energy_wh;
    network
        .until_shown("CP-1", "still supplying on a grey tile", PATIENCE, |cp| {
            state(cp) == State::Disconnected && cp.view.as_ref().is_some_and(|view| view.energy_wh > before)
        })
        .await?;
    post.engine("unplug", Value::Null).await?;
    assert_eq!(only_ticket(&network, &post).await?.reason(), Reason::Unplugged);
    post.monitor.restart()?;
    network.until_state("CP-1", State::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_dies_while_idle_spec_9() -> anyhow::Result<()> {
    let (network, mut post, _driver) = one_of_each(&[], &[]).await?;
    post.engine.kill();
    network.until_shown("CP-1", "BROKEN", SHOWN, |cp| state(cp) == State::Broken).await?;
    post.engine.restart()?;
    network.until_state("CP-1", State::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_dies_during_a_supply_and_reports_its_final_value_when_back_spec_9() -> anyhow::Result<()> {
    let (network, mut post, driver) = one_of_each(&[], &[]).await?;
    supply(&network, &post, &driver, "").await?;
    post.engine.kill();
    until_printed(&driver, "step", &json!({"progress": "fault"})).await?;
    post.engine.restart()?;
    let ticket = only_ticket(&network, &post).await?;
    assert_eq!(ticket.meter_end_wh, post.meter_wh().await?, "what was supplied was kept on the charging point's disk");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_die_while_idle_and_come_back_in_any_order_spec_9() -> anyhow::Result<()> {
    let (network, mut post, driver) = one_of_each(&[], &[]).await?;
    for (times, engine_first) in [(1, true), (2, false)] {
        post.engine.kill();
        post.monitor.kill();
        network.until_shown("CP-1", "DISCONNECTED", SHOWN, |cp| state(cp) == State::Disconnected).await?;
        driver.ask("request", json!(["CP-1"])).await?;
        until("him to be refused", PATIENCE, async || {
            let refused = driver.printed().iter().filter(|line| line["reason"] == json!("DISCONNECTED")).count();
            if refused >= times { Ok(()) } else { Err(format!("{refused} times")) }
        })
        .await?;
        if engine_first {
            post.engine.restart()?;
            post.until_engine("that it waits for its monitor", PATIENCE, |s| s["monitor"]["reachable"] == json!(false))
                .await?;
            post.monitor.restart()?;
        } else {
            post.monitor.restart()?;
            post.until_monitor("that its engine is gone", PATIENCE, |s| s["engine"]["paired"] == json!(false)).await?;
            post.engine.restart()?;
        }
        network.until_state("CP-1", State::Available).await?;
    }
    assert_eq!(network.operator.all_sessions().await?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_die_during_a_supply_and_come_back_in_any_order_spec_9() -> anyhow::Result<()> {
    for engine_first in [true, false] {
        let (network, mut post, driver) = one_of_each(&[], &[]).await?;
        supply(&network, &post, &driver, "").await?;
        post.engine.kill();
        post.monitor.kill();
        network.until_shown("CP-1", "DISCONNECTED", SHOWN, |cp| state(cp) == State::Disconnected).await?;
        if engine_first {
            post.engine.restart()?;
            post.monitor.restart()?;
        } else {
            post.monitor.restart()?;
            post.engine.restart()?;
        }
        let ticket = only_ticket(&network, &post).await?;
        assert_eq!(ticket.meter_end_wh, post.meter_wh().await?);
        network.until_state("CP-1", State::Available).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn driver_dies_while_idle_and_nobody_else_notices_spec_9() -> anyhow::Result<()> {
    let (network, post, mut driver) = one_of_each(&[], &[]).await?;
    driver.process.kill();
    let other = network.driver("bea", &[]).await?;
    linked(&other).await?;
    supply(&network, &post, &other, "0.2").await?;
    assert_eq!(only_ticket(&network, &post).await?.driver_id, "bea");
    driver.process.restart()?;
    linked(&driver).await?;
    post.engine("unplug", Value::Null).await?;
    reserve(&network, &post, &driver, "0.1").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_driver_goes_on_with_his_file_at_the_right_line_spec_9_3_10() -> anyhow::Result<()> {
    let (network, post, _) = one_of_each(&[], &["--unattended", "--plug-in-after", "100ms"]).await?;
    let file = network.path("requests.txt");
    std::fs::write(&file, "CP-1,0.1\n# and\nCP-1,0.4\nCP-1,0.2\nCP-404\nCP-1,0.3\n")?;
    let path = file.display().to_string();
    let mut driver = network.driver("carl", &["--file", &path, "--pause", "200ms", "--exit-when-done"]).await?;
    // In the middle of a supply whose end he does not see; and after one, before the next begins.
    network.until_tickets(&post.id, 1).await?;
    network.until_state(&post.id, State::Supplying).await?;
    driver.process.kill();
    network.until_tickets(&post.id, 2).await?;
    driver.process.restart()?;
    network.until_tickets(&post.id, 3).await?;
    driver.process.kill();
    driver.process.restart()?;
    assert_eq!(driver.process.exit_code(PATIENCE).await?, 0);

    let mut tickets = network.operator.all_tickets().await?;
    tickets.sort_by_key(|ticket| ticket.meter_start_wh);
    let energies: Vec<u64> = tickets.iter().map(|ticket| ticket.energy_wh).collect();
    assert_eq!(energies, [100, 400, 200, 300], "each line once, and in their order");
    let refused = network.operator.audited("SUPPLY_REFUSED", "").await?;
    assert_eq!(refused.len(), 1, "{refused:?}");
    let held = std::fs::read_to_string(network.path("driver-carl/data/tickets.jsonl"))?;
    assert_eq!(held.lines().count(), 4, "each ticket, once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn started_in_any_order_each_waits_for_what_it_needs_and_says_so_spec_1_7() -> anyhow::Result<()> {
    let mut network = Network::start(&[]).await?;
    let (file, token) = (network.path("token"), network.operator.token(1).await?);
    std::fs::write(&file, network.operator.token(1).await?)?;
    network.central.kill();
    network.registry.kill();

    // The driver first, then a charging point that has never been enrolled, its engine before its monitor.
    let driver = network.driver_with("ana", network.central_link, token, &[])?;
    let mut post = network.post_with("CP-1", network.central_link, &file, QUICK, &["--registry-again", "500ms"])?;
    post.monitor.kill();
    post.until_engine("that it waits for its monitor", PATIENCE, |s| s["warnings"].to_string().contains("no monitor"))
        .await?;
    post.monitor.restart()?;
    let said =
        post.until_monitor("that it waits for Registry", PATIENCE, |s| s["enrolment_detail"] != json!("")).await?;
    assert!(said["enrolment_detail"].to_string().contains("Registry"), "{said}");
    let said = driver.until("that he waits", PATIENCE, |s| s["linked"] == json!(false)).await?;
    assert!(said.to_string().contains("Registry"), "{said}");

    // Central, which waits for Registry; Registry last.
    network.central.restart()?;
    until("Central to answer", PATIENCE, async || match network.operator.charging_point("CP-1").await {
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    network.registry.restart()?;
    network.until_state("CP-1", State::Available).await?;
    linked(&driver).await?;
    reserve(&network, &post, &driver, "0.1").await?;
    post.engine("plug", Value::Null).await?;
    only_ticket(&network, &post).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn driver_dies_during_a_supply_which_goes_on_spec_9() -> anyhow::Result<()> {
    let (network, post, mut driver) = one_of_each(&[], &[]).await?;
    supply(&network, &post, &driver, "0.5").await?;
    driver.process.kill();
    assert_eq!(only_ticket(&network, &post).await?.reason(), Reason::EnergyReached);
    driver.process.restart()?;
    until_printed(&driver, "ticket", &json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn driver_dies_while_reserved_and_the_reservation_expires_spec_9() -> anyhow::Result<()> {
    let (network, post, mut driver) = one_of_each(&["--reservation", "2s"], &[]).await?;
    reserve(&network, &post, &driver, "").await?;
    driver.process.kill();
    network.until_state("CP-1", State::Available).await?;
    assert_eq!(network.operator.all_tickets().await?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn central_dies_while_idle_and_everybody_says_so_spec_9() -> anyhow::Result<()> {
    let (mut network, post, driver) = one_of_each(&[], &[]).await?;
    network.central.kill();
    post.until_engine("cannot reach Central", PATIENCE, |s| s["central"]["reachable"] == json!(false)).await?;
    post.until_monitor("cannot reach Central", PATIENCE, |s| s["central"]["reachable"] == json!(false)).await?;
    driver.until("cannot reach Central", PATIENCE, |s| s["linked"] == json!(false)).await?;
    let refused = post.engine("supply", json!(["0.1"])).await.expect_err("nothing new without Central");
    assert!(refused.to_string().contains("Central"), "{refused}");
    network.restart_central().await?;
    network.until_state("CP-1", State::Available).await?;
    linked(&driver).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn central_dies_during_a_supply_and_bills_it_once_when_back_spec_9() -> anyhow::Result<()> {
    let (mut network, post, driver) = one_of_each(&[], &[]).await?;
    supply(&network, &post, &driver, "").await?;
    network.central.kill();
    post.until_engine("cannot reach Central", PATIENCE, |s| s["central"]["reachable"] == json!(false)).await?;
    post.engine("unplug", Value::Null).await?;
    network.restart_central().await?;
    let ticket = only_ticket(&network, &post).await?;
    assert_eq!(ticket.reason(), Reason::Unplugged);
    assert_eq!(ticket.meter_end_wh, post.meter_wh().await?);
    until_printed(&driver, "ticket", &json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn central_comes_back_during_a_supply_and_sees_it_go_on_spec_9() -> anyhow::Result<()> {
    let (mut network, post, driver) = one_of_each(&[], &[]).await?;
    supply(&network, &post, &driver, "").await?;
    network.restart_central().await?;
    network.until_state("CP-1", State::Supplying).await?;
    post.engine("unplug", Value::Null).await?;
    let ticket = only_ticket(&network, &post).await?;
    assert_eq!(ticket.meter_end_wh, post.meter_wh().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_dies_and_whoever_holds_a_key_goes_on_working_and_reconnecting_spec_9() -> anyhow::Result<()> {
    let (mut network, mut post, driver) = one_of_each(&[], &[]).await?;
    network.registry.kill();
    post.monitor.kill();
    post.engine.kill();
    network.until_state("CP-1", State::Disconnected).await?;
    post.monitor.restart()?;
    post.engine.restart()?;
    network.until_state("CP-1", State::Available).await?;
    reserve(&network, &post, &driver, "0.1").await?;
    post.engine("plug", Value::Null).await?;
    only_ticket(&network, &post).await?;

    // Central restarted without Registry: keys are proven all the same.
    network.central.restart()?;
    network.until_state("CP-1", State::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolment_says_why_it_fails_while_registry_is_away_and_succeeds_by_itself_afterwards_spec_9()
-> anyhow::Result<()> {
    let mut network = Network::start(&[]).await?;
    let token = network.operator.token(5).await?;
    network.registry.kill();
    let file = network.path("token");
    std::fs::write(&file, token)?;
    let post = network.post_with("CP-9", network.central_link, &file, &[], &[])?;
    let status = post
        .until_monitor("that Registry cannot be reached", PATIENCE, |s| !s["registry"]["trouble"].is_null())
        .await?;
    assert!(status.to_string().contains(&network.registry_https.port().to_string()), "it names the address: {status}");
    network.registry.restart()?;
    network.until_state("CP-9", State::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_cut_and_a_half_open_network_are_found_by_missed_signs_of_life_spec_9_2_4() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let proxy = Proxy::start(network.central_link, 1, 0).await?;
    let post = network.charging_point_at("CP-1", proxy.address(), QUICK, &[]).await?;
    for fault in [Faults { silent: true, ..Faults::default() }, Faults { cut: true, ..Faults::default() }] {
        proxy.set(fault);
        network.until_shown("CP-1", "DISCONNECTED", SHOWN, |cp| state(cp) == State::Disconnected).await?;
        post.until_monitor("cannot reach Central", SHOWN, |s| s["central"]["reachable"] == json!(false)).await?;
        proxy.set(Faults::default());
        network.until_state("CP-1", State::Available).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_during_a_supply_neither_stops_nor_loses_it_spec_9() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let proxy = Proxy::start(network.central_link, 2, 0).await?;
    let post = network.charging_point_at("CP-1", proxy.address(), QUICK, &[]).await?;
    let driver = network.driver("ana", &[]).await?;
    linked(&driver).await?;
    supply(&network, &post, &driver, "").await?;
    let before = post.meter_wh().await?;
    proxy.set(Faults { cut: true, ..Faults::default() });
    network.until_shown("CP-1", "DISCONNECTED", SHOWN, |cp| state(cp) == State::Disconnected).await?;
    post.until_engine("more energy all the same", PATIENCE, |s| s["meter_wh"].as_u64() > Some(before)).await?;
    proxy.set(Faults::default());
    network.until_state("CP-1", State::Supplying).await?;
    post.engine("unplug", Value::Null).await?;
    assert_eq!(only_ticket(&network, &post).await?.meter_end_wh, post.meter_wh().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_delay_splits_and_corruption_cost_time_and_nothing_else_spec_4_1_4_2() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let proxy = Proxy::start(network.central_link, 3, 1 << 20).await?;
    let post = network.charging_point_at("CP-1", proxy.address(), QUICK, &[]).await?;
    let driver = network.driver_at("ana", proxy.address(), &[]).await?;
    linked(&driver).await?;
    proxy.set(Faults {
        delay: Duration::from_millis(20),
        split: 7,
        corrupt: 0.0005,
        lose: 0.0005,
        repeat: 0.0,
        ..Faults::default()
    });
    for _ in 0..3 {
        network.until_state("CP-1", State::Available).await?;
        driver.ask("request", json!(["CP-1", "0.3"])).await?;
        network.until_state("CP-1", State::Reserved).await?;
        plug(&network, &post).await?;
        network.until_shown("CP-1", "over", PATIENCE, |cp| state(cp) != State::Supplying).await?;
        post.engine("unplug", Value::Null).await?;
    }
    proxy.set(Faults::default());
    let tickets = network.until_tickets("CP-1", 3).await?;
    assert_eq!(tickets.iter().map(|ticket| ticket.energy_wh).sum::<u64>(), post.meter_wh().await?);
    assert_eq!(tickets.len(), 3);

    // And nothing of it in clear: no id but in the Hello, no place, no session, no credential.
    let seen = proxy.seen();
    for secret in ["Place of", "cmc1.", tickets.first().map_or("", |ticket| ticket.session_id.as_str())] {
        assert!(
            !secret.is_empty() && !seen.windows(secret.len()).any(|window| window == secret.as_bytes()),
            "{secret}"
        );
    }
    Ok(())
}

fn state(cp: &proto::central::v1::ChargingPoint) -> State {
    cp.view.as_ref().map_or(State::Unspecified, |view| view.state())
}
