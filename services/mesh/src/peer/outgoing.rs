//! What Central has to learn from one peer, in three classes and no others.
//!
//! A *state* is owed on every new link and after every change, sent as it is at that moment, and repeated until Central
//! has answered it. A *request* is repeated with its id until it is answered (SPEC 4.2). A *sample* is sent once, and
//! may be lost.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message as _;
use proto::link::v1::{Part, Up, up};

/// Requests that wait for an answer; far above what one peer ever has.
const MOST_REQUESTS: usize = 256;

/// A state that Central keeps of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The monitor's verdict on its engine.
    EngineHealth,
    /// The sessions that the engine's journal holds and that are not known to be settled.
    JournalReport,
}

impl Slot {
    /// Those that a part owes on every link.
    fn of(part: Part) -> &'static [Self] {
        match part {
            Part::Monitor => &[Self::EngineHealth],
            Part::Engine => &[Self::JournalReport],
            Part::Unspecified | Part::Driver | Part::Pairing => &[],
        }
    }
}

#[derive(Debug)]
struct State {
    slot: Slot,
    /// When it is to be sent next; none where Central has acknowledged it.
    due: Option<Instant>,
    /// As it was sent last, until that is acknowledged.
    sent: Option<(u64, up::Body)>,
}

#[derive(Debug)]
struct Request {
    id: u64,
    body: up::Body,
    /// When it is to be sent next.
    due: Instant,
}

/// A message, encoded, with the id by which an answer names it.
pub(super) type Numbered = (u64, Bytes);

#[derive(Debug)]
pub(super) struct OwedMessages {
    repeat: Duration,
    last_id: u64,
    states: Vec<State>,
    requests: VecDeque<Request>,
}

impl OwedMessages {
    pub(super) fn new(part: Part, repeat: Duration, first_id: u64) -> Self {
        let states = Slot::of(part).iter().map(|slot| State { slot: *slot, due: None, sent: None }).collect();
        Self { repeat, last_id: first_id.max(1), states, requests: VecDeque::new() }
    }

    /// A message with an id of its own; an answer to it is not waited for.
    pub(super) fn numbered(&mut self, body: up::Body) -> Numbered {
        self.last_id += 1;
        (self.last_id, encode(self.last_id, body))
    }

    /// Nothing is known of what Central has, or has not, heard on another link.
    pub(super) fn begin_link(&mut self, now: Instant) {
        for state in &mut self.states {
            (state.due, state.sent) = (Some(now), None);
        }
        for request in &mut self.requests {
            request.due = now;
        }
    }

    #[cfg(test)]
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let requests = self.requests.iter().map(|request| request.due);
        requests.chain(self.states.iter().filter_map(|state| state.due)).min()
    }

    // ---- States

    pub(super) fn owe(&mut self, slot: Slot, now: Instant) {
        if let Some(state) = self.states.iter_mut().find(|state| state.slot == slot) {
            (state.due, state.sent) = (Some(now), None);
        }
    }

    pub(super) fn due_state(&self, now: Instant) -> Option<Slot> {
        self.states.iter().find(|state| state.due.is_some_and(|due| due <= now)).map(|state| state.slot)
    }

    /// What has not changed since it was sent keeps its id: the answer to an earlier sending counts.
    pub(super) fn state(&mut self, slot: Slot, body: up::Body, now: Instant) -> Option<Bytes> {
        let state = self.states.iter_mut().find(|state| state.slot == slot)?;
        state.due = Some(now + self.repeat);
        let id = match &state.sent {
            Some((id, sent)) if *sent == body => *id,
            _changed => {
                self.last_id += 1;
                self.last_id
            }
        };
        state.sent = Some((id, body.clone()));
        Some(encode(id, body))
    }

    // ---- Requests

    /// What waits for its answer already is not sent twice.
    pub(super) fn request(&mut self, body: up::Body, now: Instant) -> u64 {
        if let Some(known) = self.requests.iter().find(|request| request.body == body) {
            return known.id;
        }
        if self.requests.len() >= MOST_REQUESTS {
            tracing::warn!("too many messages wait for Central's answer; the oldest is dropped");
            self.requests.pop_front();
        }
        self.last_id += 1;
        self.requests.push_back(Request { id: self.last_id, body, due: now });
        self.last_id
    }

    pub(super) fn requests(&self) -> impl Iterator<Item = &up::Body> {
        self.requests.iter().map(|request| &request.body)
    }

    pub(super) fn withdraw(&mut self, such: impl Fn(&up::Body) -> bool) {
        self.requests.retain(|request| !such(&request.body));
    }

    /// Those that are due, sent with this.
    pub(super) fn due_requests(&mut self, now: Instant) -> Vec<Bytes> {
        let due = self.requests.iter_mut().filter(|request| request.due <= now);
        due.map(|request| {
            request.due = now + self.repeat;
            encode(request.id, request.body.clone())
        })
        .collect()
    }

    // ---- Answers

    /// What the answer to `to` is about. Where it `settles` nothing, that is repeated.
    pub(super) fn answered(&mut self, to: u64, settles: bool) -> Option<up::Body> {
        if let Some(state) = self.states.iter_mut().find(|s| s.sent.as_ref().is_some_and(|(id, _)| *id == to)) {
            if !settles {
                return state.sent.as_ref().map(|(_, body)| body.clone());
            }
            state.due = None;
            return state.sent.take().map(|(_, body)| body);
        }
        let at = self.requests.iter().position(|request| request.id == to)?;
        if settles {
            self.requests.remove(at).map(|request| request.body)
        } else {
            self.requests.get(at).map(|request| request.body.clone())
        }
    }
}

pub(super) fn encode(id: u64, body: up::Body) -> Bytes {
    Up { id, body: Some(body) }.encode_to_vec().into()
}
