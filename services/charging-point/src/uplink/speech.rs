//! What is said to Central and what it says: repeated with its id until answered, and never from an older epoch.

use std::{mem, time::Instant};

use bytes::Bytes;
use mesh::clock::Now;
use prost::Message as _;
use proto::link::v1::{Answer, Down, ReadClock, Reason, Unsupported, Up, down, up};

use super::{Heard, LinkNo, Order, Uplink};

/// Messages that wait for an answer; far above what one part ever has.
const MOST_PENDING: usize = 64;

#[derive(Debug)]
pub(super) struct Pending {
    id: u64,
    body: up::Body,
    pub(super) again_at: Option<Instant>,
}

impl Uplink {
    // ---- What is said

    /// Said until answered.
    pub fn post(&mut self, body: up::Body, now: Instant) {
        if self.pending.len() >= MOST_PENDING {
            self.pending.pop_front();
        }
        self.last_id += 1;
        let mut pending = Pending { id: self.last_id, body, again_at: None };
        self.transmit(&mut pending, now);
        self.pending.push_back(pending);
    }

    /// As `post`, and takes the place of an unanswered one of the same kind: only the newest matters.
    pub fn replace(&mut self, body: up::Body, now: Instant) {
        self.withdraw(|other| mem::discriminant(other) == mem::discriminant(&body));
        self.post(body, now);
    }

    /// Said once, if anybody hears it. Returns whether a link took it.
    pub fn say(&mut self, body: up::Body) -> bool {
        let Some(conn) = self.active.as_ref().filter(|c| !c.first_contact) else { return false };
        self.orders.push_back(Order::Send(conn.no, encode(0, body)));
        true
    }

    /// As `say`, with an id, by which an answer names it.
    fn say_with_id(&mut self, body: up::Body) {
        if let Some(link) = self.active.as_ref().filter(|c| !c.first_contact).map(|c| c.no) {
            self.greet(link, body);
        }
    }

    pub(super) fn read_clock(&mut self, now: Now) {
        self.say_with_id(up::Body::ReadClock(ReadClock {}));
        self.clock.asked(self.last_id, now);
    }

    /// Said on one link alone; an answer to it is not waited for.
    pub fn greet(&mut self, link: LinkNo, body: up::Body) {
        self.last_id += 1;
        self.orders.push_back(Order::Send(link, encode(self.last_id, body)));
    }

    /// As `replace`, but first said on `link`, which may not be the one to speak on yet.
    pub fn replace_on(&mut self, link: LinkNo, body: up::Body, now: Instant) {
        self.withdraw(|other| mem::discriminant(other) == mem::discriminant(&body));
        self.greet(link, body.clone());
        self.pending.push_back(Pending { id: self.last_id, body, again_at: Some(now + self.settings.repeat) });
    }

    /// Whether such a message is to be said again now.
    pub fn repeats(&self, now: Instant, such: impl Fn(&up::Body) -> bool) -> bool {
        let is_due = |p: &Pending| p.again_at.is_none_or(|at| at <= now);
        self.reachable() && self.pending.iter().any(|p| is_due(p) && such(&p.body))
    }

    /// No longer repeats what `over` holds for.
    pub fn withdraw(&mut self, over: impl Fn(&up::Body) -> bool) {
        self.pending.retain(|p| !over(&p.body));
    }

    fn transmit(&mut self, pending: &mut Pending, now: Instant) {
        if let Some(conn) = self.active.as_ref().filter(|c| !c.first_contact) {
            self.orders.push_back(Order::Send(conn.no, encode(pending.id, pending.body.clone())));
            pending.again_at = Some(now + self.settings.repeat);
        }
    }

    pub(super) fn repeat(&mut self, now: Instant, due: impl Fn(&Pending) -> bool) {
        let mut all = mem::take(&mut self.pending);
        for pending in all.iter_mut().filter(|p| due(p)) {
            self.transmit(pending, now);
        }
        self.pending = all;
    }

    // ---- What is heard

    pub(super) fn could_not_read(&mut self) {
        self.unintelligible += 1;
        self.cannot_read = true;
        self.heard.push_back(Heard::Unintelligible);
    }

    pub(super) fn message(&mut self, bytes: &[u8], now: Now) {
        let Ok(down) = Down::decode(bytes) else { return self.could_not_read() };
        self.cannot_read = false;
        if down.epoch > self.highest_epoch {
            self.highest_epoch = down.epoch;
            self.heard.push_back(Heard::Epoch(down.epoch));
        }
        match down.body {
            Some(down::Body::Answer(answer)) => self.answered(answer),
            Some(down::Body::Clock(clock)) => self.clock.told(clock.to, clock.at_ms, now),
            Some(down::Body::Unsupported(unsupported)) if unsupported.to == 0 => self.is_not_read = true,
            Some(down::Body::Unsupported(unsupported)) => {
                let detail = "Central does not know this message: it is older than this charging point".to_owned();
                self.answered(Answer { to: unsupported.to, reason: Reason::Invalid.into(), detail });
            }
            Some(body) if is_fenced(&body) && down.epoch < self.highest_epoch => {
                tracing::warn!(epoch = down.epoch, highest = self.highest_epoch, "ignored a message of an older epoch");
            }
            Some(body) => self.heard.push_back(Heard::Body(Box::new(body))),
            // A newer Central's: it is told (SPEC 4.3).
            None => self.say_with_id(up::Body::Unsupported(Unsupported::default())),
        }
    }

    fn answered(&mut self, answer: Answer) {
        self.is_not_read = false;
        let reason = answer.reason();
        let Some(at) = self.pending.iter().position(|p| p.id == answer.to) else { return };
        // What Central could not do now is to be said again later (SPEC 9, database).
        if again_later(reason) && !matches!(self.pending.get(at).map(|p| &p.body), Some(up::Body::ManualSupply(_))) {
            return;
        }
        if let Some(pending) = self.pending.remove(at) {
            self.heard.push_back(Heard::Answered { body: Box::new(pending.body), reason, detail: answer.detail });
        }
    }
}

fn encode(id: u64, body: up::Body) -> Bytes {
    Up { id, body: Some(body) }.encode_to_vec().into()
}

/// Orders and views are an owner's; keys and the auth status come before there is one.
fn is_fenced(body: &down::Body) -> bool {
    use down::Body::{
        Answer, Ask, AuthStatus, ChargingPoints, Clock, ConfirmRequest, History, KeyGrant, Release, Running, Settled,
        Step, Stop, Supply, Ticket, Unsupported, View,
    };
    match body {
        View(_) | Ask(_) | Supply(_) | Release(_) | Stop(_) | Settled(_) => true,
        Answer(_) | KeyGrant(_) | AuthStatus(_) | Unsupported(_) | Step(_) | Running(_) | Ticket(_)
        | ChargingPoints(_) | Clock(_) | History(_) | ConfirmRequest(_) => false,
    }
}

fn again_later(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Unavailable | Reason::Overloaded | Reason::TooManyAttempts | Reason::Fenced | Reason::NoAnswer
    )
}
