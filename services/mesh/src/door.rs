//! Who may stand at a door: places are bounded, and so is each holder's share of them, a network's or a name's. Whoever
//! has too many loses his oldest, and where all are taken, whoever has most: what is honest is done soon, what is held
//! open is old. So a stranger shuts out nobody but his own.
//!
//! A pure table: the instant goes in, and whoever lost his place hears of it by a token.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

/// A network's share of the places that strangers share, and a name's of those of the known.
const SHARE: usize = 8;

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub places: usize,
    pub per_holder: usize,
    /// Nobody loses a place that is younger than this; the newcomer gets none.
    pub grace: Duration,
}

impl Bounds {
    /// No holder has more than an eighth.
    pub fn shared(places: usize) -> Self {
        Self { places, per_holder: places.div_ceil(SHARE), grace: Duration::ZERO }
    }
}

#[derive(Debug)]
pub struct Door<K> {
    bounds: Bounds,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    places: usize,
    /// Each one's places, the oldest first; none is empty.
    holders: HashMap<K, VecDeque<Held>>,
    next: u64,
}

#[derive(Debug)]
struct Held {
    number: u64,
    since: Instant,
    evicted: CancellationToken,
}

/// Given back when dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash> {
    door: Arc<Door<K>>,
    holder: K,
    number: u64,
    /// Cancelled when the place is needed for another.
    pub evicted: CancellationToken,
}

impl<K: Clone + Eq + Hash> Door<K> {
    pub fn new(bounds: Bounds) -> Arc<Self> {
        let state = State { places: 0, holders: HashMap::new(), next: 0 };
        Arc::new(Self { bounds, state: Mutex::new(state) })
    }

    /// A place for `holder`, or none.
    pub fn enter(self: &Arc<Self>, holder: K, now: Instant) -> Option<Place<K>> {
        let mut state = self.lock();
        let his = state.holders.get(&holder).map_or(0, VecDeque::len);
        let loser = if his >= self.bounds.per_holder.max(1) {
            Some(holder.clone())
        } else if state.places >= self.bounds.places {
            Some(state.heaviest()?)
        } else {
            None
        };
        if let Some(loser) = loser {
            let oldest = state.holders.get(&loser)?.front()?;
            if now.saturating_duration_since(oldest.since) < self.bounds.grace {
                return None;
            }
            oldest.evicted.cancel();
            let number = oldest.number;
            state.leave(&loser, number);
        }
        state.next += 1;
        state.places += 1;
        let (number, evicted) = (state.next, CancellationToken::new());
        let held = Held { number, since: now, evicted: evicted.clone() };
        state.holders.entry(holder.clone()).or_default().push_back(held);
        drop(state);
        Some(Place { door: Arc::clone(self), holder, number, evicted })
    }
}

impl<K> Door<K> {
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> State<K> {
    /// Who has most; of several, who has held one the longest.
    fn heaviest(&self) -> Option<K>
    where
        K: Clone,
    {
        let weight = |held: &VecDeque<Held>| (held.len(), std::cmp::Reverse(held.front().map(|oldest| oldest.number)));
        self.holders.iter().max_by_key(|(_, held)| weight(held)).map(|(holder, _)| holder.clone())
    }

    fn leave(&mut self, holder: &K, number: u64) {
        let Some(held) = self.holders.get_mut(holder) else { return };
        let before = held.len();
        held.retain(|other| other.number != number);
        self.places -= before - held.len();
        if held.is_empty() {
            self.holders.remove(holder);
        }
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        self.door.lock().leave(&self.holder, self.number);
    }
}

/// Whom an address counts as: one household of IPv6 is a /64.
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

    fn enter(door: &Arc<Door<u8>>, holders: impl IntoIterator<Item = u8>, now: Instant) -> Vec<Place<u8>> {
        holders.into_iter().map(|holder| door.enter(holder, now).unwrap()).collect()
    }

    fn lost(places: &[Place<u8>]) -> Vec<usize> {
        places.iter().enumerate().filter(|(_, place)| place.evicted.is_cancelled()).map(|(at, _)| at).collect()
    }

    #[test]
    fn who_holds_more_than_his_share_loses_his_oldest_and_nobody_elses() {
        let (door, now) = (Door::new(Bounds::shared(32)), crate::clock::Clock::default().mono());
        let other = enter(&door, [9], now);
        let held = enter(&door, [1; 6], now);
        assert_eq!((lost(&held), lost(&other)), (vec![0, 1], vec![]));
        drop((held, other));
        assert!(door.lock().holders.is_empty() && door.lock().places == 0);
    }

    #[test]
    fn where_all_places_are_taken_who_holds_most_loses_his_oldest() {
        let (door, now) = (Door::new(Bounds::shared(16)), crate::clock::Clock::default().mono());
        let single = enter(&door, [0], now);
        // Two places each, but for the first.
        let held = enter(&door, (1..=8).flat_map(|holder| [holder; 2]).take(15), now);
        assert_eq!(lost(&held), [0; 0]);
        let honest = enter(&door, [100], now);
        assert_eq!((lost(&single), lost(&held), lost(&honest)), (vec![], vec![0], vec![]));
        assert_eq!(door.lock().places, 16);
    }

    #[test]
    fn a_place_that_is_given_back_is_free_again() {
        let (door, now) = (Door::new(Bounds::shared(8)), crate::clock::Clock::default().mono());
        drop(enter(&door, [1], now));
        let again = enter(&door, [1], now);
        assert_eq!(lost(&again), [0; 0]);
    }

    #[test]
    fn a_young_place_is_not_given_up_within_the_grace() {
        let bounds = Bounds { places: 8, per_holder: 1, grace: Duration::from_millis(250) };
        let (door, now) = (Door::new(bounds), crate::clock::Clock::default().mono());
        let held = enter(&door, [1], now);
        assert!(door.enter(1, now + Duration::from_millis(249)).is_none());
        assert!(door.enter(1, now + Duration::from_millis(250)).is_some());
        assert_eq!(lost(&held), [0]);
    }

    #[test]
    fn a_household_is_one_network_and_an_address_of_ipv4_is_another() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
    }
}
