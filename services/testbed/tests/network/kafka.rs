//! Kafka (SPEC 5, 9): what happens is on its topics, in order, whatever happens to the broker and to Central; and it takes
//! nothing away but what is read there. The consumer is Kafka's own.

mod sealed;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh::health::{ComponentState, Report};
use proto::central::v1::{ChargingPointState, SessionState, Ticket};
use serde_json::{Value, json};
use testbed::{
    kafka::{KafkaBroker, PrintedMessage},
    network::{Network, PATIENCE, TestPoint},
    process::run,
    wait::until,
};

use crate::support::{QUICK, linked, one_of_each, supply};

/// The time within which a broker that hangs is shown (SPEC 9.0), with the pause between two questions.
const SHOWN: Duration = Duration::from_secs(6);

async fn report(network: &Network) -> Result<Report, String> {
    let addresses = std::fs::read_to_string(network.path("central.json")).map_err(|error| error.to_string())?;
    let known: Value = serde_json::from_str(&addresses).map_err(|error| error.to_string())?;
    let admin = known["admin"].as_str().and_then(|address| address.parse().ok()).ok_or("no admin port")?;
    mesh::admin::report_of(admin, Duration::from_secs(1)).await
}

/// Waits until Central says this of a component; answers why it is degraded.
async fn until_component(
    network: &Network,
    name: &str,
    limit: Duration,
    wanted: impl Fn(&ComponentState) -> bool,
) -> anyhow::Result<ComponentState> {
    until(format_args!("component {name}"), limit, async || {
        let state = report(network).await?.components.get(name).cloned().ok_or("no such component")?;
        if wanted(&state) { Ok(state) } else { Err(format!("{state:?}")) }
    })
    .await
}

fn is_degraded(state: &ComponentState) -> bool {
    matches!(state, ComponentState::Degraded { .. })
}

/// One supply from request to ticket.
async fn one_supply(
    network: &Network,
    point: &TestPoint,
    driver: &testbed::network::TestDriver,
    nth: usize,
) -> anyhow::Result<()> {
    // After a restart of Central it is disconnected at first, and a request would be refused.
    network.until_state(&point.id, ChargingPointState::Available).await?;
    supply(network, point, driver, "").await?;
    point.engine("unplug", Value::Null).await?;
    network.until_tickets(&point.id, nth).await?;
    point.until_engine("free again", PATIENCE, |status| status["session"].is_null()).await.map(drop)
}

/// What a consumer that drops repeated ids reads, in the order of each key.
fn once_each(messages: Vec<PrintedMessage>) -> BTreeMap<String, Vec<PrintedMessage>> {
    let (mut seen, mut by_key) = (BTreeSet::new(), BTreeMap::new());
    for message in messages {
        if seen.insert(message.headers["ce_id"].clone()) {
            by_key.entry(message.key.clone()).or_insert_with(Vec::new).push(message);
        }
    }
    by_key
}

fn of_type<'a>(events: &'a [PrintedMessage], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event.headers["ce_type"] == kind).map(|event| &event.value)
}

