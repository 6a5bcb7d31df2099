//! The sending half of the conversation (SPEC 4.2): the frames that the peer has not acknowledged yet, in order.
//!
//! Guarantees: a frame is repeated byte for byte, since its sealed body is kept; at most a window of frames is in
//! flight; the oldest is sent at most `tries` times; no memory is held once everything is acknowledged.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::frame;

/// One call stops appending frames once its output has this size.
const PORTION: usize = 64 * 1024;
/// An empty queue keeps capacity for this many frames.
const KEPT: usize = 4;

#[derive(Debug)]
pub(crate) struct SendWindow {
    /// Bodies of unacknowledged frames, the oldest first.
    bodies: VecDeque<Vec<u8>>,
    /// Number of the first body's frame; the first frame of a link is 1.
    first: u64,
    /// Index of the next body to send, and how many were sent at least once.
    cursor: usize,
    sent: usize,
    /// How many times the first frame was sent, and when the timeout for it began.
    tries: u32,
    since: Instant,
    bytes: usize,
    resent: u32,
}

/// The oldest frame was sent the maximum number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetriesExhausted;

impl SendWindow {
    pub(crate) fn new(now: Instant) -> Self {
        Self { bodies: VecDeque::new(), first: 1, cursor: 0, sent: 0, tries: 0, since: now, bytes: 0, resent: 0 }
    }

    /// The number of the next frame.
    pub(crate) fn next_number(&self) -> u64 {
        self.first + self.bodies.len() as u64
    }

    pub(crate) fn push(&mut self, body: Vec<u8>) {
        self.bytes += body.len();
        self.bodies.push_back(body);
    }

    /// Frames not yet acknowledged.
    pub(crate) fn len(&self) -> usize {
        self.bodies.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no frame waits for the window.
    pub(crate) fn all_sent(&self) -> bool {
        self.cursor == self.bodies.len()
    }

    pub(crate) fn resent(&self) -> u32 {
        self.resent
    }

    pub(crate) fn clear(&mut self) {
        self.acknowledge(self.bodies.len());
    }

    /// Appends the frames that the window allows.
    pub(crate) fn transmit(&mut self, window: usize, out: &mut Vec<u8>, now: Instant) {
        while self.cursor < window && out.len() < PORTION {
            let Some(body) = self.bodies.get(self.cursor) else { return };
            frame::encode(body, out);
            if self.sent == 0 {
                (self.tries, self.since) = (1, now);
            }
            self.cursor += 1;
            self.resent = self.resent.saturating_add(u32::from(self.cursor <= self.sent));
            self.sent = self.sent.max(self.cursor);
        }
    }

    /// Handles `ACK counter`, which acknowledges all frames up to that one. Returns whether it acknowledged anything;
    /// an `ACK` for a frame that was never sent does not.
    pub(crate) fn ack(&mut self, counter: u8, now: Instant) -> bool {
        let count = usize::from(counter.wrapping_sub(self.first as u8).wrapping_add(1));
        if count == 0 || count > self.sent {
            return false;
        }
        self.acknowledge(count);
        (self.tries, self.since) = (1, now);
        true
    }

    /// Handles `NACK counter`: all frames before that one arrived; it and the frames after it have to be sent again.
    pub(crate) fn nack(&mut self, counter: u8, limit: u32, now: Instant) -> Result<(), RetriesExhausted> {
        let count = usize::from(counter.wrapping_sub(self.first as u8));
        if count > self.sent {
            return Ok(());
        }
        if count > 0 {
            self.acknowledge(count);
            (self.tries, self.since) = (1, now);
        }
        self.again(limit, now)
    }

    /// Schedules all frames in flight to be sent again.
    pub(crate) fn again(&mut self, limit: u32, now: Instant) -> Result<(), RetriesExhausted> {
        if self.sent == 0 {
            return Ok(());
        }
        if self.tries >= limit {
            return Err(RetriesExhausted);
        }
        (self.cursor, self.tries, self.since) = (0, self.tries + 1, now);
        Ok(())
    }

    /// When the acknowledgement of the oldest frame in flight is overdue.
    pub(crate) fn due(&self, timeout: Duration) -> Option<Instant> {
        if self.sent > 0 { self.since.checked_add(timeout) } else { None }
    }

    fn acknowledge(&mut self, count: usize) {
        for body in self.bodies.drain(..count.min(self.bodies.len())) {
            self.bytes -= body.len();
        }
        self.first += count as u64;
        self.cursor = self.cursor.saturating_sub(count);
        self.sent = self.sent.saturating_sub(count);
        if self.bodies.is_empty() && self.bodies.capacity() > KEPT {
            self.bodies = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair::start;

    fn window_of(count: u8) -> SendWindow {
        let mut frames = SendWindow::new(start());
        (1..=count).for_each(|counter| frames.push(vec![counter, 0x20]));
        frames
    }

    fn sent(frames: &mut SendWindow, window: usize, now: Instant) -> Vec<u8> {
        let mut bytes = Vec::new();
        frames.transmit(window, &mut bytes, now);
        let (mut decoder, mut input, mut counters) = (frame::Decoder::new(64), bytes.as_slice(), Vec::new());
        while let Some(frame::Token::Frame) = decoder.next(&mut input) {
            counters.extend(decoder.take_body().first());
        }
        counters
    }

    #[test]
    fn a_window_of_frames_is_in_flight_and_an_ack_answers_all_up_to_its_frame_spec_4_2() {
        let now = start();
        let mut frames = window_of(8);
        assert_eq!(sent(&mut frames, 3, now), [1, 2, 3]);
        assert!(!frames.ack(4, now), "frame 4 was never sent");
        assert!(frames.ack(2, now) && !frames.ack(2, now));
        assert_eq!(sent(&mut frames, 3, now), [4, 5]);
        assert!(frames.ack(5, now));
        assert_eq!(sent(&mut frames, 3, now), [6, 7, 8]);
        assert!(frames.ack(8, now) && frames.len() == 0 && frames.bytes() == 0 && frames.next_number() == 9);
        assert_eq!(frames.due(Duration::from_secs(1)), None);
    }

    #[test]
    fn a_nack_asks_for_its_frame_and_what_follows_again_three_tries_in_all_spec_4_2() {
        let now = start();
        let mut frames = window_of(4);
        assert_eq!(sent(&mut frames, 8, now), [1, 2, 3, 4]);
        assert_eq!(frames.nack(3, 3, now), Ok(()));
        assert_eq!(sent(&mut frames, 8, now), [3, 4]);
        assert_eq!(frames.nack(3, 3, now), Ok(()));
        assert_eq!(sent(&mut frames, 8, now), [3, 4]);
        assert_eq!(frames.nack(3, 3, now), Err(RetriesExhausted));
    }

    #[test]
    fn a_nack_of_what_was_never_sent_or_is_all_there_changes_nothing() {
        let now = start();
        let mut frames = window_of(2);
        assert_eq!(sent(&mut frames, 8, now), [1, 2]);
        assert_eq!(frames.nack(100, 1, now), Ok(()));
        assert_eq!(frames.nack(3, 1, now), Ok(()));
        assert_eq!((frames.len(), sent(&mut frames, 8, now)), (0, vec![]));
    }
}
