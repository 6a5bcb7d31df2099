//! Publishes the events of the outbox (SPEC 5.3, 5.4): in order per charging point, until Kafka has each; marked when it
//! has. A crash in between publishes some again, under the same ids.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use mesh::{
    health::Component,
    kafka::{DeliveryError, DurableProducer, KafkaConfig, Outgoing},
    process::{Context, Misuse},
};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use store::central::{OutboxLag, OutboxRow, RowWrite};
use tokio::sync::watch;

use crate::{rows, shared::SharedState, topics, turns::RETRY};

/// Events on their way at once.
const AT_ONCE: i64 = 500;
/// Looked for without being told, since another process may have left some.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A charging point whose event Kafka refuses is left alone for so long.
const HELD_FOR: Duration = Duration::from_secs(60);

/// The one who empties the outbox.
pub(crate) struct OutboxPublisher {
    shared: Arc<SharedState>,
    config: KafkaConfig,
    producer: DurableProducer,
    topic: String,
    /// Whether Kafka answers.
    is_up: watch::Receiver<bool>,
    component: Component,
    /// Charging points whose next event Kafka refused, and until when they are left alone.
    held: BTreeMap<String, Instant>,
    metrics: OutboxMetrics,
}

struct OutboxMetrics {
    published: Counter,
    waiting: Gauge,
    age: Gauge,
}

/// What became of a batch.
#[derive(Default)]
struct Delivered {
    /// Numbers of the published events, by writer.
    published: BTreeMap<String, Vec<i64>>,
    refused: BTreeMap<String, String>,
    /// Why the rest was not published.
    failed: Option<String>,
}

impl OutboxPublisher {
    pub(crate) fn new(
        shared: Arc<SharedState>,
        config: &KafkaConfig,
        is_up: watch::Receiver<bool>,
        ctx: &Context,
    ) -> Result<Self, Misuse> {
        let component = ctx.health.component("events");
        component.ready();
        let metrics = OutboxMetrics {
            published: ctx.metrics.register("events_published", "Events that Kafka has", Counter::default()),
            waiting: ctx.metrics.register("outbox_events", "Events that wait to be published", Gauge::default()),
            age: ctx.metrics.register("outbox_age_seconds", "Age of the oldest waiting event", Gauge::default()),
        };
        Ok(Self {
            shared,
            config: config.clone(),
            producer: DurableProducer::new(config)?,
            topic: config.topic(topics::EVENTS),
            is_up,
            component,
            held: BTreeMap::new(),
            metrics,
        })
    }

    /// Publishes until the process stops.
    pub(crate) async fn run(mut self, ctx: Context) {
        let events_written = Arc::clone(&self.shared.store.events_written);
        let mut lag_at = self.shared.clock.mono();
        loop {
            let work = async {
                let wake = tokio::time::timeout(LOOK_EVERY, events_written.notified());
                drop(wake.await);
                if self.is_up.wait_for(|up| *up).await.is_ok() {
                    self.drain().await;
                }
            };
            if ctx.stop.run_until_cancelled(work).await.is_none() {
                return;
            }
            if self.shared.clock.mono() >= lag_at {
                lag_at = self.shared.clock.mono() + LOOK_EVERY;
                self.measure().await;
            }
        }
    }

