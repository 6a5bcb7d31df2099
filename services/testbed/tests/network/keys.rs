//! Key orders and drills (SPEC 4.6 to 4.9): each shows at the engine, the monitor, the watch stream and the audit.

use std::time::Duration;

use proto::{
    central::v1::{
        ChargingPoint, OrderRequest, RestoreRequest, Selector, WatchChargingPointsRequest, charging_point_event::Event,
        selector::Which,
    },
    link::v1::{Cause, KeyState, State},
};
use serde_json::{Value, json};
use testbed::{
    fleet,
    network::{Network, PATIENCE},
    operator::{fresh_id, order},
    wait::until,
};
use tokio::time::{Instant, timeout};

use crate::support::{one_of_each, only_ticket, reserve};

/// SPEC 4.7 gives two seconds from the order to each screen.
const VISIBLE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_key_makes_both_ends_say_so_and_repair_heals_without_a_restart_spec_4_8() -> anyhow::Result<()> {
    let (network, post, driver) = one_of_each(&[], &["--drills"]).await?;
    post.engine("spoil-key", Value::Null).await?;
    post.until_engine("unintelligible messages from Central", PATIENCE, |status| {
        status["warnings"].to_string().contains("unintelligible")
    })
    .await?;
    network.until_shown("CP-1", "unintelligible", PATIENCE, |cp| cp.unintelligible > 0).await?;
    until("the audit to say so", PATIENCE, async || {
        let audited = network.operator.audited("UNINTELLIGIBLE", "").await.map_err(|error| format!("{error:#}"))?;
        if audited.is_empty() { Err("nothing".to_owned()) } else { Ok(()) }
    })
    .await?;
    let restarted = post.engine.pid();
    post.engine("repair-key", Value::Null).await?;
    network.until_state("CP-1", State::Available).await?;
    reserve(&network, &post, &driver, "0.1").await?;
    post.engine("plug", Value::Null).await?;
    only_ticket(&network, &post).await?;
    assert_eq!(post.engine.pid(), restarted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn spoiling_needs_drills_spec_4_8() -> anyhow::Result<()> {
    let (_network, post, _driver) = one_of_each(&[], &[]).await?;
    let refused = post.engine("spoil-key", Value::Null).await.expect_err("not without --drills");
    assert!(refused.to_string().contains("--drills"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn renew_is_seen_everywhere_within_two_seconds_and_heals_by_itself_after_five_spec_4_7() -> anyhow::Result<()> {
    let (network, post, _driver) = one_of_each(&[], &[]).await?;
    let watched = watch_until(&network, Cause::NoKey);
    let before = network.shown("CP-1").await?.key_no;
    let ordered = Instant::now();
    network.operator.charging_points.clone().renew(order(&["CP-1"])).await?;
    everywhere(&post, &network, "KEY_RENEWED", "DELETED").await?;
    watched.await??;
    assert!(ordered.elapsed() < VISIBLE + Duration::from_secs(1), "visible after {:?}", ordered.elapsed());
    let healed = network.until_state("CP-1", State::Available).await?;
    assert!(ordered.elapsed() >= Duration::from_secs(4), "it waits five seconds: {:?}", ordered.elapsed());
    assert!(healed.key_no > before, "a new key");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_stays_until_restored_with_a_new_enrolment_at_the_monitor_spec_4_7() -> anyhow::Result<()> {
    let (network, mut post, _driver) = one_of_each(&[], &[]).await?;
    let watched = watch_until(&network, Cause::KeyRevoked);
    let ordered = Instant::now();
    network.operator.charging_points.clone().revoke(order(&["CP-1"])).await?;
    everywhere(&post, &network, "KEY_REVOKED", "REVOKED").await?;
    watched.await??;
    assert!(ordered.elapsed() < VISIBLE + Duration::from_secs(1), "visible after {:?}", ordered.elapsed());

    // Neither a restart nor its own authentication brings it back; it shows OUT OF ORDER and not DISCONNECTED.
    post.monitor.restart()?;
    post.until_monitor("revoked, after the restart", PATIENCE, |s| s["key_state"] == json!("REVOKED")).await?;
    post.monitor("authenticate", Value::Null).await.ok();
    network
        .until_shown("CP-1", "OUT OF ORDER, revoked", PATIENCE, |cp| {
            shows(cp, Cause::KeyRevoked) && cp.view.as_ref().is_some_and(|view| view.state() == State::OutOfOrder)
        })
        .await?;

    let request = RestoreRequest { request_id: fresh_id(), id: "CP-1".into() };
    let token = network.operator.charging_points.clone().restore(request).await?.into_inner().enrolment_token;
    post.monitor("enrol", json!([token])).await?;
    network.until_state("CP-1", State::Available).await?;
    let again = post.monitor("enrol", json!([token])).await;
    assert!(again.is_err() || network.shown("CP-1").await?.view.is_some(), "one use only");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rotate_leaves_no_gap_spec_4_6() -> anyhow::Result<()> {
    let (network, post, driver) = one_of_each(&[], &[]).await?;
    crate::support::supply(&network, &post, &driver, "").await?;
    let before = network.shown("CP-1").await?.key_no;
    network.operator.charging_points.clone().rotate(order(&["CP-1"])).await?;
    let after = network
        .until_shown("CP-1", "under a new key", PATIENCE, |cp| {
            let view = cp.view.as_ref();
            assert_eq!(view.map(|view| view.state()), Some(State::Supplying), "never anything else meanwhile");
            cp.key_no > before && view.is_some_and(|view| view.key_state() == KeyState::Active)
        })
        .await?;
    post.until_engine("the new key", PATIENCE, |s| s["key_no"] == json!(after.key_no)).await?;
    let telemetry = after.telemetry.unwrap_or_default();
    assert_eq!((telemetry.gaps, telemetry.unreadable), (0, 0));
    post.engine("unplug", Value::Null).await?;
    only_ticket(&network, &post).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rotating_the_keys_of_a_thousand_charging_points_loses_no_reading_spec_4_6() -> anyhow::Result<()> {
    const COUNT: usize = 1_000;
    let network = Network::start(&["--max-unproven-per-address", "4096"]).await?;
    let _fleet = fleet::start(&network, COUNT, &["--idle-reading-every", "1s"]).await?;
    let before = fleet::list(&network).await?;
    let everything = Selector { which: Some(Which::All(true)) };
    let request = OrderRequest {
        request_id: fresh_id(),
        selector: Some(everything),
        expected: u32::try_from(COUNT)?,
        ..Default::default()
    };
    network.operator.charging_points.clone().rotate(request).await?;
    until("every charging point to be under a new key", PATIENCE * 3, async || {
        let now = fleet::list(&network).await.map_err(|error| format!("{error:#}"))?;
        let rotated = now.values().filter(|cp| before.get(&cp.id).is_some_and(|was| cp.key_no > was.key_no));
        let active = rotated.filter(|cp| cp.view.as_ref().is_some_and(|view| view.key_state() == KeyState::Active));
        let count = active.count();
        if count == COUNT { Ok(()) } else { Err(format!("{count}")) }
    })
    .await?;
    // Two more readings of each under the new key, and not one missing before them.
    let rotated = fleet::list(&network).await?;
    let readings = |cp: &ChargingPoint| cp.telemetry.as_ref().map_or(0, |telemetry| telemetry.readings);
    let after = until("readings under the new keys", PATIENCE, async || {
        let now = fleet::list(&network).await.map_err(|error| format!("{error:#}"))?;
        let more = now.values().filter(|cp| rotated.get(&cp.id).is_some_and(|was| readings(cp) >= readings(was) + 2));
        let count = more.count();
        if count == COUNT { Ok(now) } else { Err(format!("{count}")) }
    })
    .await?;
    for cp in after.values() {
        let telemetry = cp.telemetry.as_ref().ok_or_else(|| anyhow::anyhow!("no readings of {}", cp.id))?;
        assert_eq!((telemetry.gaps, telemetry.unreadable), (0, 0), "{}: {telemetry:?}", cp.id);
    }
    Ok(())
}

/// Engine, monitor and audit.
async fn everywhere(
    post: &testbed::network::Post,
    network: &Network,
    action: &str,
    key_state: &str,
) -> anyhow::Result<()> {
    let wanted = json!(key_state);
    post.until_monitor(key_state, VISIBLE, |status| status["key_state"] == wanted).await?;
    post.until_engine(key_state, VISIBLE, |status| status["key_state"] == wanted).await?;
    until(format_args!("{action} in the audit"), VISIBLE, async || {
        let audited = network.operator.audited(action, "").await.map_err(|error| format!("{error:#}"))?;
        let by_olga = audited.iter().any(|entry| entry.actor.contains("olga"));
        if by_olga { Ok(()) } else { Err(format!("{audited:?}")) }
    })
    .await
}

/// A watch stream, open before the order, until it shows the cause.
fn watch_until(network: &Network, cause: Cause) -> tokio::task::JoinHandle<anyhow::Result<()>> {
    let mut client = network.operator.charging_points.clone();
    tokio::spawn(async move {
        let mut stream = client.watch(WatchChargingPointsRequest::default()).await?.into_inner();
        timeout(PATIENCE, async {
            while let Some(event) = stream.message().await? {
                if let Some(Event::Changed(cp)) = event.event
                    && shows(&cp, cause)
                {
                    return Ok(());
                }
            }
            anyhow::bail!("the stream ended")
        })
        .await?
    })
}

fn shows(cp: &ChargingPoint, cause: Cause) -> bool {
    cp.view.as_ref().is_some_and(|view| view.causes().any(|one| one == cause))
}
