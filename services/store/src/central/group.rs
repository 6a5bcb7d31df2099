//! One group of turns as one transaction: applied, numbered and committed.

use std::collections::{HashMap, hash_map::Entry};

use super::{
    AuditRow, ChargingPointRow, CommitRefusal, Committed, OutboxEvent, OutboxRow, Turn,
    apply::{Applied, apply},
    lease,
};
use crate::{
    Conn, StoreError,
    audit::writer::{self, Head},
};

/// The connection of the committer.
pub(super) struct Open {
    pub(super) conn: Conn,
    pub(super) generation: i64,
}

/// Why a group may not be durable.
pub(super) enum Failure {
    /// Nothing of it is durable.
    Nothing(StoreError),
    /// Nothing of it is durable: another transaction holds a row of the turn at this place in the group.
    Locked(usize, StoreError),
    /// Nothing of it is durable, and the database did not answer in time: the next group opens a new connection.
    Hangs(StoreError),
    /// The commit failed; these are the answers if it arrived all the same.
    Unknown(StoreError, Answers),
}

impl Failure {
    /// With the cause that the driver cannot know: that the connection was closed because the server did not answer.
    pub(super) fn explained(self, conn: &Conn) -> Self {
        match self {
            Self::Nothing(error) if conn.is_expired() => Self::Hangs(conn.cause(error)),
            Self::Unknown(error, answers) => Self::Unknown(conn.cause(error), answers),
            failure @ (Self::Nothing(_) | Self::Locked(..) | Self::Hangs(_)) => failure,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Nothing(error)
    }
}

pub(super) type Answers = Vec<Result<Committed, CommitRefusal>>;

/// Runs the group without savepoints, and again with them if a refused turn left writes behind.
pub(super) fn run_group(open: &mut Open, turns: &[&Turn], writer: &str, group: &str) -> Result<Answers, Failure> {
    if let Some(answers) = run_transaction(open, turns, writer, group, false)? {
        return Ok(answers);
    }
    open.conn.execute("ROLLBACK")?;
    let answers = run_transaction(open, turns, writer, group, true)?;
    answers.ok_or_else(|| StoreError::Rejected("a refused turn left writes in spite of its savepoint".into()).into())
}

/// One answer per turn. `None`: a refused turn left writes in the transaction, which is still open.
fn run_transaction(
    open: &mut Open,
    turns: &[&Turn],
    writer: &str,
    group: &str,
    with_savepoints: bool,
) -> Result<Option<Answers>, Failure> {
    let Open { conn, generation } = open;
    conn.begin_write()?;
    let mut head = writer::begin_group(conn, writer, group)?;
    if let Some(why) = lease::refusal(conn, writer)? {
        conn.execute("ROLLBACK")?;
        return Ok(Some(turns.iter().map(|_| Err(CommitRefusal::Unavailable(why.clone()))).collect()));
    }
    let mut results = Vec::with_capacity(turns.len());
    for (number, turn) in turns.iter().enumerate() {
        let result = apply(conn, turn, *generation, with_savepoints).map_err(|error| match error {
            StoreError::Contended(_) => Failure::Locked(number, error),
            StoreError::Unavailable(_) | StoreError::Rejected(_) => Failure::Nothing(error),
        })?;
        // A group of one turn is rolled back as a whole.
        if turns.len() > 1 && result.as_ref().is_err_and(|refused| refused.left_writes) {
            return Ok(None);
        }
        results.push(result.map_err(|refused| refused.refusal));
    }
    if results.iter().all(Result::is_err) {
        conn.execute("ROLLBACK")?;
        return Ok(Some(results.into_iter().map(|result| result.map(|_| Committed::default())).collect()));
    }
    write_events_and_audit(conn, &mut head, results).map(Some)
}

/// Numbers and writes the events and audit entries of the applied turns, and commits.
fn write_events_and_audit(
    conn: &mut Conn,
    head: &mut Head,
    results: Vec<Result<Applied<'_>, CommitRefusal>>,
) -> Result<Answers, Failure> {
    let before = (head.audit_number, head.outbox_sequence);
    let mut events = Vec::new();
    let epochs = epochs(conn, &results)?;
    let answers: Answers = results
        .into_iter()
        .map(|result| {
            result.map(|applied| {
                events.extend(applied.events.iter().map(|event| in_sequence(event, &epochs, head)));
                let audit = applied.audit.iter().map(|entry| AuditRow::next(entry, head)).collect();
                Committed { epoch: applied.row_version.epoch, version: applied.row_version.version, audit }
            })
        })
        .collect();
    OutboxRow::insert(conn, &events)?;
    AuditRow::insert(conn, answers.iter().flatten().flat_map(|committed| &committed.audit))?;
    if before != (head.audit_number, head.outbox_sequence) {
        head.save(conn)?;
    }
    match conn.execute("COMMIT") {
        Ok(()) => Ok(answers),
        Err(error) if error.spoils_connection() => Err(Failure::Unknown(error, answers)),
        Err(error) => Err(Failure::Nothing(error)),
    }
}

/// The epoch under which each charging point is held that an event is about: that of a turn's guard, or else its row's.
fn epochs<'a>(
    conn: &mut Conn,
    results: &[Result<Applied<'a>, CommitRefusal>],
) -> Result<HashMap<&'a str, i64>, StoreError> {
    let applied = || results.iter().flatten();
    let mut epochs: HashMap<&str, i64> =
        applied().filter(|turn| !turn.cp_id.is_empty()).map(|turn| (turn.cp_id, turn.row_version.epoch)).collect();
    for event in applied().flat_map(|turn| turn.events.iter().copied()) {
        if let Entry::Vacant(unknown) = epochs.entry(event.cp_id.as_str()) {
            unknown.insert(ChargingPointRow::epoch(conn, &event.cp_id)?);
        }
    }
    Ok(epochs)
}

/// Every event has the epoch that its charging point's record has in this transaction, so that epochs never fall.
fn in_sequence(event: &OutboxEvent, epochs: &HashMap<&str, i64>, head: &mut Head) -> OutboxRow {
    head.outbox_sequence += 1;
    OutboxRow {
        writer: head.writer.clone(),
        sequence: head.outbox_sequence,
        event_id: event.event_id.clone(),
        cp_id: event.cp_id.clone(),
        epoch: epochs.get(event.cp_id.as_str()).copied().unwrap_or_default(),
        kind: event.kind.clone(),
        at_ms: event.at_ms,
        body: event.body.clone(),
        published_at_ms: None,
    }
}
