//! What an engine must never forget: its lifetime register, the sessions it supplied and did not see settled, and the
//! highest epoch it obeyed. A fold over the records of its journal.
//!
//! Pure. Sessions that Central settled are kept for their retention as well, because a Central restored from a backup
//! (a higher generation) may have forgotten them: then all are reported again under the same ids (SPEC 10.5).

use std::{collections::BTreeMap, time::Duration};

use prost::{Message, Oneof};
use proto::link::v1::{JournalSession, Reason, SessionState};

/// One line of the journal.
#[derive(Clone, PartialEq, Message)]
pub struct JournalRecord {
    #[prost(oneof = "JournalEntry", tags = "1, 2, 3, 4, 5")]
    pub entry: Option<JournalEntry>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum JournalEntry {
    #[prost(message, tag = "1")]
    Started(StartEntry),
    #[prost(message, tag = "2")]
    Register(RegisterEntry),
    #[prost(message, tag = "3")]
    Ended(EndEntry),
    /// A session id.
    #[prost(string, tag = "4")]
    Settled(String),
    #[prost(uint64, tag = "5")]
    Epoch(u64),
}

/// Energy may flow from here on.
#[derive(Clone, PartialEq, Message)]
pub struct StartEntry {
    #[prost(string, tag = "1")]
    pub session_id: String,
    #[prost(string, tag = "2")]
    pub charging_point_id: String,
    #[prost(string, tag = "3")]
    pub driver_id: String,
    #[prost(uint64, tag = "4")]
    pub meter_start_wh: u64,
    #[prost(int64, tag = "5")]
    pub at_ms: i64,
}

/// The lifetime register at some moment; with a session running also its last known value.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct RegisterEntry {
    #[prost(uint64, tag = "1")]
    pub meter_wh: u64,
    #[prost(int64, tag = "2")]
    pub at_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct EndEntry {
    #[prost(string, tag = "1")]
    pub session_id: String,
    #[prost(uint64, tag = "2")]
    pub meter_end_wh: u64,
    #[prost(enumeration = "Reason", tag = "3")]
    pub reason: i32,
    #[prost(int64, tag = "4")]
    pub at_ms: i64,
}

impl From<JournalEntry> for JournalRecord {
    fn from(entry: JournalEntry) -> Self {
        Self { entry: Some(entry) }
    }
}

/// A session as the journal knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRecord {
    pub started: StartEntry,
    /// RegisterEntry and time of the last record that named either.
    pub last: RegisterEntry,
    pub ended: Option<Reason>,
    pub settled: bool,
}

impl SessionRecord {
    pub fn held(&self) -> JournalSession {
        JournalSession {
            session_id: self.started.session_id.clone(),
            state: if self.ended.is_some() { SessionState::Settling } else { SessionState::Supplying }.into(),
            meter_start_wh: self.started.meter_start_wh,
            meter_wh: self.last.meter_wh,
            reason: self.ended.unwrap_or(Reason::Unspecified).into(),
            started_at_ms: self.started.at_ms,
            ended_at_ms: if self.ended.is_some() { self.last.at_ms } else { 0 },
        }
    }
}

/// Everything the records say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JournalState {
    pub register: RegisterEntry,
    pub highest_epoch: u64,
    sessions: BTreeMap<String, SessionRecord>,
}

impl JournalState {
    pub fn apply(&mut self, record: &JournalRecord) {
        match &record.entry {
            Some(JournalEntry::Started(started)) => self.start(started),
            Some(JournalEntry::Register(register)) => self.read(*register),
            Some(JournalEntry::Ended(ended)) => self.end(ended),
            Some(JournalEntry::Settled(id)) => {
                if let Some(session) = self.sessions.get_mut(id) {
                    session.settled = true;
                }
            }
            Some(JournalEntry::Epoch(epoch)) => self.raise(*epoch),
            // Of a later release: nothing here depends on it.
            None => {}
        }
    }

