//! The health of a role, component by component, with reasons for people (SPEC 9.1): a component that fails makes the
//! role *degraded*, never unready. Each change is logged once.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The readiness of a role: that of its worst component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    Ready,
    /// The role answers, though it may refuse with a reason.
    Degraded,
    /// The role cannot answer yet.
    Starting,
    /// The role accepts nothing new.
    Stopping,
}

impl Readiness {
    /// Whether the role accepts traffic.
    pub fn serves(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
}

/// The state of one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum ComponentState {
    Ready,
    Degraded { reason: String },
    Starting { reason: String },
}

impl ComponentState {
    fn readiness(&self) -> Readiness {
        match self {
            Self::Ready => Readiness::Ready,
            Self::Degraded { .. } => Readiness::Degraded,
            Self::Starting { .. } => Readiness::Starting,
        }
    }
}

/// The response of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub status: Readiness,
    pub components: BTreeMap<String, ComponentState>,
}

/// Finds which components failed or recovered between two calls, for the audit (SPEC 8.1).
#[derive(Debug, Default)]
pub struct ComponentFailures {
    known: BTreeMap<String, ComponentState>,
}

/// A change of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthChange {
    Failed { reason: String },
    Recovered,
}

impl ComponentFailures {
    /// The components that failed or recovered since the last call, by name.
    pub fn since(&mut self, health: &Health) -> Vec<(String, HealthChange)> {
        let present = health.report().components;
        let turned = |(name, now): (&String, &ComponentState)| {
            let failed = matches!(self.known.get(name), Some(ComponentState::Degraded { .. }));
            let turn = match (failed, now) {
                (false, ComponentState::Degraded { reason }) => HealthChange::Failed { reason: reason.clone() },
                (true, ComponentState::Ready) => HealthChange::Recovered,
                (
                    true | false,
                    ComponentState::Ready | ComponentState::Starting { .. } | ComponentState::Degraded { .. },
                ) => return None,
            };
            Some((name.clone(), turn))
        };
        let turns = present.iter().filter_map(turned).collect();
        self.known = present;
        turns
    }
}

/// The health of one process. Cheap to clone; clones share one state.
#[derive(Clone)]
pub struct Health(Arc<HealthState>);

struct HealthState {
    components: Mutex<BTreeMap<String, ComponentState>>,
    readiness: watch::Sender<Readiness>,
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(HealthState { components: Mutex::default(), readiness: watch::channel(Readiness::Ready).0 }))
    }
}

impl Health {
    /// Registers a component, which is starting until it reports otherwise. The same name gives the same component.
    pub fn component(&self, name: impl Into<String>) -> Component {
        let component = Component { health: self.clone(), name: name.into() };
        if !self.components().contains_key(&component.name) {
            component.set(ComponentState::Starting { reason: "starting".into() });
        }
        component
    }

    pub fn report(&self) -> Report {
        // The lock is released first: `publish` is called with the components locked.
        let components = self.components().clone();
        Report { status: self.readiness(), components }
    }

    pub fn readiness(&self) -> Readiness {
        *self.0.readiness.borrow()
    }

    /// Receives each change of the role's readiness.
    pub fn subscribe(&self) -> watch::Receiver<Readiness> {
        self.0.readiness.subscribe()
    }

    /// Marks the role as stopping, whatever the state of its components.
    pub fn stopping(&self) {
        self.0.readiness.send_replace(Readiness::Stopping);
    }

    fn components(&self) -> MutexGuard<'_, BTreeMap<String, ComponentState>> {
        self.0.components.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called with the components locked, so that the last published readiness is that of the last state.
    fn publish(&self, components: &BTreeMap<String, ComponentState>) {
        let worst = components.values().map(ComponentState::readiness).max().unwrap_or(Readiness::Ready);
        self.0.readiness.send_if_modified(|now| {
            let changes = *now != Readiness::Stopping && *now != worst;
            if changes {
                *now = worst;
            }
            changes
        });
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&self.readiness()).finish()
    }
}

