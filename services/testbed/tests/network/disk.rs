//! The row *disk full* of SPEC 9: reported, no half-written state, and over by itself when there is room again.
//!
//! The full disk is a small one that only the process under test sees, in a mount namespace of its own.

use proto::link::v1::State;
use serde_json::{Value, json};
use testbed::{
    network::{Network, PATIENCE, fill, on_small_disk},
    wait::until,
};

use crate::support::{QUICK, linked, only_ticket, reserve, supply};

#[tokio::test(flavor = "multi_thread")]
async fn central_with_a_full_disk_refuses_what_it_cannot_make_durable_and_says_so_spec_9() -> anyhow::Result<()> {
    let network = Network::start_on_small_disk(&[], 16).await?;
    let post = network.charging_point_at("CP-1", network.central_link, QUICK, &[]).await?;
    let driver = network.driver("ana", &[]).await?;
    linked(&driver).await?;
    supply(&network, &post, &driver, "").await?;

    let full = fill(&network.central, &network.path("central")).await?;
    // The supply goes on and ends; its end waits until it can be made durable.
    post.engine("unplug", Value::Null).await?;
    post.until_engine("an end that Central has not settled", PATIENCE, |status| status["unsettled"] == json!(1))
        .await?;
    driver.ask("request", json!(["CP-1"])).await?;
    until("the driver to be told that it cannot be made durable", PATIENCE, async || {
        let told = driver.printed().iter().any(|line| line["reason"] == json!("UNAVAILABLE"));
        if told { Ok(()) } else { Err("not told".to_owned()) }
    })
    .await?;
    assert_eq!(network.operator.all_tickets().await?, []);

    drop(full);
    let ticket = only_ticket(&network, &post).await?;
    assert_eq!(ticket.meter_end_wh, post.meter_wh().await?);
    // What the driver kept asking for meanwhile is granted now.
    network.until_state("CP-1", State::Reserved).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_with_a_full_disk_accepts_nothing_new_and_says_so_spec_9() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    // So many records that what is left of the journal's last page is soon used up.
    let engine: Vec<&str> = QUICK.iter().chain(&["--tick", "10ms", "--register-every", "10ms"]).copied().collect();
    let mut post = network.charging_point_at("CP-1", network.central_link, &engine, &[]).await?;
    let driver = network.driver("ana", &[]).await?;
    linked(&driver).await?;
    let folder = network.path("CP-1/engine");
    on_small_disk(&mut post.engine, &folder, 1);
    post.engine.restart()?;
    network.until_state("CP-1", State::Available).await?;

    let full = fill(&post.engine, &folder).await?;
    reserve(&network, &post, &driver, "").await?;
    post.engine("plug", Value::Null).await?;
    post.until_engine("trouble with its journal", PATIENCE, |status| !status["journal_trouble"].is_null()).await?;
    post.engine("unplug", Value::Null).await.ok();
    let refused = post.engine("supply", json!(["0.1"])).await.expect_err("nothing new on a full disk");
    assert!(!refused.to_string().is_empty());

    drop(full);
    let ticket = only_ticket(&network, &post).await?;
    assert_eq!(ticket.energy_wh, post.meter_wh().await?);
    post.until_engine("no trouble any more", PATIENCE, |status| status["journal_trouble"].is_null()).await?;
    network.until_state("CP-1", State::Available).await?;
    Ok(())
}
