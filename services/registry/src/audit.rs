//! Registry's audit entries before the store numbers and chains them, and the one list of their actions (SPEC 8.1). An
//! entry never contains a secret.

use std::net::IpAddr;

use mesh::{
    access_log::{AccessEntry, RefusedAccess},
    health::HealthChange,
};

use crate::error::Error;

macro_rules! actions {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// What an entry says was done, as shown and filtered.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum RegistryAction { $($name),* }

        impl RegistryAction {
            pub(crate) const TEXTS: &'static [&'static str] = &[$($text),*];

            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

actions! {
    RoleStarted = "ROLE_STARTED",
    RoleStopped = "ROLE_STOPPED",
    ComponentFailed = "COMPONENT_FAILED",
    ComponentRecovered = "COMPONENT_RECOVERED",
    Enrolled = "ENROLLED",
    Removed = "REMOVED",
    Left = "LEFT",
    CredentialVoid = "CREDENTIAL_VOID",
    Readmitted = "READMITTED",
    ReissueAllowed = "REISSUE_ALLOWED",
    TokenCreated = "TOKEN_CREATED",
    TokenRevoked = "TOKEN_REVOKED",
    OperatorAdded = "OPERATOR_ADDED",
    OperatorRemoved = "OPERATOR_REMOVED",
    PinsChanged = "PINS_CHANGED",
    OrderRefused = "ORDER_REFUSED",
    UnauthenticatedRefused = "UNAUTHENTICATED_REFUSED",
    CallRefused = "CALL_REFUSED",
    Login = "LOGIN",
}

/// Who did something, and from which address. For a person at the dashboard this is the person's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Actor {
    /// Such as `operator/anna`, `central`, `token/1f3a…`, `charging-point/CP-1` or `registry`.
    pub(crate) name: String,
    pub(crate) address: Option<IpAddr>,
}

impl Actor {
    pub(crate) fn registry() -> Self {
        Self { name: "registry".into(), address: None }
    }
}

/// An audit entry that has no number yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegistryEntry {
    pub(crate) at_ms: i64,
    pub(crate) actor: Actor,
    pub(crate) action: RegistryAction,
    pub(crate) object: String,
    pub(crate) parameters: Vec<(&'static str, String)>,
    /// `ok`, or the code of the refusal's reason.
    pub(crate) outcome: &'static str,
}

impl RegistryEntry {
    pub(crate) fn done(at_ms: i64, actor: &Actor, action: RegistryAction, object: impl Into<String>) -> Self {
        let (actor, object, parameters) = (actor.clone(), object.into(), Vec::new());
        Self { at_ms, actor, action, object, parameters, outcome: "ok" }
    }

    /// A request of an authenticated caller was refused.
    pub(crate) fn refused(at_ms: i64, actor: &Actor, method: &'static str, object: String, why: &Error) -> Self {
        let entry = Self::done(at_ms, actor, RegistryAction::OrderRefused, object).with("method", method);
        Self { outcome: why.reason.code(), ..entry }
    }

    /// A component of this process failed or recovered.
    pub(crate) fn component(at_ms: i64, name: &str, turn: HealthChange) -> Self {
        let entry = |action| Self::done(at_ms, &Actor::registry(), action, format!("component/{name}"));
        match turn {
            HealthChange::Failed { reason } => entry(RegistryAction::ComponentFailed).with("reason", reason),
            HealthChange::Recovered => entry(RegistryAction::ComponentRecovered),
        }
    }

    /// A caller logged in, or callers were refused.
    pub(crate) fn access(at_ms: i64, access: AccessEntry) -> Self {
        match access {
            AccessEntry::Login { who, from, count } => {
                let actor = Actor { name: who.clone(), address: Some(from) };
                Self::done(at_ms, &actor, RegistryAction::Login, who).with("count", count.to_string())
            }
            AccessEntry::Refused(RefusedAccess { what, reason, who: Some(who), from, count }) => {
                let actor = Actor { name: who, address: from.parse().ok() };
                let entry =
                    Self::done(at_ms, &actor, RegistryAction::CallRefused, what).with("count", count.to_string());
                Self { outcome: reason, ..entry }
            }
            AccessEntry::Refused(RefusedAccess { what, reason, who: None, from, count }) => {
                let entry = Self::done(at_ms, &Actor::registry(), RegistryAction::UnauthenticatedRefused, what)
                    .with("from", if from.is_empty() { "unknown".into() } else { from })
                    .with("count", count.to_string());
                Self { outcome: reason, ..entry }
            }
        }
    }

    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.parameters.push((name, value.into()));
        self
    }

    /// The parameters as a JSON object.
    pub(crate) fn parameters_json(&self) -> String {
        let map = self.parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into()));
        serde_json::Value::Object(map.collect()).to_string()
    }
}
