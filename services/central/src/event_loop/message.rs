//! What the I/O layer hands to the event loop.

use std::sync::Arc;

use mesh::link::SendQueue;
use proto::{
    ChargingPointId, DriverId, PeerId, Price,
    link::v1::{Part, Ticket},
};
use store::central::{ChargingPointRow, MirroredIdentityRow};
use tokio::sync::oneshot;

use crate::{
    charge_point::{CityWeather, Observation, OrderOutcome, PointInput, PointOrder, Reply, SupplyRequest},
    origin::{LinkNo, Origin},
    session::SessionId,
};

/// A link that proved its key: its first sealed message has opened.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub link: LinkNo,
    pub peer: PeerId,
    pub part: Part,
    pub key_no: u64,
    pub from: Arc<str>,
    pub highest_epoch: u64,
    pub send_queue: SendQueue,
}

#[derive(Debug)]
pub(crate) enum Message {
    Arrived(Box<Arrival>),
    /// A first contact whose credential Registry has verified; `void` ones too, for a status link.
    Verified {
        peer: PeerId,
        link: LinkNo,
        send_queue: SendQueue,
        from: Arc<str>,
        to: u64,
        void: bool,
    },
    Left {
        link: LinkNo,
        /// Central closed it, and the peer acknowledged all messages sent before.
        answered: bool,
        detail: Arc<str>,
    },
    Observation {
        at: ChargingPointId,
        observation: Observation,
    },
    /// From a part of a charging point: accepted only if `link` is the newest of its part.
    FromPart {
        at: ChargingPointId,
        link: LinkNo,
        inputs: Vec<PointInput>,
    },
    Request {
        at: ChargingPointId,
        request: Box<SupplyRequest>,
    },
    /// A driver stops or confirms a session.
    DriverCommand {
        driver: DriverId,
        link: LinkNo,
        session: SessionId,
        to: u64,
        command: DriverCommand,
        from: Arc<str>,
    },
    Order {
        at: ChargingPointId,
        order: PointOrder,
        by: Origin,
        answer: oneshot::Sender<OrderOutcome>,
    },
    /// The identities that Registry removed: they are shut out at once, however long it takes to make that durable.
    ShutOut(Vec<MirroredIdentityRow>),
    /// Identities as Registry last reported them, already in the mirror.
    Identities(Vec<MirroredIdentityRow>),
    /// A ticket is on its driver's disk, and that is durable here.
    TicketReceived {
        driver: DriverId,
        session: String,
    },
    /// A ticket that Central signed before a restore and lost, with the row of its charging point (SPEC 10.5).
    TicketHandedBack {
        ticket: Box<Ticket>,
        row: Box<ChargingPointRow>,
        reply: Reply,
    },
    /// Something that Central has signed is not in its database.
    LedgerBehind {
        why: String,
        by: PeerId,
    },
    /// What the weather of cities does to their charging points.
    Weather {
        reported: Vec<CityWeather>,
        by: Origin,
    },
    /// A driver's messages that could not be opened.
    DriverUnintelligible {
        driver: DriverId,
        count: u64,
        from: Arc<str>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DriverCommand {
    Stop,
    /// At this price, or not.
    Confirm(Option<Price>),
}
