//! Prometheus metrics of the process, one registry, no globals.
//!
//! No metric has the id of a charging point or driver as a label (SPEC 10.9): labels are methods, codes, states,
//! reasons and names of components, each from a set that the code fixes, and the cities that Weather watches.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::text,
    metrics::{
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry},
};

/// The metrics of one process. Cheap to clone; clones share one registry. Every name gets the prefix `chargemesh_`.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// A registry with the role's name and version as `chargemesh_build_info`.
    pub fn new(role: &'static str) -> Self {
        let metrics = Self(Arc::new(Mutex::new(Registry::with_prefix("chargemesh"))));
        let build = metrics.register("build", "Role and version", Family::<_, Gauge>::default());
        build.get_or_create(&vec![("role", role), ("version", env!("CARGO_PKG_VERSION"))]).set(1);
        metrics
    }

    /// Registers `metric` and returns it. Register each name once, at start: a second metric of a name is shown twice.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric.clone());
        metric
    }

    /// All metrics as OpenMetrics text.
    ///
    /// # Errors
    /// Where a metric cannot be encoded.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// From 0.5 ms to 16 s, each bucket twice the one before.
pub fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}