/// The handle by which a part of the role reports its state.
#[derive(Clone, Debug)]
pub struct Component {
    health: Health,
    name: String,
}

impl Component {
    pub fn ready(&self) {
        self.set(ComponentState::Ready);
    }

    /// The component works only in part; `reason` is a sentence for people.
    pub fn degraded(&self, reason: impl Into<String>) {
        self.set(ComponentState::Degraded { reason: reason.into() });
    }

    /// The component cannot work yet, so the role is not ready.
    pub fn starting(&self, reason: impl Into<String>) {
        self.set(ComponentState::Starting { reason: reason.into() });
    }

    /// Removes the component and its state.
    pub fn forget(&self) {
        let mut components = self.health.components();
        components.remove(&self.name);
        self.health.publish(&components);
    }

    fn set(&self, state: ComponentState) {
        let mut components = self.health.components();
        let before = components.insert(self.name.clone(), state.clone());
        if before.as_ref() == Some(&state) {
            return;
        }
        self.health.publish(&components);
        drop(components);
        let component = &self.name;
        match (before, state) {
            (Some(ComponentState::Degraded { .. }), ComponentState::Ready) => tracing::info!(component, "works again"),
            (_, ComponentState::Ready) => tracing::debug!(component, "ready"),
            (_, ComponentState::Degraded { reason }) => tracing::warn!(component, reason, "degraded"),
            (Some(_), ComponentState::Starting { reason }) => tracing::info!(component, reason, "waits"),
            (None, ComponentState::Starting { .. }) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_holds_up_nobody_who_says_how_it_is_and_the_last_verdict_is_of_the_last_state() {
        let health = Health::default();
        let store = health.component("store");
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20_000).for_each(|_| drop(health.report())));
            for _ in 0..2 {
                scope.spawn(|| {
                    for n in 0..10_000 {
                        if n % 2 == 0 { store.degraded("gone") } else { store.ready() }
                    }
                });
            }
        });
        let state = health.report().components["store"].clone();
        assert_eq!(health.readiness(), state.readiness());
    }

    #[test]
    fn a_part_that_is_down_makes_the_role_degraded_and_never_unready_spec_9_1() {
        let health = Health::default();
        assert_eq!(health.readiness(), Readiness::Ready, "nothing to wait for");
        let (store, registry) = (health.component("store"), health.component("registry"));
        assert_eq!(health.readiness(), Readiness::Starting);
        store.ready();
        registry.degraded("Registry cannot be reached at 127.0.0.1:7543: connection refused");
        assert_eq!(health.readiness(), Readiness::Degraded);
        assert!(health.readiness().serves());
        registry.ready();
        assert_eq!(health.readiness(), Readiness::Ready);
    }

    #[test]
    fn a_component_that_fails_and_recovers_turns_twice_spec_8_1() {
        let (health, mut failures) = (Health::default(), ComponentFailures::default());
        let registry = health.component("registry");
        assert_eq!(failures.since(&health), []);
        registry.degraded("refused");
        let failed = HealthChange::Failed { reason: "refused".into() };
        assert_eq!(failures.since(&health), [("registry".to_owned(), failed)]);
        registry.degraded("other words");
        assert_eq!(failures.since(&health), []);
        registry.ready();
        assert_eq!(failures.since(&health), [("registry".to_owned(), HealthChange::Recovered)]);
        assert_eq!(failures.since(&health), []);
    }

    #[test]
    fn a_stopping_role_stays_stopping() {
        let health = Health::default();
        health.stopping();
        health.component("store").ready();
        assert_eq!(health.readiness(), Readiness::Stopping);
        assert!(!health.readiness().serves());
    }

    #[test]
    fn the_report_names_each_component_with_its_reason() {
        let health = Health::default();
        health.component("store").ready();
        health.component("registry").degraded("refused");
        let json = serde_json::to_value(health.report()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"status": "degraded", "components": {
                "registry": {"status": "degraded", "reason": "refused"}, "store": {"status": "ready"}}})
        );
    }
}
