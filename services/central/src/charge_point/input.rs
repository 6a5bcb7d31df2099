//! What comes in to a charging point and what goes out of it.

use std::sync::Arc;

use proto::{
    ChargingPointId, DriverId, Energy, PeerId, Price,
    link::v1::{JournalSession, Part, Reason, SignedDocument, Ticket, down},
};
use wire::LinkKey;

use crate::{
    audit::AuditRecord,
    digest::digest,
    event::DomainEvent,
    key::KeyEntry,
    origin::{LinkNo, Origin},
    session::{Final, Session, SessionId},
};

use super::{
    CityWeather, Pending, Record,
    evidence::{Evidence, StoredSession, final_of},
};

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Message `to` of a link; 0 asks for no answer.
    Link {
        link: LinkNo,
        to: u64,
    },
    /// An operator's order.
    Order(u64),
    None,
}

/// What takes effect at once and never waits for the disk (DESIGN 3).
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// A monitor or engine opened a link and proved key `key_no`.
    LinkUp {
        link: LinkNo,
        part: Part,
        key_no: u64,
        from: Arc<str>,
        highest_epoch: u64,
    },
    /// A monitor proved its credential but has no key (SPEC 4.7).
    StatusLinkUp {
        link: LinkNo,
        from: Arc<str>,
    },
    LinkDown {
        link: LinkNo,
        /// Central closed it, and the peer acknowledged all messages sent before.
        answered: bool,
        detail: Arc<str>,
    },
    /// The monitor's verdict on its engine.
    Health {
        link: LinkNo,
        healthy: bool,
        detail: Arc<str>,
    },
    Meter {
        link: LinkNo,
        session: SessionId,
        meter: Energy,
        power_w: u32,
    },
    /// The part told its own time, which is so far ahead of Central's.
    Clock {
        link: LinkNo,
        ahead_ms: i64,
    },
    /// So many messages could not be opened.
    Unintelligible {
        link: LinkNo,
        count: u64,
    },
    /// After those, one could be opened.
    Intelligible {
        link: LinkNo,
    },
    /// What is known of the weather in its city.
    Weather(Option<CityWeather>),
}

/// What is decided, made durable, and only then answered.
#[derive(Clone, Debug)]
pub enum PointInput {
    /// Something that was observed, or the passing of time, may call for a decision. Says nothing itself, so that it may
    /// be repeated and lost without harm.
    Due,
    Request(SupplyRequest),
    AskAnswer {
        session: SessionId,
        accepted: bool,
        detail: Arc<str>,
    },
    /// The driver confirms a manual supply in his name at this price, or declines it.
    Confirmed {
        session: SessionId,
        driver: DriverId,
        accepted: Option<Price>,
        reply: Reply,
    },
    Started {
        session: SessionId,
        meter: Energy,
        at: i64,
        reply: Reply,
    },
    Ended {
        session: SessionId,
        last: Final,
        reply: Reply,
    },
    /// As `Ended`, for a session that is not at hand any more: its row, if there is one.
    EndedLong {
        session: SessionId,
        row: Option<Box<Session>>,
        /// Its ticket as it was signed.
        ticket: Option<Box<SignedDocument>>,
        last: Final,
        reply: Reply,
    },
    /// A session of an earlier generation that the engine's journal or the session's driver brings back (SPEC 10.5).
    BroughtBack {
        session: SessionId,
        last: Final,
        evidence: Box<Evidence>,
        reply: Reply,
    },
    /// As `BroughtBack`, for a session that is not at hand: what the store has of it.
    Recalled {
        session: SessionId,
        stored: StoredSession,
        last: Final,
        evidence: Box<Evidence>,
        reply: Reply,
    },
    /// The engine's journal holds a reservation.
    ReservationInJournal {
        session: SessionId,
    },
    /// All that the engine's journal holds; what is open here and missing there is over.
    JournalReport {
        sessions: Vec<SessionId>,
        reply: Reply,
    },
    StopByDriver {
        session: SessionId,
        driver: DriverId,
        from: Origin,
        reply: Reply,
    },
    Order {
        order: PointOrder,
        by: Origin,
        reply: Reply,
    },
    /// Registry verified the credential on this link; here is a fresh key for it.
    Grant {
        link: LinkNo,
        material: Arc<LinkKey>,
        from: Origin,
    },
    /// Both parts hold the key.
    KeyInstalled {
        key_no: u64,
        reply: Reply,
    },
    Identity(EnrolmentChange),
}

