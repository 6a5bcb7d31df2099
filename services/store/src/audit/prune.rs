//! What may leave the audit, and in which order (SPEC 10.9): addresses first, then whole segments, which must have
//! been exported and end at a checkpoint.

use diesel::prelude::*;

use super::{Checkpoint, schema::audit, writer::Head};
use crate::{Conn, StoreError, connection::on};

/// Erases the addresses of entries before `before_ms`, with their salts; says of how many. The chain stays whole.
pub fn prune_addresses(conn: &mut Conn, before_ms: i64) -> Result<usize, StoreError> {
    let mut erased = 0;
    for mut head in Head::all(conn)? {
        // Up to the first that is still young: a clock that was set back must not let it go.
        let first_young: Option<i64> = on!(conn, |c| audit::table
            .filter(audit::writer.eq(&head.writer))
            .filter(audit::at_ms.ge(before_ms))
            .select(diesel::dsl::min(audit::number))
            .first(c))?;
        let through = first_young.map_or(head.audit_number, |number| number - 1);
        if through <= head.addresses_pruned_number {
            continue;
        }
        erased += on!(conn, |c| diesel::update(
            audit::table
                .filter(audit::writer.eq(&head.writer))
                .filter(audit::number.le(through))
                .filter(audit::address.is_not_null())
        )
        .set((audit::address.eq(None::<String>), audit::address_salt.eq(None::<String>)))
        .execute(c))?;
        head.addresses_pruned_number = through;
        head.save_pruned(conn)?;
    }
    Ok(erased)
}

/// Removes every entry up to the heads of `checkpoint`, which the caller has exported and found in the file; says how
/// many. What is left is verified from there on.
pub fn prune_through(conn: &mut Conn, checkpoint: &Checkpoint) -> Result<usize, StoreError> {
    let mut removed = 0;
    for mut head in Head::all(conn)? {
        let Some(end) = checkpoint.heads.iter().find(|end| end.writer == head.writer) else { continue };
        if end.number <= head.pruned_number {
            continue;
        }
        let there: Option<String> =
            on!(conn, |c| audit::table.find((&head.writer, end.number)).select(audit::hash).first(c).optional())?;
        if there.as_ref() != Some(&end.hash) {
            return Err(StoreError::Rejected(format!(
                "entry {} of {} is not the one that the checkpoint names: verify the audit first",
                end.number, end.writer
            )));
        }
        removed += on!(conn, |c| diesel::delete(
            audit::table.filter(audit::writer.eq(&head.writer)).filter(audit::number.le(end.number))
        )
        .execute(c))?;
        (head.pruned_number, head.pruned_hash) = (end.number, end.hash.clone());
        head.addresses_pruned_number = head.addresses_pruned_number.max(end.number);
        head.save_pruned(conn)?;
    }
    Ok(removed)
}
