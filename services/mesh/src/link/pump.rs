//! Moves bytes between a stream and its link, through buffers that belong to the thread and not to the connection.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    time::timeout,
};
use wire::{Closed, Link};

use crate::clock::Clock;

/// Read at once. A larger portion does not make it faster; frames longer than this are put together by the link.
const PORTION: usize = 16 * 1024;
/// How long a farewell may take, and how long a peer that was refused may take to hear it.
const FAREWELL: Duration = Duration::from_secs(1);
const LINGER: Duration = Duration::from_millis(250);

thread_local! {
    static READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static WRITE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

pub(super) struct Pump<S> {
    stream: S,
    pub(super) link: Link,
    /// What the peer's window did not take; empty nearly always.
    unsent: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pump<S> {
    pub(super) fn new(stream: S, link: Link) -> Self {
        Self { stream, link, unsent: Vec::new() }
    }

    /// Writes what there is, then reads once. Ready when the link has been given something.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, clock: Clock) -> Poll<()> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx, clock) {
            self.end(&error);
            return Poll::Ready(());
        }
        match ready!(self.poll_receive(cx, clock)) {
            Ok(true) => {}
            Ok(false) => self.link.handle_end(),
            Err(error) => self.end(&error),
        }
        Poll::Ready(())
    }

    fn end(&mut self, error: &io::Error) {
        tracing::debug!(%error, "a link's connection broke");
        self.link.handle_end();
    }

    /// Ready when everything is written.
    fn poll_send(&mut self, cx: &mut Context<'_>, clock: Clock) -> Poll<io::Result<()>> {
        loop {
            while !self.unsent.is_empty() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent))?;
                take_front(&mut self.unsent, written)?;
            }
            let mut portion = WRITE.take();
            portion.clear();
            if !self.link.transmit(&mut portion, clock.mono()) {
                WRITE.set(portion);
                return Pin::new(&mut self.stream).poll_flush(cx);
            }
            let written = Pin::new(&mut self.stream).poll_write(cx, &portion);
            let taken = if let Poll::Ready(Ok(written)) = &written { *written } else { 0 };
            self.unsent = portion.get(taken..).unwrap_or_default().to_vec();
            if portion.capacity() <= 8 * PORTION {
                WRITE.set(portion);
            }
            if ready!(written)? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
    }

    /// Ready with `false` at the end of the stream.
    fn poll_receive(&mut self, cx: &mut Context<'_>, clock: Clock) -> Poll<io::Result<bool>> {
        let mut portion = READ.take();
        portion.resize(PORTION, 0);
        let mut buffer = ReadBuf::new(&mut portion);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
        let received = buffer.filled();
        if !received.is_empty() {
            self.link.handle_bytes(received, clock.mono());
        }
        let more = !received.is_empty();
        READ.set(portion);
        polled.map_ok(|()| more)
    }

    /// Sends the farewell. Whoever was turned away is given a moment to hear it: a stream that is closed over unread
    /// bytes is reset, and a busy answer would be lost with it. A peer that is lost is not waited for, since the owner
    /// must know of it at once (SPEC 2.4).
    pub(super) async fn finish(mut self, why: Closed, clock: Clock) {
        if !turned_away(why) {
            let attempt = poll_fn(|cx| Poll::Ready(self.poll_send(cx, clock))).await;
            return tracing::trace!(?attempt, "said farewell");
        }
        let said = timeout(FAREWELL, async {
            poll_fn(|cx| self.poll_send(cx, clock)).await?;
            self.stream.shutdown().await
        });
        if let Ok(Ok(())) = said.await {
            let heard = timeout(LINGER, async { while let Ok(true) = poll_fn(|cx| self.poll_discard(cx)).await {} });
            drop(heard.await);
        }
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut portion = READ.take();
        portion.resize(PORTION, 0);
        let mut buffer = ReadBuf::new(&mut portion);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
        let more = !buffer.filled().is_empty();
        READ.set(portion);
        polled.map_ok(|()| more)
    }
}

/// Whether this end closed a connection whose other end listens.
fn turned_away(why: Closed) -> bool {
    match why {
        Closed::ByUs | Closed::HandshakeFailed | Closed::Busy | Closed::UnknownKey => true,
        Closed::Version(_) | Closed::Protocol(_) => true,
        Closed::ByPeer | Closed::Cut | Closed::Silent | Closed::Unanswered | Closed::HandshakeTimeout => false,
    }
}

fn take_front(bytes: &mut Vec<u8>, count: usize) -> io::Result<()> {
    if count == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    if count >= bytes.len() {
        *bytes = Vec::new();
    } else {
        bytes.drain(..count);
    }
    Ok(())
}
