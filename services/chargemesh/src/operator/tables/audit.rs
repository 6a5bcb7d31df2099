//! An entry of the audit.

use proto::{central::v1::AuditEntry, json_of, millis};

use crate::{
    operator::api_message::ApiMessage,
    output::{Columns, escaped},
};

/// To the millisecond (SPEC 8.1), as Central writes it to a file.
pub(crate) fn entry_time(entry: &AuditEntry) -> String {
    let at_ms = millis(entry.time.as_ref());
    let time = mesh::clock::in_words(at_ms.div_euclid(1000));
    format!("{}.{:03}Z", time.trim_end_matches('Z'), at_ms.rem_euclid(1000))
}

pub(crate) fn parameters_text(entry: &AuditEntry) -> String {
    let Some(serde_json::Value::Object(parameters)) = entry.parameters.as_ref().map(json_of) else {
        return String::new();
    };
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    parameters.iter().map(|(name, value)| escaped(&format!("{name}={}", text(value)))).collect::<Vec<_>>().join(", ")
}

impl Columns for ApiMessage<AuditEntry> {
    const HEADERS: &'static [&'static str] = &["time", "who", "address", "action", "object", "outcome", "parameters"];
    fn cells(&self) -> Vec<String> {
        let entry = &self.0;
        vec![
            entry_time(entry),
            escaped(&entry.actor),
            escaped(&entry.address),
            escaped(&entry.action),
            escaped(&entry.object),
            escaped(&entry.outcome),
            parameters_text(entry),
        ]
    }
}
