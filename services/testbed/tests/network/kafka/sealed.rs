//! What engines sealed is on the topic as they sealed it, and opens with the row of its key alone (SPEC 4.5, 5.2).

use std::collections::BTreeSet;

use mesh::kafka::{Consumed, EndAt, KafkaConfig, StartAt, TopicReader};
use serde_json::Value;
use testbed::{
    kafka::KafkaBroker,
    network::{Network, PATIENCE},
    process::run,
};

use super::until_component;
use crate::support::QUICK;

async fn sealed(broker: &KafkaBroker) -> anyhow::Result<Vec<Consumed>> {
    let config = KafkaConfig {
        kafka: vec![broker.bootstrap.clone()],
        kafka_prefix: "test".to_owned(),
        ..KafkaConfig::default()
    };
    let mut reader = TopicReader::open(&config, "test.telemetry", StartAt::Beginning, EndAt::Present).await?;
    let mut all = Vec::new();
    while let Some(message) = reader.next().await? {
        all.push(message);
    }
    Ok(all)
}

/// Which reading it is: its charging point, its stream and its sequence.
fn identity(reading: &Value) -> String {
    format!("{} {} {}", reading["chargingPointId"], reading["streamId"], reading["reading"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_reading_opens_with_its_keys_row_and_with_no_other_charging_points_spec_5_2() -> anyhow::Result<()> {
    let broker = KafkaBroker::start().await?;
    let flags = ["--kafka", &broker.bootstrap, "--kafka-prefix", "test", "--kafka-partitions", "3"];
    let network = Network::start(&flags).await?;
    until_component(&network, "kafka", PATIENCE, |state| *state == mesh::health::ComponentState::Ready).await?;
    let engine: Vec<&str> = QUICK.iter().copied().chain(["--idle-reading-every", "100ms"]).collect();
    for id in ["CP-1", "CP-2"] {
        let mut point = network.charging_point_at(id, network.central_link, &engine, &[]).await?;
        network
            .until_shown(id, "sending readings", PATIENCE, |cp| cp.telemetry.as_ref().is_some_and(|t| t.readings >= 10))
            .await?;
        point.engine.kill();
    }

    let data = network.path("central").display().to_string();
    let of_central = ["--central-data", &data];
    let topic =
        ["--kafka", &broker.bootstrap, "--kafka-prefix", "test", "--from", "beginning", "--no-follow", "--json"];
    let (code, opened, error) = run(&[&["readings", "open"], &topic[..], &of_central].concat(), &[]).await?;
    assert_eq!(code, 0, "{error}");
    let (code, tailed, error) = run(&[&["readings", "tail"], &topic[..]].concat(), &[]).await?;
    assert_eq!(code, 0, "{error}");
    let readings = |text: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).map(|reading| identity(&reading)).collect()
    };
    assert!(readings(&opened).len() >= 20, "{opened}");
    assert_eq!(readings(&opened), readings(&tailed), "what Central published opened is what was sealed");

    let sealed = sealed(&broker).await?;
    assert_eq!(sealed.len(), opened.lines().count());
    let plain = |message: &Consumed| message.payload.windows(4).any(|bytes| bytes == b"CP-1");
    assert!(!sealed.iter().any(plain), "no plaintext is on the topic");
    let of_first = sealed.iter().find(|message| message.key == "CP-1").map(|message| message.payload.clone());
    let file = network.path("sealed.bin");
    std::fs::write(&file, of_first.unwrap_or_default())?;
    let file = file.display().to_string();
    let open_as = async |id: &str| {
        run(&[&["readings", "open", "--file", &file, "--charging-point", id], &of_central[..]].concat(), &[]).await
    };
    let (code, said, error) = open_as("CP-1").await?;
    assert!(code == 0 && said.contains("CP-1") && said.contains("kWh"), "{said}{error}");
    let (code, said, error) = open_as("CP-2").await?;
    assert!(code == 1 && said.is_empty() && error.contains("does not decrypt"), "{said}{error}");
    let (code, _, error) = open_as("CP-3").await?;
    assert!(code == 1 && error.contains("has no key 1 of CP-3"), "{error}");
    Ok(())
}
