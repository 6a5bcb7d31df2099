//! What goes out: answers and messages to links, and what is shown of charging points and sessions after each change.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mesh::rate::{RateLimit, TokenBucket};
use prost::Message as _;
use proto::{
    PeerId,
    central::v1 as contract,
    link::v1::{self as link, Down, SessionState, View, down},
};

use super::EventLoop;
use crate::{
    charge_point::{Effect, OrderOutcome, Reply},
    event::DomainEvent,
    origin::LinkNo,
    rows,
    session::Session,
};

/// How long a part has to close a link that one under a newer key has succeeded.
const SUCCEEDED: Duration = Duration::from_secs(5);
/// Ended sessions that watchers are still shown.
const CLOSED: usize = 1_000;

/// Events about one charging point's state: sixty at once, and then one after another, the last one in the end.
const EVENTS: RateLimit = RateLimit { burst: 60, every: Duration::from_secs(5) };

/// Throttles the events about one charging point's state.
#[derive(Debug, Default)]
pub(super) struct EventThrottle {
    allowance: TokenBucket,
    state: Option<i32>,
    /// It is another one by now.
    pub(super) owed: bool,
}

impl EventThrottle {
    /// Whether an event reports this state now.
    fn may_announce(&mut self, state: i32, now: Instant) -> bool {
        self.owed = self.state != Some(state);
        let now = self.owed && self.allowance.take(EVENTS, now);
        if now {
            (self.state, self.owed) = (Some(state), false);
        }
        now
    }
}

impl EventLoop {
    /// Carries out an effect that a core decided on, on behalf of charging point `number`.
    pub(super) fn perform(&mut self, number: Option<usize>, effect: Effect) {
        let point = number.map(|number| &self.points[number].core);
        let epoch = point.map(|core| core.record.epoch).unwrap_or_default();
        let link_of = |linked: &Option<crate::charge_point::PartLink>| linked.as_ref().map(|linked| linked.link);
        match effect {
            Effect::Monitor(body) => {
                if let Some(to) = point.and_then(|core| link_of(&core.live.monitor)) {
                    self.send(to, epoch, body);
                }
            }
            Effect::Engine(body) => {
                if let Some(core) = point
                    && let Some(to) = link_of(&core.live.engine)
                {
                    self.send(to, epoch, self.shared.documents.sign_supply(body, &core.record));
                }
            }
            Effect::Link(to, body) => self.send(to, epoch, body),
            Effect::Driver(driver, body) => {
                if let Some(to) = self.drivers.get(&driver).and_then(|holder| holder.link) {
                    if let down::Body::Ticket(ticket) = &body {
                        let again_at = self.now().mono + self.shared.settings.tickets_again;
                        self.tickets.sent(&driver, &ticket.session_id, again_at);
                    }
                    self.send(to, 0, body);
                }
            }
            Effect::Answer(reply, outcome) => self.answer(reply, &outcome),
            Effect::Grant { link, key_no } => {
                let key = point.and_then(|core| core.record.keys.granted(key_no));
                let link = link.or_else(|| point.and_then(|core| link_of(&core.live.monitor)));
                if let (Some(grant), Some(link)) = (key.and_then(|key| self.grant_message(key)), link) {
                    self.send(link, epoch, grant);
                }
            }
            Effect::Close(link) => self.close(link),
            Effect::CloseTakenOver(link) => {
                let reason = link::Reason::Fenced.into();
                let detail = "another link of its part has taken its place".to_owned();
                self.send(link, epoch, down::Body::Answer(link::Answer { reason, detail, ..link::Answer::default() }));
                self.close(link);
            }
            Effect::CloseLater(link) => self.close_later(link, SUCCEEDED),
            Effect::Fetch { session, last, reply } => {
                if let Some(number) = number {
                    self.fetch(number, session, last, reply);
                }
            }
            Effect::Recall { session, last, evidence, reply } => {
                if let Some(number) = number {
                    self.recall(number, session, (last, evidence), reply);
                }
            }
            Effect::Alarm(text) => tracing::error!(alarm = true, "{text}"),
        }
    }

