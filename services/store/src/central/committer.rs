//! The only writer of Central's database: all turns go through one queue into group commits on one thread.
//!
//! A group is one transaction with one fsync. A turn that a rule refuses is left out of it. Audit entries and events
//! of the other turns are numbered at the end of the transaction, and nobody is answered before the commit. If the
//! commit itself fails, the database is asked whether the commit arrived, for as long as that takes, before anybody is
//! answered. While the database is unreachable, turns are answered with `Unavailable`; it is found again without a
//! restart.

use std::{sync::Arc, thread, time::Duration};

use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    AuditRow, CommitRefusal, Committed, Turn, TurnId,
    generation::current_generation,
    group::{Answers, Failure, Open, run_group},
};
use crate::{
    Database, StoreError, TransactionOutcome, audit::writer, connection::Use, database::STATEMENT, observe::Stopwatch,
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
/// As `MAX_RUNS`, for a group that has a turn whose row another transaction holds.
const LOCKED_RUNS: u32 = 2;
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
        let writer = Writer {
            database: database.clone(),
            name: writer.to_owned(),
            open: None,
            locked: None,
            jobs,
            audit: audit_sender,
        };
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
    /// Where in the last group the turn is whose row another transaction holds.
    locked: Option<usize>,
    jobs: mpsc::Receiver<Job>,
    audit: broadcast::Sender<Arc<AuditRow>>,
}

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
                Err(StoreError::Contended(why)) if runs >= LOCKED_RUNS && self.locked.is_some() => {
                    let locked = self.locked.take().unwrap_or_default();
                    return self.commit_without(turns, locked, why);
                }
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

    /// Refuses the turn whose row another transaction holds, so that it stalls none of the others.
    fn commit_without(&mut self, turns: &[Turn], locked: usize, why: String) -> Answers {
        tracing::warn!(turn = turns[locked].name, error = %why, "another transaction holds a row of a turn");
        let mut answers = if locked > 0 { self.commit_group(&turns[..locked]) } else { Vec::new() };
        answers.push(Err(CommitRefusal::Unavailable(why)));
        if locked + 1 < turns.len() {
            answers.extend(self.commit_group(&turns[locked + 1..]));
        }
        answers
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
        self.locked = open.applying.filter(|_| matches!(&result, Err(Failure::Nothing(StoreError::Contended(_)))));
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
        Ok(Open { conn, generation, applying: None })
    }
}

fn refuse(turns: &[Turn], refusal: &CommitRefusal) -> Answers {
    turns.iter().map(|_| Err(refusal.clone())).collect()
}
