//! Times and bounds of a link. The defaults are those of SPEC 4.2; each field names the limits that the protocol sets.

use std::time::Duration;

/// Longest body before a peer has proven itself: an unproven peer gets no more memory than this.
pub(crate) const UNPROVEN_FRAME: usize = 4096;

/// `max_frame` must be the same at both ends of a link; every other setting is local to one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// An initiator that has sent nothing for this long sends a life sign; a responder expects one within it.
    pub life_sign: Duration,
    /// A peer from which nothing comes for this many life-sign intervals is lost.
    pub misses: u32,
    /// A frame that is not acknowledged for this long is sent again.
    pub ack_timeout: Duration,
    /// How many times a frame is sent, the first time included, before the link is closed.
    pub tries: u32,
    /// Maximum number of frames sent and not yet acknowledged. At most 127, so that a counter byte is never ambiguous.
    pub window: usize,
    /// Longest body of a frame, in bytes before escaping.
    pub max_frame: usize,
    /// Time limit from the start of the connection to `Open` (initiator) or to the first decrypted message (responder).
    pub handshake_timeout: Duration,
    /// Maximum number of messages accepted and not yet acknowledged, including those in the window.
    pub queue: usize,
    /// Maximum wait that a Busy answer can cause, whatever time it names (SPEC 4.2).
    pub longest_retry: Duration,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            life_sign: Duration::from_millis(500),
            misses: 3,
            ack_timeout: Duration::from_secs(2),
            tries: 3,
            window: 32,
            max_frame: 1 << 20,
            handshake_timeout: Duration::from_secs(10),
            queue: 64,
            longest_retry: Duration::from_secs(60),
        }
    }
}

impl LinkSettings {
    /// The same settings, each brought into the range in which the protocol works.
    pub(crate) fn bounded(self) -> Self {
        Self {
            life_sign: bounded_life_sign(self.life_sign),
            misses: self.misses.max(1),
            tries: self.tries.max(1),
            window: self.window.clamp(1, 127),
            max_frame: self.max_frame.max(512),
            queue: self.queue.max(1),
            ..self
        }
    }
}

/// A peer states its own interval (`Opened.life_sign_ms`); it must cause neither a busy loop nor an endless wait.
pub(crate) fn bounded_life_sign(interval: Duration) -> Duration {
    interval.clamp(Duration::from_millis(50), Duration::from_secs(3600))
}
