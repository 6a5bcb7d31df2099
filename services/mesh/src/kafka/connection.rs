//! What librdkafka reports of its connections. A call that fails only says that it timed out; why (a refused certificate,
//! a wrong password, nobody at the port) comes through the error callback.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::Metadata,
    producer::{FutureProducer, Producer as _},
};

use crate::process::Misuse;

/// The reason of the latest connection error. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct BrokerErrors(Arc<Mutex<Option<String>>>);

impl BrokerErrors {
    /// The latest reason; none since [`clear`](Self::clear).
    pub fn latest(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The broker answers again.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn put(&self, reason: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
    }
}

/// The context of clients that need no more than [`BrokerErrors`].
#[derive(Clone, Debug, Default)]
pub struct ConnectionContext {
    pub errors: BrokerErrors,
}

impl ConnectionContext {
    /// Keeps the reason of an error: that all brokers are down says less than why each of them is.
    pub(super) fn note(&self, error: &KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka connection");
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.errors.put(shortened(reason));
        } else if self.errors.latest().is_none() {
            self.errors.put(
                "it takes connections and closes them; is a Kafka broker at this port, and with these \
                             security settings?",
            );
        }
    }
}

impl ClientContext for ConnectionContext {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.note(&error, reason);
    }
}

/// Asks the brokers for what they have, on a connection of its own, which is kept. It says why they cannot be reached: a
/// client hears of that only while it is polled, and this one is, by a thread of its own.
#[derive(Clone)]
pub(super) struct Probe {
    client: Arc<FutureProducer<ConnectionContext>>,
    errors: BrokerErrors,
}

impl Probe {
    pub(super) fn new(config: &ClientConfig) -> Result<Self, Misuse> {
        let context = ConnectionContext::default();
        let client = FutureProducer::from_config_and_context(config, context.clone())
            .map_err(|error| Misuse::new(format!("Kafka's settings are refused: {error}")))?;
        Ok(Self { client: Arc::new(client), errors: context.errors })
    }

    /// What the brokers have: every topic, or this one alone. Blocks the thread for `longest` at most.
    ///
    /// # Errors
    /// Why they do not answer, for people.
    pub(super) fn ask(&self, topic: Option<&str>, longest: Duration) -> Result<Metadata, String> {
        match self.client.client().fetch_metadata(topic, longest) {
            Ok(metadata) => {
                self.errors.clear();
                Ok(metadata)
            }
            Err(error) => Err(self.errors.latest().unwrap_or_else(|| error.to_string())),
        }
    }
}

/// Without librdkafka's name of the connection and how long it was in which state.
fn shortened(reason: &str) -> &str {
    let reason = reason.split_once("]: ").map_or(reason, |(_, rest)| rest);
    let reason = reason.find(" (after ").map_or(reason, |at| &reason[..at]);
    reason.trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_broken_connection_is_kept_in_plain_words() {
        let context = ConnectionContext::default();
        let refused = KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure);
        let text = "[thrd:localhost:1/bootstrap]: localhost:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: \
                    Connection refused (after 0ms in state CONNECT, 1 identical error(s) suppressed)";
        context.note(&refused, text);
        let all_down = KafkaError::Global(RDKafkaErrorCode::AllBrokersDown);
        context.note(&all_down, "1/1 brokers are down");
        let expected = "localhost:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused";
        assert_eq!(context.errors.latest().as_deref(), Some(expected));
        context.errors.clear();
        assert_eq!(context.errors.latest(), None);
    }
}
