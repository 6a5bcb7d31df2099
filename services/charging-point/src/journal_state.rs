//! The state that the records of an engine's journal add up to: the lifetime register, the sessions that Central has not
//! settled, and the highest epoch that the engine obeyed.
//!
//! Pure. Settled sessions are kept for a retention period as well, because a Central that was restored from a backup (a
//! higher generation) may not know them: then all are reported again under the same ids (SPEC 10.5).

use std::{collections::BTreeMap, time::Duration};

use prost::{Message, Oneof};
use proto::link::v1::{JournalSession, Reason, SessionState, SignedDocument};

/// One record of the journal.
#[derive(Clone, PartialEq, Message)]
pub struct JournalRecord {
    #[prost(oneof = "JournalEntry", tags = "1, 2, 3, 4, 5")]
    pub entry: Option<JournalEntry>,
}

/// What a record says.
#[derive(Clone, PartialEq, Oneof)]
pub enum JournalEntry {
    #[prost(message, tag = "1")]
    Started(StartEntry),
    #[prost(message, tag = "2")]
    Register(RegisterEntry),
    #[prost(message, tag = "3")]
    Ended(EndEntry),
    #[prost(message, tag = "4")]
    Settled(SettledEntry),
    /// A higher epoch than any before.
    #[prost(uint64, tag = "5")]
    Epoch(u64),
}

/// The start of a supply; energy flows only after it.
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
    /// What Central signed when it authorised the supply; a Central that lost the session bills by it (SPEC 10.5).
    #[prost(message, optional, tag = "6")]
    pub authorisation: Option<SignedDocument>,
}

/// Central has settled the session with this id, and billed it with this ticket.
#[derive(Clone, PartialEq, Message)]
pub struct SettledEntry {
    #[prost(string, tag = "1")]
    pub session_id: String,
    #[prost(message, optional, tag = "2")]
    pub ticket: Option<SignedDocument>,
}

/// The lifetime register at a point in time; it is also the last known value of a session that runs.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct RegisterEntry {
    #[prost(uint64, tag = "1")]
    pub meter_wh: u64,
    #[prost(int64, tag = "2")]
    pub at_ms: i64,
}

/// The end of a supply, with its final value.
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

/// A session in the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRecord {
    pub started: StartEntry,
    /// Lifetime register and time of the last record about the session.
    pub last: RegisterEntry,
    /// Why it ended; nothing while it runs.
    pub ended: Option<Reason>,
    pub settled: bool,
    /// Its ticket, as Central signed it.
    pub ticket: Option<SignedDocument>,
}

impl SessionRecord {
    /// The session as Central is told of it.
    pub fn held(&self) -> JournalSession {
        JournalSession {
            session_id: self.started.session_id.clone(),
            state: if self.ended.is_some() { SessionState::Settling } else { SessionState::Supplying }.into(),
            meter_start_wh: self.started.meter_start_wh,
            meter_wh: self.last.meter_wh,
            reason: self.ended.unwrap_or(Reason::Unspecified).into(),
            started_at_ms: self.started.at_ms,
            ended_at_ms: if self.ended.is_some() { self.last.at_ms } else { 0 },
            authorisation: self.started.authorisation.clone(),
            ticket: self.ticket.clone(),
        }
    }
}

/// Everything that the records add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JournalState {
    pub register: RegisterEntry,
    pub highest_epoch: u64,
    sessions: BTreeMap<String, SessionRecord>,
    /// The session that began last.
    latest: Option<String>,
}

impl JournalState {
    pub fn apply(&mut self, record: &JournalRecord) {
        match &record.entry {
            Some(JournalEntry::Started(started)) => self.start(started),
            Some(JournalEntry::Register(register)) => self.read(*register),
            Some(JournalEntry::Ended(ended)) => self.end(ended),
            Some(JournalEntry::Settled(settled)) => {
                if let Some(session) = self.sessions.get_mut(&settled.session_id) {
                    session.settled = true;
                    session.ticket = settled.ticket.clone().or(session.ticket.take());
                }
            }
            Some(JournalEntry::Epoch(epoch)) => self.raise(*epoch),
            // A record of a later release; nothing here depends on it.
            None => {}
        }
    }

    fn start(&mut self, started: &StartEntry) {
        let last = RegisterEntry { meter_wh: started.meter_start_wh, at_ms: started.at_ms };
        self.advance(last);
        let session = SessionRecord { started: started.clone(), last, ended: None, settled: false, ticket: None };
        self.latest = Some(started.session_id.clone());
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

    /// The lifetime register never decreases.
    fn advance(&mut self, register: RegisterEntry) {
        if register.meter_wh >= self.register.meter_wh {
            self.register = register;
        }
    }

    /// A Central of a new generation (the upper half of the epoch) may not know what the older one settled.
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

    /// The session that runs, or that the previous process left running.
    pub fn running(&self) -> Option<&SessionRecord> {
        self.sessions.values().find(|s| s.ended.is_none())
    }

    pub fn session(&self, id: &str) -> Option<&SessionRecord> {
        self.sessions.get(id)
    }

    /// The supply of this charging point that began last.
    pub fn latest(&self, charging_point: &str) -> Option<&SessionRecord> {
        let latest = self.latest.as_ref().and_then(|id| self.sessions.get(id));
        latest.filter(|session| session.started.charging_point_id == charging_point)
    }

    /// The sessions of this charging point that Central has not settled: its engine reports them when a link opens.
    pub fn unsettled<'a>(&'a self, charging_point: &'a str) -> impl Iterator<Item = &'a SessionRecord> {
        self.sessions.values().filter(move |s| !s.settled && s.started.charging_point_id == charging_point)
    }

    /// Number of ended sessions that Central has not settled.
    pub fn waiting(&self) -> usize {
        self.sessions.values().filter(|s| s.ended.is_some() && !s.settled).count()
    }

    /// Removes settled sessions that ended longer ago than `retention`.
    pub fn forget(&mut self, now_ms: i64, retention: Duration) {
        let before = now_ms.saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
        self.sessions.retain(|_, s| !s.settled || s.ended.is_none() || s.last.at_ms >= before);
        if self.latest.as_ref().is_some_and(|id| !self.sessions.contains_key(id)) {
            let latest = self.sessions.values().max_by_key(|s| (s.ended.is_none(), s.started.at_ms));
            self.latest = latest.map(|session| session.started.session_id.clone());
        }
    }

    /// The fewest records that add up to the same state.
    pub fn records(&self) -> Vec<JournalRecord> {
        let mut records: Vec<JournalRecord> = Vec::new();
        // The epoch comes before the sessions, because applying it later would unsettle them.
        if self.highest_epoch > 0 {
            records.push(JournalEntry::Epoch(self.highest_epoch).into());
        }
        let mut sessions: Vec<&SessionRecord> = self.sessions.values().collect();
        let is_latest = |s: &SessionRecord| self.latest.as_ref() == Some(&s.started.session_id);
        sessions.sort_by_key(|s| (s.ended.is_none(), is_latest(s), s.started.at_ms));
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
                let (session_id, ticket) = (id.clone(), session.ticket.clone());
                records.push(JournalEntry::Settled(SettledEntry { session_id, ticket }).into());
            }
        }
        if self.register != RegisterEntry::default() && self.running().is_none() {
            records.push(JournalEntry::Register(self.register).into());
        }
        records
    }
}
