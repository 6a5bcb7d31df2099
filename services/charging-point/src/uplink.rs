//! One part's way to Central: when to dial, with which proof, over which link to speak, and what must be said again.
//!
//! Pure. Guarantees: a new key is taken into use make-before-break (SPEC 4.6: the old link is closed in order once
//! Central has spoken on the new one); a posted message is repeated with its id until it is answered (4.2); what comes
//! from an older epoch than the highest one heard is not handed on (4.9); retries back off and are jittered, so that
//! thousands come back without a stampede (9).

mod speech;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mesh::{
    clock::Now,
    link::Backoff,
    skew::{self, ClockReader},
};
use proto::link::v1::{Part, Reason, down, up};
use wire::{Closed, LinkKey, PublicKey, Unintelligible};

use crate::chance::Chance;
use speech::Pending;

/// Times of the way, each a setting.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Wait after the first failure; doubled with each further one.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// A posted message is said again after this.
    pub repeat: Duration,
    /// Of each link, but for the interval of its signs of life.
    pub wire: wire::LinkSettings,
    pub clock: skew::SkewSettings,
}

impl Default for Settings {
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

/// A connection's number, unique in this process for its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkNo(pub u64);

/// What is proven to Central.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    FirstContact,
    Key { key_no: u64, key: LinkKey },
}

/// Whom to reach, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub id: String,
    pub central: Vec<String>,
    /// Central's static public keys, at most two; tried in turn.
    pub pins: Vec<PublicKey>,
    pub claim: Claim,
    pub life_sign: Duration,
}

/// One connection to be made.
#[derive(Clone, Debug)]
pub struct Dial {
    pub link: LinkNo,
    pub part: Part,
    pub id: String,
    pub address: String,
    pub proof: wire::Proof,
    pub settings: wire::LinkSettings,
}

#[derive(Debug)]
pub enum Order {
    Dial(Box<Dial>),
    Send(LinkNo, Bytes),
    /// In order: what was sent before is delivered first.
    Close(LinkNo),
}

/// What a link says.
#[derive(Clone, Debug)]
pub enum LinkEvent {
    Open,
    Message(Bytes),
    Busy(Duration),
    UnknownKey,
    Unintelligible(Unintelligible),
    /// No connection, or a connection's end.
    Closed(Ended),
}

/// Why there is no link.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Ended {
    #[error("{0}")]
    Link(#[from] Closed),
    #[error("{0}")]
    Connect(String),
}

/// What the part itself has to know of it.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// Greet Central on this link.
    Open {
        link: LinkNo,
        first_contact: bool,
    },
    /// The first link after none: everything can be said now.
    Reached,
    /// Central spoke on a link under this key: it has opened what was said there.
    Proven(u64),
    /// The last link is gone.
    Lost(String),
    /// An attempt failed, after so many before it; `keys` when the two ends' keys do not agree.
    Failed {
        why: String,
        keys: bool,
    },
    UnknownKey {
        first_contact: bool,
    },
    Body(Box<down::Body>),
    Answered {
        body: Box<up::Body>,
        reason: Reason,
        detail: String,
    },
    /// A higher epoch than any before.
    Epoch(u64),
    Unintelligible,
}

#[derive(Debug)]
struct Conn {
    no: LinkNo,
    first_contact: bool,
    key_no: u64,
    /// Which [`Uplink::aim`] it serves.
    aim: u64,
    open: bool,
    proven: bool,
}

/// The way of one part.
#[derive(Debug)]
pub struct Uplink {
    part: Part,
    settings: Settings,
    chance: Chance,
    target: Option<Target>,
    aim: u64,
    active: Option<Conn>,
    next: Option<Conn>,
    last_no: u64,
    backoff: Backoff,
    dial_at: Option<Instant>,
    last_id: u64,
    pending: VecDeque<Pending>,
    highest_epoch: u64,
    unintelligible: u64,
    cannot_read: bool,
    /// Central said that it could not open something, and has answered nothing since.
    is_not_read: bool,
    trouble: Option<String>,
    /// Of Central's clock.
    clock: ClockReader,
    orders: VecDeque<Order>,
    heard: VecDeque<Heard>,
}

