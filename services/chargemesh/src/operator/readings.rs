//! `chargemesh readings`: readings of charging points' meters, as they are on Kafka (SPEC 5.2, 5.3).

use std::path::PathBuf;

use anyhow::Context as _;
use central::ReadingKeys;
use clap::{Args, Subcommand};
use mesh::process::Misuse;
use prost::Message as _;
use proto::{ApiMessage, ChargingPointId, link::v1::SealedReading};
use serde_json::{Value, json};

use super::{api_message::wh, topics::TopicArgs};
use crate::output::{Output, escaped, note};

/// Read the readings of charging points' meters from Kafka
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  chargemesh readings tail --kafka 127.0.0.1:9092 --charging-point CP-01
  chargemesh readings open --from 1h --no-follow --data data
  chargemesh readings open --file sealed.bin --charging-point CP-01 --central-data data/central")]
pub(crate) struct ReadingsArgs {
    #[command(subcommand)]
    what: ReadingsCommand,
}

#[derive(Debug, Subcommand)]
enum ReadingsCommand {
    /// Each opened and checked reading as it comes
    Tail {
        #[command(flatten)]
        topic: Box<TopicArgs>,
        #[command(flatten)]
        output: Output,
    },
    /// Open sealed readings, as their engines sealed them, with the keys in Central's database
    Open {
        #[command(flatten)]
        topic: Box<TopicArgs>,
        /// File with one sealed reading of --charging-point, instead of Kafka's topic
        #[arg(long, value_name = "FILE", requires = "charging_point")]
        file: Option<PathBuf>,
        /// Central's data folder, with the key that its keys are encrypted under [default: central in --data]
        #[arg(long, value_name = "DIR")]
        central_data: Option<PathBuf>,
        /// Central's database: sqlite:PATH or postgres://… [default: central.db in its data folder]
        #[arg(long, value_name = "URL", env = "CHARGEMESH_CENTRAL_DATABASE", hide_env_values = true)]
        database: Option<String>,
        #[command(flatten)]
        output: Output,
    },
}

impl ReadingsArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.what {
            ReadingsCommand::Tail { topic, output } => tail(&topic, output).await,
            ReadingsCommand::Open { topic, file, central_data, database, output } => {
                let data = central_data.unwrap_or_else(|| topic.data.join("central"));
                let keys = ReadingKeys::open(&data, database.as_deref()).await?;
                match (file, &topic.charging_point) {
                    (Some(file), Some(id)) => open_file(&keys, &file, id, output).await,
                    _ => open_topic(&keys, &topic, output).await,
                }
            }
        }
    }
}

async fn tail(topic: &TopicArgs, output: Output) -> anyhow::Result<()> {
    let mut readings = topic.open("readings").await?;
    while let Some(message) = readings.next(|_| true).await? {
        let mut reading: Value = match serde_json::from_slice(&message.payload) {
            Ok(reading @ Value::Object(_)) => reading,
            _ => {
                note(&format!("partition {}, offset {}: no reading in JSON", message.partition, message.offset));
                continue;
            }
        };
        let said = line(&reading);
        reading["partition"] = json!(message.partition);
        reading["offset"] = json!(message.offset);
        output.sentence(&said, &reading)?;
    }
    Ok(())
}

async fn open_topic(keys: &ReadingKeys, topic: &TopicArgs, output: Output) -> anyhow::Result<()> {
    let mut sealed = topic.open("telemetry").await?;
    let (mut all, mut closed) = (0u64, 0u64);
    while let Some(message) = sealed.next(|_| true).await? {
        all += 1;
        let opened = match message.key.parse::<ChargingPointId>() {
            Ok(id) => open(keys, &id, &message.payload).await,
            Err(error) => Err(error.into()),
        };
        match opened {
            Ok(reading) => output.sentence(&line(&reading), &reading)?,
            Err(error) => {
                closed += 1;
                let key = escaped(&message.key);
                note(&format!("{key}, partition {}, offset {}: {error:#}", message.partition, message.offset));
            }
        }
    }
    anyhow::ensure!(closed == 0, "{closed} of {all} sealed readings did not open");
    Ok(())
}

async fn open_file(
    keys: &ReadingKeys,
    file: &std::path::Path,
    id: &ChargingPointId,
    output: Output,
) -> anyhow::Result<()> {
    let payload = std::fs::read(file).map_err(|error| Misuse::new(format!("--file {}: {error}", file.display())))?;
    let reading = open(keys, id, &payload).await.with_context(|| format!("{} as one of {id}", file.display()))?;
    output.sentence(&line(&reading), &reading)
}

async fn open(keys: &ReadingKeys, id: &ChargingPointId, payload: &[u8]) -> anyhow::Result<Value> {
    let sealed = SealedReading::decode(payload).context("it is no sealed reading")?;
    Ok(serde_json::to_value(ApiMessage(keys.reading(id, &sealed).await?))?)
}

/// One reading for people.
fn line(received: &Value) -> String {
    let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
    let reading = &received["reading"];
    let scaled = |field: &str, by: f64| reading[field].as_f64().unwrap_or_default() / by;
    let meter = wh(text(&reading["meterWh"]).parse().unwrap_or_default());
    let mut words =
        vec![text(&reading["time"]), text(&received["chargingPointId"]), text(&reading["sessionId"]), meter];
    words.push(format!("{:.1} kW", scaled("powerW", 1_000.0)));
    words.push(format!("{:.1} A", scaled("currentMa", 1_000.0)));
    words.push(format!("{:.0} V", scaled("voltageMv", 1_000.0)));
    words.push(format!("{:.1} °C", scaled("temperatureDc", 10.0)));
    words.retain(|word| !word.is_empty());
    escaped(&words.join("  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_one_line_in_the_units_that_people_use() {
        let received = json!({
            "chargingPointId": "CP-1",
            "reading": {
                "time": "2019-03-01T06:20:00Z", "sessionId": "s-1", "meterWh": "12345", "powerW": 11_000,
                "currentMa": 16_000, "voltageMv": 230_000, "temperatureDc": -50,
            },
        });
        assert_eq!(line(&received), "2019-03-01T06:20:00Z  CP-1  s-1  12.345 kWh  11.0 kW  16.0 A  230 V  -5.0 °C");
    }
}
