//! An audit entry, as operators see it.

use proto::central::v1::AuditEntry;
use serde::Serialize;

use crate::output::{Columns, escaped};

#[derive(Debug, Serialize)]
pub(crate) struct AuditView {
    pub(crate) writer: String,
    pub(crate) number: u64,
    pub(crate) at_ms: i64,
    pub(crate) actor: String,
    pub(crate) address: String,
    pub(crate) action: String,
    pub(crate) object: String,
    pub(crate) parameters: serde_json::Value,
    pub(crate) outcome: String,
}

impl From<AuditEntry> for AuditView {
    fn from(e: AuditEntry) -> Self {
        Self {
            parameters: serde_json::from_str(&e.parameters).unwrap_or(serde_json::Value::String(e.parameters)),
            writer: e.writer,
            number: e.number,
            at_ms: e.at_ms,
            actor: e.actor,
            address: e.address,
            action: e.action,
            object: e.object,
            outcome: e.outcome,
        }
    }
}

impl AuditView {
    /// To the millisecond (SPEC 8.1), as Central writes it to a file.
    pub(crate) fn time(&self) -> String {
        let time = mesh::clock::in_words(self.at_ms.div_euclid(1000));
        format!("{}.{:03}Z", time.trim_end_matches('Z'), self.at_ms.rem_euclid(1000))
    }

    pub(crate) fn parameters_text(&self) -> String {
        match &self.parameters {
            serde_json::Value::Object(map) => {
                let text = |v: &serde_json::Value| v.as_str().map_or_else(|| v.to_string(), ToOwned::to_owned);
                map.iter().map(|(k, v)| escaped(&format!("{k}={}", text(v)))).collect::<Vec<_>>().join(", ")
            }
            serde_json::Value::Null => String::new(),
            other @ (serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_)
            | serde_json::Value::Array(_)) => escaped(&other.to_string()),
        }
    }
}

impl Columns for AuditView {
    const HEADERS: &'static [&'static str] = &["time", "who", "address", "action", "object", "outcome", "parameters"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.time(),
            escaped(&self.actor),
            escaped(&self.address),
            escaped(&self.action),
            escaped(&self.object),
            escaped(&self.outcome),
            self.parameters_text(),
        ]
    }
}
