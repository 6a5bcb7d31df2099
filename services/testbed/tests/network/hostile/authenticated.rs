//! Authenticated peers that act on what belongs to others (SPEC 3.7, 3.8, 4.3, 4.8, 4.9).

use std::time::Duration;

use anyhow::{Context as _, ensure};
use proto::{
    central::v1::{Cause, ChargingPointState},
    link::v1::{
        AskAnswer, Authenticate, ConfirmSupply, EngineHealth, JournalReport, JournalSession, KeyInstalled, ListHistory,
        ManualSupply, MeterValue, Part, Progress, ReadClock, Reason, RequestSupply, SealedReading, SessionState,
        SetMaintenance, StopSupply, SupplyEnded, SupplyStarted, TicketReceived, Unsupported, down, up,
    },
};
use testbed::{
    network::{Network, PATIENCE},
    operator::{energy_wh, fresh_id, order, parameters},
    wait::until,
};
use tokio::time::{Instant, sleep};

use super::{
    honest,
    links::{HostilePoint, MessageOutcome, driver, engine, monitor, step},
    unharmed,
};

#[tokio::test(flavor = "multi_thread")]
async fn three_takeovers_by_a_cloned_key_hold_the_charging_point_until_released_spec_4_9() -> anyhow::Result<()> {
    let mut network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let station = HostilePoint::start(&network, "CLONED").await?;
    let mut ana = driver(&network, "ana").await?;
    let mut links = vec![station.monitor];
    for _ in 0..2 {
        links.push(monitor(&network, &station.keyed).await?);
        links[links.len() - 2].closed(PATIENCE).await?;
        network.until_state("CLONED", ChargingPointState::Available).await?;
    }
    links.push(monitor(&network, &station.keyed).await?);
    let quarantined = |cp: &proto::central::v1::ChargingPoint| {
        cp.state() == ChargingPointState::OutOfOrder && cp.causes().any(|cause| cause == Cause::Quarantined)
    };
    let shown = network.until_shown("CLONED", "OUT OF ORDER, quarantined", PATIENCE, quarantined).await?;
    ensure!(shown.detail.contains("cloned"), "it says why");
    let audited = network.operator.audited("QUARANTINED", "charging-point/CLONED").await?;
    ensure!(audited.len() == 1 && parameters(&audited[0]).to_string().contains("\"3\""), "{audited:?}");
    ensure!(network.operator.audited("LINK_TAKEN_OVER", "charging-point/CLONED").await?.len() == 3);
    ensure!(network.central.log().contains("cloned"), "an alarm is raised");
    let request = RequestSupply {
        request_id: fresh_id(),
        charging_point_id: "CLONED".into(),
        energy_wh: 0,
        ..Default::default()
    };
    ensure!(ana.ask(up::Body::RequestSupply(request)).await? == MessageOutcome::Answer(Reason::OutOfOrder));

    network.operator.charging_points.clone().release(order(&["CLONED"])).await?;
    network.until_state("CLONED", ChargingPointState::Available).await?;
    stays(&network, "CLONED", ChargingPointState::Available).await?;
    let released = network.operator.audited("QUARANTINE_RELEASED", "charging-point/CLONED").await?;
    ensure!(released.len() == 1 && released[0].actor.contains("olga"), "{released:?}");

    // The thief goes on, and a quarantine outlasts Central.
    for _ in 0..3 {
        links.push(monitor(&network, &station.keyed).await?);
        links[links.len() - 2].closed(PATIENCE).await?;
    }
    network.until_shown("CLONED", "quarantined again", PATIENCE, quarantined).await?;
    network.restart_central().await?;
    let (_monitor, _engine) = (monitor(&network, &station.keyed).await?, engine(&network, &station.keyed).await?);
    network.until_shown("CLONED", "quarantined after the restart", PATIENCE, quarantined).await?;
    network.operator.charging_points.clone().release(order(&["CLONED"])).await?;
    network.until_state("CLONED", ChargingPointState::Available).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn late_messages_and_a_late_close_of_a_replaced_link_do_nothing_spec_4_9() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let mut station = HostilePoint::start(&network, "ZOMBIE").await?;
    let mut ana = driver(&network, "ana").await?;
    // Neither reads, so Central's messages stay unacknowledged and it cannot close the links at once.
    let mut old_monitor = station.keyed.open(&network, Part::Monitor).await?;
    station.monitor.closed(PATIENCE).await?;
    let mut old_engine = station.keyed.open(&network, Part::Engine).await?;
    station.engine.closed(PATIENCE).await?;
    station.monitor = monitor(&network, &station.keyed).await?;
    station.engine = engine(&network, &station.keyed).await?;
    network.until_state("ZOMBIE", ChargingPointState::Available).await?;
    let session_id = station.supply(&mut ana, 1_000).await?;
    let before = network.operator.audited("LINK_DOWN", "charging-point/ZOMBIE").await?.len();
    // It may be closed by now; then its messages were not processed either.
    let ill = EngineHealth { healthy: false, detail: "a zombie's word".into() };
    let _unheard = old_monitor.notify(up::Body::EngineHealth(ill)).await;
    let ended = SupplyEnded {
        session_id: session_id.clone(),
        meter_start_wh: 1_000,
        meter_end_wh: 900_000,
        reason: Reason::Unplugged.into(),
        ..SupplyEnded::default()
    };
    let _unheard = old_engine.notify(up::Body::SupplyEnded(ended)).await;
    drop((old_monitor, old_engine));
    stays(&network, "ZOMBIE", ChargingPointState::Supplying).await?;
    ensure!(network.operator.audited("LINK_DOWN", "charging-point/ZOMBIE").await?.len() == before);
    ensure!(network.operator.all_tickets().await?.is_empty(), "a zombie has billed");
    ensure!(station.monitor.is_open() && station.engine.is_open());
    unharmed(&network).await
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_another_part_are_unsupported_and_never_processed_spec_4_3() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let mut station = HostilePoint::start(&network, "CP-1").await?;
    let mut ana = driver(&network, "ana").await?;
    let session_id = station.supply(&mut ana, 1_000).await?;
    let engines = || {
        let session_id = session_id.clone();
        vec![
            up::Body::AskAnswer(AskAnswer { session_id: session_id.clone(), accepted: true, ..Default::default() }),
            up::Body::ManualSupply(ManualSupply { request_id: "m".into(), ..Default::default() }),
            up::Body::SupplyStarted(SupplyStarted { session_id: session_id.clone(), ..Default::default() }),
            up::Body::MeterValue(MeterValue { session_id: session_id.clone(), meter_wh: 999_999, power_w: 1 }),
            up::Body::SupplyEnded(SupplyEnded { session_id, meter_end_wh: 999_999, ..Default::default() }),
            up::Body::JournalReport(JournalReport::default()),
            up::Body::Reading(SealedReading::default()),
        ]
    };
    let monitors = || {
        vec![
            up::Body::EngineHealth(EngineHealth { healthy: false, detail: "not its word".into() }),
            up::Body::SetMaintenance(SetMaintenance { on: true }),
            up::Body::KeyInstalled(KeyInstalled { key_no: 9 }),
        ]
    };
    let drivers = || {
        let session_id = session_id.clone();
        vec![
            up::Body::RequestSupply(RequestSupply { charging_point_id: "HONEST".into(), ..Default::default() }),
            up::Body::StopSupply(StopSupply { session_id: session_id.clone() }),
            up::Body::ListChargingPoints(Default::default()),
            up::Body::ListHistory(ListHistory::default()),
            up::Body::ConfirmSupply(ConfirmSupply { session_id: session_id.clone(), accepted: true, price_e4: 3_950 }),
            up::Body::TicketReceived(TicketReceived { session_id }),
        ]
    };
    let credential = || vec![up::Body::Authenticate(Authenticate { credential: vec![1; 40] })];
    for (who, voice, foreign) in [
        ("driver", &mut ana, [engines(), monitors(), credential()].concat()),
        ("engine", &mut station.engine, [drivers(), monitors(), credential()].concat()),
        ("monitor", &mut station.monitor, [drivers(), engines(), credential()].concat()),
    ] {
        for body in foreign {
            let said = format!("{body:?}");
            let told = voice.ask(body).await.with_context(|| format!("{who}: {said}"))?;
            ensure!(told == MessageOutcome::Unsupported, "{who} said {said} and was told {told:?}");
        }
    }
    let shown = network.shown("CP-1").await?;
    ensure!((shown.state(), energy_wh(&shown)) == (ChargingPointState::Supplying, 0), "{shown:?}");
    ensure!(network.operator.audited("MAINTENANCE_ON", "").await?.is_empty());
    ensure!(network.operator.all_tickets().await?.is_empty());
    unharmed(&network).await
}

