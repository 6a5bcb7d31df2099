//! What is counted. No id is a label (SPEC 10.9).

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use proto::link::v1::Reason;

use crate::{
    refusal::Refusal,
    rows::{kind_of, state_name},
};

type Labels = [(&'static str, &'static str); 2];

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    decisions: Family<Labels, Counter>,
    identities: Family<Labels, Gauge>,
    unforwarded: Gauge,
}

impl Metrics {
    pub(crate) fn new(metrics: &mesh::metrics::Metrics) -> Self {
        Self {
            decisions: metrics.register(
                "registry_decisions",
                "Orders, enrolments and verifications, by outcome",
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

    pub(crate) fn decided(&self, order: &'static str, refusal: Option<&Refusal>) {
        let outcome = refusal.map_or("OK", |refusal| refusal.reason.code());
        self.decisions.get_or_create(&[("order", order), ("outcome", outcome)]).inc();
    }

    pub(crate) fn verified(&self, reason: Reason) {
        let outcome = if reason == Reason::Unspecified { "OK" } else { reason.code() };
        self.decisions.get_or_create(&[("order", "Verify"), ("outcome", outcome)]).inc();
    }

    /// Counts of `(kind, state)` as the store has them.
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
