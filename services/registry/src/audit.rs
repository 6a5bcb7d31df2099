//! What Registry writes to its audit (SPEC 8.1): the one list of actions, and an entry before the store numbers and
//! chains it. Never a secret.

use std::net::IpAddr;

use mesh::{
    health::Turn,
    visitors::{Refused, Visit},
};

use crate::{authority::Authority, refusal::Refusal};

macro_rules! actions {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// The action of an entry, as it is shown and filtered.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Action { $($name),* }

        impl Action {
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
    StrangersRefused = "STRANGERS_REFUSED",
    CallRefused = "CALL_REFUSED",
    Login = "LOGIN",
}

/// Who does something, and from where: the original address, also through the dashboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Actor {
    /// `operator/anna`, `central`, `token/1f3a…`, `charging-point/CP-1`, `registry`.
    pub(crate) name: String,
    pub(crate) address: Option<IpAddr>,
}

impl Actor {
    pub(crate) fn registry() -> Self {
        Self { name: "registry".into(), address: None }
    }
}

/// One entry, not yet numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at_ms: i64,
    pub(crate) actor: Actor,
    pub(crate) action: Action,
    pub(crate) object: String,
    pub(crate) parameters: Vec<(&'static str, String)>,
    /// `ok`, or the code of a reason.
    pub(crate) outcome: &'static str,
}

impl Entry {
    pub(crate) fn done(at_ms: i64, actor: &Actor, action: Action, object: impl Into<String>) -> Self {
        let (actor, object, parameters) = (actor.clone(), object.into(), Vec::new());
        Self { at_ms, actor, action, object, parameters, outcome: "ok" }
    }

    /// An order of somebody who proved who he is.
    pub(crate) fn refused(at_ms: i64, actor: &Actor, order: &'static str, object: String, why: &Refusal) -> Self {
        let entry = Self::done(at_ms, actor, Action::OrderRefused, object).with("order", order);
        Self { outcome: why.reason.code(), ..entry }
    }

    /// A component of this role failed or recovered.
    pub(crate) fn component(at_ms: i64, name: &str, turn: Turn) -> Self {
        let entry = |action| Self::done(at_ms, &Actor::registry(), action, format!("component/{name}"));
        match turn {
            Turn::Failed { reason } => entry(Action::ComponentFailed).with("reason", reason),
            Turn::Recovered => entry(Action::ComponentRecovered),
        }
    }

    /// Who logged in or was turned away.
    pub(crate) fn visit(at_ms: i64, visit: Visit) -> Self {
        match visit {
            Visit::Login { who, from, count } => {
                let actor = Actor { name: who.clone(), address: Some(from) };
                Self::done(at_ms, &actor, Action::Login, who).with("count", count.to_string())
            }
            Visit::Refused(Refused { what, reason, who: Some(who), from, count }) => {
                let actor = Actor { name: who, address: from.parse().ok() };
                let entry = Self::done(at_ms, &actor, Action::CallRefused, what).with("count", count.to_string());
                Self { outcome: reason, ..entry }
            }
            Visit::Refused(Refused { what, reason, who: None, from, count }) => {
                let entry = Self::done(at_ms, &Actor::registry(), Action::StrangersRefused, what)
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

/// The role is up; what it does from here on is in the audit.
///
/// # Errors
/// Where the database cannot be written.
pub(crate) async fn started(authority: &Authority) -> Result<(), store::StoreError> {
    let now_ms = authority.now().wall_ms;
    let version = env!("CARGO_PKG_VERSION");
    let entry = Entry::done(now_ms, &Actor::registry(), Action::RoleStarted, "registry").with("version", version);
    authority.write(vec![entry]).await
}

/// The role ends.
pub(crate) async fn stopped(authority: &Authority) {
    let entry = Entry::done(authority.now().wall_ms, &Actor::registry(), Action::RoleStopped, "registry");
    if let Err(error) = authority.write(vec![entry]).await {
        tracing::warn!(error = error.to_string(), "the stop is missing in the audit");
    }
}
