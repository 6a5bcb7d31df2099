//! What a proven monitor or engine says, as inputs for its charging point.

use std::{sync::Arc, time::Duration};

use mesh::clock::Now;
use proto::{
    ChargingPointId, DriverId, Energy, PeerId,
    link::v1::{self as wire_messages, Part, Reason, up},
};

use super::responder::{LONGEST_ID, Responder, SerialTasks, fresh_session};
use crate::{
    charge_point::{Observation, PointInput, PointOrder, Reply, SupplyRequest, SupplyTerms, reconcile},
    event_loop::Message,
    origin::{LinkNo, Origin},
    session::{Final, SessionId},
    shared::SharedState,
    telemetry::{ReadingOutcome, Streams},
    topics::ReadingTopics,
};

/// A conversation with one part of a charging point.
pub(super) struct PartConversation {
    pub(super) id: ChargingPointId,
    part: Part,
    streams: Option<Arc<Streams>>,
    tasks: SerialTasks,
}

impl PartConversation {
    pub(super) fn new(id: ChargingPointId, part: Part, shared: &SharedState) -> Self {
        let streams = (part == Part::Engine).then(|| shared.telemetry.of(&id));
        Self { id, part, streams, tasks: SerialTasks::default() }
    }
}

/// Of a text that is shown and audited.
const LONGEST_DETAIL: usize = 256;

/// How long a reading waits for the key that it was sealed under.
const OLDER_KEY: Duration = Duration::from_millis(300);

/// Sessions in one report of an engine's journal; an engine that holds more reports them in portions.
const MOST_HELD: usize = 256;

/// What no engine of ours says, and would cost more than it is worth to look at.
fn is_too_long(body: &up::Body) -> Option<String> {
    let session_id = match body {
        up::Body::MeterValue(value) => &value.session_id,
        up::Body::AskAnswer(answer) => &answer.session_id,
        up::Body::SupplyStarted(started) => &started.session_id,
        up::Body::SupplyEnded(ended) => &ended.session_id,
        up::Body::JournalReport(held) if held.sessions.len() > MOST_HELD => {
            return Some(format!("{} sessions in one report, above {MOST_HELD}", held.sessions.len()));
        }
        up::Body::JournalReport(held) => {
            held.sessions.iter().chain(&held.latest).map(|session| &session.session_id).max_by_key(|id| id.len())?
        }
        up::Body::Opened(_)
        | up::Body::Authenticate(_)
        | up::Body::Unsupported(_)
        | up::Body::ReadClock(_)
        | up::Body::EngineHealth(_)
        | up::Body::SetMaintenance(_)
        | up::Body::KeyInstalled(_)
        | up::Body::ManualSupply(_)
        | up::Body::Reading(_)
        | up::Body::RequestSupply(_)
        | up::Body::StopSupply(_)
        | up::Body::ConfirmSupply(_)
        | up::Body::ListChargingPoints(_)
        | up::Body::ListHistory(_)
        | up::Body::TicketReceived(_)
        | up::Body::TicketHeld(_) => return None,
    };
    (session_id.len() > LONGEST_ID).then(|| format!("a session's id has at most {LONGEST_ID} characters"))
}

/// A charging point's own words, as long as a sentence may be.
fn clipped(detail: &str) -> Arc<str> {
    detail.chars().take(LONGEST_DETAIL).collect::<String>().into()
}

/// Both parts hold the key.
pub(super) fn key_installed(installed: wire_messages::KeyInstalled, link: LinkNo, to: u64) -> PointInput {
    PointInput::KeyInstalled { key_no: installed.key_no, reply: Reply::Link { link, to } }
}

impl PartConversation {
    /// The part has told its own time.
    pub(super) async fn clock_told(&self, responder: &Responder, at_ms: i64, now: Now) {
        if at_ms != 0 {
            let ahead_ms = at_ms.saturating_sub(now.wall_ms);
            let observation = Observation::Clock { link: responder.link, ahead_ms };
            responder.hand_in(Message::Observation { at: self.id.clone(), observation }).await;
        }
    }

    /// Handles one message. False: it was a reading that could not be opened.
    pub(super) async fn receive(&mut self, responder: &Responder, body: up::Body, to: u64) -> bool {
        if let up::Body::Reading(sealed) = &body
            && let Some(streams) = &self.streams
        {
            return read(responder, &self.id, streams, sealed, to).await;
        }
        self.receive_input(responder, body, to).await;
        true
    }

