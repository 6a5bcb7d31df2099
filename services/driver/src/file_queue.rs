//! The queue of a file's requests: the next one is made a pause after the previous one has ended, however it ended (SPEC
//! 3.10).
//!
//! Pure.

use std::time::{Duration, Instant};

use crate::request_file::{FileRequest, RequestFile};

/// A file that is worked through, one request at a time.
#[derive(Debug)]
pub(crate) struct FileQueue {
    file: RequestFile,
    pause: Duration,
    /// All requests up to this line have ended.
    done: u64,
    in_flight: Option<u64>,
    next_at: Instant,
}

impl FileQueue {
    /// `done` and `in_flight` are what was saved before a restart. Where nothing is in flight, a request is due at once.
    pub(crate) fn new(file: RequestFile, done: u64, in_flight: Option<u64>, pause: Duration, now: Instant) -> Self {
        Self { file, pause, done, in_flight, next_at: now }
    }

    /// When to call [`Self::next`]; nothing while a request is in flight, or where none is left.
    pub(crate) fn due(&self) -> Option<Instant> {
        let left = self.in_flight.is_none() && self.file.next_after(self.done).is_some();
        left.then_some(self.next_at)
    }

    /// Takes the next request, where one is due; it is in flight from now on.
    pub(crate) fn next(&mut self, now: Instant) -> Option<FileRequest> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        let request = self.file.next_after(self.done)?.clone();
        self.in_flight = Some(request.line);
        Some(request)
    }

    /// The request of this line has ended: it is billed, settling, released or refused.
    pub(crate) fn finish(&mut self, line: u64, now: Instant) {
        if self.in_flight == Some(line) {
            self.in_flight = None;
            self.next_at = now + self.pause;
        }
        self.done = self.done.max(line);
    }

    /// The request of this line could not be made; it is due again after the pause.
    pub(crate) fn retry(&mut self, line: u64, now: Instant) {
        if self.in_flight.take_if(|in_flight| *in_flight == line).is_some() {
            self.next_at = now + self.pause;
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.in_flight.is_none() && self.file.next_after(self.done).is_none()
    }

    pub(crate) fn file(&self) -> &RequestFile {
        &self.file
    }

    /// Number of requests that have ended, and of all requests.
    pub(crate) fn progress(&self) -> (usize, usize) {
        (self.file.requests.iter().filter(|w| w.line <= self.done).count(), self.file.requests.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(4);

    #[expect(clippy::disallowed_methods, reason = "an instant to count from; the tests never wait")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_next_request_comes_four_seconds_after_the_previous_one_ended_spec_3_10() {
        let now = start();
        let mut queue = FileQueue::new(RequestFile::parse("A\nB"), 0, None, PAUSE, now);
        assert_eq!(queue.next(now).map(|w| w.line), Some(1));
        assert_eq!((queue.due(), queue.next(now + PAUSE)), (None, None), "one at a time");
        queue.finish(1, now + PAUSE);
        assert_eq!(queue.next(now + 2 * PAUSE - Duration::from_millis(1)), None);
        assert_eq!(queue.next(now + 2 * PAUSE).map(|w| w.line), Some(2));
        queue.finish(2, now);
        assert!(queue.is_over());
        assert_eq!(queue.progress(), (2, 2));
    }

    #[test]
    fn a_line_that_could_not_be_kept_is_asked_for_again_spec_9() {
        let now = start();
        let mut queue = FileQueue::new(RequestFile::parse("A\nB"), 0, None, PAUSE, now);
        assert_eq!(queue.next(now).map(|w| w.line), Some(1));
        queue.retry(1, now);
        assert_eq!((queue.next(now), queue.is_over()), (None, false));
        assert_eq!(queue.next(now + PAUSE).map(|w| w.line), Some(1));
    }

    #[test]
    fn a_restart_waits_for_the_line_in_flight_and_goes_on_after_it_spec_3_10() {
        let now = start();
        let mut queue = FileQueue::new(RequestFile::parse("A\nB\nC"), 1, Some(2), PAUSE, now);
        assert_eq!(queue.next(now), None);
        queue.finish(2, now);
        assert_eq!(queue.next(now + PAUSE).map(|w| w.line), Some(3));
    }
}