    fn start(&mut self, started: &StartEntry) {
        let last = RegisterEntry { meter_wh: started.meter_start_wh, at_ms: started.at_ms };
        self.advance(last);
        let session = SessionRecord { started: started.clone(), last, ended: None, settled: false };
        self.sessions.entry(started.session_id.clone()).or_insert(session);
    }

    fn read(&mut self, register: RegisterEntry) {
        self.advance(register);
        if let Some(session) = self.running_mut() {
            session.last = register;
        }
    }

    fn end(&mut self, ended: &EndEntry) {
        let last = RegisterEntry { meter_wh: ended.meter_end_wh, at_ms: ended.at_ms };
        self.advance(last);
        if let Some(session) = self.sessions.get_mut(&ended.session_id).filter(|s| s.ended.is_none()) {
            session.last = last;
            session.ended = Some(ended.reason());
        }
    }

    /// A lifetime register never runs backwards.
    fn advance(&mut self, register: RegisterEntry) {
        if register.meter_wh >= self.register.meter_wh {
            self.register = register;
        }
    }

    /// A new generation (the upper half) may have forgotten what an older one settled.
    fn raise(&mut self, epoch: u64) {
        if self.highest_epoch != 0 && epoch >> 32 > self.highest_epoch >> 32 {
            for session in self.sessions.values_mut() {
                session.settled = false;
            }
        }
        self.highest_epoch = self.highest_epoch.max(epoch);
    }

    fn running_mut(&mut self) -> Option<&mut SessionRecord> {
        self.sessions.values_mut().find(|s| s.ended.is_none())
    }

    /// The session that the last process left running.
    pub fn running(&self) -> Option<&SessionRecord> {
        self.sessions.values().find(|s| s.ended.is_none())
    }

    pub fn session(&self, id: &str) -> Option<&SessionRecord> {
        self.sessions.get(id)
    }

    /// What Central is told after each opening: sessions of this charging point that are not known to be settled.
    pub fn unsettled<'a>(&'a self, charging_point: &'a str) -> impl Iterator<Item = &'a SessionRecord> {
        self.sessions.values().filter(move |s| !s.settled && s.started.charging_point_id == charging_point)
    }

    /// How many sessions wait for Central's word.
    pub fn waiting(&self) -> usize {
        self.sessions.values().filter(|s| s.ended.is_some() && !s.settled).count()
    }

    /// Drops what was settled and ended before the retention.
    pub fn forget(&mut self, now_ms: i64, retention: Duration) {
        let before = now_ms.saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
        self.sessions.retain(|_, s| !s.settled || s.ended.is_none() || s.last.at_ms >= before);
    }

    /// The fewest records that fold to the same.
    pub fn records(&self) -> Vec<JournalRecord> {
        let mut records: Vec<JournalRecord> = Vec::new();
        // The epoch before any session: raising it must not unsettle what follows.
        if self.highest_epoch > 0 {
            records.push(JournalEntry::Epoch(self.highest_epoch).into());
        }
        let mut sessions: Vec<&SessionRecord> = self.sessions.values().collect();
        sessions.sort_by_key(|s| (s.ended.is_none(), s.started.at_ms));
        for session in sessions {
            let id = &session.started.session_id;
            records.push(JournalEntry::Started(session.started.clone()).into());
            if let Some(reason) = session.ended {
                let (meter_end_wh, at_ms) = (session.last.meter_wh, session.last.at_ms);
                let ended = EndEntry { session_id: id.clone(), meter_end_wh, reason: reason.into(), at_ms };
                records.push(JournalEntry::Ended(ended).into());
            } else {
                records.push(JournalEntry::Register(session.last).into());
            }
            if session.settled {
                records.push(JournalEntry::Settled(id.clone()).into());
            }
        }
        if self.register != RegisterEntry::default() && self.running().is_none() {
            records.push(JournalEntry::Register(self.register).into());
        }
        records
    }
}
