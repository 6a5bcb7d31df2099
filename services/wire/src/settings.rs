//! Times and bounds of a link. The defaults are SPEC's values; the protocol's own limits stand beside each.

use std::time::Duration;

/// Both ends of a link take the same `max_frame`; the rest is each end's own affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// An initiator that has sent nothing for this long sends a life sign; a responder expects one within it.
    pub life_sign: Duration,
    /// A peer not heard for this many life signs is lost.
    pub misses: u32,
    /// What is not acknowledged for this long is sent again.
    pub ack_timeout: Duration,
    /// How often a frame is sent, the first time included, before the link is given up.
    pub tries: u32,
    /// Frames sent and not yet acknowledged. At most 127, so that a counter byte is never ambiguous.
    pub window: usize,
    /// Longest body of a frame, in bytes before escaping.
    pub max_frame: usize,
    /// From the start of the connection to `Open` (initiator) or to the first opened message (responder).
    pub handshake_timeout: Duration,
    /// Messages accepted and not yet acknowledged, those in the window included.
    pub queue: usize,
    /// Longest that a busy answer makes anybody wait (SPEC 4.2), whatever it says.
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
    /// Bounds that keep a link meaningful, whatever was configured or claimed by a peer.
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

/// A peer states its own interval (`Opened.life_sign_ms`): neither a busy loop nor an eternity may come of it.
pub(crate) fn bounded_life_sign(interval: Duration) -> Duration {
    interval.clamp(Duration::from_millis(50), Duration::from_secs(3600))
}
