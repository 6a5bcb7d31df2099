//! The bounded queue of messages to the task that owns a link. Unlike a channel of tokio, which allocates a block of 32
//! messages per connection, it has no memory while it is empty.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::task::AtomicWaker;

/// Maximum number of bytes queued for a peer that acknowledges nothing. An empty queue accepts a message of any size,
/// so two of the largest frames fit.
const BYTES: usize = 1 << 20;

/// A queue of at most `capacity` messages, and of at most [`BYTES`] where it holds more than one.
pub fn send_queue(capacity: usize) -> (SendQueue, QueuedMessages) {
    let shared = Arc::new(SharedQueue { capacity, queue: Mutex::default(), waker: AtomicWaker::new() });
    (SendQueue(Arc::clone(&shared)), QueuedMessages(shared))
}

/// The sender's end; cheap to clone.
#[derive(Clone, Debug)]
pub struct SendQueue(Arc<SharedQueue>);

/// The link's end, for [`super::run`].
#[derive(Debug)]
pub struct QueuedMessages(Arc<SharedQueue>);

/// Why a message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendQueueError {
    #[error("the link takes messages too slowly: its send queue is full")]
    Full,
    #[error("the link is closed")]
    Closed,
}

#[derive(Debug)]
struct SharedQueue {
    capacity: usize,
    queue: Mutex<QueueState>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct QueueState {
    messages: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
    /// A drill that the link has not started or ended yet.
    drill: Option<bool>,
}

impl SharedQueue {
    fn queue(&self) -> MutexGuard<'_, QueueState> {
        // No code panics while it holds the lock, so a poisoned lock is impossible.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SendQueue {
    /// Queues a message in clear, which the link seals later. Never waits.
    pub fn try_send(&self, message: Bytes) -> Result<(), SendQueueError> {
        let mut queue = self.0.queue();
        if queue.closed {
            return Err(SendQueueError::Closed);
        }
        let bytes = queue.bytes + message.len();
        if queue.messages.len() >= self.0.capacity || (bytes > BYTES && !queue.messages.is_empty()) {
            return Err(SendQueueError::Full);
        }
        queue.bytes = bytes;
        queue.messages.push_back(message);
        drop(queue);
        self.0.waker.wake();
        Ok(())
    }

    /// Closes the link in order, after the messages queued so far.
    pub fn close(&self) {
        self.0.queue().closed = true;
        self.0.waker.wake();
    }

    /// A drill (SPEC 4.8): `on` spoils the keys of the link, otherwise repairs them.
    pub fn spoil(&self, on: bool) {
        self.0.queue().drill = Some(on);
        self.0.waker.wake();
    }

    /// Whether the link has ended or was told to close.
    pub fn is_closed(&self) -> bool {
        self.0.queue().closed
    }

    /// Whether both are ends of the same link.
    pub fn same_link(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl QueuedMessages {
    pub(super) fn take(&mut self) -> Option<Bytes> {
        let mut queue = self.0.queue();
        let message = queue.messages.pop_front();
        queue.bytes -= message.as_ref().map_or(0, Bytes::len);
        if queue.messages.is_empty() {
            queue.messages = VecDeque::new();
        }
        message
    }

    pub(super) fn take_drill(&mut self) -> Option<bool> {
        self.0.queue().drill.take()
    }

    /// Whether the link was told to close.
    pub(super) fn closing(&self) -> bool {
        self.0.queue().closed
    }

    /// Whether the link was told to close and no message is left.
    pub(super) fn drained(&self) -> bool {
        let queue = self.0.queue();
        queue.closed && queue.messages.is_empty()
    }

    /// Ready when the link has something to do: a message to take if it has `room`, a drill, or the order to close,
    /// which a link that is not `open` follows at once and an open one after the last message.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>, room: bool, open: bool) -> Poll<()> {
        self.0.waker.register(cx.waker());
        let queue = self.0.queue();
        let message = room && !queue.messages.is_empty();
        let close = queue.closed && (queue.messages.is_empty() || !open);
        if message || close || queue.drill.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for QueuedMessages {
    /// Senders get an error from now on.
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        *queue = QueueState { closed: true, ..QueueState::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_queue_is_bounded_and_closes_behind_its_last_message() {
        let (send_queue, mut queued) = send_queue(2);
        let message = Bytes::from_static(b"x");
        assert_eq!(send_queue.try_send(message.clone()), Ok(()));
        assert_eq!(send_queue.try_send(message.clone()), Ok(()));
        assert_eq!(send_queue.try_send(message.clone()), Err(SendQueueError::Full));
        send_queue.close();
        assert_eq!(send_queue.try_send(message), Err(SendQueueError::Closed));
        assert!(queued.closing() && !queued.drained());
        assert!(queued.take().is_some() && queued.take().is_some() && queued.drained());
    }

    #[test]
    fn a_send_queue_is_bounded_in_bytes_and_takes_any_message_when_it_is_empty() {
        let (send_queue, mut queued) = send_queue(256);
        let large = Bytes::from(vec![0; BYTES / 4]);
        let taken = (0..256).take_while(|_| send_queue.try_send(large.clone()).is_ok()).count();
        assert_eq!(taken, 4, "a peer that acknowledges nothing holds a megabyte, not 64");
        assert_eq!(send_queue.try_send(Bytes::from_static(b"x")), Err(SendQueueError::Full));
        assert!(queued.take().is_some());
        assert_eq!(send_queue.try_send(large), Ok(()), "what was taken makes room");
        while queued.take().is_some() {}
        assert_eq!(send_queue.try_send(Bytes::from(vec![0; 2 * BYTES])), Ok(()));
        assert_eq!(send_queue.try_send(Bytes::new()), Err(SendQueueError::Full));
    }

    #[test]
    fn a_sender_learns_that_the_link_is_gone() {
        let (send_queue, queued) = send_queue(2);
        drop(queued);
        assert_eq!(send_queue.try_send(Bytes::new()), Err(SendQueueError::Closed));
        assert!(send_queue.is_closed());
    }
}