    /// Publishes what waits, batch by batch.
    async fn drain(&mut self) {
        loop {
            let now = self.shared.clock.mono();
            self.held.retain(|_, until| *until > now);
            let (owner, held) = (self.shared.owner.clone(), self.held.keys().cloned().collect::<Vec<_>>());
            let read = move |conn: &mut store::Conn| OutboxRow::batch(conn, &owner, &held, AT_ONCE);
            let Ok(batch) = self.shared.store.read("outbox", read).await else {
                return tokio::time::sleep(RETRY).await;
            };
            if batch.is_empty() {
                return;
            }
            let delivered = self.publish(&batch).await;
            self.mark(&delivered.published).await;
            self.hold(&delivered, now);
            if delivered.failed.is_some() {
                self.renew_if_failed();
                return tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn publish(&self, batch: &[OutboxRow]) -> Delivered {
        let mut delivered = Delivered::default();
        let mut under_way = Vec::with_capacity(batch.len());
        for row in batch {
            // What follows a refused event of its charging point waits behind it.
            if delivered.refused.contains_key(&row.cp_id) {
                continue;
            }
            match self.send(row) {
                Ok(delivery) => under_way.push((row, delivery)),
                Err(DeliveryError::Refused(why)) => drop(delivered.refused.insert(row.cp_id.clone(), why)),
                Err(DeliveryError::NotNow(why)) => {
                    delivered.failed = Some(why);
                    break;
                }
            }
        }
        let results = join_all(under_way.into_iter().map(|(row, delivery)| async move { (row, delivery.await) })).await;
        let mut stuck = BTreeSet::new();
        for (row, result) in results {
            // An event that follows one that is to be published again is published again as well.
            if stuck.contains(&row.cp_id) {
                continue;
            }
            match result {
                Ok(()) => delivered.published.entry(row.writer.clone()).or_default().push(row.sequence),
                Err(why) => {
                    stuck.insert(&row.cp_id);
                    match why {
                        DeliveryError::Refused(why) => drop(delivered.refused.insert(row.cp_id.clone(), why)),
                        DeliveryError::NotNow(why) => delivered.failed = Some(why),
                    }
                }
            }
        }
        delivered
    }

    /// One event as a CloudEvent in binary mode.
    fn send(
        &self,
        row: &OutboxRow,
    ) -> Result<impl Future<Output = Result<(), DeliveryError>> + Send + use<>, DeliveryError> {
        let time = topics::rfc3339(row.at_ms).unwrap_or_default();
        let epoch = rows::unsigned(row.epoch).to_string();
        let headers = [
            ("ce_specversion", "1.0"),
            ("ce_id", row.event_id.as_str()),
            ("ce_source", "/chargemesh/central"),
            ("ce_type", row.kind.as_str()),
            ("ce_subject", row.cp_id.as_str()),
            ("ce_time", time.as_str()),
            ("ce_epoch", epoch.as_str()),
            ("content-type", "application/json"),
        ];
        // No attribute of a CloudEvent may be empty: an event about a driver has no subject.
        let headers: Vec<_> = headers.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let payload = row.body.as_bytes();
        self.producer.send(&Outgoing { topic: &self.topic, key: &row.cp_id, headers: &headers, payload })
    }

    async fn mark(&self, published: &BTreeMap<String, Vec<i64>>) {
        let at_ms = self.shared.clock.wall_ms();
        let marked = published.iter().flat_map(|(writer, numbers)| {
            ranges(numbers).into_iter().map(move |(first, last)| RowWrite::Published {
                writer: writer.clone(),
                first,
                last,
                at_ms,
            })
        });
        let writes: Vec<_> = marked.collect();
        if writes.is_empty() {
            return;
        }
        // What is not marked is published again; consumers drop the repeated ids.
        if let Err(error) = self.shared.store.write("published", writes).await {
            tracing::warn!(%error, "published events could not be marked; they are published again");
        }
        let count: usize = published.values().map(Vec::len).sum();
        self.metrics.published.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    fn hold(&mut self, delivered: &Delivered, now: Instant) {
        self.held.extend(delivered.refused.keys().map(|cp_id| (cp_id.clone(), now + HELD_FOR)));
        match (delivered.refused.iter().next(), &delivered.failed) {
            (Some((cp_id, why)), _) => self.component.degraded(format!(
                "Kafka refuses an event of {}: {why}. It and those that follow wait in the database",
                if cp_id.is_empty() { "no charging point" } else { cp_id }
            )),
            (None, Some(why)) => self.component.degraded(format!("events wait in the database: {why}")),
            (None, None) if self.held.is_empty() => self.component.ready(),
            (None, None) => {}
        }
    }

    fn renew_if_failed(&mut self) {
        if let Some(why) = self.producer.has_failed() {
            tracing::warn!(why, "the producer of events is made anew");
            match DurableProducer::new(&self.config) {
                Ok(producer) => self.producer = producer,
                Err(error) => self.component.degraded(format!("events wait in the database: {error}")),
            }
        }
    }

    async fn measure(&self) {
        let Ok(OutboxLag { events, oldest_at_ms }) = self.shared.store.read("outbox lag", OutboxRow::lag).await else {
            return;
        };
        self.metrics.waiting.set(events);
        let age = oldest_at_ms.map_or(0, |at| self.shared.clock.wall_ms().saturating_sub(at).max(0) / 1000);
        self.metrics.age.set(age);
    }
}

/// Runs of consecutive numbers, each by its first and last.
fn ranges(numbers: &[i64]) -> Vec<(i64, i64)> {
    let sorted: BTreeSet<i64> = numbers.iter().copied().collect();
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for number in sorted {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            Some(_) | None => ranges.push((number, number)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_events_are_marked_by_ranges() {
        assert_eq!(ranges(&[]), []);
        assert_eq!(ranges(&[3, 1, 2, 7, 9, 8]), [(1, 3), (7, 9)]);
    }
}
