//! Admits connections: unauthenticated ones are bounded in number, per network and in time, so that strangers cost
//! honest peers nothing (DESIGN 4).

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mesh::limiter::{ConnectionLimiter, LimiterBounds, Permit, network};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How many connections and handshakes are admitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkBounds {
    /// Connections of all kinds.
    pub links: usize,
    /// That have proven nothing yet.
    pub unproven: usize,
    pub unproven_per_address: usize,
    /// Handshakes begun per second.
    pub handshakes_per_second: u32,
}

/// An unproven connection younger than this is not closed to make room for another.
const GRACE: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct LinkLimiter {
    bounds: LinkBounds,
    links: Arc<Semaphore>,
    /// All were taken, and it was said; until many are free again.
    said_full: AtomicBool,
    unproven: Arc<ConnectionLimiter<IpAddr>>,
}

/// Permission to hold one connection; given back when dropped.
#[derive(Debug)]
pub(super) struct LinkPermit {
    unproven: Mutex<Option<Permit<IpAddr>>>,
    /// Cancelled when the permit is needed for another.
    pub evicted: CancellationToken,
    _link: OwnedSemaphorePermit,
}

impl LinkLimiter {
    pub(super) fn new(bounds: LinkBounds) -> Arc<Self> {
        let LinkBounds { links, unproven, unproven_per_address, .. } = bounds;
        let bounds_of_unproven = LimiterBounds { permits: unproven, per_holder: unproven_per_address, grace: GRACE };
        Arc::new(Self {
            bounds,
            links: Arc::new(Semaphore::new(links.min(Semaphore::MAX_PERMITS))),
            said_full: AtomicBool::new(false),
            unproven: ConnectionLimiter::new(bounds_of_unproven),
        })
    }

    /// A permit for a connection from `address`, or none.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<LinkPermit> {
        let Ok(link) = self.links.clone().try_acquire_owned() else {
            if !self.said_full.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    links = self.bounds.links,
                    "all links are taken: others are told to come later; raise --max-links or the limit of open files"
                );
            }
            return None;
        };
        if self.links.available_permits() > self.bounds.links / 16 {
            self.said_full.store(false, Ordering::Relaxed);
        }
        let unproven = self.unproven.acquire(network(address), now)?;
        let evicted = unproven.evicted.clone();
        Some(LinkPermit { unproven: Mutex::new(Some(unproven)), evicted, _link: link })
    }
}

impl LinkPermit {
    /// The peer has proven who it is: it counts among strangers no longer.
    pub(super) fn proven(&self) {
        drop(self.unproven.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    pub(super) fn is_proven(&self) -> bool {
        self.unproven.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, at_ms};

    fn limiter(unproven_per_address: usize) -> Arc<LinkLimiter> {
        LinkLimiter::new(LinkBounds { links: 10, unproven: 8, unproven_per_address, handshakes_per_second: 10 })
    }

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn an_address_that_holds_handshakes_open_loses_its_oldest_and_not_its_next() {
        let limiter = limiter(2);
        let held: Vec<_> = (0..2).map(|_| limiter.enter(ADDRESS, at(0).mono).unwrap()).collect();
        assert!(limiter.enter(ADDRESS, at_ms(100).mono).is_none(), "a burst is told to come later");
        let honest = limiter.enter(ADDRESS, at(1).mono);
        assert!(honest.is_some() && held[0].evicted.is_cancelled() && !held[1].evicted.is_cancelled());
        drop((held, honest));
        assert_eq!(limiter.links.available_permits(), 10);
    }

    #[test]
    fn proven_links_are_no_strangers() {
        let limiter = limiter(2);
        let places: Vec<_> = (0..2).map(|_| limiter.enter(ADDRESS, at(0).mono).unwrap()).collect();
        places.iter().for_each(LinkPermit::proven);
        let more: Vec<_> = (0..2).map(|_| limiter.enter(ADDRESS, at(0).mono)).collect();
        assert!(more.iter().all(Option::is_some));
    }

    #[test]
    fn that_all_links_are_taken_is_said_once_for_as_long_as_it_lasts_spec_9() {
        let limiter = limiter(8);
        let mut held: Vec<_> = (0..10)
            .map(|_| {
                let permit = limiter.enter(ADDRESS, at(0).mono).unwrap();
                permit.proven();
                permit
            })
            .collect();
        let is_said = || limiter.said_full.load(Ordering::Relaxed);
        assert!(!is_said());
        for _ in 0..3 {
            assert!(limiter.enter(ADDRESS, at(0).mono).is_none() && is_said());
        }
        held.truncate(9);
        drop(limiter.enter(ADDRESS, at(0).mono).unwrap());
        assert!(is_said(), "one that comes and goes at the limit is no news");
        held.truncate(5);
        drop(limiter.enter(ADDRESS, at(0).mono).unwrap());
        assert!(!is_said());
    }
}
