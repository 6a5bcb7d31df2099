//! One client end of a link to Central (SPEC 4), the same for monitors, engines and drivers.
//!
//! ```text
//!  role ─▶ [`Peer`]: session (which link) + outgoing (what is owed) ─▶ [`LinkCommand`] ─▶ [`PeerConnections`] ─▶ Central
//!  role ◀─ [`PeerEvent`] ◀─ session, incoming ◀────────────────────── [`LinkEvent`] ◀──────┘
//! ```
//!
//! [`Enrollee`] is a peer with an identity of its own: it enrols at Registry and authenticates to Central. An engine
//! has none, and is given its monitor's key. [`run`] is the event loop of all of them.
//!
//! All but [`PeerConnections`], [`RegistryClient`], [`EnrolleeIo`] and [`run`] is pure: inputs and the time go in, commands
//! come out, and chance is seeded by the caller.
//!
//! Guarantees: what must be learnt is repeated until it is answered (4.2); what comes from an older epoch than the
//! highest one heard is not handed on (4.9).

mod connections;
mod enrollee;
mod event_loop;
mod identity;
mod incoming;
mod io;
mod outgoing;
mod registry;
mod session;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::link::v1::{Part, ReadClock, Reason, Unsupported, down, up};
use rand::rngs::StdRng;

pub use self::{
    connections::PeerConnections,
    enrollee::{Enrollee, EnrolleeCommand, EnrolleeEvent, EnrolleeInput, EnrolleeSettings, Membership},
    event_loop::{PeerRole, run},
    identity::{StoredIdentity, StoredIdentityError, StoredKey, public_keys},
    io::EnrolleeIo,
    outgoing::Slot,
    registry::{RegistryAnswer, RegistryCall, RegistryClient, RegistryError},
    session::{Dial, LinkCommand, LinkError, LinkEvent, LinkTarget},
};
use self::{incoming::CentralSignals, outgoing::OwedMessages, session::LinkSession};
pub use crate::link::LinkNo;
use crate::{clock::Now, skew};

/// Times of one end of a link, each a setting.
#[derive(Clone, Copy, Debug)]
pub struct PeerSettings {
    /// Wait after the first failure to connect; doubled with each further one.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// What was not answered is sent again after this.
    pub repeat: Duration,
    /// Of each link; the interval of its signs of life is that of its target.
    pub wire: wire::LinkSettings,
    pub clock: skew::SkewSettings,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(5),
            repeat: Duration::from_secs(5),
            wire: wire::LinkSettings::default(),
            clock: skew::SkewSettings::default(),
        }
    }
}

/// What a role has to know of its link.
#[derive(Debug, PartialEq)]
pub enum PeerEvent {
    /// Send the first message on this link.
    Open {
        link: LinkNo,
        first_contact: bool,
    },
    /// The first link under a key after none: everything can be said now.
    Reached,
    /// Central spoke on a link under this key: it has opened what was said there.
    Proven {
        key_no: u64,
    },
    /// The last link is gone.
    Lost(String),
    /// While there is no link, an attempt to make one failed.
    Failed(String),
    /// Central does not know the key that was named, or the keys of the two ends do not agree.
    UnknownKey {
        first_contact: bool,
    },
    Message(Box<down::Body>),
    /// The answer to a request or a state: done, or refused for good.
    Answered {
        body: Box<up::Body>,
        reason: Reason,
        detail: String,
    },
    /// Central cannot do it now; it is asked again.
    Deferred {
        body: Box<up::Body>,
        reason: Reason,
        detail: String,
    },
    /// A higher epoch than any before.
    Epoch(u64),
    /// A message could not be opened.
    Unintelligible,
}

/// The client end of one link.
#[derive(Debug)]
pub struct Peer {
    session: LinkSession,
    outgoing: OwedMessages,
    incoming: CentralSignals,
}

impl Peer {
    /// `now`: ids of messages begin above those of earlier processes. `highest_epoch`: as the process before knew it.
    pub fn new(part: Part, settings: &PeerSettings, highest_epoch: u64, rng: StdRng, now: Now) -> Self {
        let first_id = u64::try_from(now.wall_ms).unwrap_or(0) << 12;
        Self {
            session: LinkSession::new(part, settings, rng),
            outgoing: OwedMessages::new(part, settings.repeat, first_id),
            incoming: CentralSignals::new(settings.clock, highest_epoch),
        }
    }

