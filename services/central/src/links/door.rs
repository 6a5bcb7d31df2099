//! Who may knock: unproven connections are bounded in number, per address and in time, and handshakes in their share of
//! the CPU, so that strangers cost honest peers nothing (DESIGN 4). When an address has too many, its oldest goes: an
//! honest handshake takes milliseconds, one that is held open does not.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

/// Bounds of the door.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Connections of all kinds.
    pub links: usize,
    /// That have proven nothing yet.
    pub unproven: usize,
    pub unproven_per_address: usize,
    /// Handshakes begun per second.
    pub handshakes_per_second: u32,
}

/// Below this age an unproven connection is not given up for another of its address.
const GRACE: Duration = Duration::from_millis(250);
/// The longest that a handshake waits for its turn before the peer is told to come later.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Door {
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    links: usize,
    unproven: usize,
    by_address: HashMap<IpAddr, VecDeque<(u64, Instant, CancellationToken)>>,
    next: u64,
    /// When the next handshake may begin.
    turn: Option<Instant>,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    door: Arc<Door>,
    number: u64,
    address: IpAddr,
    unproven: AtomicBool,
    /// Cancelled when the place is needed for another.
    pub evicted: CancellationToken,
}

impl Door {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, state: Mutex::default() })
    }

    /// A place for a connection from `address`, or none.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<Place> {
        let address = network(address);
        let mut state = self.lock();
        if state.links >= self.bounds.links || state.unproven >= self.bounds.unproven {
            return None;
        }
        let here = state.by_address.entry(address).or_default();
        if here.len() >= self.bounds.unproven_per_address {
            let (_, since, evicted) = here.front()?;
            if now.saturating_duration_since(*since) < GRACE {
                return None;
            }
            evicted.cancel();
            here.pop_front();
            state.unproven = state.unproven.saturating_sub(1);
        }
        state.next += 1;
        let (number, evicted) = (state.next, CancellationToken::new());
        state.by_address.entry(address).or_default().push_back((number, now, evicted.clone()));
        state.links += 1;
        state.unproven += 1;
        drop(state);
        Some(Place { door: Arc::clone(self), number, address, unproven: AtomicBool::new(true), evicted })
    }

    /// How long to wait before a handshake may be computed; none: the peer must come later.
    pub(super) fn handshake_turn(&self, now: Instant) -> Option<Duration> {
        let share = Duration::from_secs(1) / self.bounds.handshakes_per_second.max(1);
        let mut state = self.lock();
        let turn = state.turn.unwrap_or(now).max(now);
        let wait = turn.saturating_duration_since(now);
        if wait > PATIENCE {
            return None;
        }
        state.turn = Some(turn + share);
        // A burst of what fits into a hundredth of a second need not queue.
        Some(wait.saturating_sub(Duration::from_millis(10)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The peer has proven who it is: it counts among strangers no longer.
    pub(super) fn proven(&self) {
        if self.unproven.swap(false, Ordering::Relaxed) {
            let mut state = self.door.lock();
            leave(&mut state, self.address, self.number);
        }
    }

    pub(super) fn is_proven(&self) -> bool {
        !self.unproven.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let door = Arc::clone(&self.door);
        let mut state = door.lock();
        state.links = state.links.saturating_sub(1);
        if *self.unproven.get_mut() {
            leave(&mut state, self.address, self.number);
        }
    }
}

fn leave(state: &mut State, address: IpAddr, number: u64) {
    let Some(here) = state.by_address.get_mut(&address) else { return };
    let before = here.len();
    here.retain(|(other, ..)| *other != number);
    let gone = before - here.len();
    if here.is_empty() {
        state.by_address.remove(&address);
    }
    state.unproven = state.unproven.saturating_sub(gone);
}

/// One household of IPv6 is a /64.
fn network(address: IpAddr) -> IpAddr {
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
    use crate::testing::{at, at_ms};

    fn door(unproven_per_address: usize) -> Arc<Door> {
        Door::new(Bounds { links: 10, unproven: 8, unproven_per_address, handshakes_per_second: 10 })
    }

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn an_address_that_holds_handshakes_open_loses_its_oldest_and_not_its_next() {
        let door = door(2);
        let held: Vec<_> = (0..2).map(|_| door.enter(ADDRESS, at(0).mono).unwrap()).collect();
        assert!(door.enter(ADDRESS, at_ms(100).mono).is_none(), "a burst is told to come later");
        let honest = door.enter(ADDRESS, at(1).mono);
        assert!(honest.is_some() && held[0].evicted.is_cancelled() && !held[1].evicted.is_cancelled());
        drop((held, honest));
        let state = door.lock();
        assert_eq!((state.links, state.unproven, state.by_address.len()), (0, 0, 0));
    }

    #[test]
    fn proven_links_are_no_strangers() {
        let door = door(2);
        let places: Vec<_> = (0..2).map(|_| door.enter(ADDRESS, at(0).mono).unwrap()).collect();
        places.iter().for_each(Place::proven);
        let more: Vec<_> = (0..2).map(|_| door.enter(ADDRESS, at(0).mono)).collect();
        assert!(more.iter().all(Option::is_some));
    }

    #[test]
    fn handshakes_have_a_bounded_share_of_the_cpu() {
        let door = door(2);
        let waits: Vec<_> = (0..13).map(|_| door.handshake_turn(at(0).mono)).collect();
        assert_eq!(waits[0], Some(Duration::ZERO));
        assert_eq!(waits[5], Some(Duration::from_millis(490)));
        assert_eq!(waits[12], None, "more than a second's worth waits already");
    }
}
