//! The two ways to publish: what must arrive, in order and for as long as it takes; and what may be lost beyond a bound.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, FutureProducer, FutureRecord, Producer as _, ProducerContext, ThreadedProducer},
};

use super::{ConnectionContext, KafkaConfig};
use crate::process::Misuse;

/// One message to publish.
#[derive(Clone, Debug)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    /// Messages of one key stay in order.
    pub key: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub payload: &'a [u8],
}

impl Outgoing<'_> {
    fn headers(&self) -> OwnedHeaders {
        let empty = OwnedHeaders::new_with_capacity(self.headers.len());
        self.headers.iter().fold(empty, |all, (key, value)| all.insert(Header { key, value: Some(*value) }))
    }
}

/// Why a message was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The broker refuses this message and would refuse it again.
    #[error("{0}")]
    Refused(String),
    /// Another attempt may succeed.
    #[error("{0}")]
    NotNow(String),
}

impl From<KafkaError> for DeliveryError {
    fn from(error: KafkaError) -> Self {
        let refused = matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                    | RDKafkaErrorCode::InvalidMessage
                    | RDKafkaErrorCode::InvalidRecord
                    | RDKafkaErrorCode::TopicAuthorizationFailed
            )
        );
        if refused { Self::Refused(error.to_string()) } else { Self::NotNow(error.to_string()) }
    }
}

fn producer(config: &KafkaConfig, client_id: &str) -> Result<ClientConfig, Misuse> {
    let mut client = config.client(client_id)?;
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        // As Java's clients choose partitions, so that everybody finds a key in the same one.
        .set("partitioner", "murmur2_random");
    Ok(client)
}

fn refused(error: KafkaError) -> Misuse {
    Misuse::new(format!("Kafka's settings are refused: {error}"))
}

/// Publishes what must arrive: each message is tried until the broker has it or refuses it, however long it is away.
/// Cheap to clone.
#[derive(Clone)]
pub struct DurableProducer(FutureProducer<ConnectionContext>);

impl std::fmt::Debug for DurableProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DurableProducer")
    }
}

impl DurableProducer {
    /// # Errors
    /// A setting or a file that cannot be used.
    pub fn new(config: &KafkaConfig) -> Result<Self, Misuse> {
        let mut client = producer(config, "chargemesh-events")?;
        // 0: without end. A message that were given up could be published after a later one of its key.
        client.set("message.timeout.ms", "0");
        FutureProducer::from_config_and_context(&client, ConnectionContext::default()).map(Self).map_err(refused)
    }

    /// Hands a message over; the future ends when the broker has it.
    ///
    /// # Errors
    /// The message was not taken: it is too large, or too many wait.
    pub fn send(
        &self,
        message: &Outgoing<'_>,
    ) -> Result<impl Future<Output = Result<(), DeliveryError>> + Send + use<>, DeliveryError> {
        let record =
            FutureRecord::to(message.topic).key(message.key).payload(message.payload).headers(message.headers());
        let delivery = self.0.send_result(record).map_err(|(error, _)| DeliveryError::from(error))?;
        Ok(async move {
            match delivery.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err((error, _))) => Err(error.into()),
                Err(_) => Err(DeliveryError::NotNow("the producer has ended".to_owned())),
            }
        })
    }

    /// Whether the producer can publish nothing more and has to be made anew.
    pub fn has_failed(&self) -> Option<String> {
        self.0.client().fatal_error().map(|(_, why)| why)
    }
}

/// Is told of messages that were lost.
pub trait LostMessages: Send + Sync + 'static {
    /// One message was given up after it had waited as long as it may, or was refused.
    fn lost(&self, why: &DeliveryError);
}

/// Publishes what may be lost: messages wait within a bound while the broker is away; beyond it new ones are refused at
/// once. Each message has an owner that is told when it is lost.
pub struct LossyProducer<L: LostMessages>(ThreadedProducer<LossyContext<L>>);

impl<L: LostMessages> std::fmt::Debug for LossyProducer<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LossyProducer")
    }
}

struct LossyContext<L> {
    connection: ConnectionContext,
    owner: std::marker::PhantomData<fn() -> L>,
}

impl<L: LostMessages> ClientContext for LossyContext<L> {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.connection.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.connection.note(&error, reason);
    }
}

impl<L: LostMessages> ProducerContext for LossyContext<L> {
    type DeliveryOpaque = Arc<L>;

    fn delivery(&self, result: &DeliveryResult<'_>, owner: Arc<L>) {
        if let Err((error, _)) = result {
            owner.lost(&error.clone().into());
        }
    }
}

impl<L: LostMessages> LossyProducer<L> {
    /// At most `waiting` messages wait, each for at most `timeout`.
    ///
    /// # Errors
    /// A setting or a file that cannot be used.
    pub fn new(config: &KafkaConfig, waiting: u32, timeout: Duration) -> Result<Self, Misuse> {
        let mut client = producer(config, "chargemesh-readings")?;
        client
            .set("message.timeout.ms", timeout.as_millis().to_string())
            .set("queue.buffering.max.messages", waiting.max(1).to_string());
        let context = LossyContext { connection: ConnectionContext::default(), owner: std::marker::PhantomData };
        ThreadedProducer::from_config_and_context(&client, context).map(Self).map_err(refused)
    }

    /// Hands a message over and returns at once.
    ///
    /// # Errors
    /// The message is lost: as many wait as may, or it is too large.
    pub fn send(&self, message: &Outgoing<'_>, owner: Arc<L>) -> Result<(), DeliveryError> {
        let record = BaseRecord::with_opaque_to(message.topic, owner).key(message.key).payload(message.payload);
        let record = if message.headers.is_empty() { record } else { record.headers(message.headers()) };
        self.0.send(record).map_err(|(error, _)| error.into())
    }

    /// Messages that the broker does not have yet.
    pub fn waiting(&self) -> i32 {
        self.0.in_flight_count()
    }

    /// Waits until the broker has everything, at most `longest`. Blocks the thread.
    pub fn flush(&self, longest: Duration) {
        drop(self.0.flush(longest));
    }
}
