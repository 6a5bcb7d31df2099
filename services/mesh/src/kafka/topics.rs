//! Our topics: made where they are missing, compared with the settings where they exist.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    error::RDKafkaErrorCode,
    metadata::Metadata,
};

use super::ConnectionContext;

/// How long the broker may take for one administrative request.
const ANSWER: Duration = Duration::from_secs(5);

/// How new topics are made.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Kafka")]
#[group(skip)]
pub struct TopicSettings {
    /// Partitions of a topic that is created
    #[arg(long, env = "CHARGEMESH_KAFKA_PARTITIONS", value_name = "N", default_value_t = 12,
          value_parser = clap::value_parser!(i32).range(1..=10_000), hide_short_help = true)]
    pub kafka_partitions: i32,
    /// Copies of each partition of a topic that is created
    #[arg(long, env = "CHARGEMESH_KAFKA_REPLICATION", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(i32).range(1..=100), hide_short_help = true)]
    pub kafka_replication: i32,
    /// How long Kafka keeps sealed and opened readings
    #[arg(long, env = "CHARGEMESH_KAFKA_KEEP_READINGS", value_name = "DURATION", default_value = "7d",
          value_parser = crate::duration::parse_seconds, hide_short_help = true)]
    pub kafka_keep_readings: Duration,
    /// How long Kafka keeps events
    #[arg(long, env = "CHARGEMESH_KAFKA_KEEP_EVENTS", value_name = "DURATION", default_value = "30d",
          value_parser = crate::duration::parse_seconds, hide_short_help = true)]
    pub kafka_keep_events: Duration,
}

/// A topic as the settings want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub partitions: i32,
    pub replication: i32,
    /// `None`: kept for ever.
    pub retention: Option<Duration>,
}

impl Topic {
    fn retention_ms(&self) -> String {
        self.retention.map_or_else(|| "-1".to_owned(), |keep| keep.as_millis().to_string())
    }
}

/// Creates the topics that `metadata` does not know, and answers in one sentence each how the others differ from the
/// settings.
///
/// # Errors
/// A sentence that names the topic that could not be created, and why.
pub(super) async fn ensure(
    admin: &AdminClient<ConnectionContext>,
    metadata: &BTreeMap<String, usize>,
    topics: &[Topic],
) -> Result<Vec<String>, String> {
    let missing: Vec<_> = topics.iter().filter(|topic| !metadata.contains_key(&topic.name)).collect();
    create(admin, &missing).await?;
    let mut differences = Vec::new();
    for topic in topics {
        let Some(partitions) = metadata.get(&topic.name) else { continue };
        if usize::try_from(topic.partitions) != Ok(*partitions) {
            let (name, wanted) = (&topic.name, topic.partitions);
            differences
                .push(format!("topic {name} has {partitions} partitions, not {wanted} as set; it was left as it is"));
        }
    }
    differences.extend(other_retentions(admin, topics).await);
    Ok(differences)
}

/// The topics that exist, with their number of partitions.
pub(super) fn known(metadata: &Metadata) -> BTreeMap<String, usize> {
    let exist = metadata.topics().iter().filter(|topic| topic.error().is_none());
    exist.map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect()
}

async fn create(admin: &AdminClient<ConnectionContext>, missing: &[&Topic]) -> Result<(), String> {
    if missing.is_empty() {
        return Ok(());
    }
    let retentions: Vec<_> = missing.iter().map(|topic| topic.retention_ms()).collect();
    let wanted: Vec<_> = missing
        .iter()
        .zip(&retentions)
        .map(|(topic, retention)| {
            NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replication))
                .set("retention.ms", retention)
        })
        .collect();
    let results = admin.create_topics(&wanted, &options()).await.map_err(|error| error.to_string())?;
    for result in results {
        match result {
            // Another replica was quicker.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(format!("topic {name} cannot be created: {code}")),
        }
    }
    tracing::info!(topics = ?missing.iter().map(|topic| &topic.name).collect::<Vec<_>>(), "created Kafka topics");
    Ok(())
}

/// A broker that does not let its settings be read leaves this unsaid.
async fn other_retentions(admin: &AdminClient<ConnectionContext>, topics: &[Topic]) -> Vec<String> {
    let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
    let Ok(described) = admin.describe_configs(&resources, &options()).await else { return Vec::new() };
    let of = |topic: &Topic, described: &Result<rdkafka::admin::ConfigResource, RDKafkaErrorCode>| {
        let is = described.as_ref().ok()?.get("retention.ms")?.value.clone()?;
        let wanted = topic.retention_ms();
        let name = &topic.name;
        (is != wanted).then(|| format!("topic {name} has retention.ms={is}, not {wanted} as set; it was left as it is"))
    };
    topics.iter().zip(&described).filter_map(|(topic, described)| of(topic, described)).collect()
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER))
}
