//! Reads a topic from a point in time, an offset, or from now on, for the command line. It belongs to no consumer group
//! and changes nothing at the broker.

use std::time::Duration;

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{Consumer as _, ConsumerContext, StreamConsumer},
    message::Headers as _,
};

use super::{ConnectionContext, KafkaConfig, connection::Probe};

/// How long the broker may take for one request.
const ANSWER: Duration = Duration::from_secs(5);

impl ConsumerContext for ConnectionContext {}

/// Where to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    Beginning,
    /// What is published from now on.
    End,
    /// The first message at or after this time, milliseconds since 1970.
    Time(i64),
    /// This offset in every partition.
    Offset(i64),
}

/// One message of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consumed {
    pub key: String,
    pub partition: i32,
    pub offset: i64,
    /// When it was published, milliseconds since 1970.
    pub at_ms: i64,
    pub headers: Vec<(String, String)>,
    pub payload: Vec<u8>,
}

impl Consumed {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TopicReaderError(String);

/// A reader of all partitions of one topic.
pub struct TopicReader {
    consumer: StreamConsumer<ConnectionContext>,
    brokers: String,
}

impl std::fmt::Debug for TopicReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicReader").field("brokers", &self.brokers).finish_non_exhaustive()
    }
}

impl TopicReader {
    /// Finds the topic's partitions and where to start in each.
    ///
    /// # Errors
    /// A sentence: which setting, broker or topic cannot be used, and why.
    pub async fn open(config: &KafkaConfig, topic: &str, start: StartAt) -> Result<Self, TopicReaderError> {
        let mut client = config.client("chargemesh-reader").map_err(|error| TopicReaderError(error.to_string()))?;
        client.set("group.id", "chargemesh-reader").set("enable.auto.commit", "false").set("fetch.wait.max.ms", "100");
        let (topic, brokers) = (topic.to_owned(), config.brokers());
        let open = move || -> Result<Self, TopicReaderError> {
            let probe = Probe::new(&client).map_err(|error| TopicReaderError(error.to_string()))?;
            let unreachable = |why: String| TopicReaderError(format!("Kafka at {brokers} does not answer: {why}"));
            let partitions = partitions(&probe, &topic).map_err(unreachable)?;
            if partitions.is_empty() {
                return Err(TopicReaderError(format!("Kafka at {brokers} has no topic {topic}")));
            }
            let consumer = StreamConsumer::from_config_and_context(&client, ConnectionContext::default())
                .map_err(|error| TopicReaderError(format!("Kafka's settings are refused: {error}")))?;
            let starts =
                starts(&consumer, &topic, &partitions, start).map_err(|error| unreachable(error.to_string()))?;
            consumer.assign(&starts).map_err(|error| unreachable(error.to_string()))?;
            Ok(Self { consumer, brokers })
        };
        tokio::task::spawn_blocking(open).await.map_err(|error| TopicReaderError(error.to_string()))?
    }

    /// The next message. Waits for one as long as it takes, also while the broker is away.
    ///
    /// # Errors
    /// The broker refuses to answer.
    pub async fn next(&self) -> Result<Consumed, TopicReaderError> {
        loop {
            match self.consumer.recv().await {
                Ok(message) => return Ok(consumed(&message)),
                // librdkafka reconnects by itself.
                Err(error) if is_transient(&error) => tracing::warn!(%error, "waiting for Kafka at {}", self.brokers),
                Err(error) => return Err(TopicReaderError(format!("Kafka at {}: {error}", self.brokers))),
            }
        }
    }
}

fn is_transient(error: &rdkafka::error::KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::RequestTimedOut)
    )
}

fn partitions(probe: &Probe, topic: &str) -> Result<Vec<i32>, String> {
    let metadata = probe.ask(Some(topic), ANSWER)?;
    let found = metadata.topics().iter().filter(|found| found.name() == topic && found.error().is_none());
    Ok(found.flat_map(|found| found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id)).collect())
}

fn starts(
    consumer: &StreamConsumer<ConnectionContext>,
    topic: &str,
    partitions: &[i32],
    start: StartAt,
) -> Result<TopicPartitionList, rdkafka::error::KafkaError> {
    let mut list = TopicPartitionList::new();
    let offset = match start {
        StartAt::Beginning => Offset::Beginning,
        StartAt::End => Offset::End,
        StartAt::Offset(offset) | StartAt::Time(offset) => Offset::Offset(offset),
    };
    for partition in partitions {
        list.add_partition_offset(topic, *partition, offset)?;
    }
    if matches!(start, StartAt::Time(_)) { consumer.offsets_for_times(list, ANSWER) } else { Ok(list) }
}

fn consumed(message: &rdkafka::message::BorrowedMessage<'_>) -> Consumed {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let headers = message
        .headers()
        .map(|headers| headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect());
    Consumed {
        key: text(message.key()),
        partition: message.partition(),
        offset: message.offset(),
        at_ms: message.timestamp().to_millis().unwrap_or_default(),
        headers: headers.unwrap_or_default(),
        payload: message.payload().unwrap_or_default().to_vec(),
    }
}
