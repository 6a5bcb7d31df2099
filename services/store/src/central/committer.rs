//! The only writer of Central's database: all turns go through one queue into group commits on one thread.
//!
//! A group is one transaction with one fsync. A turn that a rule refuses is left out of it. Audit entries and events
//! of the other turns are numbered at the end of the transaction, and nobody is answered before the commit. If the
//! commit itself fails, the database is asked whether the commit arrived, for as long as that takes, before anybody is
//! answered. While the database is unreachable, turns are answered with `Unavailable`; it is found again without a
//! restart.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    AuditRow, ChargingPointRow, CommitRefusal, Committed, OutboxEvent, OutboxRow, Turn, TurnId,
    apply::{Applied, apply},
    generation::current_generation,
};
use crate::{
    Conn, Database, StoreError, TransactionOutcome,
    audit::writer::{self, Head},
    connection::Use,
    database::STATEMENT,
    observe::Stopwatch,
};

/// The limits of the committer.
#[derive(Clone, Copy, Debug)]
pub struct CommitterSettings {
    /// Maximum number of turns that wait; a further `submit` waits for room.
    pub queue: usize,
    /// Maximum number of turns in one transaction.
    pub group: usize,
}

impl Default for CommitterSettings {
    fn default() -> Self {
        Self { queue: 4096, group: 256 }
    }
}

/// The number of audit entries that a follower may lag behind.
const FOLLOWER_LAG: usize = 4096;
/// The maximum number of runs of a group that loses races.
const MAX_RUNS: u32 = 5;
/// Pause between two questions whether a commit arrived.
const RECONNECT: Duration = Duration::from_millis(200);
/// Number of further questions after the last submitter has gone, when nobody waits for the answer.
const LAST_ATTEMPTS: u32 = 10;

/// A clone is cheap.
#[derive(Clone, Debug)]
pub struct Committer {
    queue: mpsc::Sender<Job>,
    audit: broadcast::Sender<Arc<AuditRow>>,
}

#[derive(Debug)]
struct Job {
    turn: Turn,
    answer: oneshot::Sender<Result<Committed, CommitRefusal>>,
}