/// A supply wished for by a driver, or at the charging point itself.
#[derive(Clone, Debug)]
pub struct SupplyRequest {
    /// The account it is billed to; none: the charging point's own.
    pub driver: Option<DriverId>,
    pub request_id: Arc<str>,
    pub terms: SupplyTerms,
    /// Drawn by the I/O layer; becomes the session's if it comes to one.
    pub session: SessionId,
    /// At the charging point itself (SPEC 3.1): the engine need not be asked, a named driver must confirm.
    pub manual: bool,
    /// The driver is enrolled.
    pub known: bool,
    /// The driver has an open session at another charging point, as far as this replica knows; the store decides (SPEC
    /// 3.2).
    pub busy: bool,
    /// The driver whom a manual supply names has no link now, so he cannot confirm it.
    pub away: bool,
    pub from: Origin,
    pub reply: Reply,
}

/// What is wished for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SupplyTerms {
    /// Zero: until unplugged.
    pub energy: Energy,
    /// More is not accepted; none: any price.
    pub highest_price: Option<Price>,
}

/// What an operator, or the monitor's person, orders of one charging point.
#[derive(Clone, Debug)]
pub enum PointOrder {
    Stop,
    Resume,
    Maintenance {
        on: bool,
    },
    Rotate {
        material: Arc<LinkKey>,
    },
    Renew,
    Revoke,
    /// Ends a quarantine after takeovers.
    Release,
    SetPrice(Price),
    SetRatedPower(u32),
    Move {
        city: Arc<str>,
        place: Option<Arc<str>>,
    },
    EndSession(SessionId),
}

/// What Registry says of the charging point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnrolmentChange {
    Enrolled {
        incarnation: u64,
    },
    /// Its credential is void.
    Void {
        incarnation: u64,
    },
    Removed {
        incarnation: u64,
    },
}

/// What an order came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderOutcome {
    Done,
    Unchanged,
    Failed(Reason, String),
}

/// What goes to a peer, a caller or the event loop.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Monitor(down::Body),
    Engine(down::Body),
    Driver(DriverId, down::Body),
    /// To one link, whatever it is now.
    Link(LinkNo, down::Body),
    /// To the peer or the caller that waits for it.
    Answer(Reply, OrderOutcome),
    /// The key `key_no` of the charging point's ring, to a link of its monitor: without one to that which it has then.
    Grant {
        link: Option<LinkNo>,
        key_no: u64,
    },
    /// In order: what was sent before goes out first.
    Close(LinkNo),
    /// Another link under the same key has taken its place: it is told, so that its end shows whether it was alive.
    CloseTakenOver(LinkNo),
    /// Another link under a newer key has taken its place: its part closes it once everything on it is delivered, so
    /// that a rotation loses nothing (SPEC 4.6). One that does not is closed in the end.
    CloseLater(LinkNo),
    /// PendingAsk the store for a session that is not at hand, and come back with `EndedLong`.
    Fetch {
        session: SessionId,
        last: Final,
        reply: Reply,
    },
    /// Ask the store for a session of an earlier generation, and come back with `Recalled`.
    Recall {
        session: SessionId,
        last: Final,
        evidence: Box<Evidence>,
        reply: Reply,
    },
    /// An operator must act (SPEC 4.9).
    Alarm(String),
}

