//! What proven peers may ask for that costs a row or an entry: an allowance for each, whatever links it comes on. What is
//! beyond it is answered at once, and counted. Pure.

use std::{collections::HashMap, time::Instant};

use proto::PeerId;

use crate::token_bucket::{Limit, TokenBucket};

/// So many are remembered before those are forgotten who used nothing lately.
const REMEMBERED: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct PeerBuckets {
    used: HashMap<PeerId, TokenBucket>,
    forget_at: usize,
}

impl PeerBuckets {
    pub(super) fn take(&mut self, peer: &PeerId, limit: Limit, now: Instant) -> bool {
        if self.used.len() > self.forget_at.max(REMEMBERED) {
            self.used.retain(|_, used| !used.is_full(now));
            // Not with each that comes.
            self.forget_at = 2 * self.used.len();
        }
        self.used.entry(peer.clone()).or_default().take(limit, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::at;

    const LIMIT: Limit = Limit { burst: 32, every: Duration::from_millis(250) };

    #[test]
    fn each_peer_has_an_allowance_of_its_own_and_a_new_link_brings_no_new_one() {
        let (mut buckets, now) = (PeerBuckets::default(), at(0).mono);
        let peer = |n: usize| PeerId::Driver(format!("D{n}").parse().unwrap());
        assert_eq!((0..5_000).filter(|_| buckets.take(&peer(1), LIMIT, now)).count(), 32);
        assert!(buckets.take(&peer(2), LIMIT, now));
        assert_eq!((0..100).filter(|_| buckets.take(&peer(1), LIMIT, at(1).mono)).count(), 4);
    }

    #[test]
    fn who_has_used_nothing_lately_is_forgotten() {
        let mut buckets = PeerBuckets::default();
        let peer = |n: usize| PeerId::Driver(format!("D{n}").parse().unwrap());
        assert!((0..10_000).all(|n| buckets.take(&peer(n), LIMIT, at(n as u64).mono)));
        assert!(buckets.used.len() <= REMEMBERED + 1, "{}", buckets.used.len());
    }
}
