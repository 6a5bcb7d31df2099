//! Reads a topic from a point in time, an offset, or from now on, for the command line. It belongs to no consumer group
//! and changes nothing at the broker.

use std::{collections::BTreeMap, time::Duration};

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

/// Where to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndAt {
    /// Never: what comes later is waited for.
    Never,
    /// Behind what is on the topic when the reader is opened.
    Present,
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
    /// Where each partition ends that is not read to its end yet; `None` if what comes later is waited for.
    ends: Option<BTreeMap<i32, i64>>,
}

impl std::fmt::Debug for TopicReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicReader").field("brokers", &self.brokers).finish_non_exhaustive()
    }
}

impl TopicReader {
    /// Finds the topic's partitions and where to start and to end in each.
    ///
    /// # Errors
    /// A sentence: which setting, broker or topic cannot be used, and why.
    pub async fn open(config: &KafkaConfig, topic: &str, start: StartAt, end: EndAt) -> Result<Self, TopicReaderError> {
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
            let ends = match end {
                EndAt::Never => None,
                EndAt::Present => {
                    Some(ends(&consumer, &topic, &starts).map_err(|error| unreachable(error.to_string()))?)
                }
            };
            consumer.assign(&starts).map_err(|error| unreachable(error.to_string()))?;
            Ok(Self { consumer, brokers, ends })
        };
        tokio::task::spawn_blocking(open).await.map_err(|error| TopicReaderError(error.to_string()))?
    }

    /// The next message; `None` behind the end. Waits for one as long as it takes, also while the broker is away.
    ///
    /// # Errors
    /// The broker refuses to answer.
    pub async fn next(&mut self) -> Result<Option<Consumed>, TopicReaderError> {
        loop {
            if self.ends.as_ref().is_some_and(BTreeMap::is_empty) {
                return Ok(None);
            }
            match self.consumer.recv().await {
                Ok(message) => {
                    let message = consumed(&message);
                    if is_before_end(&mut self.ends, &message) {
                        return Ok(Some(message));
                    }
                }
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

/// The offset behind the last message of each partition in which there is one behind its start.
fn ends(
    consumer: &StreamConsumer<ConnectionContext>,
    topic: &str,
    starts: &TopicPartitionList,
) -> Result<BTreeMap<i32, i64>, rdkafka::error::KafkaError> {
    let mut ends = BTreeMap::new();
    for start in starts.elements() {
        let (first, end) = consumer.fetch_watermarks(topic, start.partition(), ANSWER)?;
        let from = match start.offset() {
            Offset::Offset(offset) => offset.max(first),
            Offset::Beginning => first,
            Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => end,
        };
        if from < end {
            ends.insert(start.partition(), end);
        }
    }
    Ok(ends)
}

/// Whether a message stands before its partition's end; removes the end that it reaches.
fn is_before_end(ends: &mut Option<BTreeMap<i32, i64>>, message: &Consumed) -> bool {
    let Some(ends) = ends else { return true };
    let Some(end) = ends.get(&message.partition).copied() else { return false };
    if message.offset + 1 >= end {
        ends.remove(&message.partition);
    }
    message.offset < end
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_ends_reads_each_partition_to_the_end_that_it_found() {
        let at = |partition, offset| Consumed { partition, offset, ..Consumed::default() };
        let mut ends = Some(BTreeMap::from([(0, 2), (1, 5)]));
        assert!(is_before_end(&mut ends, &at(0, 0)) && is_before_end(&mut ends, &at(0, 1)));
        assert!(!is_before_end(&mut ends, &at(0, 2)), "it came later");
        assert_eq!(ends, Some(BTreeMap::from([(1, 5)])));
        assert!(is_before_end(&mut ends, &at(1, 4)));
        assert_eq!(ends, Some(BTreeMap::new()));
        assert!(is_before_end(&mut None, &at(9, 9)), "one that waits has no end");
    }
}
