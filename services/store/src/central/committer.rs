//! The only writer of Central's database: all turns go through one queue into group commits on one thread.
//!
//! A group is one transaction with one fsync. A turn that a rule refuses is left out of it. Audit entries and events
//! of the other turns are numbered at the end of the transaction, and nobody is answered before the commit. If the
//! commit itself fails, the database is asked whether the commit arrived, for as long as that takes, before anybody is
//! answered. While the database is unreachable, turns are answered with `Unavailable`; it is found again without a
//! restart. So are all turns after another Central has taken the lease on the database, those without a guard too.

use std::{sync::Arc, thread, time::Duration};

use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    AuditRow, CommitRefusal, Committed, Guard, Turn, TurnId,
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
/// Turns whose rows other transactions hold may delay a group for so long; what is not durable then is refused.
const LONGEST_GROUP: Duration = Duration::from_secs(2);
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
    /// outbox, and holds the lease; no two running processes may share it. The thread ends when every clone is dropped and the queue is
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
            let answers = self.commit_group(&turns.iter().collect::<Vec<_>>(), watch);
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

    /// Commits the turns, which were taken out of the queue when `watch` started, and returns one answer per turn, in
    /// order.
    fn commit_group(&mut self, turns: &[&Turn], watch: Stopwatch) -> Answers {
        if watch.took() > LONGEST_GROUP {
            let why = format!("other transactions hold rows of turns before this one for {LONGEST_GROUP:?}; try again");
            return refuse(turns, &CommitRefusal::Unavailable(why));
        }
        let mut runs = 1;
        loop {
            let group = TurnId::random().to_string();
            let error = match self.commit(turns, &group) {
                Ok(answers) => return answers,
                Err((Some(locked), error)) if runs >= LOCKED_RUNS => {
                    return self.commit_without(turns, locked, &error, watch);
                }
                Err((_, error)) => error,
            };
            match error {
                StoreError::Contended(_) if runs < MAX_RUNS => runs += 1,
                // One turn is wrong and must not fail the others.
                StoreError::Rejected(_) if turns.len() > 1 => {
                    return turns.chunks(1).flat_map(|alone| self.commit_group(alone, watch)).collect();
                }
                StoreError::Rejected(why) => return refuse(turns, &CommitRefusal::Rejected(why)),
                StoreError::Unavailable(why) | StoreError::Contended(why) => {
                    tracing::warn!(turns = turns.len(), error = %why, "the database does not accept writes now");
                    return refuse(turns, &CommitRefusal::Unavailable(why));
                }
            }
        }
    }

    /// Refuses the turn whose row another transaction holds, and all others of its charging point, so that they stall none
    /// of the rest.
    fn commit_without(&mut self, turns: &[&Turn], locked: usize, why: &StoreError, watch: Stopwatch) -> Answers {
        tracing::warn!(turn = turns[locked].name, error = %why, "another transaction holds a row of a turn");
        let cp_id = turns[locked].guard.as_ref().map(Guard::cp_id);
        let is_stuck = |(number, turn): (usize, &Turn)| {
            number == locked || cp_id.is_some() && turn.guard.as_ref().map(Guard::cp_id) == cp_id
        };
        let stuck: Vec<bool> = turns.iter().copied().enumerate().map(is_stuck).collect();
        let rest: Vec<&Turn> = turns.iter().zip(&stuck).filter(|(_, stuck)| !**stuck).map(|(turn, _)| *turn).collect();
        let committed = if rest.is_empty() { Vec::new() } else { self.commit_group(&rest, watch) };
        let mut committed = committed.into_iter();
        let refused = || Err(CommitRefusal::Unavailable(why.to_string()));
        stuck.iter().map(|stuck| if *stuck { None } else { committed.next() }.unwrap_or_else(refused)).collect()
    }

    /// Runs one transaction. An error means for certain that nothing of it is durable; with it comes the place of the turn
    /// whose row another transaction holds.
    fn commit(&mut self, turns: &[&Turn], group: &str) -> Result<Answers, (Option<usize>, StoreError)> {
        let kept = self.open.is_some();
        let result = match self.attempt(turns, group) {
            // The connection may have died unnoticed while the database is available.
            Err(Failure::Nothing(error)) if kept && error.spoils_connection() => self.attempt(turns, group),
            result => result,
        };
        match result {
            Ok(answers) => Ok(answers),
            Err(Failure::Nothing(error) | Failure::Hangs(error)) => Err((None, error)),
            Err(Failure::Locked(locked, error)) => Err((Some(locked), error)),
            Err(Failure::Unknown(error, answers)) => {
                self.resolve_unknown_commit(group, error, answers).map_err(|error| (None, error))
            }
        }
    }

    fn attempt(&mut self, turns: &[&Turn], group: &str) -> Result<Answers, Failure> {
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
            Err(Failure::Nothing(error) | Failure::Locked(_, error)) => {
                !error.spoils_connection() && open.conn.execute("ROLLBACK").is_ok()
            }
            Err(Failure::Unknown(..) | Failure::Hangs(_)) => false,
        };
        if open.conn.is_expired() {
            // A statement may have been answered in the moment in which its connection was closed.
            self.database.inner.forget_pooled();
        } else if over {
            self.open = Some(open);
            return result;
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

fn refuse(turns: &[&Turn], refusal: &CommitRefusal) -> Answers {
    turns.iter().map(|_| Err(refusal.clone())).collect()
}
