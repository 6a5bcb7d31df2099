//! What waits for the journal, and what waits for what is in it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use proto::link::v1::{Reason, up};

use crate::journal_state::{EndEntry, JournalEntry, JournalRecord, JournalState};

/// Between two tries to write.
const RETRY: Duration = Duration::from_secs(1);

/// The state as it is to be, the records on their way to the disk, and the messages that must not leave before them.
#[derive(Debug)]
pub struct JournalQueue {
    state: JournalState,
    queue: VecDeque<(u64, JournalRecord)>,
    last: u64,
    durable_to: u64,
    writing: bool,
    written: u64,
    retry_at: Option<Instant>,
    trouble: Option<String>,
    held_messages: VecDeque<(u64, up::Body)>,
    /// Meter values that have not been told: the newest, and the newest that the write under way will release.
    held_values: VecDeque<(u64, up::Body)>,
    /// What the last write that was begun goes up to.
    writing_up_to: u64,
    /// The end that the process before did not live to keep.
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

    /// Why the journal cannot be written, if it cannot.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Of a later process's view: the session that was running ended with its last known value.
    pub fn end_interrupted_session(&mut self, now_ms: i64) {
        let Some(cut) = self.state.running() else { return };
        let ended = EndEntry {
            session_id: cut.started.session_id.clone(),
            meter_end_wh: cut.last.meter_wh,
            reason: Reason::Fault.into(),
            // The moment of that value; the clock may have been set back since.
            at_ms: cut.last.at_ms.min(now_ms).max(cut.started.at_ms),
        };
        self.interrupted_end = Some(self.append(JournalEntry::Ended(ended), true));
    }

    /// Once, when the end of what was cut off is on disk.
    pub fn interrupted_end_written(&mut self) -> bool {
        self.interrupted_end.take_if(|number| *number <= self.written).is_some()
    }

    /// Queues an entry and gives its number. Of registers that have not been taken up yet only the newest stays.
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

    /// Holds a message back until everything up to `number` is written.
    pub fn hold_until_written(&mut self, number: u64, body: up::Body) {
        self.held_messages.push_back((number, body));
    }

    /// Holds a meter value back until its register, `number`, is written. A newer one takes its place, unless the write
    /// under way is about to release it: a disk that is slower than the meter would otherwise silence it.
    pub fn hold_value_until_written(&mut self, number: u64, body: up::Body) {
        self.held_values.retain(|(number, _)| *number <= self.writing_up_to);
        self.held_values.push_back((number, body));
    }

    /// A value that says no more than the journal. Where that cannot be written it is told all the same: what runs is
    /// metered in memory then (SPEC 9, disk full).
    pub fn take_released_value(&mut self) -> Option<up::Body> {
        let (written, in_trouble) = (self.written, self.trouble.is_some());
        let free = self.held_values.iter().take_while(|(number, _)| *number <= written || in_trouble).count();
        self.held_values.drain(..free).next_back().map(|(_, body)| body)
    }

    /// The session is over: its final value is the one to be told.
    pub fn discard_values(&mut self) {
        self.held_values.clear();
    }

    /// The next write, unless one is under way. Records stay queued until it has succeeded.
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

    /// Nothing while a write is under way, however late it is.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at.filter(|_| !self.writing)
    }

    /// Messages whose records are on disk.
    pub fn take_released(&mut self) -> Vec<up::Body> {
        let free = self.held_messages.iter().take_while(|(number, _)| *number <= self.written).count();
        self.held_messages.drain(..free).map(|(_, body)| body).collect()
    }

    /// Whether the end of this session is on disk, so that its final value may be told.
    pub fn end_is_written(&self, session_id: &str) -> bool {
        let is_its_end =
            |r: &JournalRecord| matches!(&r.entry, Some(JournalEntry::Ended(ended)) if ended.session_id == session_id);
        !self.queue.iter().any(|(_, record)| is_its_end(record))
    }

    /// Whether something is under way that must not be lost by an orderly stop.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.writing
    }
}

fn is_register(record: &JournalRecord) -> bool {
    matches!(record.entry, Some(JournalEntry::Register(_)))
}
