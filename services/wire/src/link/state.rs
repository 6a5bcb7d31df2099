//! What a link keeps through all its phases, and how it ends.

use std::{collections::VecDeque, time::Instant};

use proto::link::v1::Part;

use crate::{
    conversation::Conversation,
    event::{Closed, Event, Unintelligible},
    settings::{LinkSettings, UNPROVEN_FRAME},
};

/// An empty event queue keeps capacity for this many events.
const EVENTS_KEPT: usize = 4;

pub(super) struct LinkState {
    pub(super) settings: LinkSettings,
    pub(super) initiator: bool,
    pub(super) part: Part,
    pub(super) conversation: Conversation,
    pub(super) events: VecDeque<Event>,
    pub(super) started: Instant,
    /// The owner called `close`.
    pub(super) closing: bool,
    pub(super) closed: bool,
    /// The peer has proven who it is: to an initiator by the handshake, to a responder by its first message.
    pub(super) proven: bool,
    /// Responder: the peer has no key, so completing the handshake proves nothing about it.
    pub(super) first_contact: bool,
}

impl LinkState {
    pub(super) fn new(settings: LinkSettings, initiator: bool, part: Part, now: Instant) -> Self {
        let settings = settings.bounded();
        Self {
            settings,
            initiator,
            part,
            conversation: Conversation::new(UNPROVEN_FRAME.min(settings.max_frame), now),
            events: VecDeque::new(),
            started: now,
            closing: false,
            closed: false,
            proven: false,
            first_contact: false,
        }
    }

    /// When the peer must have proven itself.
    pub(super) fn handshake_due(&self) -> Option<Instant> {
        if self.proven { None } else { self.started.checked_add(self.settings.handshake_timeout) }
    }

    /// When the peer counts as dead. Until it is proven, the time limit of the handshake applies instead.
    pub(super) fn silence_due(&self) -> Option<Instant> {
        if self.proven { self.conversation.silence_due(&self.settings) } else { None }
    }

    pub(super) fn life_sign_due(&self) -> Option<Instant> {
        let gives = self.initiator && self.proven && !self.closing && !self.closed;
        if gives { self.conversation.life_sign_due(self.settings.life_sign) } else { None }
    }

    pub(super) fn emit(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(super) fn not_understood(&mut self, why: Unintelligible) {
        self.emit(Event::Unintelligible(why));
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > EVENTS_KEPT {
            self.events = VecDeque::new();
        }
        event
    }

    /// Queues a frame in clear.
    pub(super) fn push_clear(&mut self, kind: u8, content: &[u8]) {
        let counter = self.conversation.next_number() as u8;
        self.conversation.push([&[counter, kind], content].concat());
    }

    pub(super) fn violation(&mut self, what: &'static str) {
        self.end_at_once(Closed::Protocol(what));
    }

    pub(super) fn not_enquired(&mut self) {
        self.violation("it does not begin with ENQ");
    }

    /// Ends a closing link once the peer has acknowledged everything.
    pub(super) fn close_if_drained(&mut self) {
        if self.closing && self.conversation.is_drained() {
            self.end_at_once(Closed::ByUs);
        }
    }

    /// Ends at once: drops what is queued and sends `EOT`.
    pub(super) fn end_at_once(&mut self, why: Closed) {
        if !self.closed {
            self.conversation.clear();
            self.end_after_queue(why);
        }
    }

    /// Ends after sending what is queued once.
    pub(super) fn end_after_queue(&mut self, why: Closed) {
        if !self.closed {
            self.conversation.send_eot();
            self.end(why);
        }
    }

    /// Ends without sending anything more.
    pub(super) fn end_silently(&mut self, why: Closed) {
        self.conversation.clear();
        self.end(why);
    }

    fn end(&mut self, why: Closed) {
        if !self.closed {
            self.closed = true;
            self.emit(Event::Closed(why));
        }
    }
}
