//! What waits for the journal, and what waits for what is in it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use proto::link::v1::{Reason, up};

use crate::ledger::{Ended, Entry, Ledger, Record};

/// Between two tries to write.
const RETRY: Duration = Duration::from_secs(1);

/// The ledger as it is to be, the records on their way to the disk, and the messages that must not leave before them.
#[derive(Debug)]
pub struct Keeping {
    ledger: Ledger,
    queue: VecDeque<(u64, Record)>,
    last: u64,
    durable_to: u64,
    writing: bool,
    written: u64,
    retry_at: Option<Instant>,
    trouble: Option<String>,
    gated: VecDeque<(u64, up::Body)>,
    /// Meter values that have not been told: the newest, and the newest that the write under way will release.
    values: VecDeque<(u64, up::Body)>,
    /// What the last write that was begun goes up to.
    begun_to: u64,
    /// The end that the process before did not live to keep.
    cut_off: Option<u64>,
}

impl Keeping {
    pub fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            queue: VecDeque::new(),
            last: 0,
            durable_to: 0,
            writing: false,
            written: 0,
            retry_at: None,
            trouble: None,
            gated: VecDeque::new(),
            values: VecDeque::new(),
            begun_to: 0,
            cut_off: None,
        }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Why the journal cannot be written, if it cannot.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Of a later process's view: the session that was running ended with its last known value.
    pub fn close_what_was_cut_off(&mut self, now_ms: i64) {
        let Some(cut) = self.ledger.running() else { return };
        let ended = Ended {
            session_id: cut.started.session_id.clone(),
            meter_end_wh: cut.last.meter_wh,
            reason: Reason::Fault.into(),
            // The moment of that value; the clock may have been set back since.
            at_ms: cut.last.at_ms.min(now_ms).max(cut.started.at_ms),
        };
        self.cut_off = Some(self.keep(Entry::Ended(ended), true));
    }

    /// Once, when the end of what was cut off is on disk.
    pub fn take_cut_off(&mut self) -> bool {
        self.cut_off.take_if(|number| *number <= self.written).is_some()
    }

    /// Queues an entry and gives its number. Of registers that have not been taken up yet only the newest stays.
    pub fn keep(&mut self, entry: Entry, durable: bool) -> u64 {
        if matches!(entry, Entry::Register(_)) && matches!(self.queue.back(), Some((_, r)) if is_register(r)) {
            self.queue.pop_back();
        }
        let record = Record::from(entry);
        self.ledger.apply(&record);
        self.last += 1;
        self.queue.push_back((self.last, record));
        if durable {
            self.durable_to = self.last;
        }
        self.last
    }

    /// Holds a message back until everything up to `number` is written.
    pub fn gate(&mut self, number: u64, body: up::Body) {
        self.gated.push_back((number, body));
    }

    /// Holds a meter value back until its register, `number`, is written. A newer one takes its place, unless the write
    /// under way is about to release it: a disk that is slower than the meter would otherwise silence it.
    pub fn gate_value(&mut self, number: u64, body: up::Body) {
        self.values.retain(|(number, _)| *number <= self.begun_to);
        self.values.push_back((number, body));
    }

    /// A value that says no more than the journal. Where that cannot be written it is told all the same: what runs is
    /// metered in memory then (SPEC 9, disk full).
    pub fn released_value(&mut self) -> Option<up::Body> {
        let (written, in_trouble) = (self.written, self.trouble.is_some());
        let free = self.values.iter().take_while(|(number, _)| *number <= written || in_trouble).count();
        self.values.drain(..free).next_back().map(|(_, body)| body)
    }

    /// The session is over: its final value is the one to be told.
    pub fn drop_value(&mut self) {
        self.values.clear();
    }

    /// The next write, unless one is under way. Records stay queued until it has succeeded.
    pub fn next_write(&mut self, now: Instant) -> Option<(Vec<Record>, u64, bool)> {
        if self.writing || self.queue.is_empty() || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        self.writing = true;
        let durable = self.durable_to > self.written;
        let upto = self.queue.back().map_or(self.last, |(number, _)| *number);
        self.begun_to = upto;
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

    pub fn has_written(&self, number: u64) -> bool {
        self.written >= number
    }

    pub fn failed(&mut self, why: String, now: Instant) {
        self.writing = false;
        self.retry_at = Some(now + RETRY);
        self.trouble = Some(why);
    }

    /// Nothing while a write is under way, however late it is.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at.filter(|_| !self.writing)
    }

    /// Messages whose records are on disk.
    pub fn released(&mut self) -> Vec<up::Body> {
        let free = self.gated.iter().take_while(|(number, _)| *number <= self.written).count();
        self.gated.drain(..free).map(|(_, body)| body).collect()
    }

    /// Whether the end of this session is on disk, so that its final value may be told.
    pub fn has_written_end_of(&self, session_id: &str) -> bool {
        let is_its_end = |r: &Record| matches!(&r.entry, Some(Entry::Ended(ended)) if ended.session_id == session_id);
        !self.queue.iter().any(|(_, record)| is_its_end(record))
    }

    /// Whether something is under way that must not be lost by an orderly stop.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.writing
    }
}

fn is_register(record: &Record) -> bool {
    matches!(record.entry, Some(Entry::Register(_)))
}
