//! Entries and events about what was sensed: queued to the disk, in order, one turn at a time. When the disk takes
//! nothing they wait, up to a bound; what is past it is counted and said.

use std::time::Instant;

use store::central::{Committed, Refusal, Turn, TurnId, Write};

use super::{Done, Drive, RETRY};

/// Writes that may wait.
const WAITING: usize = 50_000;
/// In one turn.
const AT_ONCE: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Notes {
    waiting: std::collections::VecDeque<Write>,
    in_flight: Vec<Write>,
    again_at: Option<Instant>,
    lost: u64,
}

impl Notes {
    pub(super) fn add(&mut self, write: Write) {
        if self.waiting.len() >= WAITING {
            self.lost += 1;
            return;
        }
        self.waiting.push_back(write);
    }

    pub(super) fn again_at(&self) -> Option<Instant> {
        self.again_at.filter(|_| !self.waiting.is_empty())
    }
}

impl Drive {
    pub(super) fn flush_notes(&mut self) {
        let early = self.notes.again_at.is_some_and(|at| self.shared.clock.mono() < at);
        if early || !self.notes.in_flight.is_empty() || self.notes.waiting.is_empty() {
            return;
        }
        let some = self.notes.waiting.len().min(AT_ONCE);
        let writes: Vec<_> = self.notes.waiting.drain(..some).collect();
        self.notes.in_flight.clone_from(&writes);
        let turn = Turn { id: TurnId::random(), name: "notes", guard: None, writes };
        self.submit(turn, Done::Notes);
    }

    pub(super) fn notes_done(&mut self, result: Result<Committed, Refusal>) {
        let written = std::mem::take(&mut self.notes.in_flight);
        match result {
            Ok(_) => {
                self.notes.again_at = None;
                if self.notes.lost > 0 {
                    tracing::error!(lost = self.notes.lost, "audit entries were lost while the database was away");
                    self.notes.lost = 0;
                }
            }
            Err(Refusal::Unavailable(_)) => {
                self.notes.again_at = Some(self.shared.clock.mono() + RETRY);
                written.into_iter().rev().for_each(|write| self.notes.waiting.push_front(write));
            }
            Err(refusal) => tracing::error!(error = %refusal, entries = written.len(), "audit entries were refused"),
        }
    }
}
