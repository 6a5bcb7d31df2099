//! Registry's metrics. No id is a label (SPEC 10.9).

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use proto::link::v1::Reason;

use crate::{
    error::Error,
    rows::{kind_of, state_name},
};

type Labels = [(&'static str, &'static str); 2];

#[derive(Clone, Debug)]
pub(crate) struct RegistryMetrics {
    decisions: Family<Labels, Counter>,
    identities: Family<Labels, Gauge>,
    unforwarded: Gauge,
}

impl RegistryMetrics {
    pub(crate) fn new(metrics: &mesh::metrics::Metrics) -> Self {
        Self {
            decisions: metrics.register(
                "registry_decisions",
                "Decisions by gRPC method and outcome",
                Family::default(),
            ),
            identities: metrics.register("registry_identities", "Identities by kind and state", Family::default()),
            unforwarded: metrics.register(
                "registry_audit_unforwarded",
                "Audit entries that Central has not acknowledged yet",
                Gauge::default(),
            ),
        }
    }

    pub(crate) fn decided(&self, method: &'static str, refusal: Option<&Error>) {
        let outcome = refusal.map_or("OK", |refusal| refusal.reason.code());
        self.decisions.get_or_create(&[("method", method), ("outcome", outcome)]).inc();
    }

    pub(crate) fn verified(&self, reason: Reason) {
        let outcome = if reason == Reason::Unspecified { "OK" } else { reason.code() };
        self.decisions.get_or_create(&[("method", "Verify"), ("outcome", outcome)]).inc();
    }

    /// Sets the gauge from the store's counts per kind and state.
    pub(crate) fn identities(&self, counts: &[(i32, i32, i64)]) {
        self.identities.clear();
        for (kind, state, count) in counts {
            let kind = kind_of(*kind).map_or("unknown", |kind| kind.collection());
            self.identities.get_or_create(&[("kind", kind), ("state", state_name(*state))]).set(*count);
        }
    }

    pub(crate) fn unforwarded(&self, entries: i64) {
        self.unforwarded.set(entries);
    }
}