impl Uplink {
    /// `first_id`: where message ids begin, above those of earlier processes.
    pub fn new(part: Part, settings: Settings, chance: Chance, first_id: u64, highest_epoch: u64) -> Self {
        Self {
            part,
            settings,
            chance,
            target: None,
            aim: 0,
            active: None,
            next: None,
            last_no: 0,
            backoff: Backoff::new(settings.retry_min, settings.retry_max),
            dial_at: None,
            last_id: first_id.max(1),
            pending: VecDeque::new(),
            highest_epoch,
            unintelligible: 0,
            cannot_read: false,
            is_not_read: false,
            trouble: None,
            clock: ClockReader::new(settings.clock),
            orders: VecDeque::new(),
            heard: VecDeque::new(),
        }
    }

    // ---- Where to

    /// Reaches for `target`. A present link is kept until the new one is proven.
    pub fn aim(&mut self, target: Target, now: Instant) {
        if self.target.as_ref() != Some(&target) {
            self.aim_anew(target, now);
        }
    }

    /// As `aim`, with a new link even where the target is the same.
    pub fn aim_anew(&mut self, target: Target, now: Instant) {
        self.target = Some(target);
        self.aim += 1;
        self.backoff.reset();
        if let Some(next) = self.next.take() {
            self.orders.push_back(Order::Close(next.no));
        }
        self.dial_at = Some(now);
        self.consider(now);
    }

    /// No link any more, in order.
    pub fn lay_down(&mut self) {
        self.target = None;
        self.dial_at = None;
        self.trouble = None;
        for conn in [self.next.take(), self.active.take()].into_iter().flatten() {
            self.orders.push_back(Order::Close(conn.no));
        }
    }

    /// Dials no more; what is linked stays linked.
    pub fn rest(&mut self) {
        self.target = None;
        self.dial_at = None;
        if let Some(next) = self.next.take() {
            self.orders.push_back(Order::Close(next.no));
        }
    }

    /// What to reach for once the present link is gone.
    pub fn aim_later(&mut self, target: Target) {
        self.rest();
        self.target = Some(target);
        if let Some(active) = &mut self.active {
            active.aim = self.aim;
        }
    }

    /// A link under a key is open.
    pub fn reachable(&self) -> bool {
        self.active.as_ref().is_some_and(|c| !c.first_contact)
    }

    /// This link is the one to speak on.
    pub fn speaks_on(&self, link: LinkNo) -> bool {
        self.active.as_ref().is_some_and(|c| c.no == link)
    }

    /// Some link is open, be it only one that carries nothing but signs of life.
    pub fn linked(&self) -> bool {
        self.active.is_some()
    }

    /// Why Central cannot be reached, in words.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Messages that did not open, and whether that is still so.
    pub fn unintelligible(&self) -> (u64, bool) {
        (self.unintelligible, self.cannot_read)
    }

    /// Central cannot open what is sent.
    pub fn is_not_read(&self) -> bool {
        self.is_not_read
    }

    /// That this host's clock is wrong, in words.
    pub fn clock_trouble(&self) -> Option<String> {
        self.clock.trouble()
    }

    pub fn highest_epoch(&self) -> u64 {
        self.highest_epoch
    }

    /// After a new enrolment the order of epochs begins anew.
    pub fn forget_epoch(&mut self) {
        self.highest_epoch = 0;
    }

    // ---- What is heard

    pub fn handle(&mut self, link: LinkNo, event: LinkEvent, now: Now) {
        let known = |conn: &Option<Conn>| conn.as_ref().is_some_and(|c| c.no == link);
        let (is_active, is_next) = (known(&self.active), known(&self.next));
        if !is_active && !is_next {
            // A link that was given up: its last words are Central's to repeat.
            return;
        }
        match event {
            LinkEvent::Open => self.opened(link, now.mono),
            LinkEvent::Message(bytes) => {
                if is_next {
                    self.promote(now.mono);
                }
                self.proven();
                self.backoff.reset();
                self.message(&bytes, now);
            }
            LinkEvent::Busy(retry) => {
                self.dial_at = Some(now.mono + self.backoff.after_busy(retry, self.chance.draw()));
            }
            LinkEvent::UnknownKey => {
                let conn = if is_active { &self.active } else { &self.next };
                let first_contact = conn.as_ref().is_some_and(|c| c.first_contact);
                self.heard.push_back(Heard::UnknownKey { first_contact });
            }
            LinkEvent::Unintelligible(_) => self.could_not_read(),
            LinkEvent::Closed(why) => self.closed(is_active, &why, now.mono),
        }
    }

    fn opened(&mut self, link: LinkNo, now: Instant) {
        let Some(next) = self.next.as_mut() else { return };
        next.open = true;
        let first_contact = next.first_contact;
        self.heard.push_back(Heard::Open { link, first_contact });
        if self.active.is_none() {
            self.promote(now);
        }
    }

