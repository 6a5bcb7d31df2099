//! The audit: append-only, chained per writer, and provable by signed checkpoints outside the database (SPEC 8).
//!
//! * `chain` hashes entries.
//! * `checkpoint` writes the signed file.
//! * `verify` finds the first bad entry.
//!
//! An entry never contains a secret. Its address is chained as a salted hash, so that addresses can be pruned before
//! the entries.

mod append;
mod chain;
mod checkpoint;
mod prune;
pub(crate) mod schema;
mod verify;
pub(crate) mod writer;

use diesel::prelude::*;
use ring::rand::{SecureRandom as _, SystemRandom};

pub use append::{append, last_number};
pub use checkpoint::{AuditKey, Checkpoint, CheckpointError, CheckpointHead, Checkpoints};
pub use verify::{BadEntry, Verification, verify};

use self::{schema::audit, writer::Head};
use crate::{Conn, Page, PageRequest, StoreError, connection::on, page::Cursor};

/// An entry as a turn writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditEntry {
    pub at_ms: i64,
    /// Who did it: `operator/NAME`, `charging-point/ID`, or a role.
    pub actor: String,
    /// The original address, also behind relays; empty: none.
    pub address: String,
    /// What was done, such as `KEY_REVOKED`.
    pub action: String,
    /// What it was done to.
    pub object: String,
    /// A JSON object.
    pub parameters: String,
    pub outcome: String,
}

/// An entry as it is numbered and chained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = audit, treat_none_as_default_value = false)]
pub struct AuditRow {
    /// The name of the chain, and the entry's number in it, from 1.
    pub writer: String,
    pub number: i64,
    pub at_ms: i64,
    pub actor: String,
    /// `None`: pruned together with its salt.
    pub address: Option<String>,
    pub address_salt: Option<String>,
    pub address_hash: String,
    pub action: String,
    pub object: String,
    pub parameters: String,
    pub outcome: String,
    /// The hash over the entry before and every column of this one except address and salt.
    pub hash: String,
}

/// A filter; an empty field matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// At or after `from_ms` and before `until_ms`; 0: no bound.
    pub from_ms: i64,
    pub until_ms: i64,
    pub actor: String,
    pub action: String,
    pub object: String,
}

/// The end at which a list begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditOrder {
    #[default]
    NewestFirst,
    /// For exports.
    OldestFirst,
}

impl AuditFilter {
    /// Whether the filter of the query would select a new entry.
    pub fn matches(&self, row: &AuditRow) -> bool {
        (self.from_ms == 0 || row.at_ms >= self.from_ms)
            && (self.until_ms == 0 || row.at_ms < self.until_ms)
            && (self.actor.is_empty() || row.actor == self.actor)
            && (self.action.is_empty() || row.action == self.action)
            && (self.object.is_empty() || row.object == self.object)
    }
}

impl AuditRow {
    /// The first and the last time strictly between these that an entry of the chain past `number` has.
    pub(crate) fn times_between(
        conn: &mut Conn,
        writer: &str,
        number: i64,
        (after_ms, before_ms): (i64, i64),
    ) -> Result<Option<(i64, i64)>, StoreError> {
        let chain = audit::table.filter(audit::writer.eq(writer)).filter(audit::number.gt(number));
        let late = chain.filter(audit::at_ms.gt(after_ms)).filter(audit::at_ms.lt(before_ms));
        let times = late.select((diesel::dsl::min(audit::at_ms), diesel::dsl::max(audit::at_ms)));
        let (first, last): (Option<i64>, Option<i64>) = on!(conn, |c| times.first(c))?;
        Ok(first.zip(last))
    }

    /// One page. Entries of the same millisecond are ordered by writer and number.
    pub fn list(
        conn: &mut Conn,
        filter: &AuditFilter,
        order: AuditOrder,
        page: &PageRequest,
    ) -> Result<Page<Self>, StoreError> {
        let cursor = page.cursor()?.map(AuditCursor::parse).transpose()?;
        let rows = on!(conn, |c| {
            let mut query = audit::table.select(Self::as_select()).into_boxed();
            if filter.from_ms != 0 {
                query = query.filter(audit::at_ms.ge(filter.from_ms));
            }
            if filter.until_ms != 0 {
                query = query.filter(audit::at_ms.lt(filter.until_ms));
            }
            if !filter.actor.is_empty() {
                query = query.filter(audit::actor.eq(&filter.actor));
            }
            if !filter.action.is_empty() {
                query = query.filter(audit::action.eq(&filter.action));
            }
            if !filter.object.is_empty() {
                query = query.filter(audit::object.eq(&filter.object));
            }
            let query =
                match order {
                    AuditOrder::NewestFirst => {
                        if let Some(AuditCursor { at_ms, writer, number }) = &cursor {
                            query = query.filter(audit::at_ms.lt(at_ms).or(audit::at_ms.eq(at_ms).and(
                                audit::writer.lt(writer).or(audit::writer.eq(writer).and(audit::number.lt(number))),
                            )));
                        }
                        query.order((audit::at_ms.desc(), audit::writer.desc(), audit::number.desc()))
                    }
                    AuditOrder::OldestFirst => {
                        if let Some(AuditCursor { at_ms, writer, number }) = &cursor {
                            query = query.filter(audit::at_ms.gt(at_ms).or(audit::at_ms.eq(at_ms).and(
                                audit::writer.gt(writer).or(audit::writer.eq(writer).and(audit::number.gt(number))),
                            )));
                        }
                        query.order((audit::at_ms.asc(), audit::writer.asc(), audit::number.asc()))
                    }
                };
            query.limit(page.limit() + 1).load(c)
        })?;
        Ok(page.cut(rows, |row: &Self| Cursor { number: row.at_ms, text: format!("{}~{}", row.number, row.writer) }))
    }

    /// Makes `entry` the next one of the writer's chain.
    pub(crate) fn next(entry: &AuditEntry, head: &mut Head) -> Self {
        let mut salt = [0; 16];
        SystemRandom::new().fill(&mut salt).expect("the operating system has randomness");
        let salt = hex::encode(salt);
        let mut row = Self {
            writer: head.writer.clone(),
            number: head.audit_number + 1,
            at_ms: entry.at_ms,
            actor: entry.actor.clone(),
            address_hash: chain::address_hash(&salt, &entry.address),
            address: Some(entry.address.clone()),
            address_salt: Some(salt),
            action: entry.action.clone(),
            object: entry.object.clone(),
            parameters: entry.parameters.clone(),
            outcome: entry.outcome.clone(),
            hash: String::new(),
        };
        row.hash = chain::entry_hash(&head.audit_hash, &row);
        (head.audit_number, head.audit_hash) = (row.number, row.hash.clone());
        row
    }

    pub(crate) fn insert<'a>(conn: &mut Conn, rows: impl Iterator<Item = &'a Self>) -> Result<(), StoreError> {
        let rows: Vec<&Self> = rows.collect();
        for some in rows.chunks(200) {
            on!(conn, |c| diesel::insert_into(audit::table).values(some.to_vec()).execute(c))?;
        }
        Ok(())
    }
}

/// The last row of a page.
struct AuditCursor {
    at_ms: i64,
    writer: String,
    number: i64,
}

impl AuditCursor {
    fn parse(cursor: Cursor) -> Result<Self, StoreError> {
        let foreign = || StoreError::Rejected("the page token is not valid".into());
        let (number, writer) = cursor.text.split_once('~').ok_or_else(foreign)?;
        let number = number.parse().map_err(|_| foreign())?;
        Ok(Self { at_ms: cursor.number, writer: writer.to_owned(), number })
    }
}
