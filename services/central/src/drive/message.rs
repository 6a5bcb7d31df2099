//! What the rims hand to the loop.

use std::sync::Arc;

use mesh::link::SendQueue;
use proto::{ChargingPointId, DriverId, PeerId, link::v1::Part};
use store::central::MirroredIdentityRow;
use tokio::sync::oneshot;

use crate::{
    charge_point::{Input, LinkNo, Order, Origin, Outcome, Request, Sign},
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
        /// Central closed it, and the peer acknowledged all that it was told before.
        answered: bool,
        detail: Arc<str>,
    },
    Sign {
        at: ChargingPointId,
        sign: Sign,
    },
    /// From a part of a charging point: heard only if `link` is the newest of its part.
    FromPart {
        at: ChargingPointId,
        link: LinkNo,
        inputs: Vec<Input>,
    },
    Request {
        at: ChargingPointId,
        request: Box<Request>,
    },
    /// What a driver says of a session.
    Word {
        driver: DriverId,
        link: LinkNo,
        session: SessionId,
        to: u64,
        word: Word,
        from: Arc<str>,
    },
    Order {
        at: ChargingPointId,
        order: Order,
        by: Origin,
        answer: oneshot::Sender<Outcome>,
    },
    /// Of them, those whom Registry removed: they are out at once, whenever that can be made durable.
    ShutOut(Vec<MirroredIdentityRow>),
    /// Registry's word, already in the mirror.
    Identities(Vec<MirroredIdentityRow>),
    /// A ticket is on its driver's disk, and that is durable here.
    TicketReceived {
        driver: DriverId,
        session: String,
    },
    /// A driver's messages that could not be opened.
    DriverUnintelligible {
        driver: DriverId,
        count: u64,
        from: Arc<str>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Stop,
    Confirm(bool),
}
