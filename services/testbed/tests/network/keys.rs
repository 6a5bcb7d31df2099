//! Key orders and drills (SPEC 4.6 to 4.9): each shows at the engine, the monitor, the watch stream and the audit.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use proto::{
    central::v1::{
        Cause, ChargingPoint, ChargingPointEvent, ChargingPointState, KeyState, OrderRequest, RestoreRequest, Selector,
        WatchChargingPointsRequest, charging_point_event::Event, selector::Which,
    },
    link::v1::Reason,
    registry::v1::{EnrolRequest, Kind},
};
use serde_json::{Value, json};
use testbed::{
    fleet,
    network::{Network, PATIENCE, TestPoint},
    operator::{fresh_id, key_no, key_state, order},
    wait::until,
};
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use crate::support::{one_of_each, only_ticket, reserve};

/// Longest time from an order until each screen shows it (SPEC 4.7).
const VISIBLE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn spoil_and_repair_are_seen_everywhere_within_two_seconds_and_heal_without_a_restart_spec_4_8()
-> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&[], &["--drills"]).await?;
    let said = |status: &Value| status["warnings"].to_string();
    let restarted = (point.engine.pid(), point.monitor.pid());
    let mut spoiled = Screens::before(&network, &point, "UNINTELLIGIBLE").await?;
    point.engine("spoil-key", Value::Null).await?;
    let unheard = |engine: &Value| said(engine).contains("unintelligible messages from Central");
    let told = |monitor: &Value| said(monitor).contains("the engine and Central cannot read each other");
    spoiled.until(unheard, told, |cp| cp.unintelligible).await?;
    let refused = point.engine("spoil-key", Value::Null).await.expect_err("once is enough");
    assert!(refused.to_string().contains("spoiled already"), "{refused}");

    let mut repaired = Screens::before(&network, &point, "INTELLIGIBLE").await?;
    point.engine("repair-key", Value::Null).await?;
    let quiet = |status: &Value| status["warnings"] == json!([]);
    repaired.until(quiet, quiet, |cp| !cp.unintelligible).await?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    reserve(&network, &point, &driver, "0.1").await?;
    point.engine("plug", Value::Null).await?;
    only_ticket(&network, &point).await?;
    assert_eq!((point.engine.pid(), point.monitor.pid()), restarted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn spoiling_needs_drills_spec_4_8() -> anyhow::Result<()> {
    let (_network, point, _driver) = one_of_each(&[], &[]).await?;
    let refused = point.engine("spoil-key", Value::Null).await.expect_err("not without --drills");
    assert!(refused.to_string().contains("--drills"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rotate_is_seen_everywhere_within_two_seconds_spec_4_6_4_7() -> anyhow::Result<()> {
    let (network, point, _driver) = one_of_each(&[], &[]).await?;
    let before = key_no(&network.shown("CP-1").await?);
    let newer = |status: &Value| status["key_no"].as_u64() > Some(before) && status["key_state"] == json!("ACTIVE");
    let mut rotated = Screens::before(&network, &point, "KEY_ROTATED").await?;
    network.operator.charging_points.clone().rotate(order(&["CP-1"])).await?;
    rotated.until(newer, newer, |cp| key_no(cp) > before).await?;
    let ordered = network.operator.audited("KEY_ROTATION_ORDERED", "charging-point/CP-1").await?;
    assert!(ordered.len() == 1 && ordered[0].actor.contains("olga"), "by whom: {ordered:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn renew_is_seen_everywhere_within_two_seconds_and_heals_by_itself_after_five_spec_4_7() -> anyhow::Result<()> {
    let (network, point, _driver) = one_of_each(&[], &[]).await?;
    let before = key_no(&network.shown("CP-1").await?);
    let deleted = |status: &Value| status["key_state"] == json!("DELETED");
    let mut renewed = Screens::before(&network, &point, "KEY_RENEWED").await?;
    let ordered = Instant::now();
    network.operator.charging_points.clone().renew(order(&["CP-1"])).await?;
    renewed.until(deleted, deleted, |cp| shows(cp, Cause::NoKey)).await?;
    let audited = network.operator.audited("KEY_RENEWED", "charging-point/CP-1").await?;
    assert!(audited.len() == 1 && audited[0].actor.contains("olga"), "by whom: {audited:?}");
    let healed = network.until_state("CP-1", ChargingPointState::Available).await?;
    assert!(ordered.elapsed() >= Duration::from_secs(5), "it waits five seconds: {:?}", ordered.elapsed());
    assert!(key_no(&healed) > before, "a new key");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_stays_until_restored_with_a_new_enrolment_at_the_monitor_spec_4_7() -> anyhow::Result<()> {
    let (network, mut point, _driver) = one_of_each(&[], &[]).await?;
    let is_revoked = |status: &Value| status["key_state"] == json!("REVOKED");
    let mut revoked = Screens::before(&network, &point, "KEY_REVOKED").await?;
    network.operator.charging_points.clone().revoke(order(&["CP-1"])).await?;
    revoked.until(is_revoked, is_revoked, |cp| shows(cp, Cause::KeyRevoked)).await?;
    let audited = network.operator.audited("KEY_REVOKED", "charging-point/CP-1").await?;
    assert!(audited.len() == 1 && audited[0].actor.contains("olga"), "by whom: {audited:?}");

    // Neither a restart nor its credential restores it; it is shown as OUT OF ORDER, not as DISCONNECTED.
    point.monitor.restart()?;
    point.until_monitor("revoked, after the restart", PATIENCE, is_revoked).await?;
    point.monitor("authenticate", Value::Null).await.ok();
    network
        .until_shown("CP-1", "OUT OF ORDER, revoked", PATIENCE, |cp| {
            shows(cp, Cause::KeyRevoked) && cp.state() == ChargingPointState::OutOfOrder
        })
        .await?;
    point.until_engine("revoked, after the monitor's restart", PATIENCE, is_revoked).await?;

    let active = |status: &Value| status["key_state"] == json!("ACTIVE") && status["warnings"] == json!([]);
    let mut restored = Screens::before(&network, &point, "RESTORED").await?;
    let request = RestoreRequest { request_id: fresh_id(), id: "CP-1".into() };
    let token = network.operator.charging_points.clone().restore(request).await?.into_inner().enrolment_token;
    point.monitor("enrol", json!([token])).await?;
    restored.until(active, active, |cp| !shows(cp, Cause::KeyRevoked) && !shows(cp, Cause::NoKey)).await?;
    network.until_state("CP-1", ChargingPointState::Available).await?;

    // The token is for one use and for this id only.
    let kept = || -> anyhow::Result<(Value, Value)> {
        let file: Value = serde_json::from_slice(&std::fs::read(network.path("CP-1/data/identity.json"))?)?;
        Ok((file["credential"].clone(), file["keys"].clone()))
    };
    let before = kept()?;
    for (id, reason) in [("CP-1", "TOKEN_SPENT"), ("CP-2", "TOKEN_SPENT")] {
        let request = EnrolRequest {
            request_id: fresh_id(),
            kind: Kind::ChargingPoint.into(),
            id: id.into(),
            token: token.clone(),
            ..Default::default()
        };
        let refused = network.operator.identities.clone().enrol(request).await.expect_err("one use only");
        assert_eq!(mesh::status::reason_of(&refused).map(Reason::code), Some(reason), "{refused}");
    }
    point.monitor("enrol", json!([token])).await?;
    point
        .until_monitor("that the token is spent", PATIENCE, |status| {
            status["notice"].to_string().contains(Reason::TokenSpent.in_words()) && active(status)
        })
        .await?;
    assert_eq!(kept()?, before, "credential and keys are as they were");
    network.until_state("CP-1", ChargingPointState::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rotate_leaves_no_gap_spec_4_6() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&[], &[]).await?;
    crate::support::supply(&network, &point, &driver, "").await?;
    let before = key_no(&network.shown("CP-1").await?);
    network.operator.charging_points.clone().rotate(order(&["CP-1"])).await?;
    let after = network
        .until_shown("CP-1", "under a new key", PATIENCE, |cp| {
            assert_eq!(cp.state(), ChargingPointState::Supplying, "never anything else meanwhile");
            key_no(cp) > before && key_state(cp) == KeyState::Active
        })
        .await?;
    point.until_engine("the new key", PATIENCE, |s| s["key_no"] == json!(key_no(&after))).await?;
    let telemetry = after.telemetry.unwrap_or_default();
    assert_eq!((telemetry.gaps, telemetry.unreadable), (0, 0));
    point.engine("unplug", Value::Null).await?;
    only_ticket(&network, &point).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_by_age_without_an_order_and_with_no_gap_spec_4_6() -> anyhow::Result<()> {
    let (network, point, driver) = one_of_each(&["--key-lifetime", "9s"], &["--idle-reading-every", "200ms"]).await?;
    let (mut stream, before) = (watching(&network).await?, key_no(&network.shown("CP-1").await?));
    let key_of = |status: &Value| status["key_no"].as_u64().unwrap_or(0);
    let drivers = key_of(&driver.until("a key", PATIENCE, |status| key_of(status) > 0).await?);
    let twice = async {
        loop {
            let Some(Event::Changed(cp)) = stream.message().await?.context("the stream ended")?.event else { continue };
            let (state, key) = (cp.state(), key_no(&cp));
            ensure!(cp.id != "CP-1" || state == ChargingPointState::Available, "{state:?} under key {key}");
            if key >= before + 2 {
                return anyhow::Ok(key);
            }
        }
    };
    let after = timeout(PATIENCE, twice).await.context("its key is as it was")??;
    point.until_engine("the new key", PATIENCE, |status| key_of(status) >= after).await?;
    point.until_monitor("the new key", PATIENCE, |status| key_of(status) >= after).await?;
    driver
        .until("a newer key", PATIENCE, |status| key_of(status) >= drivers + 2 && status["linked"] == json!(true))
        .await?;
    let telemetry = network.shown("CP-1").await?.telemetry.unwrap_or_default();
    assert!(telemetry.readings > 20 && telemetry.gaps == 0 && telemetry.unreadable == 0, "{telemetry:?}");
    for object in ["charging-point/CP-1", "driver/ana"] {
        // A new key is in use a moment before its audit entry is durable.
        until(format_args!("two rotations of {object} in the audit"), PATIENCE, async || {
            let rotated =
                network.operator.audited("KEY_ROTATED", object).await.map_err(|error| format!("{error:#}"))?;
            if rotated.len() >= 2 { Ok(()) } else { Err(format!("{rotated:?}")) }
        })
        .await?;
        let granted = network.operator.audited("LOGIN", object).await?;
        assert_eq!(granted.len(), 1, "the credential was shown once: {granted:?}");
    }
    let given = network.operator.audited("ORDER_GIVEN", "").await?;
    assert_eq!(given, [], "nobody ordered it");
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
        expected: Some(u32::try_from(COUNT)?),
        ..Default::default()
    };
    network.operator.charging_points.clone().rotate(request).await?;
    until("every charging point to be under a new key", PATIENCE * 3, async || {
        let now = fleet::list(&network).await.map_err(|error| format!("{error:#}"))?;
        let rotated = now.values().filter(|cp| before.get(&cp.id).is_some_and(|was| key_no(cp) > key_no(was)));
        let active = rotated.filter(|cp| key_state(cp) == KeyState::Active);
        let count = active.count();
        if count == COUNT { Ok(()) } else { Err(format!("{count}")) }
    })
    .await?;
    // Two more readings of each charging point under its new key, and none missing before.
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

/// The four places where a key order must be shown: engine, monitor, watch stream and audit. Made before the order.
struct Screens<'a> {
    network: &'a Network,
    point: &'a TestPoint,
    stream: Streaming<ChargingPointEvent>,
    action: &'a str,
    audited: usize,
    ordered: Instant,
}

impl<'a> Screens<'a> {
    /// Call it right before the order; `action` is the order's audit action.
    async fn before(network: &'a Network, point: &'a TestPoint, action: &'a str) -> anyhow::Result<Self> {
        let stream = watching(network).await?;
        let audited = network.operator.audited(action, &format!("charging-point/{}", point.id)).await?.len();
        Ok(Self { network, point, stream, action, audited, ordered: Instant::now() })
    }

    /// Waits until each place shows the order, each within its time limit.
    async fn until(
        &mut self,
        engine: impl Fn(&Value) -> bool,
        monitor: impl Fn(&Value) -> bool,
        shown: impl Fn(&ChargingPoint) -> bool,
    ) -> anyhow::Result<()> {
        let (ordered, action, point) = (self.ordered, self.action, self.point);
        let object = format!("charging-point/{}", point.id);
        let watched = async {
            loop {
                let event = self.stream.message().await?.context("the stream ended")?.event;
                if matches!(&event, Some(Event::Changed(cp)) if cp.id == point.id && shown(cp)) {
                    return anyhow::Ok(ordered.elapsed());
                }
            }
        };
        let audited = until(format!("{action} in the audit"), PATIENCE, async || {
            let entries = self.network.operator.audited(action, &object).await.map_err(|error| format!("{error:#}"))?;
            if entries.len() > self.audited { Ok(ordered.elapsed()) } else { Err(format!("{entries:?}")) }
        });
        let (engine, monitor, watched, audited) = tokio::try_join!(
            async { point.until_engine(action, PATIENCE, engine).await.map(|_| ordered.elapsed()) },
            async { point.until_monitor(action, PATIENCE, monitor).await.map(|_| ordered.elapsed()) },
            async { timeout(PATIENCE, watched).await.with_context(|| format!("{action} in the watch stream"))? },
            audited,
        )?;
        let late = [engine, monitor, watched, audited].into_iter().any(|took| took > VISIBLE);
        ensure!(!late, "{action}: engine {engine:?}, monitor {monitor:?}, watch {watched:?}, audit {audited:?}");
        Ok(())
    }
}

/// A watch stream whose snapshot has been read.
async fn watching(network: &Network) -> anyhow::Result<Streaming<ChargingPointEvent>> {
    let mut client = network.operator.charging_points.clone();
    let mut stream = client.watch(WatchChargingPointsRequest::default()).await?.into_inner();
    while !matches!(stream.message().await?.context("the stream ended")?.event, Some(Event::Synchronised(_))) {}
    Ok(stream)
}

fn shows(cp: &ChargingPoint, cause: Cause) -> bool {
    cp.causes().any(|one| one == cause)
}
