//! The one writer of a Central: turns from everybody go through one queue into group commits on one thread.
//!
//! A group is one transaction with one fsync. A turn that a rule refuses drops out and leaves nothing; audit entries
//! and events of the others are numbered at the end, inside the transaction; nobody is answered before the commit.
//! When the commit itself fails the database is asked whether it arrived before anything is reported, for as long as
//! that takes. A database that is gone is `Unavailable` to whoever asks meanwhile, and is found again by itself.

use std::{sync::Arc, thread, time::Duration};

use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    AuditRow, CommitRefusal, Committed, OutboxEvent, OutboxRow, Turn, TurnId,
    apply::{Applied, apply},
    generation::current_generation,
};
use crate::{
    Conn, Database, StoreError, TransactionOutcome,
    audit::writer::{self, Head},
    connection::Use,
    observe::Stopwatch,
};

/// Bounds of the committer.
#[derive(Clone, Copy, Debug)]
pub struct CommitterSettings {
    /// Turns that may wait; whoever submits more waits for room.
    pub queue: usize,
    /// Turns in one transaction.
    pub group: usize,
}

impl Default for CommitterSettings {
    fn default() -> Self {
        Self { queue: 4096, group: 256 }
    }
}

/// How many audit entries whoever follows them may lag behind.
const FOLLOWED: usize = 4096;
/// A group that loses races is run again so often.
const RUNS: u32 = 5;
/// Between two questions whether a commit arrived.
const RECONNECT: Duration = Duration::from_millis(200);
/// Questions after the last submitter has gone: nobody would hear the answer.
const LAST_QUESTIONS: u32 = 10;

/// Cheap to clone.
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
    /// Starts its thread. `writer` names this process for good (its audit chain and outbox go on under it); no two
    /// processes that run may share it. The thread ends when every clone is dropped and the queue is empty.
    pub fn start(database: &Database, writer: &str, settings: CommitterSettings) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::channel(settings.queue);
        let audit = broadcast::channel(FOLLOWED).0;
        let told = audit.clone();
        let writer = Writer { database: database.clone(), name: writer.to_owned(), open: None, jobs, audit: told };
        thread::Builder::new().name("committer".into()).spawn(move || writer.run(settings.group))?;
        Ok(Self { queue, audit })
    }

    /// Audit entries from now on, each once it is on disk, whether or not whoever submitted it still waits.
    pub fn follow(&self) -> broadcast::Receiver<Arc<AuditRow>> {
        self.audit.subscribe()
    }

    /// Returns when the turn is on disk, or is not and why. A caller that goes away does not take its turn along.
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

/// Why a group is not on disk.
enum Failure {
    /// Nothing of it.
    Nothing(StoreError),
    /// It was being committed; these are the answers if it arrived.
    Unknown(StoreError, Answers),
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
            let (turns, askers): (Vec<Turn>, Vec<_>) = group.into_iter().map(|job| (job.turn, job.answer)).unzip();
            let answers = self.settle(&turns);
            let took = watch.took();
            self.database.inner.observer.group(turns.len(), took);
            for ((turn, asker), answer) in turns.iter().zip(askers).zip(answers) {
                let outcome = match &answer {
                    Ok(_) => TransactionOutcome::Committed,
                    Err(CommitRefusal::Unavailable(_) | CommitRefusal::Rejected(_)) => TransactionOutcome::Failed,
                    Err(_) => TransactionOutcome::Refused,
                };
                self.database.inner.observer.transaction(turn.name, outcome, took);
                if let Ok(committed) = &answer {
                    self.tell(&committed.audit);
                }
                // Whoever does not wait any more has lost nothing: what was done is on disk.
                let _ = asker.send(answer);
            }
        }
    }

    fn tell(&self, audit: &[AuditRow]) {
        if self.audit.receiver_count() > 0 {
            for row in audit {
                // Nobody follows any more: nothing is lost, the entry is in the database.
                drop(self.audit.send(Arc::new(row.clone())));
            }
        }
    }

    /// One answer per turn, in order.
    fn settle(&mut self, turns: &[Turn]) -> Answers {
        let mut runs = 1;
        loop {
            let group = TurnId::random().to_string();
            match self.commit(turns, &group) {
                Ok(answers) => return answers,
                Err(StoreError::Contended(_)) if runs < RUNS => runs += 1,
                // One of them is at fault, and must not take the others along.
                Err(StoreError::Rejected(_)) if turns.len() > 1 => {
                    return turns.chunks(1).flat_map(|alone| self.settle(alone)).collect();
                }
                Err(StoreError::Rejected(why)) => return refuse(turns, &CommitRefusal::Rejected(why)),
                Err(StoreError::Unavailable(why) | StoreError::Contended(why)) => {
                    tracing::warn!(turns = turns.len(), error = %why, "the database takes nothing now");
                    return refuse(turns, &CommitRefusal::Unavailable(why));
                }
            }
        }
    }

    /// One transaction. An error means that nothing of it is on disk, for certain.
    fn commit(&mut self, turns: &[Turn], group: &str) -> Result<Answers, StoreError> {
        let kept = self.open.is_some();
        let result = match self.attempt(turns, group) {
            // A connection that died unnoticed is not the database's end.
            Err(Failure::Nothing(error)) if kept && error.spoils_connection() => self.attempt(turns, group),
            result => result,
        };
        match result {
            Ok(answers) => Ok(answers),
            Err(Failure::Nothing(error)) => Err(error),
            Err(Failure::Unknown(error, answers)) => self.ask(group, error, answers),
        }
    }

    fn attempt(&mut self, turns: &[Turn], group: &str) -> Result<Answers, Failure> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.reopen()?,
        };
        let result = carry_out_with_care(&mut open, turns, &self.name, group);
        #[cfg(test)]
        let result = self.database.inner.faults.at_commit(result);
        // Kept only where its transaction is over for certain.
        let over = match &result {
            Ok(_) => true,
            Err(Failure::Nothing(error)) => !error.spoils_connection() && open.conn.execute("ROLLBACK").is_ok(),
            Err(Failure::Unknown(..)) => false,
        };
        self.open = over.then_some(open);
        result
    }

    /// Did the group arrive? Meanwhile nobody else is served, for nobody knows on what their turns would build.
    fn ask(&mut self, group: &str, error: StoreError, answers: Answers) -> Result<Answers, StoreError> {
        tracing::warn!(%error, "the end of a commit is unknown; asking the database");
        let mut questions_left = LAST_QUESTIONS;
        loop {
            let asked =
                self.reopen().and_then(|mut open| Ok((writer::arrived(&mut open.conn, &self.name, group)?, open)));
            match asked {
                Ok((arrived, open)) => {
                    self.open = Some(open);
                    return if arrived { Ok(answers) } else { Err(error) };
                }
                Err(_) if self.jobs.is_closed() && questions_left == 0 => return Err(error),
                Err(_) if self.jobs.is_closed() => questions_left -= 1,
                Err(_) => {}
            }
            while let Ok(job) = self.jobs.try_recv() {
                let _ = job.answer.send(Err(CommitRefusal::Unavailable(error.to_string())));
            }
            thread::sleep(RECONNECT);
        }
    }

    fn reopen(&self) -> Result<Open, StoreError> {
        let mut conn = self.database.inner.establish(Use::Write)?;
        writer::introduce(&mut conn, &self.name)?;
        let generation = current_generation(&mut conn)?;
        Ok(Open { conn, generation })
    }
}

