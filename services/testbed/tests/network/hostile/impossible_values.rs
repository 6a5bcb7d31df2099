//! Authenticated peers that send impossible values and malformed messages (SPEC 3.8, 4.1, 4.3, 4.8).

use anyhow::{Context as _, ensure};
use proto::{
    central::v1::{ChargingPointState, StatisticsRequest, Ticket, statistics_request::By},
    link::v1::{
        EngineHealth, JournalReport, JournalSession, ListHistory, MeterValue, Reason, SetMaintenance, SupplyEnded,
        SupplyStarted, down, up,
    },
    millis,
};
use testbed::{
    network::{Network, PATIENCE},
    operator::{active_session, energy_wh, parameters},
    wait::until,
};

use super::{
    honest,
    links::{HostileLink, HostilePoint, MessageOutcome, driver, engine},
    unharmed,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_meter_that_runs_backwards_or_jumps_is_audited_and_breaks_no_sum_spec_3_8() -> anyhow::Result<()> {
    // So that Wh of minutes may come within a second.
    let mut network = Network::start(&["--simulated-speed", "1000"]).await?;
    let _post = honest(&network).await?;
    let mut station = HostilePoint::start(&network, "LIAR").await?;
    let mut ana = driver(&network, "ana").await?;
    let session_id = station.supply(&mut ana, 1_000).await?;
    let say =
        |meter_wh| up::Body::MeterValue(MeterValue { session_id: session_id.clone(), meter_wh, power_w: u32::MAX });
    for (value, shown) in [(5_000, 4_000), (u64::MAX, 4_000), (6_000, 5_000), (1 << 63, 5_000), (7_000, 6_000)] {
        station.engine.ask(say(value)).await?;
        network.until_shown("LIAR", format!("{shown} Wh after {value}"), PATIENCE, |cp| energy_wh(cp) == shown).await?;
    }
    for n in 0..500 {
        station.engine.notify(say(n)).await?;
    }
    station.engine.ask(say(0)).await?;
    until("the audit to say so", PATIENCE, async || {
        for action in ["METER_RAN_BACKWARDS", "METER_IMPLAUSIBLE"] {
            let audited = network.operator.audited(action, "charging-point/LIAR").await;
            match audited.map_err(|error| error.to_string())?.len() {
                0 => return Err(format!("no {action}")),
                1..=3 => {}
                more => return Err(format!("{more} times {action}: repeats are counted, not repeated")),
            }
        }
        Ok(())
    })
    .await?;

    // Impossible end values, twice, so that sums would overflow.
    for (start, end, at, until_ms) in [
        (1_000, u64::MAX, i64::MIN, i64::MAX),
        (u64::MAX, u64::MAX, i64::MAX, i64::MIN),
        (0, u64::MAX, 1, i64::MAX),
        (0, 1 << 62, -1, 0),
    ] {
        let running = active_session(&network.shown("LIAR").await?);
        let session_id = if running.is_empty() { station.reserve(&mut ana).await? } else { running };
        let started = SupplyStarted { session_id: session_id.clone(), meter_start_wh: start, at_ms: at };
        station.engine.ask(up::Body::SupplyStarted(started)).await?;
        let ended = SupplyEnded {
            session_id: session_id.clone(),
            meter_start_wh: start,
            meter_end_wh: end,
            reason: Reason::Unplugged.into(),
            started_at_ms: at,
            ended_at_ms: until_ms,
        };
        let told = station.engine.ask(up::Body::SupplyEnded(ended.clone())).await?;
        ensure!(told == MessageOutcome::Answer(Reason::Unspecified), "{told:?}");
        // Repeated with another value.
        station.engine.ask(up::Body::SupplyEnded(SupplyEnded { meter_end_wh: 0, ..ended.clone() })).await?;
        station.engine.ask(up::Body::SupplyEnded(SupplyEnded { meter_end_wh: u64::MAX, ..ended })).await?;
        network.until_state("LIAR", ChargingPointState::Available).await?;
    }
    let tickets = network.until_tickets("LIAR", 4).await?;
    let first = tickets.iter().find(|ticket| ticket.session_id == session_id).context("no first ticket")?;
    ensure!(first.energy_wh == 6_000, "what the meter had shown is billed: {first:?}");
    ensure!(tickets.iter().all(|ticket| ticket.energy_wh <= 6_000 && ticket.amount_minor >= 0), "{tickets:?}");
    let plausible = |ticket: &Ticket| {
        let [start, end] = [&ticket.start_time, &ticket.end_time].map(|time| millis(time.as_ref()));
        0 < start && start <= end
    };
    ensure!(tickets.iter().all(plausible), "{tickets:?}");
    ensure!(!network.operator.audited("DISCREPANCY", "charging-point/LIAR").await?.is_empty());
    for by in [By::ChargingPoint, By::Driver] {
        let request = StatisticsRequest { by: by.into(), ..StatisticsRequest::default() };
        let sums = network.operator.sessions.clone().statistics(request).await?.into_inner();
        ensure!(sums.statistics.iter().any(|sum| sum.sessions == 4), "{sums:?}");
    }
    ana.send(up::Body::ListHistory(ListHistory::default())).await?;
    let history = |body: &down::Body| match body {
        down::Body::History(history) => Some(history.total_sessions),
        _ => None,
    };
    ensure!(ana.until(history).await? == 4, "his history");
    unharmed(&network).await?;
    network.restart_central().await?;
    ensure!(!network.central.log().contains("panicked"), "something panicked in Central");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_oversized_messages_are_counted_and_later_ones_are_processed_spec_4_8() -> anyhow::Result<()> {
    const TIMES: u64 = 300;
    let network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let mut station = HostilePoint::start(&network, "ODD").await?;
    for n in 0..TIMES {
        // A length past the end, a field of the wrong type, invalid UTF-8.
        let odd: &[u8] = match n % 3 {
            0 => b"\x92\x01\xff\xff\xff\xff\x0f",
            1 => b"\x55\x01\x02",
            _ => b"\x52\x04\x12\x02\xff\xfe",
        };
        station.monitor.bytes(odd.to_vec()).await?;
    }
    until("all to be counted", PATIENCE, async || {
        // Counts are written with the next message, at most once a second.
        let healthy = EngineHealth { healthy: true, detail: String::new() };
        station.monitor.ask(up::Body::EngineHealth(healthy)).await.map_err(|error| error.to_string())?;
        match network.shown("ODD").await.map_err(|error| error.to_string())? {
            cp if cp.unintelligible_messages == TIMES => Ok(()),
            cp => Err(format!("{}", cp.unintelligible_messages)),
        }
    })
    .await?;
    network.until_state("ODD", ChargingPointState::Available).await?;
    let audited = network.operator.audited("UNINTELLIGIBLE", "charging-point/ODD").await?;
    ensure!(audited.len() == 1, "repeats are counted, not repeated: {audited:?}");
    // A message type that Central does not know.
    let id = 77;
    station.monitor.bytes(vec![0x08, id, 0xa2, 0x3f, 0x00]).await?;
    let unsupported = |body: &down::Body| match body {
        down::Body::Unsupported(unsupported) => (unsupported.to == u64::from(id)).then_some(()),
        _ => None,
    };
    station.monitor.until(unsupported).await?;

    // As long as a frame may be, and then longer.
    let detail = "\u{1f600}x".repeat(190_000);
    for healthy in [false, true, false, true] {
        station.monitor.notify(up::Body::EngineHealth(EngineHealth { healthy, detail: detail.clone() })).await?;
    }
    let sessions = (0..20_000).map(|n| JournalSession {
        session_id: format!("s-{n}"),
        state: (1 + n % 5),
        meter_wh: u64::MAX,
        meter_start_wh: 5,
        ..JournalSession::default()
    });
    // Twenty thousand answers exceed the link's queue: it is closed, or the message is refused.
    let held =
        station.engine.ask(up::Body::JournalReport(JournalReport { sessions: sessions.collect(), latest: None })).await;
    ensure!(matches!(held, Ok(MessageOutcome::Answer(_)) | Err(_)), "{held:?}");
    station.engine = engine(&network, &station.keyed).await?;
    let longer =
        [vec![wire::frame::STX, 9, wire::kind::SEALED], vec![b'a'; 3 << 20], vec![wire::frame::ETX, 1]].concat();
    station.engine.raw(longer).await?;
    let told = station.monitor.ask(up::Body::SetMaintenance(SetMaintenance { on: true })).await?;
    ensure!(told == MessageOutcome::Answer(Reason::Unspecified), "{told:?}");
    let longest = network
        .operator
        .audited("", "charging-point/ODD")
        .await?
        .into_iter()
        .map(|e| parameters(&e).to_string().len())
        .max();
    ensure!(longest < Some(2_000), "an entry of {longest:?} bytes");
    let mut again: HostileLink = engine(&network, &station.keyed).await?;
    ensure!(
        again.ask(up::Body::JournalReport(JournalReport::default())).await?
            == MessageOutcome::Answer(Reason::Unspecified)
    );
    unharmed(&network).await
}
