//! The one queue to the store for writes that nobody waits for, such as audit entries and events about what was observed:
//! in order, one turn at a time, tried again after [`RETRY`] while the store takes nothing.
//!
//! Guarantees: room is bounded for each peer and for all, so that no peer takes the room of others; what finds no room is
//! counted, and the count is logged.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use proto::PeerId;
use store::central::{CommitRefusal, RowWrite};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{database::Store, turns::RETRY};

/// Writes that may wait.
const WAITING: usize = 50_000;
/// Of these, the writes about one peer: far above what a minute makes of it.
const SHARE: usize = 256;
/// Writes in one turn.
const AT_ONCE: usize = 512;

#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    waiting: Mutex<QueuedWrites>,
    filled: Notify,
    /// One turn at a time, so that the order stays.
    turn: tokio::sync::Mutex<()>,
}

/// Whom a write is about; none: a part of the system.
type Subject = Option<PeerId>;

#[derive(Debug, Default)]
struct QueuedWrites {
    writes: VecDeque<(Subject, RowWrite)>,
    /// How many of `writes` are about whom.
    shares: HashMap<Subject, usize>,
    lost: u64,
}

impl WriteQueue {
    pub(crate) fn push(&self, about: Subject, write: RowWrite) {
        self.waiting().push(about, write);
        self.filled.notify_one();
    }

    /// Hands to `store` what is queued, until the process stops.
    pub(crate) async fn run(&self, store: &Store, stop: CancellationToken) {
        while stop.run_until_cancelled(self.filled.notified()).await.is_some() {
            while !self.flush(store).await {
                stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
                if stop.is_cancelled() {
                    return;
                }
            }
        }
    }

    /// Hands all that is queued to `store`. False: it takes nothing now, and the rest stays queued.
    pub(crate) async fn flush(&self, store: &Store) -> bool {
        let _turn = self.turn.lock().await;
        loop {
            let taken = self.waiting().take();
            if taken.is_empty() {
                return true;
            }
            match store.write("queued writes", taken.iter().map(|(_, write)| write.clone()).collect()).await {
                Ok(_) => self.log_lost(),
                Err(CommitRefusal::Unavailable(_)) => {
                    self.waiting().put_back(taken);
                    return false;
                }
                Err(refusal) => tracing::error!(error = %refusal, entries = taken.len(), "audit entries were refused"),
            }
        }
    }

    fn log_lost(&self) {
        let lost = std::mem::take(&mut self.waiting().lost);
        if lost > 0 {
            tracing::error!(lost, "audit entries and events were lost: more came than the database took");
        }
    }

    fn waiting(&self) -> MutexGuard<'_, QueuedWrites> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueuedWrites {
    fn push(&mut self, about: Subject, write: RowWrite) {
        let share = self.shares.get(&about).copied().unwrap_or_default();
        if share >= SHARE || self.writes.len() >= WAITING {
            self.lost += 1;
            return;
        }
        self.shares.insert(about.clone(), share + 1);
        self.writes.push_back((about, write));
    }

    fn take(&mut self) -> Vec<(Subject, RowWrite)> {
        let taken: Vec<_> = self.writes.drain(..self.writes.len().min(AT_ONCE)).collect();
        for (about, _) in &taken {
            if let Some(share) = self.shares.get_mut(about) {
                *share -= 1;
                if *share == 0 {
                    self.shares.remove(about);
                }
            }
        }
        taken
    }

    /// The store did not take them: they are the next again.
    fn put_back(&mut self, taken: Vec<(Subject, RowWrite)>) {
        for (about, write) in taken.into_iter().rev() {
            *self.shares.entry(about.clone()).or_default() += 1;
            self.writes.push_front((about, write));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::link::v1::State;

    use crate::{event::DomainEvent, rows, testing::at};

    fn write() -> RowWrite {
        RowWrite::Event(rows::event_row(&DomainEvent::state("CP1", State::Broken, Vec::new(), at(0)), "CP1"))
    }

    fn point(number: usize) -> Subject {
        Some(PeerId::ChargingPoint(format!("CP{number}").parse().unwrap()))
    }

    #[test]
    fn what_finds_no_room_is_counted_and_leaves_nothing_behind_spec_8_2() {
        let mut waiting = QueuedWrites::default();
        (0..2 * WAITING).for_each(|number| waiting.push(point(number), write()));
        assert_eq!((waiting.writes.len(), waiting.shares.len(), waiting.lost), (WAITING, WAITING, WAITING as u64));
    }

    #[test]
    fn one_peers_entries_never_take_the_room_of_others_spec_8_2() {
        let mut waiting = QueuedWrites::default();
        (0..1_000_000).for_each(|_| waiting.push(point(1), write()));
        waiting.push(point(2), write());
        waiting.push(None, write());
        assert_eq!((waiting.writes.len(), waiting.lost), (SHARE + 2, 1_000_000 - SHARE as u64));
        let taken = waiting.take();
        assert_eq!((taken.len(), waiting.shares.len()), (SHARE + 2, 0));
        waiting.put_back(taken);
        waiting.push(point(1), write());
        assert_eq!((waiting.writes.len(), waiting.shares[&point(1)]), (SHARE + 2, SHARE));
    }
}