/// In haste at first; with care where a refused turn left something behind.
fn carry_out_with_care(open: &mut Open, turns: &[Turn], writer: &str, group: &str) -> Result<Answers, Failure> {
    if let Some(answers) = carry_out(open, turns, writer, group, false)? {
        return Ok(answers);
    }
    open.conn.execute("ROLLBACK")?;
    let answers = carry_out(open, turns, writer, group, true)?;
    answers.ok_or_else(|| StoreError::Rejected("a refused turn left something behind its savepoint".into()).into())
}

/// One answer per turn. Nothing: a refused one left something in the transaction, which is still open.
fn carry_out(
    open: &mut Open,
    turns: &[Turn],
    writer: &str,
    group: &str,
    careful: bool,
) -> Result<Option<Answers>, Failure> {
    let Open { conn, generation } = open;
    conn.begin_write()?;
    let mut head = writer::begin_group(conn, writer, group)?;
    let mut results = Vec::with_capacity(turns.len());
    for turn in turns {
        let result = apply(conn, turn, *generation, careful)?;
        // A group of one is rolled back whole anyway.
        if turns.len() > 1 && result.as_ref().is_err_and(|refused| refused.left_writes) {
            return Ok(None);
        }
        results.push(result.map_err(|refused| refused.refusal));
    }
    if results.iter().all(Result::is_err) {
        conn.execute("ROLLBACK")?;
        return Ok(Some(results.into_iter().map(|result| result.map(|_| Committed::default())).collect()));
    }
    write_ends(conn, &mut head, results).map(Some)
}

/// Numbers and writes what the turns that were carried out say, and commits.
fn write_ends(
    conn: &mut Conn,
    head: &mut Head,
    results: Vec<Result<Applied<'_>, CommitRefusal>>,
) -> Result<Answers, Failure> {
    let before = (head.audit_number, head.outbox_sequence);
    let mut events = Vec::new();
    let answers: Answers = results
        .into_iter()
        .map(|result| {
            result.map(|applied| {
                events.extend(applied.events.iter().map(|event| in_sequence(event, &applied, head)));
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

fn in_sequence(event: &OutboxEvent, applied: &Applied<'_>, head: &mut Head) -> OutboxRow {
    head.outbox_sequence += 1;
    OutboxRow {
        writer: head.writer.clone(),
        sequence: head.outbox_sequence,
        event_id: event.event_id.clone(),
        cp_id: event.cp_id.clone(),
        // An event of another charging point than the guard's has no epoch to be ordered by.
        epoch: if event.cp_id == applied.cp_id { applied.row_version.epoch } else { 0 },
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
    //! What a test makes go wrong, where no real fault can be timed so well.

    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

    use super::{Answers, Failure};
    use crate::{Conn, StoreError};

    #[derive(Default)]
    pub(crate) struct InjectedFaults {
        /// Pages a SQLite file may have, 0 for no limit: a full disk.
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
