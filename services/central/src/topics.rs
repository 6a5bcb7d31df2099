//! Readings on Kafka (SPEC 5.2, 5.3): each as its engine sealed it, and opened. Decides nothing, and waits for nothing:
//! what finds no room while Kafka is away is dropped and counted.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use mesh::{
    kafka::{KafkaConfig, LossyProducer, Outgoing, Topic, TopicSettings},
    process::Misuse,
};
use prost::Message as _;
use proto::{
    ChargingPointId,
    link::v1::{Reading, SealedReading},
};
use serde::Serialize;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use crate::{config::ReadingConfig, telemetry::Streams};

/// The topics without their prefix.
pub(crate) const TELEMETRY: &str = "telemetry";
pub(crate) const READINGS: &str = "readings";
pub(crate) const EVENTS: &str = "events";

/// Our topics as the settings want them.
pub(crate) fn topics(config: &KafkaConfig, settings: &TopicSettings) -> Vec<Topic> {
    let topic = |name: &str, retention: Duration| Topic {
        name: config.topic(name),
        partitions: settings.kafka_partitions,
        replication: settings.kafka_replication,
        retention: Some(retention),
    };
    vec![
        topic(TELEMETRY, settings.kafka_keep_readings),
        topic(READINGS, settings.kafka_keep_readings),
        topic(EVENTS, settings.kafka_keep_events),
    ]
}

/// Publishes readings.
#[derive(Debug)]
pub(crate) struct ReadingTopics {
    producer: LossyProducer<Streams>,
    telemetry: String,
    readings: String,
}

impl ReadingTopics {
    pub(crate) fn new(config: &KafkaConfig, bounds: &ReadingConfig) -> Result<Self, Misuse> {
        // Each reading is two messages.
        let waiting = bounds.kafka_buffer.saturating_mul(2);
        Ok(Self {
            producer: LossyProducer::new(config, waiting, bounds.kafka_wait)?,
            telemetry: config.topic(TELEMETRY),
            readings: config.topic(READINGS),
        })
    }

    /// Publishes a reading as it was sealed, under the epoch of its charging point.
    pub(crate) fn sealed(&self, id: &ChargingPointId, epoch: u64, sealed: &SealedReading, streams: &Arc<Streams>) {
        let epoch = epoch.to_string();
        self.send(&self.telemetry, id, &[("epoch", &epoch)], &sealed.encode_to_vec(), streams);
    }

    /// Publishes what was in it.
    pub(crate) fn opened(
        &self,
        id: &ChargingPointId,
        epoch: u64,
        (sealed, reading): (&SealedReading, &Reading),
        streams: &Arc<Streams>,
    ) {
        let epoch = epoch.to_string();
        let headers = [("epoch", epoch.as_str()), ("content-type", "application/json")];
        self.send(&self.readings, id, &headers, &published(id, sealed, reading), streams);
    }

    fn send(
        &self,
        topic: &str,
        id: &ChargingPointId,
        headers: &[(&str, &str)],
        payload: &[u8],
        streams: &Arc<Streams>,
    ) {
        let message = Outgoing { topic, key: id.as_str(), headers, payload };
        if let Err(why) = self.producer.send(&message, Arc::clone(streams)) {
            streams.unpublished(&why, "no room");
        }
    }

    /// Waits until Kafka has what was sent, at most `longest`.
    pub(crate) async fn flush(self: Arc<Self>, longest: Duration) {
        drop(tokio::task::spawn_blocking(move || self.producer.flush(longest)).await);
    }
}

/// `events.v1.ReadingReceived` in protobuf's JSON, written without reflection, since there is one for every reading.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReadingJson<'a> {
    charging_point_id: &'a str,
    stream_id: String,
    key_no: String,
    reading: ReadingValues<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReadingValues<'a> {
    sequence: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    session_id: &'a str,
    meter_wh: String,
    power_w: u32,
    current_ma: u32,
    voltage_mv: u32,
    state_of_charge_permille: u32,
    temperature_dc: i32,
}

fn published(id: &ChargingPointId, sealed: &SealedReading, reading: &Reading) -> Vec<u8> {
    let json = ReadingJson {
        charging_point_id: id.as_str(),
        stream_id: BASE64_STANDARD.encode(&sealed.stream_id),
        key_no: sealed.key_no.to_string(),
        reading: ReadingValues {
            sequence: reading.sequence.to_string(),
            time: rfc3339(reading.at_ms),
            session_id: &reading.session_id,
            meter_wh: reading.meter_wh.to_string(),
            power_w: reading.power_w,
            current_ma: reading.current_ma,
            voltage_mv: reading.voltage_mv,
            state_of_charge_permille: reading.state_of_charge_permille,
            temperature_dc: reading.temperature_dc,
        },
    };
    serde_json::to_vec(&json).unwrap_or_default()
}

/// As protobuf writes a timestamp in JSON, with three digits of a second or none; none for 0 and for a time that no calendar
/// has.
pub(crate) fn rfc3339(at_ms: i64) -> Option<String> {
    const MILLIS: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    const SECONDS: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000).ok()?;
    let format = if at_ms % 1_000 == 0 { SECONDS } else { MILLIS };
    (at_ms != 0).then(|| time.format(format).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proto::{api_json, events::v1::ReadingReceived};

    use super::*;

    #[test]
    fn a_reading_is_published_in_protobufs_json_spec_5_3() {
        let id: ChargingPointId = "CP-1".parse().unwrap();
        let sealed = SealedReading { stream_id: vec![7; 16], key_no: 3, sequence: 9, ..SealedReading::default() };
        for at_ms in [0, 1_551_421_200_000, 1_551_421_200_300, 1_551_421_200_070, 1_551_421_200_001] {
            let reading = Reading {
                sequence: 9,
                at_ms,
                session_id: "s-\"1\"".into(),
                meter_wh: u64::MAX,
                power_w: 11_000,
                current_ma: 16_000,
                voltage_mv: 230_000,
                state_of_charge_permille: 555,
                temperature_dc: -50,
            };
            let expected = ReadingReceived {
                charging_point_id: "CP-1".into(),
                stream_id: vec![7; 16],
                key_no: 3,
                reading: Some(crate::grpc::reading(&reading)),
            };
            let json: serde_json::Value = serde_json::from_slice(&published(&id, &sealed, &reading)).unwrap();
            assert_eq!(json, serde_json::from_str::<serde_json::Value>(&api_json(&expected)).unwrap());
        }
    }
}
