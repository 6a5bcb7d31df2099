//! The row *disk full* of SPEC 9: it is reported, leaves no half-written state, and ends by itself when there is space
//! again.
//!
//! The full disk is a small one in a mount namespace of the process under test.

use anyhow::Context as _;
use proto::{
    central::v1::ChargingPointState,
    link::v1::Reason,
    registry::v1::{EnrolRequest, Kind},
};
use serde_json::{Value, json};
use testbed::{
    network::{Network, PATIENCE, fill, on_its_disk, on_small_disk},
    operator::{ended_by, fresh_id, key_no, order},
    wait::until,
};

use crate::{
    refused::with,
    support::{QUICK, linked, one_of_each, only_ticket, plug, reserve, supply, until_printed},
};

#[tokio::test(flavor = "multi_thread")]
async fn central_with_a_full_disk_refuses_what_it_cannot_make_durable_and_says_so_spec_9() -> anyhow::Result<()> {
    let network = Network::start_on_small_disk(&[], 16).await?;
    let point = network.charging_point_at("CP-1", network.central_link, QUICK, &[]).await?;
    let driver = network.driver("ana", &[]).await?;
    linked(&driver).await?;
    supply(&network, &point, &driver, "").await?;

    let full = fill(&network.central, &network.path("central")).await?;
    // The running supply goes on; its end waits until it can be written.
    point.engine("unplug", Value::Null).await?;
    point
        .until_engine("an end that Central has not settled", PATIENCE, |status| status["unsettled"] == json!(1))
        .await?;
    driver.ask("request", json!(["CP-1"])).await?;
    until("the driver to be told that it cannot be made durable", PATIENCE, async || {
        let told = driver.printed().iter().any(|line| line["reason"] == json!("UNAVAILABLE"));
        if told { Ok(()) } else { Err("not told".to_owned()) }
    })
    .await?;
    assert_eq!(network.operator.all_tickets().await?, []);

    drop(full);
    let ticket = only_ticket(&network, &point).await?;
    assert_eq!(ticket.meter_end_wh, point.meter_wh().await?);
    // The request that the driver has repeated meanwhile is granted now.
    network.until_state("CP-1", ChargingPointState::Reserved).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_with_a_full_disk_accepts_nothing_new_and_says_so_spec_9() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    // Enough records to use up the rest of the journal's last page.
    let engine: Vec<&str> = QUICK.iter().chain(&["--tick", "10ms", "--register-every", "10ms"]).copied().collect();
    let mut point = network.charging_point_at("CP-1", network.central_link, &engine, &[]).await?;
    let driver = network.driver("ana", &[]).await?;
    linked(&driver).await?;
    let folder = network.path("CP-1/engine");
    on_small_disk(&mut point.engine, &folder, 1);
    point.engine.kill();
    network.until_state("CP-1", ChargingPointState::Broken).await?;
    point.engine.restart()?;
    network.until_state("CP-1", ChargingPointState::Available).await?;

    let full = fill(&point.engine, &folder).await?;
    reserve(&network, &point, &driver, "").await?;
    point.engine("plug", Value::Null).await?;
    point.until_engine("trouble with its journal", PATIENCE, |status| !status["journal_trouble"].is_null()).await?;
    point.engine("unplug", Value::Null).await.ok();
    let refused = point.engine("supply", json!(["0.1"])).await.expect_err("nothing new on a full disk").to_string();
    assert!(refused.contains("the journal cannot be written") && refused.contains("No space left"), "{refused}");
    network.until_state("CP-1", ChargingPointState::Broken).await?;
    let other = network.driver("bea", &[]).await?;
    linked(&other).await?;
    other.ask("request", json!(["CP-1"])).await?;
    until_printed(&other, "ended", &json!({"outcome": "refused", "reason": "BROKEN"})).await?;

    drop(full);
    let ticket = only_ticket(&network, &point).await?;
    assert_eq!(ticket.energy_wh, point.meter_wh().await?);
    point.until_engine("no trouble any more", PATIENCE, |status| status["journal_trouble"].is_null()).await?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_with_a_full_disk_says_so_and_rotates_all_the_same_spec_9_4_6() -> anyhow::Result<()> {
    let (network, mut point, driver) = one_of_each(&[], &[]).await?;
    // The pairing file has to be where the engine can read it: the monitor's folder will be visible to the monitor only.
    let pairing = network.path("CP-1/pairing.sock").display().to_string();
    for process in [&mut point.engine, &mut point.monitor] {
        let args = std::mem::take(&mut process.spec_mut().args);
        process.spec_mut().args = with(args, "--pairing", &pairing);
    }
    let folder = network.path("CP-1/data");
    point.monitor.kill();
    on_small_disk(&mut point.monitor, &folder, 1);
    point.engine.kill();
    network.until_state("CP-1", ChargingPointState::Disconnected).await?;
    point.monitor.restart()?;
    point.engine.restart()?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    supply(&network, &point, &driver, "").await?;
    let before = key_no(&network.shown("CP-1").await?);
    let full = fill(&point.monitor, &folder).await?;

    network.operator.charging_points.clone().rotate(order(&["CP-1"])).await?;
    let full_says = |status: &Value| status["warnings"].to_string().contains("the identity cannot be stored");
    let said = point.until_monitor("that its identity cannot be stored", PATIENCE, full_says).await?;
    assert!(said["warnings"].to_string().contains("No space left"), "{said}");
    let rotated = network.until_shown("CP-1", "under a new key", PATIENCE, |cp| key_no(cp) > before).await?;
    assert_eq!(rotated.state(), ChargingPointState::Supplying);
    point.until_engine("the new key", PATIENCE, |status| status["key_no"] == json!(key_no(&rotated))).await?;
    let identity = on_its_disk(&point.monitor, &point.identity())?;
    let kept = |identity: &std::path::Path| -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&std::fs::read(identity).context("no identity")?)?)
    };
    assert_eq!(kept(&identity)?["keys"][0]["key_no"], json!(before), "what was there is there, whole");

    drop(full);
    point.until_monitor("no trouble any more", PATIENCE, |status| !full_says(status)).await?;
    assert_eq!(kept(&identity)?["keys"][0]["key_no"], json!(key_no(&rotated)), "kept by itself once there is room");
    point.engine("unplug", Value::Null).await?;
    assert_eq!(ended_by(&only_ticket(&network, &point).await?), Reason::Unplugged);

    // After a restart the folder has its earlier content, with a key that is no longer valid.
    point.monitor.restart()?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_with_a_full_disk_asks_for_nothing_that_he_cannot_keep_and_says_so_spec_9() -> anyhow::Result<()> {
    let (network, point, mut driver) = one_of_each(&[], &[]).await?;
    let folder = network.path("driver-ana/data");
    driver.process.kill();
    on_small_disk(&mut driver.process, &folder, 1);
    driver.process.restart()?;
    linked(&driver).await?;
    let full = fill(&driver.process, &folder).await?;
    let refused = driver.ask("request", json!(["CP-1"])).await.expect_err("it cannot be kept").to_string();
    assert!(refused.contains("No space left"), "{refused}");
    // A later request has been answered, so no earlier one is under way.
    driver.ask("list", Value::Null).await?;
    assert_eq!(network.operator.audited("SUPPLY_REQUESTED", "").await?, []);
    assert_eq!(network.operator.all_sessions().await?, []);

    drop(full);
    reserve(&network, &point, &driver, "0.1").await?;
    plug(&network, &point).await?;
    only_ticket(&network, &point).await?;
    until_printed(&driver, "ticket", &json!({})).await?;
    assert_eq!(network.operator.all_sessions().await?.len(), 1, "what was refused was forgotten");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_with_a_full_disk_refuses_an_enrolment_in_words_and_takes_it_later_spec_9() -> anyhow::Result<()> {
    let (mut network, point, driver) = one_of_each(&[], &[]).await?;
    let token = network.operator.token(1).await?;
    let folder = network.path("registry");
    network.registry.kill();
    on_small_disk(&mut network.registry, &folder, 4);
    network.registry.restart()?;
    network.until_ready().await?;
    let full = fill(&network.registry, &folder).await?;
    // Enough writes to use up the rest of the last page of its journal.
    let mut enrolled = 0;
    let refused = until("an enrolment to be refused", PATIENCE, async || {
        let (request_id, id) = (fresh_id(), format!("extra-{enrolled}"));
        let request = EnrolRequest { request_id, kind: Kind::Driver.into(), id, ..Default::default() };
        match network.operator.identities.clone().enrol(request).await {
            Ok(_) => {
                enrolled += 1;
                Err(format!("{enrolled} enrolled"))
            }
            Err(status) => Ok(status),
        }
    })
    .await?;
    assert_eq!(mesh::status::reason_of(&refused), Some(Reason::Unavailable), "{refused}");
    assert!(refused.message().contains("database cannot be used now"), "{refused}");
    let file = network.path("CP-2.token");
    std::fs::write(&file, token)?;
    let late =
        network.start_charging_point_with("CP-2", network.central_link, &file, &[], &["--registry-again", "200ms"])?;
    let said = late.until_monitor("why it is not enrolled", PATIENCE, |s| s["enrolment_detail"] != json!("")).await?;
    assert!(said["enrolment_detail"].to_string().contains("database cannot be used now"), "{said}");
    // Registry's other data is untouched.
    reserve(&network, &point, &driver, "0.1").await?;
    plug(&network, &point).await?;
    only_ticket(&network, &point).await?;

    drop(full);
    network.until_state("CP-2", ChargingPointState::Available).await?;
    let again = EnrolRequest {
        request_id: fresh_id(),
        kind: Kind::Driver.into(),
        id: format!("extra-{enrolled}"),
        ..Default::default()
    };
    network.operator.identities.clone().enrol(again).await.context("what was refused left nothing behind")?;
    Ok(())
}
