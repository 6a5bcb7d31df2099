//! Reading Kafka's topics for people (SPEC 5): which broker, from where to where, and of which charging point.

use mesh::{
    kafka::{Consumed, EndAt, KafkaConfig, StartAt, TopicReader},
    process::Misuse,
};
use proto::ChargingPointId;

use super::since;
use crate::up::status;

/// Which messages of a topic are read.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TopicArgs {
    /// Where to start: now, beginning, offset:N, a time ago (15m, 2h, 7d) or a UTC time (2026-03-01T06:20:00Z)
    #[arg(long, value_name = "WHERE", default_value = "now", value_parser = start_at)]
    from: StartAt,
    /// End behind what is on the topic now, instead of waiting for more
    #[arg(long)]
    no_follow: bool,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Only those of this charging point
    #[arg(long, value_name = "CP-ID")]
    pub(crate) charging_point: Option<ChargingPointId>,
    /// Data folder of a network that `chargemesh up --kafka` runs: its brokers are found there
    #[arg(long, env = "CHARGEMESH_DATA", value_name = "DIR", default_value = "data")]
    pub(crate) data: std::path::PathBuf,
    #[command(flatten)]
    kafka: KafkaConfig,
}

fn start_at(text: &str) -> Result<StartAt, String> {
    match (text, text.strip_prefix("offset:")) {
        ("now", _) => Ok(StartAt::End),
        ("beginning", _) => Ok(StartAt::Beginning),
        (_, Some(offset)) => match offset.parse::<i64>() {
            Ok(offset) if offset >= 0 => Ok(StartAt::Offset(offset)),
            _ => Err(format!("{offset:?} is no offset: give a number from 0")),
        },
        (text, None) => since(text).map(StartAt::Time).map_err(|why| format!("{why}, nor now, beginning or offset:N")),
    }
}

/// A topic that is being read.
pub(crate) struct OpenTopic {
    reader: TopicReader,
    only: Option<ChargingPointId>,
    left: Option<u64>,
}

impl TopicArgs {
    /// Opens one of our topics, named without its prefix.
    ///
    /// # Errors
    /// No brokers are known, or they do not answer, or have no such topic.
    pub(crate) async fn open(&self, topic: &str) -> anyhow::Result<OpenTopic> {
        let config = self.config()?;
        let end = if self.no_follow { EndAt::Present } else { EndAt::Never };
        let reader = TopicReader::open(&config, &config.topic(topic), self.from, end).await?;
        Ok(OpenTopic { reader, only: self.charging_point.clone(), left: self.count })
    }

    /// As the flags and variables say, or else as the network in the data folder.
    fn config(&self) -> anyhow::Result<KafkaConfig> {
        if self.kafka.is_set() {
            return Ok(self.kafka.clone());
        }
        let of_network = status::read(&self.data)?.map(|network| network.kafka).filter(KafkaConfig::is_set);
        let unknown = || {
            let data = self.data.display();
            Misuse::new(format!(
                "no Kafka is known: give --kafka HOST:PORT, or with --data the folder of a network that `chargemesh up \
                 --kafka HOST:PORT` has run in (none has in {data})"
            ))
        };
        Ok(of_network.ok_or_else(unknown)?)
    }
}

impl OpenTopic {
    /// The next message that is `wanted`; `None` behind the last one.
    pub(crate) async fn next(&mut self, wanted: impl Fn(&Consumed) -> bool) -> anyhow::Result<Option<Consumed>> {
        if self.left == Some(0) {
            return Ok(None);
        }
        while let Some(message) = self.reader.next().await? {
            if self.only.as_ref().is_none_or(|only| only.as_str() == message.key) && wanted(&message) {
                self.left = self.left.map(|left| left - 1);
                return Ok(Some(message));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_read_from_now_its_beginning_an_offset_or_a_time() {
        assert_eq!(start_at("now"), Ok(StartAt::End));
        assert_eq!(start_at("beginning"), Ok(StartAt::Beginning));
        assert_eq!(start_at("offset:7"), Ok(StartAt::Offset(7)));
        assert_eq!(start_at("2019-03-01T00:00:01Z"), Ok(StartAt::Time(1_551_398_401_000)));
        assert!(start_at("offset:-1").unwrap_err().contains("-1"));
        assert!(start_at("yesterday").unwrap_err().contains("beginning"));
    }
}
