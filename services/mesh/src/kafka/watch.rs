//! Whether the broker answers: asked every two seconds, since a broker that hangs makes no error by itself (SPEC 9.0).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rdkafka::{admin::AdminClient, client::Client, config::FromClientConfigAndContext as _, error::KafkaError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{ConnectionContext, KafkaConfig, Topic, topics};
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
    let context = ConnectionContext::default();
    let client = config.client("chargemesh-watch")?;
    let admin = AdminClient::from_config_and_context(&client, context.clone())
        .map_err(|error| Misuse::new(format!("Kafka's settings are refused: {error}")))?;
    let (admin, brokers) = (Arc::new(admin), config.brokers());
    component.degraded(format!("Kafka at {brokers} has not answered yet"));
    let (is_up, up) = watch::channel(false);
    let work = async move {
        let mut watch = BrokerWatch { admin, context, brokers, topics, component, is_prepared: false };
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
    admin: Arc<AdminClient<ConnectionContext>>,
    context: ConnectionContext,
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
            Err(error) => {
                self.is_prepared = false;
                let why = self.context.errors.latest().unwrap_or_else(|| error.to_string());
                self.component.degraded(format!(
                    "Kafka at {} does not answer: {why}. Events wait in the database; readings wait as far as there is \
                     room, then they are dropped",
                    self.brokers
                ));
            }
        }
    }

    async fn known_topics(&self) -> Result<BTreeMap<String, usize>, KafkaError> {
        let admin = Arc::clone(&self.admin);
        let ask = move || {
            let client: &Client<ConnectionContext> = admin.inner();
            client.fetch_metadata(None, ANSWER).map(|metadata| topics::known(&metadata))
        };
        let asked = tokio::task::spawn_blocking(ask).await;
        asked.unwrap_or(Err(KafkaError::Canceled))
    }

    async fn prepare(&mut self, known: &BTreeMap<String, usize>) {
        self.context.errors.clear();
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
