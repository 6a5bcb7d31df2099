//! Bounds the number of connections, and each holder's share of them. A holder is a network (for peers that have proven
//! nothing) or a name (for authenticated ones). A holder that exceeds its share loses its oldest connection; where all
//! permits are taken, the holder with the most loses its oldest. Honest connections end or authenticate soon, so the
//! oldest of a large holder is most likely held open on purpose, and an attacker evicts only connections of its own.
//!
//! A pure table: the instant is an argument, and a cancellation token tells the holder of an evicted permit.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

/// A holder's share is one part in so many of all permits.
const SHARE: usize = 8;

#[derive(Clone, Copy, Debug)]
pub struct LimiterBounds {
    pub permits: usize,
    pub per_holder: usize,
    /// A permit younger than this is never evicted; the newcomer is refused instead.
    pub grace: Duration,
}

impl LimiterBounds {
    /// Each holder has at most an eighth of the permits.
    pub fn shared(permits: usize) -> Self {
        Self { permits, per_holder: permits.div_ceil(SHARE), grace: Duration::ZERO }
    }
}

/// Hands out permits, one a connection; `K` is a holder.
#[derive(Debug)]
pub struct ConnectionLimiter<K> {
    bounds: LimiterBounds,
    state: Mutex<Holders<K>>,
}

#[derive(Debug)]
struct Holders<K> {
    /// Permits of all holders together.
    permits: usize,
    /// The permits of each holder, the oldest first; never empty.
    holders: HashMap<K, VecDeque<PermitRecord>>,
    next: u64,
}

#[derive(Debug)]
struct PermitRecord {
    number: u64,
    since: Instant,
    evicted: CancellationToken,
}

/// One connection's permit, given back when dropped.
#[derive(Debug)]
pub struct Permit<K: Eq + Hash> {
    limiter: Arc<ConnectionLimiter<K>>,
    holder: K,
    number: u64,
    /// Cancelled when the permit goes to another connection: this one has to be closed.
    pub evicted: CancellationToken,
}

impl<K: Clone + Eq + Hash> ConnectionLimiter<K> {
    pub fn new(bounds: LimiterBounds) -> Arc<Self> {
        let state = Holders { permits: 0, holders: HashMap::new(), next: 0 };
        Arc::new(Self { bounds, state: Mutex::new(state) })
    }

    /// A permit for `holder`, or none where its oldest permit is within the grace time. May evict another permit.
    pub fn acquire(self: &Arc<Self>, holder: K, now: Instant) -> Option<Permit<K>> {
        let mut state = self.lock();
        let held_now = state.holders.get(&holder).map_or(0, VecDeque::len);
        let evicted_holder = if held_now >= self.bounds.per_holder.max(1) {
            Some(holder.clone())
        } else if state.permits >= self.bounds.permits {
            Some(state.largest_holder()?)
        } else {
            None
        };
        if let Some(evicted_holder) = evicted_holder {
            let oldest = state.holders.get(&evicted_holder)?.front()?;
            if now.saturating_duration_since(oldest.since) < self.bounds.grace {
                return None;
            }
            oldest.evicted.cancel();
            let number = oldest.number;
            state.release(&evicted_holder, number);
        }
        state.next += 1;
        state.permits += 1;
        let (number, evicted) = (state.next, CancellationToken::new());
        let held = PermitRecord { number, since: now, evicted: evicted.clone() };
        state.holders.entry(holder.clone()).or_default().push_back(held);
        drop(state);
        Some(Permit { limiter: Arc::clone(self), holder, number, evicted })
    }
}

impl<K> ConnectionLimiter<K> {
    fn lock(&self) -> MutexGuard<'_, Holders<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Holders<K> {
    /// The holder with the most permits; of several, the one with the oldest permit.
    fn largest_holder(&self) -> Option<K>
    where
        K: Clone,
    {
        let weight =
            |held: &VecDeque<PermitRecord>| (held.len(), std::cmp::Reverse(held.front().map(|oldest| oldest.number)));
        self.holders.iter().max_by_key(|(_, held)| weight(held)).map(|(holder, _)| holder.clone())
    }

    fn release(&mut self, holder: &K, number: u64) {
        let Some(held) = self.holders.get_mut(holder) else { return };
        let before = held.len();
        held.retain(|other| other.number != number);
        self.permits -= before - held.len();
        if held.is_empty() {
            self.holders.remove(holder);
        }
    }
}

impl<K: Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        self.limiter.lock().release(&self.holder, self.number);
    }
}

/// The network that stands for an address: an IPv4 address itself, or the /64 of an IPv6 address, which one household
/// has.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acquire(
        limiter: &Arc<ConnectionLimiter<u8>>,
        holders: impl IntoIterator<Item = u8>,
        now: Instant,
    ) -> Vec<Permit<u8>> {
        holders.into_iter().map(|holder| limiter.acquire(holder, now).unwrap()).collect()
    }

    fn lost(permits: &[Permit<u8>]) -> Vec<usize> {
        permits.iter().enumerate().filter(|(_, permit)| permit.evicted.is_cancelled()).map(|(at, _)| at).collect()
    }

    #[test]
    fn a_holder_above_its_share_loses_its_oldest_permit_and_others_lose_none() {
        let (limiter, now) = (ConnectionLimiter::new(LimiterBounds::shared(32)), crate::clock::Clock::default().mono());
        let other = acquire(&limiter, [9], now);
        let held = acquire(&limiter, [1; 6], now);
        assert_eq!((lost(&held), lost(&other)), (vec![0, 1], vec![]));
        drop((held, other));
        assert!(limiter.lock().holders.is_empty() && limiter.lock().permits == 0);
    }

    #[test]
    fn where_all_permits_are_taken_the_largest_holder_loses_its_oldest() {
        let (limiter, now) = (ConnectionLimiter::new(LimiterBounds::shared(16)), crate::clock::Clock::default().mono());
        let single = acquire(&limiter, [0], now);
        // Two permits each, but for the first.
        let held = acquire(&limiter, (1..=8).flat_map(|holder| [holder; 2]).take(15), now);
        assert_eq!(lost(&held), [0; 0]);
        let honest = acquire(&limiter, [100], now);
        assert_eq!((lost(&single), lost(&held), lost(&honest)), (vec![], vec![0], vec![]));
        assert_eq!(limiter.lock().permits, 16);
    }

    #[test]
    fn a_permit_that_is_given_back_is_free_again() {
        let (limiter, now) = (ConnectionLimiter::new(LimiterBounds::shared(8)), crate::clock::Clock::default().mono());
        drop(acquire(&limiter, [1], now));
        let again = acquire(&limiter, [1], now);
        assert_eq!(lost(&again), [0; 0]);
    }

    #[test]
    fn a_young_permit_is_not_evicted_within_the_grace_time() {
        let bounds = LimiterBounds { permits: 8, per_holder: 1, grace: Duration::from_millis(250) };
        let (limiter, now) = (ConnectionLimiter::new(bounds), crate::clock::Clock::default().mono());
        let held = acquire(&limiter, [1], now);
        assert!(limiter.acquire(1, now + Duration::from_millis(249)).is_none());
        assert!(limiter.acquire(1, now + Duration::from_millis(250)).is_some());
        assert_eq!(lost(&held), [0]);
    }

    #[test]
    fn an_ipv6_household_is_one_network_and_each_ipv4_address_is_another() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
    }
}
