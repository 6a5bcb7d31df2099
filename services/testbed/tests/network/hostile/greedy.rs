//! Authenticated peers that send allowed messages as fast as they can, which must not affect others (SPEC 3.4, 3.8, 7.4,
//! 8.2).

use std::time::Duration;

use anyhow::{Context as _, ensure};
use proto::{
    link::v1::{
        EngineHealth, JournalReport, JournalSession, MeterValue, Reason, RequestSupply, SessionState, SetMaintenance,
        SupplyEnded, down, up,
    },
    registry::v1::{Kind, RemoveRequest},
};
use testbed::{
    network::{Network, PATIENCE},
    operator::{fresh_id, order},
    wait::until,
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    honest,
    links::{HostilePoint, MessageOutcome, driver},
    unharmed,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_charging_point_that_floods_central_can_still_be_stopped_and_removed_spec_7_4() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let HostilePoint { monitor, engine, .. } = HostilePoint::start(&network, "GREEDY").await?;
    let switching = tokio::spawn(async move {
        for n in 0_u64.. {
            let healthy = n % 3 == 0;
            let health = up::Body::EngineHealth(EngineHealth { healthy, detail: String::new() });
            let switched = monitor.notify(up::Body::SetMaintenance(SetMaintenance { on: n % 2 == 0 })).await;
            if switched.is_err() || monitor.notify(health).await.is_err() {
                break;
            }
        }
    });
    let ending = tokio::spawn(async move {
        for n in 0_u64.. {
            let ended = SupplyEnded { session_id: format!("s-{n}"), meter_end_wh: n, ..SupplyEnded::default() };
            if engine.notify(up::Body::SupplyEnded(ended)).await.is_err() {
                break;
            }
        }
    });
    sleep(Duration::from_secs(3)).await;
    let asked = Instant::now();
    network.operator.charging_points.clone().stop(order(&["GREEDY"])).await?;
    let stopped = network.operator.audited("STOPPED", "charging-point/GREEDY").await?;
    ensure!(stopped.len() == 1 && asked.elapsed() < Duration::from_secs(2), "{stopped:?} {:?}", asked.elapsed());
    let request = RemoveRequest { request_id: fresh_id(), kind: Kind::ChargingPoint.into(), id: "GREEDY".to_owned() };
    network.operator.identities.clone().remove(request).await?;
    timeout(PATIENCE, switching).await.context("its monitor's link is not closed")??;
    timeout(PATIENCE, ending).await.context("its engine's link is not closed")??;
    until("both entries, by Registry and by Central", PATIENCE, async || {
        let removed = network.operator.audited("REMOVED", "charging-point/GREEDY").await;
        let removed = removed.map_err(|error| error.to_string())?;
        if removed.len() == 2 { Ok(()) } else { Err(format!("{removed:?}")) }
    })
    .await?;
    let mut noted = 0;
    for action in ["MAINTENANCE_ON", "MAINTENANCE_OFF", "FAULT", "RECOVERY"] {
        noted += network.operator.audited(action, "charging-point/GREEDY").await?.len();
    }
    ensure!(noted < 150, "{noted} entries");
    unharmed(&network).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_meter_values_disconnects_no_driver_and_the_last_one_is_shown_spec_3_4() -> anyhow::Result<()> {
    const VALUES: u64 = 20_000;
    let network = Network::start(&["--simulated-speed", "1000"]).await?;
    let _post = honest(&network).await?;
    let mut station = HostilePoint::start(&network, "BULK").await?;
    let mut ana = driver(&network, "ana").await?;
    let session_id = station.supply(&mut ana, 1_000).await?;
    for n in 1..=VALUES {
        let value = MeterValue { session_id: session_id.clone(), meter_wh: 1_000 + n, power_w: 1 };
        station.engine.notify(up::Body::MeterValue(value)).await?;
    }
    let last = |body: &down::Body| match body {
        down::Body::Running(running) => (running.energy_wh == VALUES).then_some(()),
        _ => None,
    };
    ana.until(last).await?;
    ensure!(ana.is_open(), "his link lives");
    unharmed(&network).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_is_refused_without_rows_and_audit_entries_spec_8_2() -> anyhow::Result<()> {
    const REQUESTS: usize = 200;
    let network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let mut ana = driver(&network, "ana").await?;
    let begun = Instant::now();
    let (mut unknown, mut too_many) = (0, 0);
    for _ in 0..REQUESTS {
        let request = RequestSupply {
            request_id: fresh_id(),
            charging_point_id: "NOWHERE".into(),
            energy_wh: 0,
            ..Default::default()
        };
        match ana.ask(up::Body::RequestSupply(request)).await? {
            MessageOutcome::Answer(Reason::UnknownChargingPoint) => unknown += 1,
            MessageOutcome::Answer(Reason::TooManyAttempts) => too_many += 1,
            told => anyhow::bail!("{told:?}"),
        }
    }
    let most = 32 + 4 * (usize::try_from(begun.elapsed().as_secs())? + 1);
    // One request was used for the list of charging points before.
    ensure!((31..=most).contains(&unknown) && unknown + too_many == REQUESTS, "{unknown} were answered");
    let refused = network.operator.audited("SUPPLY_REFUSED", "charging-point/NOWHERE").await?;
    ensure!(refused.len() == unknown, "{} entries", refused.len());
    unharmed(&network).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_of_more_sessions_than_a_report_may_have_is_refused_whole_spec_3_8() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let mut station = HostilePoint::start(&network, "HOARDER").await?;
    let held = |count: u32| {
        let session = |n| JournalSession {
            session_id: format!("s-{n}"),
            state: SessionState::Settling.into(),
            meter_wh: 7,
            ..JournalSession::default()
        };
        up::Body::JournalReport(JournalReport { sessions: (0..count).map(session).collect(), latest: None })
    };
    ensure!(station.engine.ask(held(257)).await? == MessageOutcome::Answer(Reason::Invalid));
    ensure!(station.engine.ask(held(20_000)).await? == MessageOutcome::Answer(Reason::Invalid));
    ensure!(station.engine.ask(held(256)).await? == MessageOutcome::Answer(Reason::Unspecified));
    unharmed(&network).await
}
