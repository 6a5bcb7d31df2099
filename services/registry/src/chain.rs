//! Registry's own audit chain, in its own database. From there it goes on to Central, see `forward`.

use store::{
    Conn, StoreError,
    registry::{AuditEntry, append_audit},
};

use crate::audit::Entry;

/// Names Registry's chain for good.
pub(crate) const WRITER: &str = "registry";

/// Numbers and chains `entries` inside the transaction that does the thing.
pub(crate) fn append(conn: &mut Conn, entries: &[Entry]) -> Result<(), StoreError> {
    let entries: Vec<_> = entries.iter().map(entry).collect();
    append_audit(conn, WRITER, &entries).map(drop)
}

fn entry(entry: &Entry) -> AuditEntry {
    AuditEntry {
        at_ms: entry.at_ms,
        actor: entry.actor.name.clone(),
        address: entry.actor.address.map(|address| address.to_string()).unwrap_or_default(),
        action: entry.action.as_str().to_owned(),
        object: entry.object.clone(),
        parameters: entry.parameters_json(),
        outcome: entry.outcome.to_owned(),
    }
}