/// What is to be made durable, in one transaction with all else of its decision.
#[derive(Clone, Debug)]
pub enum PointChange {
    /// The charging point's own row, as in `Decision::next`.
    Point,
    OpenSession(Session),
    UpdateSession(Session),
    Ticket(Ticket),
    /// A final value that differs from the bill (SPEC 3.8).
    Discrepancy {
        session: Session,
        reported_end: Energy,
    },
    /// The first answer to a request, which every repetition gets (SPEC 3.2).
    Answered(FirstAnswer),
    /// What an order over several charging points did here (SPEC 7.3).
    OrderItem {
        order: Arc<str>,
        outcome: OrderOutcome,
    },
    Key(KeyEntry),
    Event(DomainEvent),
    Audit(AuditRecord),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstAnswer {
    /// Who chose the request's id: the driver, or for a manual supply the charging point.
    pub requester: PeerId,
    pub charging_point: ChargingPointId,
    pub request_id: Arc<str>,
    /// Of the request's content, see [`SupplyRequest::digest`].
    pub digest: String,
    /// The session it came to, if any.
    pub session: Option<SessionId>,
    pub reason: Reason,
    pub detail: String,
}

/// What an input leads to. `next` takes effect, and `after_commit` is carried out, when `changes` are durable; with no changes,
/// at once.
#[derive(Clone, Debug)]
pub struct Decision {
    pub next: Record,
    pub pending: Pending,
    pub changes: Vec<PointChange>,
    /// With these changes the charging point is taken over, under the next epoch.
    pub takeover: Option<Takeover>,
    /// Entries that nothing waits for: queued to the disk.
    pub queued: Vec<PointChange>,
    pub before_commit: Vec<Effect>,
    pub after_commit: Vec<Effect>,
}

/// On what ground (DESIGN 3, Replicas).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// A newly proven monitor link: always.
    Monitor,
    /// The first write of this process: only from the owner it was loaded with.
    Unowned,
}

/// Why the store did not take a decision's changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreRefusal {
    DriverBusy,
    ChargingPointBusy,
    /// The request had been answered before.
    Repeated(Box<FirstAnswer>),
    /// The request's id was used for another request; says for which.
    RequestIdReused(String),
    /// The order was overtaken by a later one, or cancelled, before it came here.
    OrderItemSettled,
    AlreadyBilled,
    /// Another owner, or another version of the row.
    Fenced,
    Unavailable(String),
}

/// What a session held by an engine's journal means, as inputs in order (SPEC 3.8, 9).
///
/// `evidence` says what Central signed about a session of an earlier generation.
pub fn reconcile(
    held: &[JournalSession],
    evidence: impl Fn(&JournalSession) -> Option<Evidence>,
    reply: Reply,
) -> Vec<PointInput> {
    use proto::link::v1::SessionState::{Billed, Released, Reserved, Settling, Supplying, Unspecified};
    let mut inputs = Vec::new();
    for held in held {
        let session = SessionId::new(&held.session_id);
        match held.state() {
            Reserved => inputs.push(PointInput::ReservationInJournal { session }),
            Supplying => inputs.push(PointInput::Started {
                session,
                meter: Energy::from_wh(held.meter_start_wh),
                at: held.started_at_ms,
                reply: Reply::None,
            }),
            Settling | Billed => {
                let (last, reply) = (final_of(held), Reply::None);
                inputs.push(match evidence(held).map(Box::new) {
                    Some(evidence) => PointInput::BroughtBack { session, last, evidence, reply },
                    None => PointInput::Ended { session, last, reply },
                });
            }
            Released | Unspecified => {}
        }
    }
    let sessions = held.iter().map(|h| SessionId::new(&h.session_id)).collect();
    inputs.push(PointInput::JournalReport { sessions, reply });
    inputs
}

impl SupplyRequest {
    /// Whose request ids this one's is among.
    pub fn requester(&self, charging_point: &ChargingPointId) -> PeerId {
        match self.driver.clone().filter(|_| !self.manual) {
            Some(driver) => PeerId::Driver(driver),
            None => PeerId::ChargingPoint(charging_point.clone()),
        }
    }

    /// The message of the link by which it was sent.
    pub fn method(&self) -> &'static str {
        if self.manual { "ManualSupply" } else { "RequestSupply" }
    }

    /// A repetition has the same digest, another request under the same id has not.
    pub(crate) fn digest(&self, charging_point: &ChargingPointId) -> String {
        let driver = self.driver.as_ref().map(ToString::to_string).unwrap_or_default();
        let highest = self.terms.highest_price.map_or(Vec::new(), |price| price.e4().to_be_bytes().to_vec());
        let energy = self.terms.energy.wh().to_be_bytes().to_vec();
        digest([charging_point.to_string().into_bytes(), driver.into_bytes(), energy, highest])
    }
}