    // ---- Where to

    /// Connects to `target`. A present link is kept until Central has spoken on the new one.
    pub fn connect_to(&mut self, target: LinkTarget, now: Instant) {
        self.session.connect_to(target, now);
    }

    /// As [`Self::connect_to`], with a new link even where the target is the same.
    pub fn reconnect_to(&mut self, target: LinkTarget, now: Instant) {
        self.session.reconnect_to(target, now);
    }

    /// What to connect to once the present link is gone.
    pub fn set_next_target(&mut self, target: LinkTarget) {
        self.session.set_next_target(target);
    }

    /// What the next attempt connects to, when it is time for that.
    pub fn set_target(&mut self, target: LinkTarget) {
        self.session.set_target(target);
    }

    /// A present link stays until it ends; no other is made.
    pub fn stop_dialing(&mut self) {
        self.session.stop_dialing();
    }

    /// Closes every link in order, and makes no other.
    pub fn disconnect(&mut self, now: Instant) {
        self.session.disconnect();
        self.note_link(now);
    }

    // ---- What is the case

    /// A link under a key is open.
    pub fn is_reachable(&self) -> bool {
        self.session.reachable_on().is_some()
    }

    /// A link is open, if only one that carries nothing but signs of life.
    pub fn is_linked(&self) -> bool {
        self.session.active_link().is_some()
    }

    /// The link to speak on.
    pub fn link(&self) -> Option<LinkNo> {
        self.session.active_link()
    }

    /// Central's address at the other end of the link.
    pub fn address(&self) -> Option<&str> {
        self.session.address()
    }

    /// Why Central cannot be reached, in words.
    pub fn trouble(&self) -> Option<&str> {
        self.session.trouble()
    }

    /// How many messages from Central could not be opened.
    pub fn unintelligible(&self) -> u64 {
        self.incoming.unintelligible
    }

    /// The last message from Central could not be opened.
    pub fn cannot_read(&self) -> bool {
        self.incoming.cannot_read
    }

    /// Central said that it cannot open what is sent, and has answered nothing since.
    pub fn is_not_read(&self) -> bool {
        self.incoming.is_not_read
    }

    /// That this host's clock is wrong, in words.
    pub fn clock_trouble(&self) -> Option<String> {
        self.incoming.clock.trouble()
    }

    pub fn highest_epoch(&self) -> u64 {
        self.incoming.highest_epoch
    }

    /// After a new enrolment the order of epochs begins anew.
    pub fn forget_epoch(&mut self) {
        self.incoming.highest_epoch = 0;
    }

    // ---- What is sent

    /// The first message on a link that has opened.
    pub fn greet(&mut self, link: LinkNo, body: up::Body) {
        let (_, message) = self.outgoing.numbered(body);
        self.session.commands.push_back(LinkCommand::Send(link, message));
    }

    /// Sends it, and repeats it with its id until it is answered. The id.
    pub fn request(&mut self, body: up::Body, now: Instant) -> u64 {
        self.outgoing.request(body, now)
    }

    /// Requests that have not been answered.
    pub fn requests(&self) -> impl Iterator<Item = &up::Body> {
        self.outgoing.requests()
    }

    /// No longer repeats such requests.
    pub fn withdraw(&mut self, such: impl Fn(&up::Body) -> bool) {
        self.outgoing.withdraw(such);
    }

    /// Sends it once, if there is a link under a key: it may be lost.
    pub fn sample(&mut self, body: up::Body) {
        self.send(outgoing::encode(0, body));
    }

    /// Central has to learn this state: after a change, or where it seems to have forgotten it.
    pub fn owe(&mut self, slot: Slot, now: Instant) {
        self.outgoing.owe(slot, now);
    }

    /// The state that is to be sent now, by [`Self::send_state`].
    pub fn due_state(&self, now: Instant) -> Option<Slot> {
        self.outgoing.due_state(now).filter(|_| self.is_reachable())
    }

    pub fn send_state(&mut self, slot: Slot, body: up::Body, now: Instant) {
        if let Some(message) = self.outgoing.state(slot, body, now).filter(|_| self.is_reachable()) {
            self.send(message);
        }
    }

