//! The row of a writer: the end of its audit chain and of its outbox, and the last group it committed.

use diesel::prelude::*;

use super::schema::writers;
use crate::{Conn, StoreError, connection::on};

/// The end of a writer's chain and outbox.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = writers)]
pub(crate) struct Head {
    pub(crate) writer: String,
    pub(crate) audit_number: i64,
    pub(crate) audit_hash: String,
    pub(crate) pruned_number: i64,
    pub(crate) pruned_hash: String,
    pub(crate) addresses_pruned_number: i64,
    pub(crate) outbox_sequence: i64,
}

impl Head {
    pub(crate) fn all(conn: &mut Conn) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| writers::table.order(writers::writer).select(Self::as_select()).load(c))?)
    }

    /// Saves the ends of the chain and the outbox after a group.
    pub(crate) fn save(&self, conn: &mut Conn) -> Result<(), StoreError> {
        use writers as t;
        on!(conn, |c| diesel::update(t::table.find(&self.writer))
            .set((
                t::audit_number.eq(self.audit_number),
                t::audit_hash.eq(&self.audit_hash),
                t::outbox_sequence.eq(self.outbox_sequence),
            ))
            .execute(c))?;
        Ok(())
    }

    /// Saves up to where the chain was pruned.
    pub(crate) fn save_pruned(&self, conn: &mut Conn) -> Result<(), StoreError> {
        use writers as t;
        on!(conn, |c| diesel::update(t::table.find(&self.writer))
            .set((
                t::pruned_number.eq(self.pruned_number),
                t::pruned_hash.eq(&self.pruned_hash),
                t::addresses_pruned_number.eq(self.addresses_pruned_number),
            ))
            .execute(c))?;
        Ok(())
    }
}

/// Inserts the row of a new writer.
pub(crate) fn ensure_row(conn: &mut Conn, writer: &str) -> Result<(), StoreError> {
    use writers as t;
    on!(conn, |c| diesel::insert_into(t::table)
        .values((
            t::writer.eq(writer),
            t::last_group.eq(""),
            t::audit_number.eq(0),
            t::audit_hash.eq(""),
            t::pruned_number.eq(0),
            t::pruned_hash.eq(""),
            t::addresses_pruned_number.eq(0),
            t::outbox_sequence.eq(0),
        ))
        .on_conflict_do_nothing()
        .execute(c))?;
    Ok(())
}

/// Begins a group: stores its name, returns the writer's ends, and locks the row, so that two processes with the same
/// writer's name take turns.
pub(crate) fn begin_group(conn: &mut Conn, writer: &str, group: &str) -> Result<Head, StoreError> {
    Ok(on!(conn, |c| diesel::update(writers::table.find(writer))
        .set(writers::last_group.eq(group))
        .returning(Head::as_returning())
        .get_result(c))?)
}

/// Whether `group` was the last one of the writer that was committed. Updating the row waits for a commit that is
/// still running in a lost connection.
pub(crate) fn was_last_committed(conn: &mut Conn, writer: &str, group: &str) -> Result<bool, StoreError> {
    conn.begin_write()?;
    let last: String = on!(conn, |c| diesel::update(writers::table.find(writer))
        .set(writers::outbox_sequence.eq(writers::outbox_sequence))
        .returning(writers::last_group)
        .get_result(c))?;
    conn.execute("ROLLBACK")?;
    Ok(last == group)
}
