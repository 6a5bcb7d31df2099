//! Whether the broker answers: asked every two seconds, since a broker that hangs makes no error by itself (SPEC 9.0).

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{admin::AdminClient, config::FromClientConfigAndContext as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{ConnectionContext, KafkaConfig, Topic, connection::Probe, topics};
use crate::{health::Component, process::Misuse};

const ASK_EVERY: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(2);

/// Watches the broker until `stop`, reports it as `component`, and makes the missing topics whenever it has come (back).
/// The receiver says whether it answers and has the topics.
///
/// # Errors
/// A setting or a file that cannot be used.
pub fn watch_broker(
    config: &KafkaConfig,
    topics: Vec<Topic>,
    component: Component,
    stop: CancellationToken,
) -> Result<(watch::Receiver<bool>, impl Future<Output = ()> + Send + use<>), Misuse> {
    let client = config.client("chargemesh-watch")?;
    let admin = AdminClient::from_config_and_context(&client, ConnectionContext::default())
        .map_err(|error| Misuse::new(format!("Kafka's settings are refused: {error}")))?;
    let (probe, brokers) = (Probe::new(&client)?, config.brokers());
    component.degraded(format!("Kafka at {brokers} has not answered yet"));
    let (is_up, up) = watch::channel(false);
    let work = async move {
        let mut watch = BrokerWatch { probe, admin, brokers, topics, component, is_prepared: false };
        loop {
            watch.look().await;
            is_up.send_replace(watch.is_prepared);
            if stop.run_until_cancelled(tokio::time::sleep(ASK_EVERY)).await.is_none() {
                return;
            }
        }
    };
    Ok((up, work))
}

struct BrokerWatch {
    probe: Probe,
    admin: AdminClient<ConnectionContext>,
    brokers: String,
    topics: Vec<Topic>,
    component: Component,
    /// The topics were there or were made since the broker last came back.
    is_prepared: bool,
}

impl BrokerWatch {
    async fn look(&mut self) {
        match self.known_topics().await {
            Ok(known) => self.prepare(&known).await,
            Err(why) => {
                self.is_prepared = false;
                self.component.degraded(format!(
                    "Kafka at {} does not answer: {why}. Events wait in the database; readings wait as far as there is \
                     room, then they are dropped",
                    self.brokers
                ));
            }
        }
    }

    async fn known_topics(&self) -> Result<BTreeMap<String, usize>, String> {
        let probe = self.probe.clone();
        let ask = move || probe.ask(None, ANSWER).map(|metadata| topics::known(&metadata));
        tokio::task::spawn_blocking(ask).await.unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn prepare(&mut self, known: &BTreeMap<String, usize>) {
        let all_exist = self.topics.iter().all(|topic| known.contains_key(&topic.name));
        if self.is_prepared && all_exist {
            return self.component.ready();
        }
        match topics::ensure(&self.admin, known, &self.topics).await {
            Ok(differences) => {
                for difference in differences {
                    tracing::warn!("{difference}");
                }
                self.is_prepared = true;
                self.component.ready();
            }
            Err(why) => {
                self.is_prepared = false;
                self.component.degraded(format!("Kafka at {}: {why}", self.brokers));
            }
        }
    }
}