    /// Sends the requests that are due; the role calls it at the end of each of its inputs, once it has greeted a new
    /// link and sent its states.
    pub fn send_requests(&mut self, now: Instant) {
        if self.is_reachable() {
            self.outgoing.due_requests(now).into_iter().for_each(|message| self.send(message));
        }
    }

    fn send(&mut self, message: Bytes) {
        if let Some(link) = self.session.reachable_on() {
            self.session.commands.push_back(LinkCommand::Send(link, message));
        }
    }

    // ---- What happens

    pub fn handle(&mut self, link: LinkNo, event: LinkEvent, now: Now) {
        if !self.session.knows(link) {
            // A link that was given up: its last words are Central's to repeat.
            return;
        }
        match event {
            LinkEvent::Open => self.session.opened(link),
            LinkEvent::Message(bytes) => {
                self.session.spoken_on(link);
                self.note_link(now.mono);
                self.message(&bytes, now);
            }
            LinkEvent::Busy(retry_after) => self.session.busy(retry_after, now.mono),
            LinkEvent::UnknownKey => self.session.unknown_key(link),
            LinkEvent::Unintelligible(_) => self.unintelligible_message(),
            LinkEvent::Closed(why) => self.session.closed(link, &why, now.mono),
        }
        self.note_link(now.mono);
    }

    /// On another link than before nothing is known of what Central has heard.
    fn note_link(&mut self, now: Instant) {
        let active = self.session.active_link();
        if self.incoming.link == active {
            return;
        }
        self.incoming.begin_link(active, self.is_reachable(), now);
        if self.is_reachable() {
            self.outgoing.begin_link(now);
        }
    }

    fn unintelligible_message(&mut self) {
        self.incoming.count_unintelligible();
        self.session.events.push_back(PeerEvent::Unintelligible);
    }

    fn message(&mut self, bytes: &[u8], now: Now) {
        let Some(down) = self.incoming.opened(bytes) else { return self.unintelligible_message() };
        if self.incoming.is_new_epoch(down.epoch) {
            self.session.events.push_back(PeerEvent::Epoch(down.epoch));
        }
        match down.body {
            Some(down::Body::Answer(answer)) => {
                self.incoming.is_not_read = false;
                self.answered(answer.to, Reason::received(answer.reason), answer.detail);
            }
            Some(down::Body::Clock(clock)) => self.incoming.clock.told(clock.to, clock.at_ms, now),
            Some(down::Body::Unsupported(Unsupported { to: 0 })) => self.incoming.is_not_read = true,
            Some(down::Body::Unsupported(Unsupported { to })) => {
                let detail = "Central does not know this message: its software is older than this".to_owned();
                self.answered(to, Reason::Invalid, detail);
            }
            Some(body) if self.incoming.is_fenced(&body, down.epoch) => {}
            Some(body) => self.session.events.push_back(PeerEvent::Message(Box::new(body))),
            // Of a newer Central, which is told so (SPEC 4.3).
            None => {
                self.send_numbered(up::Body::Unsupported(Unsupported::default()));
            }
        }
    }

    fn answered(&mut self, to: u64, reason: Reason, detail: String) {
        // What Central could not do now is asked again later (SPEC 9, database).
        let deferred = reason.is_undecided();
        let Some(body) = self.outgoing.answered(to, !deferred).map(Box::new) else { return };
        let event = if deferred {
            PeerEvent::Deferred { body, reason, detail }
        } else {
            PeerEvent::Answered { body, reason, detail }
        };
        self.session.events.push_back(event);
    }

    fn send_numbered(&mut self, body: up::Body) -> u64 {
        let (id, message) = self.outgoing.numbered(body);
        self.send(message);
        id
    }

    pub fn next_event(&mut self) -> Option<PeerEvent> {
        self.session.events.pop_front()
    }

    pub fn next_command(&mut self) -> Option<LinkCommand> {
        self.session.commands.pop_front()
    }

    // ---- Time

    pub fn handle_timeout(&mut self, now: Now) {
        self.session.dial_if_due(now.mono);
        if self.incoming.clock.due().is_some_and(|due| due <= now.mono) {
            let id = self.send_numbered(up::Body::ReadClock(ReadClock { at_ms: now.wall_ms }));
            self.incoming.clock.asked(id, now);
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let reachable = [self.outgoing.due(), self.incoming.clock.due()].into_iter().flatten();
        self.session.due().into_iter().chain(reachable.filter(|_| self.is_reachable())).min()
    }
}