    /// The new link is the one to speak on.
    fn promote(&mut self, now: Instant) {
        let Some(next) = self.next.take() else { return };
        let fresh = !self.reachable() && !next.first_contact;
        // Asked by whatever comes next, behind the greeting.
        if next.first_contact {
            self.clock.pause()
        } else {
            self.clock.begin(now)
        }
        if let Some(old) = self.active.replace(next) {
            self.orders.push_back(Order::Close(old.no));
        }
        self.dial_at = None;
        self.trouble = None;
        self.cannot_read = false;
        self.is_not_read = false;
        if fresh {
            self.heard.push_back(Heard::Reached);
        }
        // Due now, so said after the greeting, which the part says when it takes `Open` out.
        for pending in &mut self.pending {
            pending.again_at = Some(now);
        }
    }

    fn proven(&mut self) {
        let Some(conn) = self.active.as_mut().filter(|c| !c.proven) else { return };
        conn.proven = true;
        if !conn.first_contact {
            self.heard.push_back(Heard::Proven(conn.key_no));
        }
    }

    fn closed(&mut self, was_active: bool, why: &Ended, now: Instant) {
        let text = why.to_string();
        if was_active {
            self.active = None;
            self.clock.pause();
            if self.next.as_ref().is_some_and(|n| n.open) {
                return self.promote(now);
            }
            self.heard.push_back(Heard::Lost(text.clone()));
        } else {
            self.next = None;
            let keys = matches!(why, Ended::Link(Closed::HandshakeFailed));
            self.heard.push_back(Heard::Failed { why: text.clone(), keys });
        }
        if self.active.is_none() {
            self.trouble = Some(text);
        }
        let wait = self.backoff.wait(self.chance.draw());
        if self.next.is_none() && self.target.is_some() {
            self.dial_at = Some(self.dial_at.map_or(now + wait, |at| at.max(now + wait)));
        }
    }

    pub fn next_heard(&mut self) -> Option<Heard> {
        self.heard.pop_front()
    }

    pub fn next_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    // ---- Time

    pub fn handle_timeout(&mut self, now: Now) {
        self.consider(now.mono);
        if self.reachable() {
            self.repeat(now.mono, |p| p.again_at.is_none_or(|at| at <= now.mono));
            if self.clock.due().is_some_and(|due| due <= now.mono) {
                self.read_clock(now);
            }
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let dial = self.dial_at.filter(|_| self.wants_link());
        let again = self.pending.iter().filter_map(|p| p.again_at).filter(|_| self.reachable());
        let clock = self.clock.due().filter(|_| self.reachable());
        dial.into_iter().chain(again).chain(clock).min()
    }

    fn wants_link(&self) -> bool {
        self.target.is_some() && self.next.is_none() && self.active.as_ref().is_none_or(|c| c.aim != self.aim)
    }

    fn consider(&mut self, now: Instant) {
        if !self.wants_link() || self.dial_at.is_none_or(|at| at > now) {
            return;
        }
        let Some(target) = &self.target else { return };
        let turn = self.last_no as usize;
        let pin = pick(&target.pins, turn / target.central.len().max(1));
        let (Some(address), Some(pin)) = (pick(&target.central, turn), pin) else {
            self.dial_at = None;
            self.trouble = Some("Central's address or key is not known yet".to_owned());
            return;
        };
        self.last_no += 1;
        let no = LinkNo(self.last_no);
        let (proof, key_no) = match &target.claim {
            Claim::FirstContact => (wire::Proof::FirstContact { responder: *pin }, 0),
            Claim::Key { key_no, key } => {
                (wire::Proof::Key { responder: *pin, key_no: *key_no, key: key.clone() }, *key_no)
            }
        };
        let first_contact = matches!(target.claim, Claim::FirstContact);
        let dial = Dial {
            link: no,
            part: self.part,
            id: target.id.clone(),
            address: address.clone(),
            proof,
            settings: wire::LinkSettings { life_sign: target.life_sign, ..self.settings.wire },
        };
        self.dial_at = None;
        self.next = Some(Conn { no, first_contact, key_no, aim: self.aim, open: false, proven: false });
        self.orders.push_back(Order::Dial(Box::new(dial)));
    }
}

fn pick<T>(all: &[T], turn: usize) -> Option<&T> {
    all.get(turn.checked_rem(all.len())?)
}
