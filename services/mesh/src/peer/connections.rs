//! The connections of one peer to Central: each is driven by [`crate::link`] in a task of its own. What happens there
//! comes back through a bounded channel, so that a busy role holds Central back.

use std::time::Duration;

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinHandle};
use wire::{Event, Link};

use super::{Dial, LinkCommand, LinkError, LinkEvent, LinkNo};
use crate::{
    clock::{Clock, Now},
    link::{self, LinkOwner, SendQueue, SendQueueError, send_queue},
};

/// Messages that may wait for one link; a second's worth of everything an engine says after an outage.
const QUEUE: usize = 64;
const CONNECT: Duration = Duration::from_secs(5);
/// How long a stop waits until the links are closed in order.
const FAREWELL: Duration = Duration::from_secs(2);

/// The connections of a role whose event loop takes `E`.
#[derive(Debug)]
pub struct PeerConnections<E> {
    clock: Clock,
    events: mpsc::Sender<E>,
    wrap: fn(LinkNo, LinkEvent) -> E,
    open: Vec<(LinkNo, SendQueue, JoinHandle<()>)>,
}

impl<E: Send + 'static> PeerConnections<E> {
    pub fn new(clock: Clock, events: mpsc::Sender<E>, wrap: fn(LinkNo, LinkEvent) -> E) -> Self {
        Self { clock, events, wrap, open: Vec::new() }
    }

    pub fn carry_out(&mut self, command: LinkCommand) {
        match command {
            LinkCommand::Dial(dial) => self.dial(*dial),
            LinkCommand::Send(link, bytes) => self.send(link, bytes),
            LinkCommand::Close(link) => {
                if let Some(queue) = self.queue(link) {
                    queue.close();
                }
            }
        }
    }

    /// A drill (SPEC 4.8): `on` spoils the keys of a link, off repairs them.
    pub fn spoil(&self, link: LinkNo, on: bool) {
        if let Some(queue) = self.queue(link) {
            queue.spoil(on);
        }
    }

    fn queue(&self, link: LinkNo) -> Option<&SendQueue> {
        self.open.iter().find(|(no, ..)| *no == link).map(|(_, queue, _)| queue)
    }

    fn send(&self, link: LinkNo, bytes: Bytes) {
        match self.queue(link).map(|queue| queue.try_send(bytes)) {
            // What must have an effect is repeated until it is answered.
            None | Some(Ok(()) | Err(SendQueueError::Closed)) => {}
            Some(Err(SendQueueError::Full)) => {
                tracing::debug!(link = link.0, "Central takes messages too slowly; one was dropped");
            }
        }
    }

    fn dial(&mut self, dial: Dial) {
        self.open.retain(|(.., task)| !task.is_finished());
        let (queue, queued) = send_queue(QUEUE);
        let (clock, events, wrap, no) = (self.clock, self.events.clone(), self.wrap, dial.link);
        let task = tokio::spawn(async move {
            let ended = match link::connect(&dial.address, CONNECT).await {
                Ok(stream) => {
                    let link = Link::initiator(dial.settings, dial.part, &dial.id, dial.proof, clock.mono());
                    let mut forwarder = EventForwarder { no, events: events.clone(), wrap };
                    LinkError::Link(link::run(stream, link, queued, &mut forwarder, clock).await)
                }
                Err(error) => LinkError::Connect(error.to_string()),
            };
            // Nobody listens any more only where the role itself has ended.
            drop(events.send(wrap(no, LinkEvent::Closed(ended))).await);
        });
        self.open.push((no, queue, task));
    }

    /// Closes all in order and waits a moment for that.
    pub async fn close(self) {
        drop(self.events);
        for (_, queue, _) in &self.open {
            queue.close();
        }
        let all = futures::future::join_all(self.open.into_iter().map(|(.., task)| task));
        drop(tokio::time::timeout(FAREWELL, all).await);
    }
}

struct EventForwarder<E> {
    no: LinkNo,
    events: mpsc::Sender<E>,
    wrap: fn(LinkNo, LinkEvent) -> E,
}

impl<E: Send> LinkOwner for EventForwarder<E> {
    async fn handle(&mut self, event: Event, link: &mut Link, now: Now) {
        let event = match event {
            Event::Open => LinkEvent::Open,
            Event::Message(bytes) => LinkEvent::Message(bytes),
            Event::Busy { retry_after } => LinkEvent::Busy(retry_after),
            Event::UnknownKey => LinkEvent::UnknownKey,
            Event::Unintelligible(what) => LinkEvent::Unintelligible(what),
            // The first is a responder's, the second is what `run` returns.
            Event::Hello(_) | Event::Closed(_) => return,
        };
        if self.events.send((self.wrap)(self.no, event)).await.is_err() {
            link.close(now.mono);
        }
    }
}
