//! Registry's audit chain, kept in its own database. The module `forward` copies it to Central.

use store::{
    Conn, StoreError,
    registry::{AuditEntry, append_audit},
};

use crate::audit::RegistryEntry;

/// The name of Registry's chain. It never changes, because every entry's hash covers it.
pub(crate) const WRITER: &str = "registry";

/// Numbers and chains `entries` in the transaction of the change that they describe.
pub(crate) fn append(conn: &mut Conn, entries: &[RegistryEntry]) -> Result<(), StoreError> {
    let entries: Vec<_> = entries.iter().map(entry).collect();
    append_audit(conn, WRITER, &entries).map(drop)
}

fn entry(entry: &RegistryEntry) -> AuditEntry {
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
