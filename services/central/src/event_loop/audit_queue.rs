//! Entries and events about what was sensed: queued to the disk, in order, one turn at a time. When the disk takes
//! nothing they wait, up to a bound for each peer and one for all, so that none takes the room of others; what is past
//! it is counted and said.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use proto::DriverId;
use store::central::{CommitRefusal, Committed, RowWrite, Turn, TurnId};

use super::{Completion, EventLoop};
use crate::turns::RETRY;

/// Writes that may wait.
const WAITING: usize = 50_000;
/// Of them, about one peer: far above what a minute makes of it.
const SHARE: usize = 256;
/// In one turn.
const AT_ONCE: usize = 512;

/// Whom it is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Point(usize),
    Driver(DriverId),
    /// Verified by Registry, and not in the mirror yet.
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct AuditQueue {
    waiting: VecDeque<(Subject, RowWrite)>,
    /// How many of `waiting` are about whom.
    shares: HashMap<Subject, usize>,
    in_flight: Vec<(Subject, RowWrite)>,
    again_at: Option<Instant>,
    lost: u64,
}

impl AuditQueue {
    pub(super) fn add(&mut self, about: Subject, write: RowWrite) {
        let share = self.shares.entry(about.clone()).or_default();
        if *share >= SHARE || self.waiting.len() >= WAITING {
            self.lost += 1;
            return;
        }
        *share += 1;
        self.waiting.push_back((about, write));
    }

    pub(super) fn again_at(&self) -> Option<Instant> {
        self.again_at.filter(|_| !self.waiting.is_empty())
    }

    fn take(&mut self) -> Vec<(Subject, RowWrite)> {
        let taken: Vec<_> = self.waiting.drain(..self.waiting.len().min(AT_ONCE)).collect();
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

    /// The disk did not take them: they are the next again.
    fn put_back(&mut self, taken: Vec<(Subject, RowWrite)>) {
        for (about, write) in taken.into_iter().rev() {
            *self.shares.entry(about.clone()).or_default() += 1;
            self.waiting.push_front((about, write));
        }
    }
}

impl EventLoop {
    pub(super) fn flush_audit_queue(&mut self) {
        let early = self.audit_queue.again_at.is_some_and(|at| self.shared.clock.mono() < at);
        if early || !self.audit_queue.in_flight.is_empty() || self.audit_queue.waiting.is_empty() {
            return;
        }
        let taken = self.audit_queue.take();
        let writes = taken.iter().map(|(_, write)| write.clone()).collect();
        self.audit_queue.in_flight = taken;
        let turn = Turn { id: TurnId::random(), name: "notes", guard: None, writes };
        self.submit(turn, Completion::AuditQueue);
    }

    pub(super) fn audit_queue_done(&mut self, result: Result<Committed, CommitRefusal>) {
        let written = std::mem::take(&mut self.audit_queue.in_flight);
        match result {
            Ok(_) => {
                self.audit_queue.again_at = None;
                if self.audit_queue.lost > 0 {
                    tracing::error!(
                        lost = self.audit_queue.lost,
                        "audit entries and events were lost: more came than the database took"
                    );
                    self.audit_queue.lost = 0;
                }
            }
            Err(CommitRefusal::Unavailable(_)) => {
                self.audit_queue.again_at = Some(self.shared.clock.mono() + RETRY);
                self.audit_queue.put_back(written);
            }
            Err(refusal) => tracing::error!(error = %refusal, entries = written.len(), "audit entries were refused"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::DomainEvent, rows, testing::at};

    fn write() -> RowWrite {
        RowWrite::Event(rows::event_row(&DomainEvent::state("CP1", "BROKEN", &[], at(0)), "CP1"))
    }

    #[test]
    fn one_peers_entries_never_take_the_room_of_others_spec_8_2() {
        let mut notes = AuditQueue::default();
        (0..1_000_000).for_each(|_| notes.add(Subject::Point(1), write()));
        notes.add(Subject::Point(2), write());
        notes.add(Subject::Driver("D1".parse().unwrap()), write());
        assert_eq!((notes.waiting.len(), notes.lost), (SHARE + 2, 1_000_000 - SHARE as u64));
        let taken = notes.take();
        assert_eq!((taken.len(), notes.shares.len()), (SHARE + 2, 0));
        notes.put_back(taken);
        notes.add(Subject::Point(1), write());
        assert_eq!((notes.waiting.len(), notes.shares[&Subject::Point(1)]), (SHARE + 2, SHARE));
    }
}
