//! A committer's own row: the head of its audit chain and of its outbox, and the group it committed last.

use diesel::prelude::*;

use super::schema::{generation, writers};
use crate::{Conn, StoreError, connection::on};

/// Where the chain and the outbox of a writer stand.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = writers)]
pub(super) struct Head {
    pub(super) writer: String,
    pub(super) audit_number: i64,
    pub(super) audit_hash: String,
    pub(super) pruned_number: i64,
    pub(super) pruned_hash: String,
    pub(super) addresses_pruned_number: i64,
    pub(super) outbox_sequence: i64,
}

impl Head {
    pub(super) fn all(conn: &mut Conn) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| writers::table.order(writers::writer).select(Self::as_select()).load(c))?)
    }

    /// Keeps where the chain and the outbox stand after a group.
    pub(super) fn save(&self, conn: &mut Conn) -> Result<(), StoreError> {
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

    /// Keeps up to where the chain was pruned.
    pub(super) fn save_pruned(&self, conn: &mut Conn) -> Result<(), StoreError> {
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

/// Makes the row of a new writer.
pub(super) fn introduce(conn: &mut Conn, writer: &str) -> Result<(), StoreError> {
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

/// Begins a group: notes its name, answers where the writer stands, and holds the row, so that two processes under one
/// writer's name take turns.
pub(super) fn begin_group(conn: &mut Conn, writer: &str, group: &str) -> Result<Head, StoreError> {
    Ok(on!(conn, |c| diesel::update(writers::table.find(writer))
        .set(writers::last_group.eq(group))
        .returning(Head::as_returning())
        .get_result(c))?)
}

/// Whether `group` was the writer's last that arrived. Writing the row waits for a commit that is still under way
/// in a connection that was lost.
pub(super) fn arrived(conn: &mut Conn, writer: &str, group: &str) -> Result<bool, StoreError> {
    conn.begin_write()?;
    let last: String = on!(conn, |c| diesel::update(writers::table.find(writer))
        .set(writers::outbox_sequence.eq(writers::outbox_sequence))
        .returning(writers::last_group)
        .get_result(c))?;
    conn.execute("ROLLBACK")?;
    Ok(last == group)
}

/// The restore count, which orders before every epoch (SPEC 10.5).
pub(super) fn current_generation(conn: &mut Conn) -> Result<i64, StoreError> {
    Ok(on!(conn, |c| generation::table.find(1).select(generation::number).first(c))?)
}

/// After a restore: every epoch given from now on orders after every one given before. Answers the new generation.
pub fn raise_generation(conn: &mut Conn) -> Result<i64, StoreError> {
    on!(conn, |c| diesel::update(generation::table.find(1))
        .set(generation::number.eq(generation::number + 1))
        .execute(c))?;
    current_generation(conn)
}