    async fn receive_input(&mut self, responder: &Responder, body: up::Body, to: u64) {
        let (link, id) = (responder.link, self.id.clone());
        let reply = Reply::Link { link, to };
        if let Some(why) = is_too_long(&body) {
            return responder.answer(to, Reason::Invalid, &why);
        }
        let inputs = match (self.part, body) {
            (Part::Engine, up::Body::MeterValue(value)) => {
                let (session, meter) = (SessionId::new(&value.session_id), Energy::from_wh(value.meter_wh));
                let observation = Observation::Meter { link, session, meter, power_w: value.power_w };
                return responder.observed(id, observation, to).await;
            }
            (Part::Monitor, up::Body::EngineHealth(health)) => {
                let (healthy, detail) = (health.healthy, clipped(&health.detail));
                return responder.observed(id, Observation::Health { link, healthy, detail }, to).await;
            }
            (Part::Engine, up::Body::ManualSupply(wished)) => {
                return self.tasks.run(responder, to, responder.clone().manual(id, wished, to));
            }
            (Part::Engine, up::Body::AskAnswer(answer)) => {
                responder.answer(to, Reason::Unspecified, "");
                let (session, detail) = (SessionId::new(&answer.session_id), clipped(&answer.detail));
                vec![PointInput::AskAnswer { session, accepted: answer.accepted, detail }]
            }
            (Part::Engine, up::Body::SupplyStarted(started)) => vec![PointInput::Started {
                session: SessionId::new(&started.session_id),
                meter: Energy::from_wh(started.meter_start_wh),
                at: started.at_ms,
                reply,
            }],
            (Part::Engine, up::Body::SupplyEnded(ended)) => {
                let last = Final {
                    start: Energy::from_wh(ended.meter_start_wh),
                    end: Energy::from_wh(ended.meter_end_wh),
                    reason: ended.reason(),
                    started_at: ended.started_at_ms,
                    ended_at: ended.ended_at_ms,
                };
                vec![PointInput::Ended { session: SessionId::new(&ended.session_id), last, reply }]
            }
            (Part::Engine, up::Body::JournalReport(held)) => {
                if responder.shows_older_ledger(&id, &held).await {
                    return responder.answer(to, Reason::Unavailable, "Central's database is too old");
                }
                responder.meters_in_journal(&id, &held).await;
                reconcile(&held.sessions, |held| responder.evidence(&id, held), reply)
            }
            (Part::Monitor, up::Body::SetMaintenance(wished)) => {
                if !responder.may_ask(&PeerId::ChargingPoint(id.clone()), to) {
                    return;
                }
                let by = Origin::new(format!("charging-point/{id}"), responder.from.clone())
                    .because("at the charging point");
                vec![PointInput::Order { order: PointOrder::Maintenance { on: wished.on }, by, reply }]
            }
            (Part::Monitor, up::Body::KeyInstalled(installed)) => vec![key_installed(installed, link, to)],
            (Part::Monitor | Part::Engine, up::Body::Opened(_)) => {
                return responder.answer(to, Reason::Unspecified, "");
            }
            // The other part's, or a driver's.
            (Part::Unspecified | Part::Monitor | Part::Engine | Part::Driver | Part::Pairing, _) => {
                return responder.unsupported(to);
            }
        };
        responder.hand_in(Message::FromPart { at: id, link, inputs }).await;
    }
}

/// Telemetry: opened and counted here, and nothing else (SPEC 3.4). False: it could not be opened.
async fn read(
    responder: &Responder,
    id: &ChargingPointId,
    streams: &Arc<Streams>,
    sealed: &wire_messages::SealedReading,
    to: u64,
) -> bool {
    let (shared, peer) = (&responder.links.shared, PeerId::ChargingPoint(id.clone()));
    // An older key comes from the store, which may be slow; a link that waited for it would be taken for dead.
    let key = tokio::time::timeout(OLDER_KEY, shared.reading_key(streams, &peer, sealed.key_no)).await;
    let outcome = shared.telemetry.take(streams, sealed, key.ok().flatten().as_deref(), shared.clock.mono());
    if let Some(topics) = &shared.reading_topics {
        publish(topics, shared.directory.epoch(id).get(), (id, sealed), &outcome, streams);
    }
    responder.answer(to, Reason::Unspecified, "");
    outcome.is_understood()
}

