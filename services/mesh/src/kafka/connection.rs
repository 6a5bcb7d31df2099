//! What librdkafka reports of its connections. A call that fails only says that it timed out; why (a refused certificate,
//! a wrong password, nobody at the port) comes through the error callback.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::{ClientContext, config::RDKafkaLogLevel, error::KafkaError, error::RDKafkaErrorCode};

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
        let says_nothing_new = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        if !says_nothing_new || self.errors.latest().is_none() {
            self.errors.put(shortened(reason));
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
