//! The audit: append-only, chained per writer, and proven from outside by signed checkpoints (SPEC 8).
//!
//! * `chain`: what is hashed. * `checkpoint`: the signed file. * `verify`: finds the first bad entry.
//!
//! An entry never holds a secret. Its address is chained as a salted hash, so that addresses can be pruned first.

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

/// As a turn writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditEntry {
    pub at_ms: i64,
    /// Who: `operator/NAME`, `charging-point/ID`, a role.
    pub actor: String,
    /// The original one, also through relays; empty where there is none.
    pub address: String,
    /// Such as `KEY_REVOKED`.
    pub action: String,
    /// On what.
    pub object: String,
    /// A JSON object.
    pub parameters: String,
    pub outcome: String,
}

/// As it is numbered and chained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = audit, treat_none_as_default_value = false)]
pub struct AuditRow {
    /// The committer that wrote it, and its number in that writer's chain, from 1.
    pub writer: String,
    pub number: i64,
    pub at_ms: i64,
    pub actor: String,
    /// `None`: pruned, with its salt.
    pub address: Option<String>,
    pub address_salt: Option<String>,
    pub address_hash: String,
    pub action: String,
    pub object: String,
    pub parameters: String,
    pub outcome: String,
    /// Over the hash of the entry before and every column of this one but address and salt.
    pub hash: String,
}

/// What to list; empty fields match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// At or after, and before; 0: no bound.
    pub from_ms: i64,
    pub until_ms: i64,
    pub actor: String,
    pub action: String,
    pub object: String,
}

/// Which end a list begins at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditOrder {
    #[default]
    NewestFirst,
    /// For exports.
    OldestFirst,
}

impl AuditFilter {
    /// Whether an entry that was just written passes; the same rule as the query's.
    pub fn matches(&self, row: &AuditRow) -> bool {
        (self.from_ms == 0 || row.at_ms >= self.from_ms)
            && (self.until_ms == 0 || row.at_ms < self.until_ms)
            && (self.actor.is_empty() || row.actor == self.actor)
            && (self.action.is_empty() || row.action == self.action)
            && (self.object.is_empty() || row.object == self.object)
    }
}

impl AuditRow {
    /// One page. Entries of one millisecond are ordered by writer and number.
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

    /// `entry` as the next of a writer's chain.
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
        let foreign = || StoreError::Rejected("the page token is not one of ours".into());
        let (number, writer) = cursor.text.split_once('~').ok_or_else(foreign)?;
        let number = number.parse().map_err(|_| foreign())?;
        Ok(Self { at_ms: cursor.number, writer: writer.to_owned(), number })
    }
}
