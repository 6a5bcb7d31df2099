//! Messages with readings that Kafka never got: counted for each charging point, and by why for the whole network.

use std::sync::atomic::Ordering;

use mesh::{
    kafka::{DeliveryError, LostMessages},
    metrics::Metrics,
};
use prometheus_client::metrics::{counter::Counter, family::Family};

use super::Streams;

/// The network's count, by why.
#[derive(Clone, Debug, Default)]
pub(super) struct UnpublishedMessages(Family<[(&'static str, &'static str); 1], Counter>);

impl UnpublishedMessages {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let name = "kafka_readings_dropped";
        Self(metrics.register(name, "Messages with readings that Kafka never got", Family::default()))
    }
}

impl Streams {
    /// Counts a message with one of its readings that was lost on the way to Kafka; `not_now` names why where Kafka did not
    /// refuse it.
    pub(crate) fn unpublished(&self, why: &DeliveryError, not_now: &'static str) {
        let reason = match why {
            DeliveryError::Refused(_) => "refused",
            DeliveryError::NotNow(_) => not_now,
        };
        self.unpublished.fetch_add(1, Ordering::Relaxed);
        self.dropped.0.get_or_create(&[("reason", reason)]).inc();
    }
}

impl LostMessages for Streams {
    fn lost(&self, why: &DeliveryError) {
        self.unpublished(why, "waited too long");
    }
}
