//! Kafka (SPEC 5): where the brokers are, the topics, a producer for what must arrive and one for what may be lost, and
//! a reader for the command line.
//!
//! Guarantees: a broker that is away or hangs is shown within seconds, in one sentence that names what librdkafka itself
//! only logs (a refused certificate or password, a wrong port); nothing here blocks the runtime; memory is bounded while
//! the broker is away. A topic that differs from the settings is reported and never changed.

mod config;
mod connection;
mod publisher;
mod reader;
mod topics;
mod watch;

pub use self::{
    config::{KafkaConfig, KafkaSecurity, SaslMechanism},
    connection::{BrokerErrors, ConnectionContext},
    publisher::{DeliveryError, DurableProducer, LossyProducer, LostMessages, Outgoing},
    reader::{Consumed, EndAt, StartAt, TopicReader, TopicReaderError},
    topics::{Topic, TopicSettings},
    watch::watch_broker,
};
