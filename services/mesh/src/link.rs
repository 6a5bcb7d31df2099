//! The I/O layer of `wire`: gives a [`Link`] a stream, a clock and a send queue. Used by Central, charging points and
//! drivers, over TCP and over Unix sockets.
//!
//! Guarantees: one task owns stream and link, so no lock is needed; the send queue is bounded; an idle connection has
//! no buffer (reads and writes use one per thread); for a peer that does not read, at most one portion of 64 KiB is
//! buffered beside the link's own bounded queue; bytes that have arrived are read before a timeout takes effect, so
//! that a process that was suspended does not consider its peers dead.
//!
//! The task awaits its [`LinkOwner`]: meanwhile this link reads nothing, not even life signs, which slows the peer
//! down. The owner must return well within the time after which the peer considers this end dead (1.5 s by default).

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

/// One connection of the link, numbered by its owner's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkNo(pub u64);

/// Handles the events of one link.
pub trait LinkOwner: Send {
    /// Called with every event but [`Event::Closed`], which [`run`] returns. May call the link itself (`admit`, `send`,
    /// `set_life_sign`, `close`).
    fn handle(&mut self, event: Event, link: &mut Link, now: Now) -> impl Future<Output = ()> + Send;
}

/// Runs one connection to its end and returns why it ended. Dropping the future cuts the connection;
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
    // An async function stores each argument that it passes on a second time, which costs memory in thousands of idle
    // links; so the function that is awaited gets a box.
    run_to_end(Box::new(Pump::new(stream, link)), queued, handler, clock)
}

async fn run_to_end<S, H>(mut pump: Box<Pump<S>>, mut queued: QueuedMessages, handler: &mut H, clock: Clock) -> Closed
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    H: LinkOwner,
{
    let mut alarm = Alarm::new(clock);
    loop {
        take_queued(&mut queued, &mut pump.link, clock);
        while let Some(event) = pump.link.poll_event() {
            if let Event::Closed(why) = event {
                Box::pin(pump.finish(why, clock)).await;
                return why;
            }
            handler.handle(event, &mut pump.link, clock.now()).await;
            take_queued(&mut queued, &mut pump.link, clock);
        }
        alarm.arm(pump.link.poll_timeout());
        let (room, open, closing) = (pump.link.ready(), pump.link.is_open(), pump.link.is_closing());
        tokio::select! {
            // Reading comes before the alarm: see the guarantees above.
            biased;
            () = poll_fn(|cx| pump.poll(cx, clock)) => {
                // Under a flood of bytes the alarm's branch would never be polled.
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

/// Moves queued messages into the link as far as it has room, and closes it after the last one if told to.
fn take_queued(queued: &mut QueuedMessages, link: &mut Link, clock: Clock) {
    if let Some(on) = queued.take_drill() {
        link.spoil(on);
    }
    while link.ready()
        && let Some(message) = queued.take()
    {
        if let Err(error) = link.send(&message, clock.mono()) {
            tracing::warn!(bytes = message.len(), %error, "dropped a message that the link did not accept");
        }
    }
    if queued.drained() || (queued.closing() && !link.is_open()) {
        link.close(clock.mono());
    }
}

/// Connects within `limit`, with Nagle's algorithm off, so that each frame is sent at once.
pub async fn connect(address: &str, limit: Duration) -> io::Result<TcpStream> {
    let stream = match timeout(limit, TcpStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))),
    };
    let stream = stream.map_err(|error| io::Error::new(error.kind(), format!("cannot reach {address}: {error}")))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