impl Committer {
    /// Starts the thread. `writer` is the permanent name under which this process continues its audit chain and
    /// outbox; no two running processes may share it. The thread ends when every clone is dropped and the queue is
    /// empty.
    pub fn start(database: &Database, writer: &str, settings: CommitterSettings) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::channel(settings.queue);
        let audit = broadcast::channel(FOLLOWER_LAG).0;
        let audit_sender = audit.clone();
        let writer =
            Writer { database: database.clone(), name: writer.to_owned(), open: None, jobs, audit: audit_sender };
        thread::Builder::new().name("committer".into()).spawn(move || writer.run(settings.group))?;
        Ok(Self { queue, audit })
    }

    /// Follows the audit: every entry from now on, after it is durable, even if its submitter has gone.
    pub fn follow(&self) -> broadcast::Receiver<Arc<AuditRow>> {
        self.audit.subscribe()
    }

    /// Returns when the turn is durable, or why it is not. The turn is completed even if the caller stops waiting.
    pub async fn submit(&self, turn: Turn) -> Result<Committed, CommitRefusal> {
        let stopped = || CommitRefusal::Unavailable("the committer has stopped".into());
        let (answer, answered) = oneshot::channel();
        self.queue.send(Job { turn, answer }).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

struct Writer {
    database: Database,
    name: String,
    open: Option<Open>,
    jobs: mpsc::Receiver<Job>,
    audit: broadcast::Sender<Arc<AuditRow>>,
}

struct Open {
    conn: Conn,
    generation: i64,
}

/// Why a group may not be durable.
enum Failure {
    /// Nothing of it is durable.
    Nothing(StoreError),
    /// Nothing of it is durable, and the database did not answer in time: the next group opens a new connection.
    Hangs(StoreError),
    /// The commit failed; these are the answers if it arrived all the same.
    Unknown(StoreError, Answers),
}

impl Failure {
    /// With the cause that the driver cannot know: that the connection was closed because the server did not answer.
    fn explained(self, conn: &Conn) -> Self {
        match self {
            Self::Nothing(error) if conn.is_expired() => Self::Hangs(conn.cause(error)),
            Self::Unknown(error, answers) => Self::Unknown(conn.cause(error), answers),
            failure @ (Self::Nothing(_) | Self::Hangs(_)) => failure,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Nothing(error)
    }
}

type Answers = Vec<Result<Committed, CommitRefusal>>;

impl Writer {
    fn run(mut self, limit: usize) {
        while let Some(first) = self.jobs.blocking_recv() {
            let mut group = vec![first];
            while group.len() < limit {
                let Ok(next) = self.jobs.try_recv() else { break };
                group.push(next);
            }
            let watch = Stopwatch::start();
            let (turns, submitters): (Vec<Turn>, Vec<_>) = group.into_iter().map(|job| (job.turn, job.answer)).unzip();
            let answers = self.commit_group(&turns);
            let took = watch.took();
            self.database.inner.observer.group(turns.len(), took);
            for ((turn, submitter), answer) in turns.iter().zip(submitters).zip(answers) {
                let outcome = match &answer {
                    Ok(_) => TransactionOutcome::Committed,
                    Err(CommitRefusal::Unavailable(_) | CommitRefusal::Rejected(_)) => TransactionOutcome::Failed,
                    Err(_) => TransactionOutcome::Refused,
                };
                self.database.inner.observer.transaction(turn.name, outcome, took);
                if let Ok(committed) = &answer {
                    self.publish_audit(&committed.audit);
                }
                // If the submitter has gone, nothing is lost: the turn is durable.
                let _ = submitter.send(answer);
            }
        }
    }

    fn publish_audit(&self, audit: &[AuditRow]) {
        if self.audit.receiver_count() > 0 {
            for row in audit {
                // If nobody follows, nothing is lost: the entry is durable.
                drop(self.audit.send(Arc::new(row.clone())));
            }
        }
    }

    /// Commits the turns and returns one answer per turn, in order.
    fn commit_group(&mut self, turns: &[Turn]) -> Answers {
        let mut runs = 1;
        loop {
            let group = TurnId::random().to_string();
            match self.commit(turns, &group) {
                Ok(answers) => return answers,
                Err(StoreError::Contended(_)) if runs < MAX_RUNS => runs += 1,
                // One turn is wrong and must not fail the others.
                Err(StoreError::Rejected(_)) if turns.len() > 1 => {
                    return turns.chunks(1).flat_map(|alone| self.commit_group(alone)).collect();
                }
                Err(StoreError::Rejected(why)) => return refuse(turns, &CommitRefusal::Rejected(why)),
                Err(StoreError::Unavailable(why) | StoreError::Contended(why)) => {
                    tracing::warn!(turns = turns.len(), error = %why, "the database does not accept writes now");
                    return refuse(turns, &CommitRefusal::Unavailable(why));
                }
            }
        }
    }

    /// Runs one transaction. An error means for certain that nothing of it is durable.
    fn commit(&mut self, turns: &[Turn], group: &str) -> Result<Answers, StoreError> {
        let kept = self.open.is_some();
        let result = match self.attempt(turns, group) {
            // The connection may have died unnoticed while the database is available.
            Err(Failure::Nothing(error)) if kept && error.spoils_connection() => self.attempt(turns, group),
            result => result,
        };
        match result {
            Ok(answers) => Ok(answers),
            Err(Failure::Nothing(error) | Failure::Hangs(error)) => Err(error),
            Err(Failure::Unknown(error, answers)) => self.resolve_unknown_commit(group, error, answers),
        }
    }

    fn attempt(&mut self, turns: &[Turn], group: &str) -> Result<Answers, Failure> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.reopen()?,
        };
        let result = run_group(&mut open, turns, &self.name, group);
        #[cfg(test)]
        let result = self.database.inner.faults.at_commit(result);
        // The connection is kept only if its transaction is certainly over.
        let over = match &result {
            Ok(_) => true,
            Err(Failure::Nothing(error)) => !error.spoils_connection() && open.conn.execute("ROLLBACK").is_ok(),
            Err(Failure::Unknown(..) | Failure::Hangs(_)) => false,
        };
        if over {
            self.open = Some(open);
            return result;
        }
        if open.conn.is_expired() {
            self.database.inner.forget_pooled();
        }
        result.map_err(|failure| failure.explained(&open.conn))
    }

    /// Asks the database whether the group arrived. Meanwhile other turns are refused, because it is unknown on which
    /// state they would build.
    fn resolve_unknown_commit(
        &mut self,
        group: &str,
        error: StoreError,
        answers: Answers,
    ) -> Result<Answers, StoreError> {
        tracing::warn!(%error, "it is unknown whether a commit arrived; asking the database");
        let mut attempts_left = LAST_ATTEMPTS;
        loop {
            let asked = self
                .reopen()
                .and_then(|mut open| Ok((writer::was_last_committed(&mut open.conn, &self.name, group)?, open)));
            match asked {
                Ok((arrived, open)) => {
                    self.open = Some(open);
                    return if arrived { Ok(answers) } else { Err(error) };
                }
                Err(_) if self.jobs.is_closed() && attempts_left == 0 => return Err(error),
                Err(_) if self.jobs.is_closed() => attempts_left -= 1,
                Err(_) => {}
            }
            while let Ok(job) = self.jobs.try_recv() {
                let _ = job.answer.send(Err(CommitRefusal::Unavailable(error.to_string())));
            }
            thread::sleep(RECONNECT);
        }
    }

    fn reopen(&self) -> Result<Open, StoreError> {
        let mut conn = self.database.inner.establish(Use::Write, STATEMENT)?;
        writer::ensure_row(&mut conn, &self.name)?;
        let generation = current_generation(&mut conn)?;
        Ok(Open { conn, generation })
    }
}