    pub(super) fn grant_message(&self, key: &crate::key::KeyEntry) -> Option<down::Body> {
        Some(down::Body::KeyGrant(link::KeyGrant {
            key_no: key.no,
            key: key.material.as_ref()?.as_bytes().to_vec(),
            expires_at_ms: key.expires_at,
            pins: self.shared.pins.iter().map(|pin| pin.as_bytes().to_vec()).collect(),
        }))
    }

    pub(super) fn answer(&mut self, reply: Reply, outcome: &OrderOutcome) {
        match reply {
            Reply::None | Reply::Link { to: 0, .. } => {}
            Reply::Link { link, to } => {
                let (reason, detail) = match outcome {
                    OrderOutcome::Done | OrderOutcome::Unchanged => (link::Reason::Unspecified, String::new()),
                    OrderOutcome::Failed(reason, detail) => (*reason, detail.clone()),
                };
                let epoch = self.epoch_of(link);
                let reason = reason.into();
                self.send(
                    link,
                    epoch,
                    down::Body::Answer(link::Answer { to, reason, detail, ..link::Answer::default() }),
                );
            }
            Reply::Order(number) => {
                if let Some(waiting) = self.waiting.remove(&number) {
                    // The caller may have gone; what was done is done.
                    drop(waiting.send(outcome.clone()));
                }
            }
        }
    }

    /// Every message to a charging point carries its epoch (SPEC 4.9).
    fn epoch_of(&self, link: LinkNo) -> u64 {
        match self.links.get(&link).map(|linked| &linked.peer) {
            Some(PeerId::ChargingPoint(id)) => {
                self.index.get(id).map(|number| self.points[*number].core.record.epoch).unwrap_or_default()
            }
            Some(PeerId::Driver(_)) | None => 0,
        }
    }

    pub(super) fn send(&self, to: LinkNo, epoch: u64, body: down::Body) {
        let Some(linked) = self.links.get(&to) else { return };
        // The next one says more than one that finds no room.
        let is_droppable = matches!(body, down::Body::Running(_));
        if linked.send_queue.try_send(encoded(epoch, body)) == Err(mesh::link::SendQueueError::Full) && !is_droppable {
            // It takes messages too slowly. When it reconnects it is sent the present state.
            tracing::warn!(peer = %linked.peer, "closing a link that does not take its messages");
            linked.send_queue.close();
        }
    }

    pub(super) fn close(&self, link: LinkNo) {
        if let Some(linked) = self.links.get(&link) {
            linked.send_queue.close();
        }
    }

