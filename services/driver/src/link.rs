//! One connection to Central: dialled, driven by `mesh::link` in a task of its own, its events handed to the driver's
//! loop through a bounded channel, so that a busy loop holds the peer back.

use std::time::Duration;

use bytes::Bytes;
use mesh::{
    clock::{Clock, Now},
    link::{LinkOwner, SendQueue, send_queue},
};
use prost::Message as _;
use proto::{
    DriverId,
    link::v1::{Part, Up},
};
use tokio::sync::mpsc;
use wire::{Event, Link, Proof};

use crate::contact::How;

/// Messages that may wait for the link; far above what one driver says at once.
const SEND_QUEUE: usize = 128;
const CONNECT: Duration = Duration::from_secs(5);

/// A connection's number, unique in this process.
pub(crate) type LinkNo = u64;

/// What a connection says.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Open,
    Message(Bytes),
    Busy(Duration),
    UnknownKey,
    Unintelligible,
    Closed(String),
}

/// A connection that was begun.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) no: LinkNo,
    pub(crate) how: How,
    pub(crate) key_no: u64,
    pub(crate) address: String,
    pub(crate) open: bool,
    /// Central has spoken on it.
    pub(crate) proven: bool,
    send_queue: SendQueue,
}

/// What to dial.
pub(crate) struct Dial {
    pub(crate) no: LinkNo,
    pub(crate) address: String,
    pub(crate) driver: DriverId,
    pub(crate) how: How,
    pub(crate) key_no: u64,
    pub(crate) proof: Proof,
    pub(crate) settings: wire::LinkSettings,
}

impl Connection {
    /// Begins to connect; what comes of it comes through `events`, `Closed` as the last.
    pub(crate) fn dial(dial: Dial, clock: Clock, events: mpsc::Sender<(LinkNo, LinkEvent)>) -> Self {
        let (sender, queued) = send_queue(SEND_QUEUE);
        let connection = Self {
            no: dial.no,
            how: dial.how,
            key_no: dial.key_no,
            address: dial.address.clone(),
            open: false,
            proven: false,
            send_queue: sender,
        };
        tokio::spawn(async move {
            let closed = match mesh::link::connect(&dial.address, CONNECT).await {
                Ok(stream) => {
                    let id = dial.driver.as_str();
                    let link = Link::initiator(dial.settings, Part::Driver, id, dial.proof, clock.mono());
                    let mut ears = Ears { no: dial.no, events: events.clone() };
                    mesh::link::run(stream, link, queued, &mut ears, clock).await.to_string()
                }
                Err(error) => error.to_string(),
            };
            drop(events.send((dial.no, LinkEvent::Closed(closed))).await);
        });
        connection
    }

    pub(crate) fn send(&self, up: &Up) {
        // Full or closed: whatever must have an effect is repeated until it is answered.
        let _lost = self.send_queue.try_send(up.encode_to_vec().into());
    }

    /// In order, behind what was sent.
    pub(crate) fn close(&self) {
        self.send_queue.close();
    }
}

struct Ears {
    no: LinkNo,
    events: mpsc::Sender<(LinkNo, LinkEvent)>,
}

impl LinkOwner for Ears {
    async fn handle(&mut self, event: Event, link: &mut Link, now: Now) {
        let event = match event {
            Event::Open => LinkEvent::Open,
            Event::Message(bytes) => LinkEvent::Message(bytes),
            Event::Busy { retry_after } => LinkEvent::Busy(retry_after),
            Event::UnknownKey => LinkEvent::UnknownKey,
            Event::Unintelligible(_) => LinkEvent::Unintelligible,
            Event::Hello(_) | Event::Closed(_) => return,
        };
        if self.events.send((self.no, event)).await.is_err() {
            link.close(now.mono);
        }
    }
}