/// Runs the group without savepoints, and again with them if a refused turn left writes behind.
fn run_group(open: &mut Open, turns: &[Turn], writer: &str, group: &str) -> Result<Answers, Failure> {
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
    turns: &[Turn],
    writer: &str,
    group: &str,
    with_savepoints: bool,
) -> Result<Option<Answers>, Failure> {
    let Open { conn, generation } = open;
    conn.begin_write()?;
    let mut head = writer::begin_group(conn, writer, group)?;
    let mut results = Vec::with_capacity(turns.len());
    for turn in turns {
        let result = apply(conn, turn, *generation, with_savepoints)?;
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

fn refuse(turns: &[Turn], refusal: &CommitRefusal) -> Answers {
    turns.iter().map(|_| Err(refusal.clone())).collect()
}

#[cfg(test)]
pub(crate) mod faults {
    //! Faults that a test injects at moments that no real fault can hit.

    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

    use super::{Answers, Failure};
    use crate::{Conn, StoreError};

    #[derive(Default)]
    pub(crate) struct InjectedFaults {
        /// Maximum size of a SQLite file in pages, as on a full disk; 0: no limit.
        pub(crate) page_limit: AtomicU32,
        /// The next commit arrives, but its answer is lost.
        pub(crate) lose_answer: AtomicBool,
    }

    impl InjectedFaults {
        pub(crate) fn limit_pages(&self, conn: &mut Conn) -> Result<(), StoreError> {
            match self.page_limit.load(SeqCst) {
                0 => Ok(()),
                pages => conn.execute(&format!("PRAGMA max_page_count={pages}")),
            }
        }

        pub(super) fn at_commit(&self, result: Result<Answers, Failure>) -> Result<Answers, Failure> {
            match result {
                Ok(answers) if self.lose_answer.swap(false, SeqCst) => {
                    Err(Failure::Unknown(StoreError::Unavailable("the line was cut".into()), answers))
                }
                other => other,
            }
        }
    }
}
