//! The receiving half of the conversation (SPEC 4.2): which frame is next, and what to answer.
//!
//! Guarantees: frames are accepted in order, each at most once; one `ACK` answers a batch of frames; a lost frame is
//! requested once and again only after a pause, so that garbage cannot make this end send one `NACK` after another.

use std::time::{Duration, Instant};

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameVerdict {
    /// It is the next frame, with this number: accept it.
    Take(u64),
    /// It has the counter of the last accepted frame, which did not decrypt. That one may have been forged, so this may
    /// be the genuine one.
    Retry(u64),
    Repeated,
    /// A frame before it is missing.
    Gap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledgement {
    Ack(u8),
    Nack(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PendingReply {
    Nothing,
    Ack,
    Nack,
}

#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    /// Number of the last accepted frame; the first is 1. Its low byte is the counter on the wire.
    taken: u64,
    last_failed: bool,
    due: PendingReply,
    asked: Option<(u64, Instant)>,
}

impl ReceiveWindow {
    pub(crate) fn new() -> Self {
        Self { taken: 0, last_failed: false, due: PendingReply::Nothing, asked: None }
    }

    pub(crate) fn judge(&self, counter: u8) -> FrameVerdict {
        let next = self.taken + 1;
        // A window is at most 127 frames, so what lies up to 128 behind is old and the rest is ahead.
        match (next as u8).wrapping_sub(counter) {
            0 => FrameVerdict::Take(next),
            1 if self.last_failed => FrameVerdict::Retry(self.taken),
            1..=128 => FrameVerdict::Repeated,
            _ahead => FrameVerdict::Gap,
        }
    }

    /// Records an accepted frame. `failed`: it did not decrypt.
    pub(crate) fn take(&mut self, number: u64, failed: bool) {
        self.taken = number;
        self.last_failed = failed;
        self.acknowledge();
    }

    pub(crate) fn acknowledge(&mut self) {
        self.due = PendingReply::Ack;
    }

    /// A frame was damaged or lost: requests the next frame and all that follow it, at most once per `pause`.
    pub(crate) fn ask_again(&mut self, now: Instant, pause: Duration) {
        let next = self.taken + 1;
        let just_asked = self.asked.is_some_and(|(number, at)| number == next && now < at + pause);
        if !just_asked {
            self.asked = Some((next, now));
            self.due = PendingReply::Nack;
        }
    }

    /// The acknowledgement to send now; returned once.
    pub(crate) fn answer(&mut self) -> Option<Acknowledgement> {
        match std::mem::replace(&mut self.due, PendingReply::Nothing) {
            PendingReply::Nothing => None,
            PendingReply::Ack => Some(Acknowledgement::Ack(self.taken as u8)),
            // A `NACK` also acknowledges all frames before it.
            PendingReply::Nack => Some(Acknowledgement::Nack((self.taken + 1) as u8)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair::start;

    fn taken(count: u64) -> ReceiveWindow {
        let mut window = ReceiveWindow::new();
        (1..=count).for_each(|number| window.take(number, false));
        window
    }

    #[test]
    fn counters_run_over_255_to_0() {
        let window = taken(255);
        assert_eq!(window.judge(0), FrameVerdict::Take(256));
        assert_eq!(window.judge(255), FrameVerdict::Repeated);
        assert_eq!(window.judge(1), FrameVerdict::Gap);
        assert_eq!(window.judge(126), FrameVerdict::Gap);
        assert_eq!(window.judge(128), FrameVerdict::Repeated);
    }

    #[test]
    fn a_batch_of_frames_is_answered_once_spec_4_2() {
        let mut window = taken(5);
        assert_eq!(window.answer(), Some(Acknowledgement::Ack(5)));
        assert_eq!(window.answer(), None);
    }

    #[test]
    fn a_missing_frame_is_asked_for_once_and_again_after_a_while() {
        let (start, pause) = (start(), Duration::from_millis(500));
        let mut window = taken(3);
        window.ask_again(start, pause);
        assert_eq!(window.answer(), Some(Acknowledgement::Nack(4)));
        window.ask_again(start + pause / 2, pause);
        assert_eq!(window.answer(), None);
        window.ask_again(start + pause, pause);
        assert_eq!(window.answer(), Some(Acknowledgement::Nack(4)));
        window.take(4, false);
        window.ask_again(start + pause, pause);
        assert_eq!(window.answer(), Some(Acknowledgement::Nack(5)), "another frame is asked for at once");
    }

    #[test]
    fn the_place_of_a_frame_that_did_not_open_is_kept_for_the_real_one_spec_4_5() {
        let mut window = taken(3);
        window.take(4, true);
        assert_eq!(window.judge(4), FrameVerdict::Retry(4));
        window.take(5, false);
        assert_eq!(window.judge(4), FrameVerdict::Repeated);
    }
}
