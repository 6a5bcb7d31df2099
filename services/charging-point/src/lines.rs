//! The connections of one part to Central: dialled as its [`crate::uplink`] orders, each driven by `mesh::link` in a
//! task of its own, what they say handed back through a bounded channel, so that a busy part holds Central back.

use std::time::Duration;

use bytes::Bytes;
use mesh::{
    clock::{Clock, Now},
    link::{LinkOwner, SendQueue, SendQueueError, send_queue},
};
use tokio::{sync::mpsc, task::JoinHandle};
use wire::{Event, Link};

use crate::uplink::{Dial, Ended, LinkEvent, LinkNo, Order};

/// Messages that may wait for one link; a second's worth of everything an engine says after an outage.
const SEND_QUEUE: usize = 64;
const CONNECT: Duration = Duration::from_secs(5);
/// How long a stop waits for farewells.
const FAREWELL: Duration = Duration::from_secs(2);

/// The lines of one part, whose loop takes `I`.
#[derive(Debug)]
pub(crate) struct Lines<I> {
    clock: Clock,
    back: mpsc::Sender<I>,
    wrap: fn(LinkNo, LinkEvent) -> I,
    open: Vec<(LinkNo, SendQueue, JoinHandle<()>)>,
    dropped: u64,
}

impl<I: Send + 'static> Lines<I> {
    pub(crate) fn new(clock: Clock, back: mpsc::Sender<I>, wrap: fn(LinkNo, LinkEvent) -> I) -> Self {
        Self { clock, back, wrap, open: Vec::new(), dropped: 0 }
    }

    pub(crate) fn carry(&mut self, order: Order) {
        match order {
            Order::Dial(dial) => self.dial(*dial),
            Order::Send(link, bytes) => self.send(link, bytes),
            Order::Close(link) => {
                if let Some((_, send_queue, _)) = self.open.iter().find(|(no, ..)| *no == link) {
                    send_queue.close();
                }
            }
        }
    }

    pub(crate) fn spoil(&self, link: LinkNo, on: bool) {
        if let Some((_, send_queue, _)) = self.open.iter().find(|(no, ..)| *no == link) {
            send_queue.spoil(on);
        }
    }

    fn send(&mut self, link: LinkNo, bytes: Bytes) {
        let Some((_, send_queue, _)) = self.open.iter().find(|(no, ..)| *no == link) else { return };
        match send_queue.try_send(bytes) {
            // What must have an effect is repeated until answered.
            Ok(()) | Err(SendQueueError::Closed) => {}
            Err(SendQueueError::Full) => {
                self.dropped += 1;
                tracing::debug!(dropped = self.dropped, "Central takes messages too slowly; one was dropped");
            }
        }
    }

    fn dial(&mut self, dial: Dial) {
        self.open.retain(|(.., task)| !task.is_finished());
        let (sender, queued) = send_queue(SEND_QUEUE);
        let (clock, back, wrap, no) = (self.clock, self.back.clone(), self.wrap, dial.link);
        let task = tokio::spawn(async move {
            let ended = match mesh::link::connect(&dial.address, CONNECT).await {
                Ok(stream) => {
                    let link = Link::initiator(dial.settings, dial.part, &dial.id, dial.proof, clock.mono());
                    let mut ears = Ears { no, back: back.clone(), wrap };
                    Ended::Link(mesh::link::run(stream, link, queued, &mut ears, clock).await)
                }
                Err(error) => Ended::Connect(error.to_string()),
            };
            // Nobody listens any more only where the part itself has ended.
            drop(back.send(wrap(no, LinkEvent::Closed(ended))).await);
        });
        self.open.push((no, sender, task));
    }

    /// Closes all in order and waits a moment for that.
    pub(crate) async fn farewell(self) {
        drop(self.back);
        for (_, send_queue, _) in &self.open {
            send_queue.close();
        }
        let all = futures::future::join_all(self.open.into_iter().map(|(.., task)| task));
        drop(tokio::time::timeout(FAREWELL, all).await);
    }
}

struct Ears<I> {
    no: LinkNo,
    back: mpsc::Sender<I>,
    wrap: fn(LinkNo, LinkEvent) -> I,
}

impl<I: Send> LinkOwner for Ears<I> {
    async fn handle(&mut self, event: Event, link: &mut Link, now: Now) {
        let event = match event {
            Event::Open => LinkEvent::Open,
            Event::Message(bytes) => LinkEvent::Message(bytes),
            Event::Busy { retry_after } => LinkEvent::Busy(retry_after),
            Event::UnknownKey => LinkEvent::UnknownKey,
            Event::Unintelligible(what) => LinkEvent::Unintelligible(what),
            // Those are a responder's, and the return of `run`.
            Event::Hello(_) | Event::Closed(_) => return,
        };
        if self.back.send((self.wrap)(self.no, event)).await.is_err() {
            link.close(now.mono);
        }
    }
}
