//! The one async rim of `wire`: gives a [`Link`] a stream, a clock and a send queue. Used by Central, charging points and
//! drivers alike, over TCP and over Unix sockets.
//!
//! Guarantees: one task owns stream and link, so nothing is locked; the send queue is bounded; an idle connection holds no
//! buffer (bytes pass through one per thread); what the peer does not read is never buffered past one portion of 64 KiB
//! beside the link's own bounded queue; bytes that have come are read before a time-out is believed, so that a process
//! that was held up does not take its peers for dead.
//!
//! The handler is awaited in place: while it waits, this link alone reads nothing, life signs included, and the peer is
//! held back. It must come back well within the life signs that its peer allows (1.5 s by default).

mod backoff;
mod config;
mod pump;
mod send_queue;
#[cfg(test)]
mod tests;

use std::{
    future::{Future, poll_fn},
    io,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use wire::{Closed, Event, Link};

pub use self::{
    backoff::Backoff,
    config::Config,
    send_queue::{QueuedMessages, SendQueue, SendQueueError, send_queue},
};
use crate::clock::{Alarm, Clock, Now};
use pump::Pump;

/// What an owner does with the events of one link.
pub trait LinkOwner: Send {
    /// Every event but [`Event::Closed`], which [`run`] returns. May answer by the link itself (`admit`, `send`,
    /// `set_life_sign`, `close`).
    fn handle(&mut self, event: Event, link: &mut Link, now: Now) -> impl Future<Output = ()> + Send;
}

/// Drives one connection to its end and says why it ended. Dropping the future cuts the connection without a farewell;
/// [`SendQueue::close`] closes it in order.
pub fn run<'h, S, H>(
    stream: S,
    link: Link,
    queued: QueuedMessages,
    handler: &'h mut H,
    clock: Clock,
) -> impl Future<Output = Closed> + Send + use<'h, S, H>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    H: LinkOwner,
{
    // A future keeps a place of its own for each argument that it moves on: thousands of idle links would pay for it.
    drive(Box::new(Pump::new(stream, link)), queued, handler, clock)
}

async fn drive<S, H>(mut pump: Box<Pump<S>>, mut queued: QueuedMessages, handler: &mut H, clock: Clock) -> Closed
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    H: LinkOwner,
{
    let mut alarm = Alarm::new(clock);
    loop {
        post(&mut queued, &mut pump.link, clock);
        while let Some(event) = pump.link.poll_event() {
            if let Event::Closed(why) = event {
                Box::pin(pump.finish(why, clock)).await;
                return why;
            }
            handler.handle(event, &mut pump.link, clock.now()).await;
            post(&mut queued, &mut pump.link, clock);
        }
        alarm.arm(pump.link.poll_timeout());
        let (room, open, closing) = (pump.link.ready(), pump.link.is_open(), pump.link.is_closing());
        tokio::select! {
            // Reading stands before the alarm: see the guarantees above.
            biased;
            () = poll_fn(|cx| pump.poll(cx, clock)) => {
                // A peer that floods would otherwise keep the alarm from ever being heard.
                let now = clock.mono();
                if pump.link.poll_timeout().is_some_and(|due| due <= now) {
                    pump.link.handle_timeout(now);
                }
            }
            () = poll_fn(|cx| queued.poll_ready(cx, room, open)), if !closing => {}
            () = alarm.rings() => {
                pump.link.handle_timeout(clock.mono());
            }
        }
    }
}

/// Moves what was queued into the link, as far as it has room, and closes it behind the last message.
fn post(queued: &mut QueuedMessages, link: &mut Link, clock: Clock) {
    match queued.take_drill() {
        Some(true) => link.spoil(),
        Some(false) => link.repair(),
        None => {}
    }
    while link.ready()
        && let Some(message) = queued.take()
    {
        if let Err(error) = link.send(&message, clock.mono()) {
            tracing::warn!(bytes = message.len(), %error, "a message for a link was dropped");
        }
    }
    if queued.drained() || (queued.closing() && !link.is_open()) {
        link.close(clock.mono());
    }
}

/// Connects within `limit`, without Nagle's delay: a frame waits for no other.
pub async fn connect(address: &str, limit: Duration) -> io::Result<TcpStream> {
    let stream = match timeout(limit, TcpStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))),
    };
    let stream = stream.map_err(|error| io::Error::new(error.kind(), format!("cannot reach {address}: {error}")))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
