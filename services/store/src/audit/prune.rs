//! Removes old parts of the audit (SPEC 10.9): first addresses, then whole segments, which must have been exported and
//! end at a checkpoint.
//!
//! A checkpoint that allows the removal is signed first. After a crash between the two steps the remaining entries
//! verify as before, and the next pruning removes them.

use diesel::prelude::*;

use super::{
    Checkpoint, CheckpointError, CheckpointHead, Checkpoints,
    checkpoint::{Removable, RemovableParts},
    schema::audit,
    writer::Head,
};
use crate::{Abort, Conn, Database, StoreError, connection::on};

impl Checkpoints {
    /// Erases the addresses and salts of entries from before `before_ms` and returns the number of entries. Their age
    /// is decided by checkpoints: it erases those up to the last checkpoint that is older. The chain stays whole.
    pub async fn prune_addresses(
        &mut self,
        database: &Database,
        before_ms: i64,
        at_ms: i64,
    ) -> Result<usize, CheckpointError> {
        let heads = self.heads_before(before_ms).await?;
        if heads.is_empty() {
            return Ok(0);
        }
        let removable = self.sign_removable(database, at_ms, &heads, |may| &mut may.addresses).await?;
        change(database, move |conn| erase_addresses(conn, &removable)).await
    }

    /// Removes every entry up to the heads of `checkpoint` and returns their number. The caller has exported them and
    /// found the checkpoint in the file. Later verifications begin after these heads.
    pub async fn prune_through(
        &mut self,
        database: &Database,
        checkpoint: &Checkpoint,
        at_ms: i64,
    ) -> Result<usize, CheckpointError> {
        let heads = checkpoint.heads.clone();
        let named = heads.clone();
        database.read("audit_segment", move |conn| are_there(conn, &named)).await?;
        self.sign_removable(database, at_ms, &heads, |may| &mut may.entries).await?;
        change(database, move |conn| remove_through(conn, &heads)).await
    }
}

async fn change<F>(database: &Database, work: F) -> Result<usize, CheckpointError>
where
    F: Fn(&mut Conn) -> Result<usize, StoreError> + Send + 'static,
{
    let changed: Result<usize, std::convert::Infallible> =
        database.transaction("audit_prune", move |conn| Ok::<_, Abort<_>>(work(conn)?)).await?;
    let Ok(changed) = changed;
    Ok(changed)
}

fn erase_addresses(conn: &mut Conn, removable: &Removable) -> Result<usize, StoreError> {
    let mut erased = 0;
    for mut head in Head::all(conn)? {
        let RemovableParts { addresses: through, .. } = removable.get(&head.writer).copied().unwrap_or_default();
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

fn remove_through(conn: &mut Conn, ends: &[CheckpointHead]) -> Result<usize, StoreError> {
    are_there(conn, ends)?;
    let mut removed = 0;
    for (mut head, end) in not_pruned(conn, ends)? {
        removed += on!(conn, |c| diesel::delete(
            audit::table.filter(audit::writer.eq(&head.writer)).filter(audit::number.le(end.number))
        )
        .execute(c))?;
        (head.pruned_number, head.pruned_hash) = (end.number, end.hash.clone());
        head.save_pruned(conn)?;
    }
    Ok(removed)
}

/// Refuses if a head names another entry than the database contains.
fn are_there(conn: &mut Conn, ends: &[CheckpointHead]) -> Result<(), StoreError> {
    for (_, end) in not_pruned(conn, ends)? {
        let there: Option<String> =
            on!(conn, |c| audit::table.find((&end.writer, end.number)).select(audit::hash).first(c).optional())?;
        if there.as_ref() != Some(&end.hash) {
            return Err(StoreError::Rejected(format!(
                "entry {} of {} is not the one that the checkpoint names: verify the audit first",
                end.number, end.writer
            )));
        }
    }
    Ok(())
}

fn not_pruned<'a>(conn: &mut Conn, ends: &'a [CheckpointHead]) -> Result<Vec<(Head, &'a CheckpointHead)>, StoreError> {
    let heads = Head::all(conn)?.into_iter();
    let with_end = heads.filter_map(|head| ends.iter().find(|end| end.writer == head.writer).map(|end| (head, end)));
    Ok(with_end.filter(|(head, end)| end.number > head.pruned_number).collect())
}
