//! Applies one turn inside the transaction of its group.
//!
//! The guard and the writes that a rule may refuse come first. If a turn is refused after it wrote something, the
//! transaction is rolled back and the group runs again with each such turn in a savepoint, so that the refused turn
//! leaves nothing and the others are applied. Refusals are rare, and a savepoint costs two more statements.

use std::borrow::Cow;

use super::{
    AuditEntry, CommitRefusal, GenerationRow, Guard, OrderItemRow, OutboxEvent, RowWrite, Turn,
    charging_point::{self, RowVersion},
    identity, outbox, running_time, ticket,
};
use crate::{Conn, StoreError};

/// What an applied turn adds to its group's events and audit entries.
#[derive(Debug)]
pub(super) struct Applied<'a> {
    pub(super) cp_id: &'a str,
    pub(super) row_version: RowVersion,
    pub(super) events: Vec<&'a OutboxEvent>,
    pub(super) audit: Vec<Cow<'a, AuditEntry>>,
}

/// A turn that a rule refused.
#[derive(Debug)]
pub(super) struct DroppedTurn {
    pub(super) refusal: CommitRefusal,
    /// The transaction contains writes of the turn and must not be committed.
    pub(super) left_writes: bool,
}

pub(super) fn apply<'a>(
    conn: &mut Conn,
    turn: &'a Turn,
    generation: i64,
    with_savepoints: bool,
) -> Result<Result<Applied<'a>, DroppedTurn>, StoreError> {
    let refusable = turn.writes.iter().filter(|write| write.is_refusable()).count();
    let savepoint = with_savepoints && refusable + usize::from(turn.guard.is_some()) > 1;
    if savepoint {
        conn.execute("SAVEPOINT turn")?;
    }
    let result = apply_in_order(conn, turn, generation)?;
    if savepoint {
        conn.execute(if result.is_ok() { "RELEASE SAVEPOINT turn" } else { "ROLLBACK TO SAVEPOINT turn" })?;
    }
    Ok(result.map_err(|refused| DroppedTurn { left_writes: refused.left_writes && !savepoint, ..refused }))
}

fn apply_in_order<'a>(
    conn: &mut Conn,
    turn: &'a Turn,
    generation: i64,
) -> Result<Result<Applied<'a>, DroppedTurn>, StoreError> {
    let (cp_id, row_version) = match &turn.guard {
        None => ("", RowVersion { epoch: 0, version: 0 }),
        Some(guard) => match check_guard(conn, guard, turn, generation)? {
            Some(owned) => owned,
            None => return Ok(Err(DroppedTurn { refusal: CommitRefusal::Fenced, left_writes: false })),
        },
    };
    let mut left_writes = turn.guard.is_some();
    let mut applied = Applied { cp_id, row_version, events: Vec::new(), audit: Vec::new() };
    let (refusable, others): (Vec<_>, Vec<_>) = turn.writes.iter().partition(|write| write.is_refusable());
    for write in refusable.into_iter().chain(others) {
        if let Err(refusal) = write_row(conn, write, &mut applied)? {
            return Ok(Err(DroppedTurn { refusal, left_writes }));
        }
        left_writes = true;
    }
    Ok(Ok(applied))
}

fn check_guard<'a>(
    conn: &mut Conn,
    guard: &'a Guard,
    turn: &Turn,
    generation: i64,
) -> Result<Option<(&'a str, RowVersion)>, StoreError> {
    let id = turn.id.to_string();
    let (cp_id, row_version) = match guard {
        Guard::Owned { cp_id, epoch, version } => {
            let row_version = RowVersion { epoch: *epoch, version: *version };
            (cp_id, charging_point::guard(conn, cp_id, row_version, &id)?)
        }
        Guard::Takeover { cp_id, owner, expected_owner } => {
            (cp_id, charging_point::take_over(conn, cp_id, owner, expected_owner.as_deref(), generation, &id)?)
        }
    };
    Ok(row_version.map(|row_version| (cp_id.as_str(), row_version)))
}

/// Writes a row, or says which rule refuses it.
fn write_row<'a>(
    conn: &mut Conn,
    write: &'a RowWrite,
    applied: &mut Applied<'a>,
) -> Result<Result<(), CommitRefusal>, StoreError> {
    let refused_unless = |is_written: bool, refusal| if is_written { Ok(()) } else { Err(refusal) };
    match write {
        RowWrite::OpenSession(row) => return row.open(conn),
        RowWrite::Ticket(row) => return Ok(refused_unless(row.insert(conn)?, CommitRefusal::AlreadyBilled)),
        RowWrite::Correction(row) => return Ok(refused_unless(row.insert(conn)?, CommitRefusal::CorrectedMeanwhile)),
        RowWrite::Once(row) => {
            return Ok(match row.insert_first(conn)? {
                None => Ok(()),
                Some(first) => Err(match first.answers(&row.method, &row.digest) {
                    Ok(()) => CommitRefusal::Repeated(Box::new(first)),
                    Err(reused) => CommitRefusal::RequestIdReused(reused),
                }),
            });
        }
        RowWrite::OrderItem(row) => return Ok(refused_unless(row.settle(conn)?, CommitRefusal::OrderItemSettled)),
        RowWrite::CancelOrder(order_id) => {
            let is_cancelled = OrderItemRow::cancel(conn, order_id)? > 0;
            return Ok(refused_unless(is_cancelled, CommitRefusal::OrderItemSettled));
        }
        RowWrite::Order { order, items, overtaken } => {
            applied.audit.extend(order.insert(conn, items, overtaken)?.into_iter().map(Cow::Owned));
        }
        RowWrite::AddChargingPoint(row) => row.add(conn)?,
        RowWrite::ChargingPoint(row) => row.update(conn)?,
        RowWrite::UpdateSession(row) => row.update(conn)?,
        RowWrite::TicketAcknowledged { session_id, driver_id, at_ms } => {
            ticket::acknowledge(conn, session_id, driver_id, *at_ms)?;
        }
        RowWrite::Discrepancy(row) => row.insert_first(conn)?,
        RowWrite::Key(row) => row.upsert(conn)?,
        RowWrite::RunningTime(total_ms) => running_time::save(conn, *total_ms)?,
        RowWrite::Identity(row) => row.upsert_newer(conn)?,
        RowWrite::Operator(row) => row.upsert_newer(conn)?,
        RowWrite::Mirrored(revision) => identity::set_revision(conn, *revision)?,
        RowWrite::Published { writer, first, last, at_ms } => {
            outbox::mark_published(conn, writer, (*first, *last), *at_ms)?;
        }
        RowWrite::LedgerBehind(why) => GenerationRow::note_behind(conn, why)?,
        // Numbered and written at the end of the group, when it is known which turns are in it.
        RowWrite::Event(event) => applied.events.push(event),
        RowWrite::Audit(entry) => applied.audit.push(Cow::Borrowed(entry)),
    }
    Ok(Ok(()))
}