    /// Beside the loop, which waits for nothing.
    pub(super) fn close_later(&self, link: LinkNo, after: Duration) {
        if let Some(send_queue) = self.links.get(&link).map(|linked| linked.send_queue.clone()) {
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                send_queue.close();
            });
        }
    }

    /// What is shown of it may have changed.
    pub(super) fn touch(&mut self, number: usize) {
        if !std::mem::replace(&mut self.points[number].dirty, true) {
            self.dirty.push(number);
        }
    }

    pub(super) fn show_all(&mut self) {
        for number in std::mem::take(&mut self.dirty) {
            self.points[number].dirty = false;
            self.show(number);
        }
    }

    fn show(&mut self, number: usize) {
        let now = self.now();
        self.engage(number);
        let point = &mut self.points[number];
        let (record, gone) = (&point.core.record, point.is_gone());
        self.shared.directory.unvoided().put(&record.id, record.keys.to_be_void().filter(|_| !gone));
        if gone {
            self.shared.points.remove(&record.id);
            self.shared.telemetry.forget(&record.id);
            if let Some(before) = point.shown.take() {
                count(&self.states, before.state, -1);
                self.quarantined.inc_by(-is_quarantined(Some(&before)));
            }
            return;
        }
        let view = Arc::new(point.core.view(&self.shared.settings, now));
        let before = point.shown.replace(Arc::clone(&view));
        self.quarantined.inc_by(is_quarantined(Some(&view)) - is_quarantined(before.as_deref()));
        let state_before = before.as_ref().map(|before| before.state);
        if state_before != Some(view.state) {
            if let Some(before) = state_before {
                count(&self.states, before, -1);
                point.since_ms = now.wall_ms;
            }
            count(&self.states, view.state, 1);
        }
        if point.announced.may_announce(view.state, now.mono) {
            let (state, causes) = (view.state(), view.causes().collect());
            let event = DomainEvent::state(record.id.as_str(), state, causes, now);
            tracing::debug!(cp.id = %record.id, state = state.as_str_name(), "state");
            let write = store::central::RowWrite::Event(rows::event_row(&event, record.id.as_str()));
            self.shared.write_queue.push(Some(PeerId::ChargingPoint(record.id.clone())), write);
        }
        let point = &self.points[number];
        self.shared.points.put(point.core.record.id.clone(), self.contract(number, &view));
        self.send_view(number, &view);
    }

    /// Sends it on each link of the charging point on which another view, or one under another epoch, was sent last.
    fn send_view(&mut self, number: usize, view: &Arc<View>) {
        let core = &self.points[number].core;
        let (epoch, links) = (core.record.epoch, core.links().collect::<Vec<_>>());
        for link in links {
            let Some(linked) = self.links.get_mut(&link) else { continue };
            let is_sent = |(at, sent): &(u64, Arc<View>)| *at == epoch && same_but_running(sent, view);
            if !linked.view.as_ref().is_some_and(is_sent) {
                linked.view = Some((epoch, Arc::clone(view)));
                self.send(link, epoch, down::Body::View((**view).clone()));
            }
        }
    }

    fn contract(&self, number: usize, view: &View) -> contract::ChargingPoint {
        let point = &self.points[number];
        contract::ChargingPoint {
            unintelligible_messages: point.core.live.unintelligible,
            unintelligible: point.core.is_unread(),
            ..crate::grpc::charging_point(&point.core.record, view, point.since_ms)
        }
    }

    pub(super) fn show_session(&mut self, session: &Session, power_w: u32) {
        let over = matches!(session.state, SessionState::Billed | SessionState::Released);
        self.shared.sessions.put(session.id.clone(), crate::grpc::session(session, power_w));
        if over {
            self.closed.push_back(session.id.clone());
            if self.closed.len() > CLOSED
                && let Some(oldest) = self.closed.pop_front()
            {
                self.shared.sessions.remove(&oldest);
            }
        }
    }

    /// Keeps the index of the drivers whom this charging point concerns.
    fn engage(&mut self, number: usize) {
        let engaged = self.points[number].core.concerned_drivers();
        if engaged == self.points[number].engaged {
            return;
        }
        for gone in std::mem::replace(&mut self.points[number].engaged, engaged.clone()) {
            if let Some(holder) = self.drivers.get_mut(&gone) {
                holder.points.remove(&number);
            }
        }
        for driver in engaged {
            self.driver(&driver).points.insert(number);
        }
    }
}

pub(super) fn encoded(epoch: u64, body: down::Body) -> Bytes {
    Down { epoch, body: Some(body) }.encode_to_vec().into()
}

/// 1 or 0, to be counted.
fn is_quarantined(view: Option<&View>) -> i64 {
    i64::from(view.is_some_and(|view| view.causes().any(|cause| cause == link::Cause::Quarantined)))
}

/// Whether two views differ only in what changes each second.
fn same_but_running(a: &View, b: &View) -> bool {
    let still = |view: &View| View { energy_wh: 0, amount_minor: 0, power_w: 0, ..view.clone() };
    still(a) == still(b)
}

fn count(
    states: &prometheus_client::metrics::family::Family<
        [(&'static str, &'static str); 1],
        prometheus_client::metrics::gauge::Gauge,
    >,
    state: i32,
    by: i64,
) {
    let state = link::State::try_from(state).unwrap_or_default();
    let name = state.as_str_name().trim_start_matches("STATE_");
    states.get_or_create(&[("state", name)]).inc_by(by);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at_ms;

    #[test]
    fn a_state_that_flips_without_end_makes_few_events_and_the_last_one_is_right_spec_5_3() {
        let mut announced = EventThrottle::default();
        let events = (0..30_000).filter(|n| announced.may_announce(1 + n % 2, at_ms(*n as u64 / 10).mono)).count();
        assert_eq!(events, 60);
        let last = 1 + 29_999 % 2;
        if announced.owed {
            assert!(announced.may_announce(last, at_ms(60_000).mono));
        }
        assert_eq!((announced.state, announced.owed), (Some(last), false));
        assert!(!announced.may_announce(last, at_ms(90_000).mono), "once");
    }
}