#[tokio::test(flavor = "multi_thread")]
async fn central_sends_the_time_and_audits_who_does_not_know_a_message_spec_4_3_and_10_8() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let (mut station, mut ana) = (HostilePoint::start(&network, "CP-1").await?, driver(&network, "ana").await?);
    for voice in [&mut station.engine, &mut station.monitor, &mut ana] {
        let before = now_ms();
        let id = voice.send(up::Body::ReadClock(ReadClock::default())).await?;
        let told = |body: &down::Body| match body {
            down::Body::Clock(clock) if clock.to == id => Some(clock.at_ms),
            _ => None,
        };
        let at_ms = voice.until(told).await?;
        ensure!((before..=now_ms()).contains(&at_ms), "{at_ms}");
        voice.send(up::Body::Unsupported(Unsupported::default())).await?;
    }
    let old = |id: &str| network.central.log().lines().any(|line| line.contains("older") && line.contains(id));
    until("the log to name who is older", PATIENCE, async || {
        if old("CP-1") && old("ana") { Ok(()) } else { Err(network.central.log()) }
    })
    .await?;
    unharmed(&network).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_belongs_to_its_charging_point_and_its_driver_alone_spec_3_7() -> anyhow::Result<()> {
    let network = Network::start(&["--simulated-speed", "1000"]).await?;
    let _post = honest(&network).await?;
    let (mut victim, mut thief) =
        (HostilePoint::start(&network, "VICTIM").await?, HostilePoint::start(&network, "THIEF").await?);
    let (mut ana, mut bea) = (driver(&network, "ana").await?, driver(&network, "bea").await?);
    let session_id = victim.supply(&mut ana, 1_000).await?;
    let meter = |meter_wh| up::Body::MeterValue(MeterValue { session_id: session_id.clone(), meter_wh, power_w: 1 });
    victim.engine.ask(meter(1_400)).await?;

    thief.engine.ask(meter(900_000)).await?;
    let ended = SupplyEnded {
        session_id: session_id.clone(),
        meter_start_wh: 1_000,
        meter_end_wh: 900_000,
        reason: Reason::Unplugged.into(),
        ..SupplyEnded::default()
    };
    let told = thief.engine.ask(up::Body::SupplyEnded(ended)).await?;
    ensure!(told == MessageOutcome::Answer(Reason::NotFound), "{told:?}");
    let started = SupplyStarted { session_id: session_id.clone(), meter_start_wh: 0, at_ms: 1 };
    thief.engine.ask(up::Body::SupplyStarted(started)).await?;
    let answer = AskAnswer { session_id: session_id.clone(), accepted: true, detail: String::new() };
    thief.engine.ask(up::Body::AskAnswer(answer)).await?;
    for state in [SessionState::Reserved, SessionState::Supplying, SessionState::Settling, SessionState::Billed] {
        let held = JournalSession {
            session_id: session_id.clone(),
            state: state.into(),
            meter_wh: 900_000,
            ..JournalSession::default()
        };
        thief.engine.ask(up::Body::JournalReport(JournalReport { sessions: vec![held], latest: None })).await?;
    }
    for body in [
        up::Body::StopSupply(StopSupply { session_id: session_id.clone() }),
        up::Body::ConfirmSupply(ConfirmSupply { session_id: session_id.clone(), accepted: true, price_e4: 3_950 }),
    ] {
        ensure!(bea.ask(body).await? == MessageOutcome::Answer(Reason::NotFound));
    }
    let shown = network.shown("VICTIM").await?;
    ensure!((shown.state(), energy_wh(&shown)) == (ChargingPointState::Supplying, 400), "{shown:?}");
    let ended = SupplyEnded {
        session_id: session_id.clone(),
        meter_start_wh: 1_000,
        meter_end_wh: 1_500,
        reason: Reason::Unplugged.into(),
        ..SupplyEnded::default()
    };
    victim.engine.ask(up::Body::SupplyEnded(ended)).await?;
    bea.ask(up::Body::TicketReceived(TicketReceived { session_id: session_id.clone() })).await?;
    let tickets = network.operator.all_tickets().await?;
    ensure!(tickets.len() == 1 && tickets[0].energy_wh == 500 && tickets[0].driver_id == "ana", "{tickets:?}");
    ensure!(network.operator.audited("DISCREPANCY", "").await?.is_empty());
    // The ticket is still due to its driver, although another one has acknowledged it.
    unharmed(&network).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charging_point_never_spends_a_drivers_money_by_itself_spec_3_1() -> anyhow::Result<()> {
    let network = Network::start(&["--confirmation", "1s"]).await?;
    let _post = honest(&network).await?;
    let mut station = HostilePoint::start(&network, "THIEF").await?;
    let mut ana = driver(&network, "ana").await?;
    let wish = ManualSupply { request_id: "m-1".into(), driver_id: "ana".into(), energy_wh: 0 };
    let id = station.engine.send(up::Body::ManualSupply(wish)).await?;
    let confirm = |body: &down::Body| match body {
        down::Body::ConfirmRequest(request) => Some(request.session_id.clone()),
        _ => None,
    };
    let session_id = ana.until(confirm).await?;
    // The charging point answers in the driver's place, and starts.
    for body in [
        up::Body::AskAnswer(AskAnswer { session_id: session_id.clone(), accepted: true, detail: String::new() }),
        up::Body::SupplyStarted(SupplyStarted { session_id: session_id.clone(), ..Default::default() }),
        up::Body::SupplyEnded(SupplyEnded {
            session_id: session_id.clone(),
            meter_end_wh: 10_000,
            ..Default::default()
        }),
    ] {
        station.engine.send(body).await?;
    }
    ensure!(
        station
            .engine
            .ask(up::Body::ConfirmSupply(ConfirmSupply {
                session_id: session_id.clone(),
                accepted: true,
                price_e4: 3_950
            }))
            .await?
            == MessageOutcome::Unsupported
    );
    let answer = |body: &down::Body| match body {
        down::Body::Answer(answer) if answer.to == id => Some(answer.reason()),
        _ => None,
    };
    ensure!(station.engine.until(answer).await? == Reason::NotConfirmed);
    ensure!(network.operator.all_sessions().await?.is_empty() && network.operator.all_tickets().await?.is_empty());
    ensure!(ana.until(|body| step(body, &session_id, Progress::Refused)).await? == Reason::NotConfirmed);
    unharmed(&network).await
}

/// Checks that the state is shown without a change, for longer than Central needs to decide again.
async fn stays(network: &Network, id: &str, state: ChargingPointState) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < until {
        let shown = network.shown(id).await?;
        ensure!(shown.state() == state, "{id} does not stay {state:?}: {shown:?}");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn now_ms() -> i64 {
    mesh::clock::Clock::system().wall_ms()
}
