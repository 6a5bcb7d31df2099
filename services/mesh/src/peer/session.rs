//! The links of one peer to Central: when to dial, where, with which proof, and over which link to speak.
//!
//! Guarantees: a new key is taken into use make-before-break (SPEC 4.6: the old link is closed in order once Central
//! has spoken on the new one); retries back off and are jittered, so that thousands come back without a stampede (9).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use proto::link::v1::Part;
use rand::{Rng as _, rngs::StdRng};
use wire::{Closed, LinkKey, Proof, PublicKey, Unintelligible};

use super::{PeerEvent, PeerSettings};
use crate::link::{Backoff, LinkNo};

/// Where to connect, and with which identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkTarget {
    /// The charging point or the driver.
    pub id: String,
    /// Central's link addresses, tried in turn.
    pub central: Vec<String>,
    /// Central's static public keys, at most two; tried in turn.
    pub pins: Vec<PublicKey>,
    /// The key to prove, with its number; without one the link is a first contact.
    pub key: Option<(u64, LinkKey)>,
    pub life_sign: Duration,
}

/// One connection to be made.
#[derive(Clone, Debug)]
pub struct Dial {
    pub link: LinkNo,
    pub part: Part,
    pub id: String,
    pub address: String,
    pub proof: Proof,
    pub settings: wire::LinkSettings,
}

/// What the I/O layer has to do.
#[derive(Debug)]
pub enum LinkCommand {
    Dial(Box<Dial>),
    Send(LinkNo, Bytes),
    /// In order: what was sent before is delivered first.
    Close(LinkNo),
}

