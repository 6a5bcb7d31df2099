//! The hash of an entry. Every part is preceded by its length, so that no two rows hash the same bytes.

use ring::digest::{Context, SHA256};

use super::AuditRow;

/// SHA-256, in hexadecimal, over the hash of the entry before (empty for the first) and the columns of this entry.
pub(super) fn entry_hash(previous: &str, row: &AuditRow) -> String {
    let mut context = Context::new(&SHA256);
    for part in [
        "chargemesh audit 1",
        previous,
        &row.writer,
        &row.number.to_string(),
        &row.at_ms.to_string(),
        &row.actor,
        &row.address_hash,
        &row.action,
        &row.object,
        &row.parameters,
        &row.outcome,
    ] {
        add(&mut context, part);
    }
    hex::encode(context.finish())
}

/// SHA-256, in hexadecimal. Without the salt the address cannot be guessed from it.
pub(super) fn address_hash(salt: &str, address: &str) -> String {
    let mut context = Context::new(&SHA256);
    for part in ["chargemesh address 1", salt, address] {
        add(&mut context, part);
    }
    hex::encode(context.finish())
}

fn add(context: &mut Context, part: &str) {
    context.update(&(part.len() as u64).to_be_bytes());
    context.update(part.as_bytes());
}