/// What cannot be opened here for want of its key, others may open; what opens under no key is noise.
fn publish(
    topics: &ReadingTopics,
    epoch: u64,
    (id, sealed): (&ChargingPointId, &wire_messages::SealedReading),
    outcome: &ReadingOutcome,
    streams: &Arc<Streams>,
) {
    match outcome {
        ReadingOutcome::Opened(reading) => {
            topics.sealed(id, epoch, sealed, streams);
            topics.opened(id, epoch, (sealed, reading), streams);
        }
        ReadingOutcome::NoKey => topics.sealed(id, epoch, sealed, streams),
        ReadingOutcome::Repeated | ReadingOutcome::Unreadable => {}
    }
}

impl Responder {
    /// Takes effect at once and is not made durable, so the answer does not wait for the event loop.
    async fn observed(&self, at: ChargingPointId, observation: Observation, to: u64) {
        self.hand_in(Message::Observation { at, observation }).await;
        self.answer(to, Reason::Unspecified, "");
    }

    /// The values of running sessions in an engine's journal, which come before what is decided about them.
    async fn meters_in_journal(&self, id: &ChargingPointId, held: &wire_messages::JournalReport) {
        for session in held.sessions.iter().filter(|held| held.state() == wire_messages::SessionState::Supplying) {
            let observation = Observation::Meter {
                link: self.link,
                session: SessionId::new(&session.session_id),
                meter: Energy::from_wh(session.meter_wh),
                power_w: 0,
            };
            self.hand_in(Message::Observation { at: id.clone(), observation }).await;
        }
    }

    async fn manual(self, at: ChargingPointId, wished: wire_messages::ManualSupply, to: u64) {
        let peer = PeerId::ChargingPoint(at.clone());
        let (driver, request_id) = (wished.driver_id, wished.request_id);
        let driver = match driver.as_str() {
            "" => None,
            id => match id.parse::<DriverId>() {
                Ok(driver) => Some(driver),
                Err(error) => {
                    self.refused(&peer, Reason::UnknownDriver);
                    return self.answer(to, Reason::UnknownDriver, &error.to_string());
                }
            },
        };
        if request_id.is_empty() || request_id.len() > LONGEST_ID {
            self.refused(&peer, Reason::Invalid);
            return self.answer(to, Reason::Invalid, "the request's id must have 1 to 128 characters");
        }
        let request = SupplyRequest {
            driver,
            request_id: request_id.into(),
            terms: SupplyTerms { energy: Energy::from_wh(wished.energy_wh), highest_price: None },
            session: fresh_session(),
            manual: true,
            known: false,
            busy: false,
            away: false,
            from: Origin::new(format!("charging-point/{at}"), self.from.clone()),
            reply: Reply::Link { link: self.link, to },
        };
        match self.first_answer(&at, &request).await {
            Err((reason, why)) => {
                self.refused(&peer, reason);
                return self.answer(to, reason, &why);
            }
            Ok(Some(first)) if first.reason != Reason::Unspecified => {
                return self.answer(to, first.reason, &first.detail);
            }
            // Authorised: the charging point's own session says what has become of it.
            Ok(Some(_)) => {}
            Ok(None) if !self.may_ask(&peer, to) => return,
            Ok(None) => {}
        }
        self.hand_in(Message::Request { at, request: Box::new(request) }).await;
    }
}

#[cfg(test)]
mod tests {
    use proto::link::v1::{JournalReport, JournalSession, SupplyEnded};

    use super::*;

    #[test]
    fn a_report_of_more_than_256_sessions_or_with_an_endless_id_is_not_looked_at() {
        let held = |count, id: &str| {
            let held = JournalSession { session_id: id.to_owned(), ..JournalSession::default() };
            up::Body::JournalReport(JournalReport { sessions: vec![held; count], latest: None })
        };
        assert_eq!(is_too_long(&held(256, "s-1")), None);
        assert!(is_too_long(&held(257, "s-1")).is_some() && is_too_long(&held(143_000, "A")).is_some());
        assert!(is_too_long(&held(1, &"A".repeat(129))).is_some());
        let latest = Some(JournalSession { session_id: "A".repeat(129), ..JournalSession::default() });
        assert!(is_too_long(&up::Body::JournalReport(JournalReport { sessions: Vec::new(), latest })).is_some());
        let ended = SupplyEnded { session_id: "A".repeat(500_000), ..SupplyEnded::default() };
        assert!(is_too_long(&up::Body::SupplyEnded(ended)).is_some());
    }
}