/// Waits until the outbox is empty and answers the events by charging point.
async fn all_events(broker: &KafkaBroker, tickets: &[Ticket]) -> anyhow::Result<BTreeMap<String, Vec<PrintedMessage>>> {
    until("every ticket to be on the topic", 3 * PATIENCE, async || {
        let events = broker.everything("test.events").await.map_err(|error| format!("{error:#}"))?;
        let events = once_each(events);
        let on_topic: usize = events.values().map(|of| of_type(of, "chargemesh.ticket.issued").count()).sum();
        if on_topic >= tickets.len() { Ok(events) } else { Err(format!("{on_topic} of {}", tickets.len())) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_on_kafka_in_order_whatever_dies_and_control_never_notices_spec_5_3_5_4_9() -> anyhow::Result<()>
{
    let broker = KafkaBroker::start().await?;
    let flags = ["--kafka", &broker.bootstrap, "--kafka-prefix", "test", "--kafka-partitions", "3"];
    let (mut network, point, driver) = one_of_each(&flags, &["--meter-every", "200ms"]).await?;
    until_component(&network, "kafka", PATIENCE, |state| *state == ComponentState::Ready).await?;
    one_supply(&network, &point, &driver, 1).await?;

    broker.kill().await?;
    until_component(&network, "kafka", SHOWN, is_degraded).await?;
    one_supply(&network, &point, &driver, 2).await?;
    network.restart_central().await?;
    linked(&driver).await?;
    one_supply(&network, &point, &driver, 3).await?;
    broker.restart().await?;
    until_component(&network, "kafka", PATIENCE, |state| *state == ComponentState::Ready).await?;

    broker.freeze().await?;
    let hangs = until_component(&network, "kafka", SHOWN, is_degraded).await?;
    one_supply(&network, &point, &driver, 4).await?;
    broker.thaw().await?;
    until_component(&network, "kafka", PATIENCE, |state| *state == ComponentState::Ready).await?;
    assert!(format!("{hangs:?}").contains("does not answer"), "{hangs:?}");

    let tickets = network.until_tickets("CP-1", 4).await?;
    let events = all_events(&broker, &tickets).await?;
    let of_point = &events["CP-1"];
    let epochs: Vec<u64> = of_point.iter().map(|event| event.headers["ce_epoch"].parse().unwrap_or(0)).collect();
    assert!(epochs.windows(2).all(|pair| pair[0] <= pair[1]), "an epoch never falls: {epochs:?}");
    let billed: Vec<&Value> = of_type(of_point, "chargemesh.ticket.issued").map(|data| &data["ticket"]).collect();
    // Tickets are listed with the newest first.
    for (event, ticket) in billed.iter().rev().zip(&tickets) {
        assert_eq!(event["sessionId"], json!(ticket.session_id));
        assert_eq!(event["energyWh"], json!(ticket.energy_wh.to_string()));
        assert_eq!(event["amountMinor"], json!(ticket.amount_minor.to_string()));
    }
    assert_eq!(billed.len(), tickets.len());
    for session in network.operator.all_sessions().await? {
        let states: Vec<&str> = of_type(of_point, "chargemesh.session.changed")
            .filter(|data| data["session"]["id"] == json!(session.id))
            .filter_map(|data| data["session"]["state"].as_str())
            .collect();
        assert_eq!(states.first(), Some(&"SESSION_STATE_RESERVED"), "{states:?}");
        assert_eq!(states.last(), Some(&SessionState::Billed.as_str_name()), "{states:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_are_published_sealed_and_opened_spec_5_2_5_3() -> anyhow::Result<()> {
    let broker = KafkaBroker::start().await?;
    let flags = ["--kafka", &broker.bootstrap, "--kafka-prefix", "test", "--kafka-partitions", "3"];
    let network = Network::start(&flags).await?;
    until_component(&network, "kafka", PATIENCE, |state| *state == ComponentState::Ready).await?;
    let engine: Vec<&str> = QUICK.iter().copied().chain(["--idle-reading-every", "100ms"]).collect();
    let mut point = network.charging_point_at("CP-1", network.central_link, &engine, &[]).await?;
    let shown = network
        .until_shown("CP-1", "sending readings", PATIENCE, |cp| {
            cp.telemetry.as_ref().is_some_and(|telemetry| telemetry.readings >= 20)
        })
        .await?;
    assert_eq!(shown.telemetry.map(|telemetry| telemetry.unpublished), Some(0));
    // The consumer ends where nothing more comes.
    point.engine.kill();
    let readings = until("readings on the topic", PATIENCE, async || {
        let readings = broker.everything("test.readings").await.map_err(|error| format!("{error:#}"))?;
        if readings.len() >= 20 { Ok(readings) } else { Err(format!("{}", readings.len())) }
    })
    .await?;
    let sequence =
        |message: &PrintedMessage| -> Option<u64> { message.value["reading"]["sequence"].as_str()?.parse().ok() };
    let sequences: Vec<Option<u64>> = readings.iter().map(sequence).collect();
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "{sequences:?}");
    assert!(readings.iter().all(|message| message.key == "CP-1" && message.value["chargingPointId"] == json!("CP-1")));
    assert!(readings.iter().all(|message| message.headers["epoch"].parse::<u64>().is_ok()));
    let sealed = broker.run(&["offsets", "--topic", "test.telemetry"]).await?;
    let count: u64 = sealed.lines().filter_map(|line| line.rsplit(':').next()?.parse::<u64>().ok()).sum();
    assert!(count >= 20, "{sealed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_kafkas_settings_is_said_in_one_sentence_and_control_goes_on_spec_5_4() -> anyhow::Result<()>
{
    let [nobody] = testbed::network::free_addresses()?;
    let network = Network::start(&["--kafka", &nobody.to_string()]).await?;
    let state = until_component(&network, "kafka", SHOWN, |state| format!("{state:?}").contains("refused")).await?;
    assert!(format!("{state:?}").contains(&nobody.to_string()), "{state:?}");
    network.charging_point_at("CP-1", network.central_link, QUICK, &[]).await?;

    // The port of something else: Registry's gRPC, which expects TLS.
    let elsewhere = network.registry_grpc.to_string();
    let other = Network::start(&["--kafka", &elsewhere]).await?;
    until_component(&other, "kafka", PATIENCE, |state| format!("{state:?}").contains(&elsewhere)).await?;

    let missing = ["central", "--kafka", "127.0.0.1:1", "--kafka-security", "sasl-plaintext", "--kafka-user", "u"];
    let data = network.path("none").display().to_string();
    let identity = network.identity("central").display().to_string();
    let missing: Vec<&str> = missing.into_iter().chain(["--data", &data, "--identity", &identity]).collect();
    let (code, _, error) = run(&missing, &[]).await?;
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("--kafka-password-file"), "{error}");
    Ok(())
}
