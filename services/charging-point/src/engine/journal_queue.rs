//! The queue in front of the journal: records that are not on disk yet, and messages to Central that must not leave
//! before the records that they speak of are.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use proto::link::v1::{Reason, up};

use crate::journal_state::{EndEntry, JournalEntry, JournalRecord, JournalState};

/// Wait before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The journal's state with every queued record applied, the records that are still to be written, and the messages that
/// wait for them. Records are numbered from 1 in the order in which they are queued.
#[derive(Debug)]
pub struct JournalQueue {
    state: JournalState,
    queue: VecDeque<(u64, JournalRecord)>,
    /// Number of the record that was queued last.
    last: u64,
    /// Records up to this number must survive a loss of power once they are written.
    durable_to: u64,
    /// Whether a write is in flight.
    writing: bool,
    /// Records up to this number are in the journal.
    written: u64,
    retry_at: Option<Instant>,
    trouble: Option<String>,
    held_messages: VecDeque<(u64, up::Body)>,
    /// Meter values that have not been sent: the newest one, and the newest one that the write in flight will release.
    held_values: VecDeque<(u64, up::Body)>,
    /// Number of the last record of the newest write that was started.
    writing_up_to: u64,
    /// Number of the record that ends the session which the previous process left running.
    interrupted_end: Option<u64>,
}

impl JournalQueue {
    pub fn new(state: JournalState) -> Self {
        Self {
            state,
            queue: VecDeque::new(),
            last: 0,
            durable_to: 0,
            writing: false,
            written: 0,
            retry_at: None,
            trouble: None,
            held_messages: VecDeque::new(),
            held_values: VecDeque::new(),
            writing_up_to: 0,
            interrupted_end: None,
        }
    }

    pub fn state(&self) -> &JournalState {
        &self.state
    }

    /// Why the last write failed; nothing once a later one has succeeded.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Ends the session that the previous process left running, with the last value that the journal knows of it.
    pub fn end_interrupted_session(&mut self, now_ms: i64) {
        let Some(cut) = self.state.running() else { return };
        let ended = EndEntry {
            session_id: cut.started.session_id.clone(),
            meter_end_wh: cut.last.meter_wh,
            reason: Reason::Fault.into(),
            // The time of that value, unless the clock was set back since.
            at_ms: cut.last.at_ms.min(now_ms).max(cut.started.at_ms),
        };
        self.interrupted_end = Some(self.append(JournalEntry::Ended(ended), true));
    }

    /// True once: when the record of [`Self::end_interrupted_session`] has been written.
    pub fn interrupted_end_written(&mut self) -> bool {
        self.interrupted_end.take_if(|number| *number <= self.written).is_some()
    }

    /// Queues an entry and returns its number. A register value replaces the one before it where that is still queued
    /// last, because only the newest matters.
    pub fn append(&mut self, entry: JournalEntry, durable: bool) -> u64 {
        if matches!(entry, JournalEntry::Register(_)) && matches!(self.queue.back(), Some((_, r)) if is_register(r)) {
            self.queue.pop_back();
        }
        let record = JournalRecord::from(entry);
        self.state.apply(&record);
        self.last += 1;
        self.queue.push_back((self.last, record));
        if durable {
            self.durable_to = self.last;
        }
        self.last
    }

    /// Holds a message back until all records up to `number` are written.
    pub fn hold_until_written(&mut self, number: u64, body: up::Body) {
        self.held_messages.push_back((number, body));
    }

    /// Holds a meter value back until its register value, record `number`, is written. A newer value replaces it, unless
    /// the write in flight is about to release it: otherwise a disk that is slower than the meter would let no value
    /// through.
    pub fn hold_value_until_written(&mut self, number: u64, body: up::Body) {
        self.held_values.retain(|(number, _)| *number <= self.writing_up_to);
        self.held_values.push_back((number, body));
    }

    /// The newest meter value whose register value is in the journal. While the journal cannot be written, values are
    /// sent without it: a running supply is metered in memory then (SPEC 9, disk full).
    pub fn take_released_value(&mut self) -> Option<up::Body> {
        let (written, in_trouble) = (self.written, self.trouble.is_some());
        let free = self.held_values.iter().take_while(|(number, _)| *number <= written || in_trouble).count();
        self.held_values.drain(..free).next_back().map(|(_, body)| body)
    }

    /// Drops the meter values that wait: the session has ended, and only its final value is to be sent.
    pub fn discard_values(&mut self) {
        self.held_values.clear();
    }

    /// The records of the next write, the number of the last of them, and whether to sync; nothing while a write is in
    /// flight. The records stay queued until the write has succeeded.
    pub fn next_write(&mut self, now: Instant) -> Option<(Vec<JournalRecord>, u64, bool)> {
        if self.writing || self.queue.is_empty() || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        self.writing = true;
        let durable = self.durable_to > self.written;
        let upto = self.queue.back().map_or(self.last, |(number, _)| *number);
        self.writing_up_to = upto;
        Some((self.queue.iter().map(|(_, record)| record.clone()).collect(), upto, durable))
    }

    pub fn written(&mut self, upto: u64) {
        self.writing = false;
        self.retry_at = None;
        self.trouble = None;
        self.written = self.written.max(upto);
        while self.queue.front().is_some_and(|(number, _)| *number <= upto) {
            self.queue.pop_front();
        }
    }

    pub fn is_written(&self, number: u64) -> bool {
        self.written >= number
    }

    pub fn write_failed(&mut self, why: String, now: Instant) {
        self.writing = false;
        self.retry_at = Some(now + RETRY);
        self.trouble = Some(why);
    }

    /// When to write again after a failure; nothing while a write is in flight, however long it takes.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at.filter(|_| !self.writing)
    }

    /// Takes out the messages whose records are written.
    pub fn take_released(&mut self) -> Vec<up::Body> {
        let free = self.held_messages.iter().take_while(|(number, _)| *number <= self.written).count();
        self.held_messages.drain(..free).map(|(_, body)| body).collect()
    }

    /// Whether the end of this session is in the journal, so that its final value may be sent.
    pub fn end_is_written(&self, session_id: &str) -> bool {
        let is_its_end =
            |r: &JournalRecord| matches!(&r.entry, Some(JournalEntry::Ended(ended)) if ended.session_id == session_id);
        !self.queue.iter().any(|(_, record)| is_its_end(record))
    }

    /// Whether everything is written, so that an orderly stop loses nothing.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.writing
    }
}

fn is_register(record: &JournalRecord) -> bool {
    matches!(record.entry, Some(JournalEntry::Register(_)))
}
