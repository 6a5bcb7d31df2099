//! The changes in their order, for the streams that follow them.

use diesel::prelude::*;

use super::{
    IdentityRow, OperatorRow,
    schema::{identities, operators, revisions},
};
use crate::{Conn, StoreError, connection::on};

/// The number of a change. Taking it takes the lock under which the change is decided, until the end of the
/// transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision(pub i64);

impl Revision {
    /// Takes the next number. Two rows that change in one transaction need one number each.
    pub fn take(conn: &mut Conn) -> Result<Self, StoreError> {
        Ok(Self(on!(conn, |c| diesel::update(revisions::table)
            .set(revisions::revision.eq(revisions::revision + 1))
            .returning(revisions::revision)
            .get_result(c))?))
    }
}

/// The number of the last change.
pub fn head(conn: &mut Conn) -> Result<i64, StoreError> {
    Ok(on!(conn, |c| revisions::table.select(revisions::revision).first(c))?)
}

/// Raises the number of the last change to `at_least`, so that no change after a restore has the number of one that is
/// lost and that Central has seen (SPEC 10.5). Returns the new number.
pub fn raise_revision(conn: &mut Conn, at_least: i64) -> Result<i64, StoreError> {
    let raised = head(conn)?.max(at_least);
    on!(conn, |c| diesel::update(revisions::table).set(revisions::revision.eq(raised)).execute(c))?;
    Ok(raised)
}

/// A row as its last change left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    Identity(IdentityRow),
    Operator(OperatorRow),
}

impl Changed {
    pub fn revision(&self) -> i64 {
        match self {
            Self::Identity(row) => row.revision,
            Self::Operator(row) => row.revision,
        }
    }
}

/// The first `limit` changes after `revision`, in order. A row that changed twice appears once, in its current state.
pub fn changed_since(conn: &mut Conn, revision: i64, limit: i64) -> Result<Vec<Changed>, StoreError> {
    let identities: Vec<IdentityRow> = on!(conn, |c| identities::table
        .filter(identities::revision.gt(revision))
        .order(identities::revision.asc())
        .limit(limit)
        .select(IdentityRow::as_select())
        .load(c))?;
    let operators: Vec<OperatorRow> = on!(conn, |c| operators::table
        .filter(operators::revision.gt(revision))
        .order(operators::revision.asc())
        .limit(limit)
        .select(OperatorRow::as_select())
        .load(c))?;
    let mut all: Vec<_> =
        identities.into_iter().map(Changed::Identity).chain(operators.into_iter().map(Changed::Operator)).collect();
    all.sort_by_key(Changed::revision);
    all.truncate(usize::try_from(limit).unwrap_or(0));
    Ok(all)
}
