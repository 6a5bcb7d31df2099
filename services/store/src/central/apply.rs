//! Carries one turn out inside a group's transaction.
//!
//! The guard and whatever a rule may refuse go first. A turn that is refused after it wrote something has stained its
//! group, which is then run again with care: each such turn in a savepoint, so that it leaves nothing and its
//! neighbours go on. Refusals are rare, and a savepoint costs two more questions to the database.

use super::{
    AuditEntry, Event, Guard, Refusal, Turn, Write,
    charging_point::{self, Hold},
    identity, outbox, ticket,
};
use crate::{Conn, StoreError};

/// What a turn that was carried out adds to its group's ends.
#[derive(Debug)]
pub(super) struct Applied<'a> {
    pub(super) cp_id: &'a str,
    pub(super) hold: Hold,
    pub(super) events: Vec<&'a Event>,
    pub(super) audit: Vec<&'a AuditEntry>,
}

/// A rule said no.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    /// Something of the turn is in the transaction, which must not be committed.
    pub(super) stains: bool,
}

pub(super) fn apply<'a>(
    conn: &mut Conn,
    turn: &'a Turn,
    generation: i64,
    careful: bool,
) -> Result<Result<Applied<'a>, Refused>, StoreError> {
    let refusable = turn.writes.iter().filter(|write| write.is_refusable()).count();
    let savepoint = careful && refusable + usize::from(turn.guard.is_some()) > 1;
    if savepoint {
        conn.execute("SAVEPOINT turn")?;
    }
    let result = apply_in_order(conn, turn, generation)?;
    if savepoint {
        conn.execute(if result.is_ok() { "RELEASE SAVEPOINT turn" } else { "ROLLBACK TO SAVEPOINT turn" })?;
    }
    Ok(result.map_err(|refused| Refused { stains: refused.stains && !savepoint, ..refused }))
}

fn apply_in_order<'a>(
    conn: &mut Conn,
    turn: &'a Turn,
    generation: i64,
) -> Result<Result<Applied<'a>, Refused>, StoreError> {
    let (cp_id, hold) = match &turn.guard {
        None => ("", Hold { epoch: 0, version: 0 }),
        Some(guard) => match stand(conn, guard, turn, generation)? {
            Some(held) => held,
            None => return Ok(Err(Refused { refusal: Refusal::Fenced, stains: false })),
        },
    };
    let mut stains = turn.guard.is_some();
    for write in turn.writes.iter().filter(|write| write.is_refusable()) {
        if let Err(refusal) = try_write(conn, write)? {
            return Ok(Err(Refused { refusal, stains }));
        }
        stains = true;
    }
    let mut applied = Applied { cp_id, hold, events: Vec::new(), audit: Vec::new() };
    for write in turn.writes.iter().filter(|write| !write.is_refusable()) {
        carry_out(conn, write, &mut applied)?;
    }
    Ok(Ok(applied))
}

fn stand<'a>(
    conn: &mut Conn,
    guard: &'a Guard,
    turn: &Turn,
    generation: i64,
) -> Result<Option<(&'a str, Hold)>, StoreError> {
    let id = turn.id.to_string();
    let (cp_id, hold) = match guard {
        Guard::Held { cp_id, epoch, version } => {
            let hold = Hold { epoch: *epoch, version: *version };
            (cp_id, charging_point::guard(conn, cp_id, hold, &id)?)
        }
        Guard::Claim { cp_id, owner, expected_owner } => {
            (cp_id, charging_point::claim(conn, cp_id, owner, expected_owner.as_deref(), generation, &id)?)
        }
    };
    Ok(hold.map(|hold| (cp_id.as_str(), hold)))
}

fn try_write(conn: &mut Conn, write: &Write) -> Result<Result<(), Refusal>, StoreError> {
    match write {
        Write::OpenSession(row) => row.open(conn),
        Write::Ticket(row) => Ok(if row.bill(conn)? { Ok(()) } else { Err(Refusal::AlreadyBilled) }),
        Write::Correction(row) => Ok(if row.append(conn)? { Ok(()) } else { Err(Refusal::CorrectedMeanwhile) }),
        Write::Request(row) => Ok(match row.answer(conn)? {
            None => Ok(()),
            Some(first) => Err(Refusal::Repeated(Box::new(first))),
        }),
        Write::Order(row) => Ok(match row.accept(conn)? {
            None => Ok(()),
            Some(first) => Err(Refusal::RepeatedOrder(Box::new(first))),
        }),
        Write::AddChargingPoint(_)
        | Write::ChargingPoint(_)
        | Write::UpdateSession(_)
        | Write::TicketAcknowledged { .. }
        | Write::Discrepancy(_)
        | Write::UpdateOrder(_)
        | Write::Key(_)
        | Write::Identity(_)
        | Write::Operator(_)
        | Write::Mirrored(_)
        | Write::Event(_)
        | Write::Published { .. }
        | Write::Audit(_) => Ok(Ok(())),
    }
}

fn carry_out<'a>(conn: &mut Conn, write: &'a Write, applied: &mut Applied<'a>) -> Result<(), StoreError> {
    match write {
        Write::AddChargingPoint(row) => row.add(conn),
        Write::ChargingPoint(row) => row.update(conn),
        Write::UpdateSession(row) => row.update(conn),
        Write::TicketAcknowledged { session_id, driver_id, at_ms } => {
            ticket::acknowledge(conn, session_id, driver_id, *at_ms)
        }
        Write::Discrepancy(row) => row.note(conn),
        Write::UpdateOrder(row) => row.update(conn),
        Write::Key(row) => row.put(conn),
        Write::Identity(row) => row.mirror(conn),
        Write::Operator(row) => row.mirror(conn),
        Write::Mirrored(revision) => identity::mirrored(conn, *revision),
        Write::Published { writer, sequence, at_ms } => outbox::published(conn, writer, *sequence, *at_ms),
        // Numbered and written together at the group's end, once it is known which turns are in it.
        Write::Event(event) => {
            applied.events.push(event);
            Ok(())
        }
        Write::Audit(entry) => {
            applied.audit.push(entry);
            Ok(())
        }
        Write::OpenSession(_) | Write::Ticket(_) | Write::Correction(_) | Write::Request(_) | Write::Order(_) => Ok(()),
    }
}
