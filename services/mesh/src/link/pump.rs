//! Moves bytes between a stream and its link, through buffers that belong to the thread, so that a connection has none.

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

/// Size of a read. A larger one is not faster; the link assembles longer frames.
const PORTION: usize = 16 * 1024;
/// Time limit for sending `EOT`, and for a refused peer to read it.
const SEND_EOT: Duration = Duration::from_secs(1);
const LINGER: Duration = Duration::from_millis(250);

thread_local! {
    static READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static WRITE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

pub(super) struct Pump<S> {
    stream: S,
    pub(super) link: Link,
    /// Bytes that the stream did not accept; nearly always empty.
    unsent: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pump<S> {
    pub(super) fn new(stream: S, link: Link) -> Self {
        Self { stream, link, unsent: Vec::new() }
    }

    /// Writes what the link has to send, then reads once. Ready when the link has received something.
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
        tracing::debug!(%error, "the connection of a link broke");
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

    /// Sends `EOT`. A refused peer gets a moment to read it: closing a stream with unread bytes resets it, and a Busy
    /// answer would be lost. A lost peer is not waited for, since the owner must know at once (SPEC 2.4).
    pub(super) async fn finish(mut self, why: Closed, clock: Clock) {
        if !was_refused(why) {
            let attempt = poll_fn(|cx| Poll::Ready(self.poll_send(cx, clock))).await;
            return tracing::trace!(?attempt, "sent EOT");
        }
        let sent = timeout(SEND_EOT, async {
            poll_fn(|cx| self.poll_send(cx, clock)).await?;
            self.stream.shutdown().await
        });
        if let Ok(Ok(())) = sent.await {
            let drained = timeout(LINGER, async { while let Ok(true) = poll_fn(|cx| self.poll_discard(cx)).await {} });
            drop(drained.await);
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

/// Whether this end closed the connection and the peer still reads.
fn was_refused(why: Closed) -> bool {
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
