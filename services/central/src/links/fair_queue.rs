//! A queue in which each holder has a lane of its own and the lanes take turns: however much one holder queues, another
//! waits for one round at most. Bounded; every operation costs the same however much waits. Pure.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

#[derive(Debug)]
pub(super) struct FairQueue<K, T> {
    /// Never empty ones.
    lanes: HashMap<K, VecDeque<T>>,
    /// The lanes, in the order of their turns.
    turns: VecDeque<K>,
    waiting: usize,
    most: usize,
}

impl<K: Clone + Eq + Hash, T> FairQueue<K, T> {
    pub(super) fn new(most: usize) -> Self {
        Self { lanes: HashMap::new(), turns: VecDeque::new(), waiting: 0, most: most.max(1) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Queues `item` for `holder`. Where the queue is full it, or the last one of a longer lane, is given back.
    pub(super) fn push(&mut self, holder: K, item: T) -> Option<T> {
        let mut lost = None;
        if self.waiting >= self.most {
            let own = self.lanes.get(&holder).map_or(0, VecDeque::len);
            let Some(longer) = self.longer_than(own) else { return Some(item) };
            lost = self.take(&longer, VecDeque::pop_back);
        }
        let lane = self.lanes.entry(holder.clone()).or_default();
        if lane.is_empty() {
            self.turns.push_back(holder);
        }
        lane.push_back(item);
        self.waiting += 1;
        lost
    }

    /// Of the lane whose turn it is, the one that came first.
    pub(super) fn pop(&mut self) -> Option<T> {
        let holder = self.turns.pop_front()?;
        let first = self.take(&holder, VecDeque::pop_front);
        if self.lanes.contains_key(&holder) {
            self.turns.push_back(holder);
        }
        first
    }

    /// The lane whose turn is next, or the one after it, if more waits there. Not the longest of all, which would have to
    /// be looked for; but one that queues much more than others is met soon.
    fn longer_than(&mut self, own: usize) -> Option<K> {
        let is_longer = |holder: &&K| self.lanes.get(*holder).is_some_and(|lane| lane.len() > own + 1);
        self.turns.iter().take(LOOKED_AT).find(is_longer).cloned()
    }

    /// An empty lane goes; its turn is over by then.
    fn take(&mut self, holder: &K, which: fn(&mut VecDeque<T>) -> Option<T>) -> Option<T> {
        let lane = self.lanes.get_mut(holder)?;
        let item = which(lane);
        self.waiting -= usize::from(item.is_some());
        if lane.is_empty() {
            self.lanes.remove(holder);
        }
        item
    }
}

/// Lanes that are looked at for one that is longer than the newcomer's.
const LOOKED_AT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_queues_a_thousand_keeps_nobody_waiting_for_more_than_a_round() {
        let mut queue = FairQueue::new(10_000);
        (0..1_000).for_each(|n| assert!(queue.push("attacker", n).is_none()));
        (0..40).for_each(|n| assert!(queue.push(["a", "b", "c", "d"][n % 4], 10_000 + n).is_none()));
        let honest = (0..50).filter(|_| queue.pop().is_some_and(|item| item >= 10_000)).count();
        assert_eq!(honest, 40);
    }

    #[test]
    fn a_full_queue_takes_from_a_long_lane_for_a_short_one_and_forgets_none() {
        let mut queue = FairQueue::new(100);
        (0..100).for_each(|n| assert!(queue.push(0, n).is_none()));
        assert_eq!(queue.push(0, 100), Some(100), "his own lane is the longest");
        for (lane, lost) in (1..=10).zip((90..100).rev()) {
            assert_eq!(queue.push(lane, 1_000 + lane), Some(lost));
        }
        let left: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(left.len(), 100);
        assert!(queue.is_empty() && queue.lanes.is_empty() && queue.turns.is_empty());
    }
}
