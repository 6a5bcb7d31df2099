//! The audit of a service without a committer: entries are chained in the transaction of the change that they
//! describe.

use diesel::prelude::*;

use super::{
    AuditEntry, AuditRow,
    schema::{audit, writers},
    writer,
};
use crate::{Conn, StoreError, connection::on};

/// Chains `entries` as the next ones of `writer` in the current transaction. Locks the writer's row until its end, so
/// that two transactions take turns.
pub fn append(conn: &mut Conn, writer: &str, entries: &[AuditEntry]) -> Result<Vec<AuditRow>, StoreError> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    writer::ensure_row(conn, writer)?;
    // Without a committer nobody asks whether a group arrived, so the group has no name.
    let mut head = writer::begin_group(conn, writer, "")?;
    let rows: Vec<_> = entries.iter().map(|entry| AuditRow::next(entry, &mut head)).collect();
    AuditRow::insert(conn, rows.iter())?;
    head.save(conn)?;
    Ok(rows)
}

/// The number of the writer's last entry; 0: none.
pub fn last_number(conn: &mut Conn, writer: &str) -> Result<i64, StoreError> {
    Ok(on!(conn, |c| writers::table.find(writer).select(writers::audit_number).first(c).optional())?.unwrap_or(0))
}

impl AuditRow {
    /// The first `limit` entries of a writer after `number`, in order.
    pub fn after(conn: &mut Conn, writer: &str, number: i64, limit: i64) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| audit::table
            .filter(audit::writer.eq(writer))
            .filter(audit::number.gt(number))
            .order(audit::number.asc())
            .limit(limit)
            .select(Self::as_select())
            .load(c))?)
    }
}