/// What happens on one connection.
#[derive(Clone, Debug)]
pub enum LinkEvent {
    Open,
    Message(Bytes),
    Busy(Duration),
    UnknownKey,
    Unintelligible(Unintelligible),
    /// It ended, or could not be made.
    Closed(LinkError),
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{0}")]
    Link(#[from] Closed),
    #[error("{0}")]
    Connect(String),
}

/// One connection, begun or open.
#[derive(Debug)]
struct Attempt {
    no: LinkNo,
    address: String,
    /// 0: a first contact.
    key_no: u64,
    /// Which [`LinkSession::connect_to`] it serves.
    target_no: u64,
    open: bool,
    /// Central has spoken on it.
    proven: bool,
}

#[derive(Debug)]
pub(super) struct LinkSession {
    part: Part,
    wire: wire::LinkSettings,
    rng: StdRng,
    target: Option<LinkTarget>,
    target_no: u64,
    /// The link to speak on.
    active: Option<Attempt>,
    /// Takes its place once Central has spoken on it.
    next: Option<Attempt>,
    last_no: u64,
    dialing: Dialing,
    pub(super) commands: VecDeque<LinkCommand>,
    pub(super) events: VecDeque<PeerEvent>,
}

/// When to dial again, and why that is necessary.
#[derive(Debug)]
struct Dialing {
    backoff: Backoff,
    at: Option<Instant>,
    trouble: Option<String>,
}

impl LinkSession {
    pub(super) fn new(part: Part, settings: &PeerSettings, rng: StdRng) -> Self {
        let backoff = Backoff::new(settings.retry_min, settings.retry_max);
        Self {
            part,
            wire: settings.wire,
            rng,
            target: None,
            target_no: 0,
            active: None,
            next: None,
            last_no: 0,
            dialing: Dialing { backoff, at: None, trouble: None },
            commands: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    // ---- Where to

    pub(super) fn connect_to(&mut self, target: LinkTarget, now: Instant) {
        if self.target.as_ref() != Some(&target) {
            self.reconnect_to(target, now);
        }
    }

    pub(super) fn reconnect_to(&mut self, target: LinkTarget, now: Instant) {
        self.target = Some(target);
        self.target_no += 1;
        self.dialing.backoff.reset();
        self.drop_next();
        self.dialing.at = Some(now);
        self.dial_if_due(now);
    }

    pub(super) fn disconnect(&mut self) {
        self.stop_dialing();
        self.dialing.trouble = None;
        if let Some(active) = self.active.take() {
            self.commands.push_back(LinkCommand::Close(active.no));
        }
    }

    pub(super) fn stop_dialing(&mut self) {
        self.target = None;
        self.dialing.at = None;
        self.drop_next();
    }

    pub(super) fn set_target(&mut self, target: LinkTarget) {
        self.target = Some(target);
    }

    pub(super) fn set_next_target(&mut self, target: LinkTarget) {
        self.stop_dialing();
        self.target = Some(target);
        if let Some(active) = &mut self.active {
            active.target_no = self.target_no;
        }
    }

    fn drop_next(&mut self) {
        if let Some(next) = self.next.take() {
            self.commands.push_back(LinkCommand::Close(next.no));
        }
    }

    // ---- What is the case

    pub(super) fn knows(&self, link: LinkNo) -> bool {
        self.active.iter().chain(&self.next).any(|attempt| attempt.no == link)
    }

    pub(super) fn active_link(&self) -> Option<LinkNo> {
        self.active.as_ref().map(|active| active.no)
    }

    /// The link to speak on, where that proved a key.
    pub(super) fn reachable_on(&self) -> Option<LinkNo> {
        self.active.as_ref().filter(|active| active.key_no != 0).map(|active| active.no)
    }

    pub(super) fn address(&self) -> Option<&str> {
        self.active.as_ref().map(|active| active.address.as_str())
    }

    pub(super) fn trouble(&self) -> Option<&str> {
        self.dialing.trouble.as_deref()
    }

    // ---- What happens

    pub(super) fn opened(&mut self, link: LinkNo) {
        let Some(next) = self.next.as_mut().filter(|next| next.no == link) else { return };
        next.open = true;
        let first_contact = next.key_no == 0;
        self.events.push_back(PeerEvent::Open { link, first_contact });
        if self.active.is_none() {
            self.promote();
        }
    }

    /// Central has spoken on this link: it has opened what was said there.
    pub(super) fn spoken_on(&mut self, link: LinkNo) {
        if self.next.as_ref().is_some_and(|next| next.no == link) {
            self.promote();
        }
        self.dialing.backoff.reset();
        let Some(active) = self.active.as_mut().filter(|active| !active.proven) else { return };
        active.proven = true;
        if active.key_no != 0 {
            self.events.push_back(PeerEvent::Proven { key_no: active.key_no });
        }
    }

    /// The new link is the one to speak on.
    fn promote(&mut self) {
        let Some(next) = self.next.take() else { return };
        let is_first = self.reachable_on().is_none() && next.key_no != 0;
        if let Some(old) = self.active.replace(next) {
            self.commands.push_back(LinkCommand::Close(old.no));
        }
        self.dialing.at = None;
        self.dialing.trouble = None;
        if is_first {
            self.events.push_back(PeerEvent::Reached);
        }
    }

    pub(super) fn busy(&mut self, retry_after: Duration, now: Instant) {
        self.dialing.at = Some(now + self.dialing.backoff.after_busy(retry_after, self.rng.random()));
    }

    pub(super) fn unknown_key(&mut self, link: LinkNo) {
        let named = self.active.iter().chain(&self.next).find(|attempt| attempt.no == link);
        let first_contact = named.is_some_and(|attempt| attempt.key_no == 0);
        self.events.push_back(PeerEvent::UnknownKey { first_contact });
    }

    pub(super) fn closed(&mut self, link: LinkNo, why: &LinkError, now: Instant) {
        let text = why.to_string();
        if self.active_link() == Some(link) {
            self.active = None;
            if self.next.as_ref().is_some_and(|next| next.open) {
                return self.promote();
            }
            self.events.push_back(PeerEvent::Lost(text.clone()));
        } else {
            let first_contact = self.next.take().is_some_and(|next| next.key_no == 0);
            if matches!(why, LinkError::Link(Closed::HandshakeFailed)) {
                self.events.push_back(PeerEvent::UnknownKey { first_contact });
            }
            if self.active.is_none() {
                self.events.push_back(PeerEvent::Failed(text.clone()));
            }
        }
        if self.active.is_none() {
            self.dialing.trouble = Some(text);
        }
        let wait = self.dialing.backoff.wait(self.rng.random());
        if self.next.is_none() && self.target.is_some() {
            self.dialing.at = Some(self.dialing.at.map_or(now + wait, |at| at.max(now + wait)));
        }
    }

    // ---- Time

    pub(super) fn due(&self) -> Option<Instant> {
        self.dialing.at.filter(|_| self.wants_link())
    }

    fn wants_link(&self) -> bool {
        let serves = |active: &Attempt| active.target_no == self.target_no;
        self.target.is_some() && self.next.is_none() && !self.active.as_ref().is_some_and(serves)
    }

    pub(super) fn dial_if_due(&mut self, now: Instant) {
        if self.due().is_none_or(|at| at > now) {
            return;
        }
        let Some(target) = &self.target else { return };
        let turn = self.last_no as usize;
        let pin = pick(&target.pins, turn / target.central.len().max(1));
        self.dialing.at = None;
        let (Some(address), Some(pin)) = (pick(&target.central, turn), pin) else {
            self.dialing.trouble = Some("Central's address or key is not known yet".to_owned());
            return;
        };
        self.last_no += 1;
        let no = LinkNo(self.last_no);
        let (proof, key_no) = match target.key.clone() {
            None => (Proof::FirstContact { responder: *pin }, 0),
            Some((key_no, key)) => (Proof::Key { responder: *pin, key_no, key }, key_no),
        };
        let dial = Dial {
            link: no,
            part: self.part,
            id: target.id.clone(),
            address: address.clone(),
            proof,
            settings: wire::LinkSettings { life_sign: target.life_sign, ..self.wire },
        };
        let (address, target_no) = (address.clone(), self.target_no);
        self.next = Some(Attempt { no, address, key_no, target_no, open: false, proven: false });
        self.commands.push_back(LinkCommand::Dial(Box::new(dial)));
    }
}

fn pick<T>(all: &[T], turn: usize) -> Option<&T> {
    all.get(turn.checked_rem(all.len())?)
}
