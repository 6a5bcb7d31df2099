//! Crashes (SPEC 9): each test is a cell of the table there.

use std::time::Duration;

use proto::{central::v1::ChargingPointState, link::v1::Reason};
use serde_json::{Value, json};
use testbed::{
    network::{Network, PATIENCE},
    operator::{ended_by, energy_wh},
    proxy::{Proxy, ProxyFaults},
    wait::until,
};

use crate::support::{QUICK, linked, one_of_each, only_ticket, plug, reserve, supply, until_printed};

/// The time within which a change must be shown (SPEC 2.4, 9).
const SHOWN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn monitor_dies_while_idle_spec_9() -> anyhow::Result<()> {
    let (network, mut point, driver) = one_of_each(&[], &[]).await?;
    point.monitor.kill();
    network.until_shown("CP-1", "DISCONNECTED", SHOWN, |cp| state(cp) == ChargingPointState::Disconnected).await?;
    driver.ask("request", json!(["CP-1"])).await?;
    until_printed(&driver, "ended", &json!({"outcome": "refused", "reason": "DISCONNECTED"})).await?;
    point.until_engine("that its monitor is gone", PATIENCE, |s| s["monitor"]["reachable"] == json!(false)).await?;
    let refused = point.engine("supply", json!(["0.1"])).await.expect_err("no manual supply without a monitor");
    assert!(refused.to_string().contains("monitor"), "{refused}");
    point.monitor.restart()?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_dies_during_a_supply_which_goes_on_to_its_end_spec_9() -> anyhow::Result<()> {
    let (network, mut point, driver) = one_of_each(&[], &[]).await?;
    supply(&network, &point, &driver, "").await?;
    point.monitor.kill();
    let grey =
        network.until_shown("CP-1", "DISCONNECTED", SHOWN, |cp| state(cp) == ChargingPointState::Disconnected).await?;
    let before = energy_wh(&grey);
    network
        .until_shown("CP-1", "still supplying on a grey tile", PATIENCE, |cp| {
            state(cp) == ChargingPointState::Disconnected && energy_wh(cp) > before
        })
        .await?;
    point.engine("unplug", Value::Null).await?;
    assert_eq!(ended_by(&only_ticket(&network, &point).await?), Reason::Unplugged);
    point.monitor.restart()?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_dies_while_idle_spec_9() -> anyhow::Result<()> {
    let (network, mut point, _driver) = one_of_each(&[], &[]).await?;
    point.engine.kill();
    network.until_shown("CP-1", "BROKEN", SHOWN, |cp| state(cp) == ChargingPointState::Broken).await?;
    point.engine.restart()?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_dies_during_a_supply_and_reports_its_final_value_when_back_spec_9() -> anyhow::Result<()> {
    let (network, mut point, driver) = one_of_each(&[], &[]).await?;
    supply(&network, &point, &driver, "").await?;
    point.engine.kill();
    until_printed(&driver, "step", &json!({"progress": "fault"})).await?;
    point.engine.restart()?;
    let ticket = only_ticket(&network, &point).await?;
    assert_eq!(ticket.meter_end_wh, point.meter_wh().await?, "what was supplied was kept on the charging point's disk");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_die_while_idle_and_come_back_in_any_order_spec_9() -> anyhow::Result<()> {
    let (network, mut point, driver) = one_of_each(&[], &[]).await?;
    for (times, engine_first) in [(1, true), (2, false)] {
        point.engine.kill();
        point.monitor.kill();
        network.until_shown("CP-1", "DISCONNECTED", SHOWN, |cp| state(cp) == ChargingPointState::Disconnected).await?;
        driver.ask("request", json!(["CP-1"])).await?;
        until("him to be refused", PATIENCE, async || {
            let refused = driver.printed().iter().filter(|line| line["reason"] == json!("DISCONNECTED")).count();
            if refused >= times { Ok(()) } else { Err(format!("{refused} times")) }
        })
        .await?;
        if engine_first {
            point.engine.restart()?;
            point
                .until_engine("that it waits for its monitor", PATIENCE, |s| s["monitor"]["reachable"] == json!(false))
                .await?;
            point.monitor.restart()?;
        } else {
            point.monitor.restart()?;
            point.until_monitor("that its engine is gone", PATIENCE, |s| s["engine"]["paired"] == json!(false)).await?;
            point.engine.restart()?;
        }
        network.until_state("CP-1", ChargingPointState::Available).await?;
    }
    assert_eq!(network.operator.all_sessions().await?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_die_during_a_supply_and_come_back_in_any_order_spec_9() -> anyhow::Result<()> {
    for engine_first in [true, false] {
        let (network, mut point, driver) = one_of_each(&[], &[]).await?;
        supply(&network, &point, &driver, "").await?;
        point.engine.kill();
        point.monitor.kill();
        network.until_shown("CP-1", "DISCONNECTED", SHOWN, |cp| state(cp) == ChargingPointState::Disconnected).await?;
        if engine_first {
            point.engine.restart()?;
            point.monitor.restart()?;
        } else {
            point.monitor.restart()?;
            point.engine.restart()?;
        }
        let ticket = only_ticket(&network, &point).await?;
        assert_eq!(ticket.meter_end_wh, point.meter_wh().await?);
        network.until_state("CP-1", ChargingPointState::Available).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn driver_dies_while_idle_without_effect_on_others_spec_9() -> anyhow::Result<()> {
    let (network, point, mut driver) = one_of_each(&[], &[]).await?;
    driver.process.kill();
    let other = network.driver("bea", &[]).await?;
    linked(&other).await?;
    supply(&network, &point, &other, "0.2").await?;
    assert_eq!(only_ticket(&network, &point).await?.driver_id, "bea");
    driver.process.restart()?;
    linked(&driver).await?;
    point.engine("unplug", Value::Null).await?;
    reserve(&network, &point, &driver, "0.1").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_driver_continues_its_file_at_the_right_line_spec_9_3_10() -> anyhow::Result<()> {
    let (network, point, _) = one_of_each(&[], &["--unattended", "--plug-in-after", "100ms"]).await?;
    let file = network.path("requests.txt");
    std::fs::write(&file, "CP-1,0.1\n# and\nCP-1,0.4\nCP-1,0.2\nCP-404\nCP-1,0.3\n")?;
    let path = file.display().to_string();
    let mut driver = network.driver("carl", &["--file", &path, "--pause", "200ms", "--exit-when-done"]).await?;
    // Killed during a supply, whose end it does not see; then between two supplies.
    network.until_tickets(&point.id, 1).await?;
    network.until_state(&point.id, ChargingPointState::Supplying).await?;
    driver.process.kill();
    network.until_tickets(&point.id, 2).await?;
    driver.process.restart()?;
    network.until_tickets(&point.id, 3).await?;
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

    // First the driver, then a charging point that was never enrolled, its engine before its monitor.
    let driver = network.driver_with("ana", network.central_link, token, &[])?;
    let mut point = network.start_charging_point_with(
        "CP-1",
        network.central_link,
        &file,
        QUICK,
        &["--registry-again", "500ms"],
    )?;
    point.monitor.kill();
    point
        .until_engine("that it waits for its monitor", PATIENCE, |s| s["warnings"].to_string().contains("no monitor"))
        .await?;
    point.monitor.restart()?;
    let said =
        point.until_monitor("that it waits for Registry", PATIENCE, |s| s["enrolment_detail"] != json!("")).await?;
    assert!(said["enrolment_detail"].to_string().contains("Registry"), "{said}");
    let said = driver.until("that he waits", PATIENCE, |s| s["linked"] == json!(false)).await?;
    assert!(said.to_string().contains("Registry"), "{said}");

    // Then Central, which waits for Registry, and Registry last.
    network.central.restart()?;
    until("Central to answer", PATIENCE, async || match network.operator.charging_point("CP-1").await {
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    network.registry.restart()?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    linked(&driver).await?;
    reserve(&network, &point, &driver, "0.1").await?;
    point.engine("plug", Value::Null).await?;
    only_ticket(&network, &point).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn driver_dies_during_a_supply_which_goes_on_spec_9() -> anyhow::Result<()> {
    let (network, point, mut driver) = one_of_each(&[], &[]).await?;
    supply(&network, &point, &driver, "0.5").await?;
    driver.process.kill();
    assert_eq!(ended_by(&only_ticket(&network, &point).await?), Reason::EnergyReached);
    driver.process.restart()?;
    until_printed(&driver, "ticket", &json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn driver_dies_while_reserved_and_the_reservation_expires_spec_9() -> anyhow::Result<()> {
    let (network, point, mut driver) = one_of_each(&["--reservation", "2s"], &[]).await?;
    reserve(&network, &point, &driver, "").await?;
    driver.process.kill();
    network.until_state("CP-1", ChargingPointState::Available).await?;
    assert_eq!(network.operator.all_tickets().await?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn central_dies_while_idle_and_every_peer_reports_it_spec_9() -> anyhow::Result<()> {
    let (mut network, point, driver) = one_of_each(&[], &[]).await?;
    network.central.kill();
    point.until_engine("cannot reach Central", PATIENCE, |s| s["central"]["reachable"] == json!(false)).await?;
    point.until_monitor("cannot reach Central", PATIENCE, |s| s["central"]["reachable"] == json!(false)).await?;
    driver.until("cannot reach Central", PATIENCE, |s| s["linked"] == json!(false)).await?;
    let refused = point.engine("supply", json!(["0.1"])).await.expect_err("nothing new without Central");
    assert!(refused.to_string().contains("Central"), "{refused}");
    network.restart_central().await?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    linked(&driver).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn central_dies_during_a_supply_and_bills_it_once_when_back_spec_9() -> anyhow::Result<()> {
    let (mut network, point, driver) = one_of_each(&[], &[]).await?;
    supply(&network, &point, &driver, "").await?;
    network.central.kill();
    point.until_engine("cannot reach Central", PATIENCE, |s| s["central"]["reachable"] == json!(false)).await?;
    point.engine("unplug", Value::Null).await?;
    network.restart_central().await?;
    let ticket = only_ticket(&network, &point).await?;
    assert_eq!(ended_by(&ticket), Reason::Unplugged);
    assert_eq!(ticket.meter_end_wh, point.meter_wh().await?);
    until_printed(&driver, "ticket", &json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn central_comes_back_during_a_supply_and_sees_it_go_on_spec_9() -> anyhow::Result<()> {
    let (mut network, point, driver) = one_of_each(&[], &[]).await?;
    supply(&network, &point, &driver, "").await?;
    network.restart_central().await?;
    network.until_state("CP-1", ChargingPointState::Supplying).await?;
    point.engine("unplug", Value::Null).await?;
    let ticket = only_ticket(&network, &point).await?;
    assert_eq!(ticket.meter_end_wh, point.meter_wh().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_dies_and_peers_with_a_key_go_on_working_and_reconnecting_spec_9() -> anyhow::Result<()> {
    let (mut network, mut point, driver) = one_of_each(&[], &[]).await?;
    network.registry.kill();
    point.monitor.kill();
    point.engine.kill();
    network.until_state("CP-1", ChargingPointState::Disconnected).await?;
    point.monitor.restart()?;
    point.engine.restart()?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    reserve(&network, &point, &driver, "0.1").await?;
    point.engine("plug", Value::Null).await?;
    only_ticket(&network, &point).await?;

    // Central is restarted without Registry and still accepts keys.
    network.central.restart()?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
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
    let point = network.start_charging_point_with("CP-9", network.central_link, &file, &[], &[])?;
    let status = point
        .until_monitor("that Registry cannot be reached", PATIENCE, |s| !s["registry"]["trouble"].is_null())
        .await?;
    assert!(status.to_string().contains(&network.registry_https.port().to_string()), "it names the address: {status}");
    network.registry.restart()?;
    network.until_state("CP-9", ChargingPointState::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_cut_and_a_half_open_network_are_found_by_missed_signs_of_life_spec_9_2_4() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let proxy = Proxy::start(network.central_link, 1, 0).await?;
    let point = network.charging_point_at("CP-1", proxy.address(), QUICK, &[]).await?;
    for fault in
        [ProxyFaults { silent: true, ..ProxyFaults::default() }, ProxyFaults { cut: true, ..ProxyFaults::default() }]
    {
        proxy.set(fault);
        network.until_shown("CP-1", "DISCONNECTED", SHOWN, |cp| state(cp) == ChargingPointState::Disconnected).await?;
        point.until_monitor("cannot reach Central", SHOWN, |s| s["central"]["reachable"] == json!(false)).await?;
        proxy.set(ProxyFaults::default());
        network.until_state("CP-1", ChargingPointState::Available).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_during_a_supply_neither_stops_nor_loses_it_spec_9() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let proxy = Proxy::start(network.central_link, 2, 0).await?;
    let point = network.charging_point_at("CP-1", proxy.address(), QUICK, &[]).await?;
    let driver = network.driver("ana", &[]).await?;
    linked(&driver).await?;
    supply(&network, &point, &driver, "").await?;
    let before = point.meter_wh().await?;
    proxy.set(ProxyFaults { cut: true, ..ProxyFaults::default() });
    network.until_shown("CP-1", "DISCONNECTED", SHOWN, |cp| state(cp) == ChargingPointState::Disconnected).await?;
    point.until_engine("more energy all the same", PATIENCE, |s| s["meter_wh"].as_u64() > Some(before)).await?;
    proxy.set(ProxyFaults::default());
    network.until_state("CP-1", ChargingPointState::Supplying).await?;
    point.engine("unplug", Value::Null).await?;
    assert_eq!(only_ticket(&network, &point).await?.meter_end_wh, point.meter_wh().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_delay_splits_and_corruption_cost_time_and_nothing_else_spec_4_1_4_2() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let proxy = Proxy::start(network.central_link, 3, 1 << 20).await?;
    let point = network.charging_point_at("CP-1", proxy.address(), QUICK, &[]).await?;
    let driver = network.driver_at("ana", proxy.address(), &[]).await?;
    linked(&driver).await?;
    proxy.set(ProxyFaults {
        delay: Duration::from_millis(20),
        split: 7,
        corrupt: 0.0005,
        lose: 0.0005,
        repeat: 0.0,
        ..ProxyFaults::default()
    });
    for _ in 0..3 {
        network.until_state("CP-1", ChargingPointState::Available).await?;
        driver.ask("request", json!(["CP-1", "0.3"])).await?;
        network.until_state("CP-1", ChargingPointState::Reserved).await?;
        plug(&network, &point).await?;
        network.until_shown("CP-1", "over", PATIENCE, |cp| state(cp) != ChargingPointState::Supplying).await?;
        point.engine("unplug", Value::Null).await?;
    }
    proxy.set(ProxyFaults::default());
    let tickets = network.until_tickets("CP-1", 3).await?;
    assert_eq!(tickets.iter().map(|ticket| ticket.energy_wh).sum::<u64>(), point.meter_wh().await?);
    assert_eq!(tickets.len(), 3);

    // Nothing was sent in clear text except the id in the Hello: no place, no session, no credential.
    let seen = proxy.seen();
    for secret in ["Place of", "cmc1.", tickets.first().map_or("", |ticket| ticket.session_id.as_str())] {
        assert!(
            !secret.is_empty() && !seen.windows(secret.len()).any(|window| window == secret.as_bytes()),
            "{secret}"
        );
    }
    Ok(())
}

fn state(cp: &proto::central::v1::ChargingPoint) -> ChargingPointState {
    cp.state()
}
