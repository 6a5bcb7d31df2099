//! What is shown, and who watches it: a board of the latest value per key, in the order of its last changes.
//!
//! A watcher holds one number, the last change it has seen, and asks for what came since; so there is no queue per
//! watcher, a slow one gets the latest of each key instead of all it missed, and one that is so slow that removals were
//! forgotten starts again with a snapshot. In order per key; memory does not depend on the watchers.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::watch;

/// How many removed keys are remembered for watchers.
const REMOVED: usize = 4096;
/// How many changes a watcher takes at once.
const PORTION: usize = 512;

#[derive(Debug)]
pub(crate) struct Board<K, V> {
    inner: RwLock<BoardState<K, V>>,
    latest: watch::Sender<u64>,
}

#[derive(Debug)]
struct BoardState<K, V> {
    values: HashMap<K, (u64, Arc<V>)>,
    /// By number of their last change; None: removed.
    order: BTreeMap<u64, (K, Option<Arc<V>>)>,
    removed: BTreeMap<u64, ()>,
    removed_at: HashMap<K, u64>,
    next: u64,
    /// Removals up to this change are forgotten.
    forgotten: u64,
}

/// What a watcher gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BoardChange<K, V> {
    /// A snapshot begins: forget what was known.
    Restarted,
    Put(Arc<V>),
    Removed(K),
    /// All that there is has been given; changes follow.
    Synchronised,
}

impl<K: Clone + Eq + Hash + Ord, V> Default for Board<K, V> {
    fn default() -> Self {
        let inner = BoardState {
            values: HashMap::new(),
            order: BTreeMap::new(),
            removed: BTreeMap::new(),
            removed_at: HashMap::new(),
            next: 1,
            forgotten: 0,
        };
        Self { inner: RwLock::new(inner), latest: watch::channel(0).0 }
    }
}

impl<K: Clone + Eq + Hash + Ord, V> Board<K, V> {
    pub(crate) fn put(&self, key: K, value: V) {
        let value = Arc::new(value);
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let number = inner.next;
        inner.next += 1;
        if let Some((old, _)) = inner.values.insert(key.clone(), (number, Arc::clone(&value))) {
            inner.order.remove(&old);
        }
        if let Some(old) = inner.removed_at.remove(&key) {
            inner.removed.remove(&old);
            inner.order.remove(&old);
        }
        inner.order.insert(number, (key, Some(value)));
        drop(inner);
        self.latest.send_replace(number);
    }

    pub(crate) fn remove(&self, key: &K) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let Some((old, _)) = inner.values.remove(key) else { return };
        let number = inner.next;
        inner.next += 1;
        inner.order.remove(&old);
        inner.order.insert(number, (key.clone(), None));
        inner.removed.insert(number, ());
        inner.removed_at.insert(key.clone(), number);
        while inner.removed.len() > REMOVED {
            let Some((oldest, ())) = inner.removed.pop_first() else { break };
            inner.forgotten = oldest;
            if let Some((key, _)) = inner.order.remove(&oldest) {
                inner.removed_at.remove(&key);
            }
        }
        drop(inner);
        self.latest.send_replace(number);
    }

    pub(crate) fn get(&self, key: &K) -> Option<Arc<V>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).values.get(key).map(|(_, value)| Arc::clone(value))
    }

    /// Every value, by key.
    pub(crate) fn all(&self) -> Vec<(K, Arc<V>)> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = inner.values.iter().map(|(key, (_, value))| (key.clone(), Arc::clone(value))).collect();
        drop(inner);
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// The first that satisfy `wanted`, in no order.
    pub(crate) fn some(&self, limit: usize, wanted: impl Fn(&V) -> bool) -> Vec<Arc<V>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.values.values().map(|(_, value)| value).filter(|value| wanted(value)).take(limit).cloned().collect()
    }

    pub(crate) fn watch(self: &Arc<Self>) -> Watcher<K, V> {
        let latest = self.latest.subscribe();
        Watcher { board: Arc::clone(self), seen: 0, started: false, synchronised: false, latest }
    }

    /// Changes after `seen`, and up to where they go; None when removals among them are forgotten.
    fn since(&self, seen: u64) -> Option<(Vec<BoardChange<K, V>>, u64)> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        if seen != 0 && seen < inner.forgotten {
            return None;
        }
        let mut last = seen;
        let some = inner.order.range(seen + 1..).take(PORTION);
        let changes = some
            .map(|(number, (key, value))| {
                last = *number;
                value
                    .as_ref()
                    .map_or_else(|| BoardChange::Removed(key.clone()), |value| BoardChange::Put(Arc::clone(value)))
            })
            .collect();
        Some((changes, last))
    }
}

#[derive(Debug)]
pub(crate) struct Watcher<K, V> {
    board: Arc<Board<K, V>>,
    seen: u64,
    started: bool,
    synchronised: bool,
    latest: watch::Receiver<u64>,
}

impl<K: Clone + Eq + Hash + Ord, V> Watcher<K, V> {
    /// Some changes in order, waiting for the first; None when the board is gone.
    pub(crate) async fn next(&mut self) -> Option<Vec<BoardChange<K, V>>> {
        loop {
            self.latest.borrow_and_update();
            let Some((mut changes, last)) = self.board.since(self.seen) else {
                (self.seen, self.started, self.synchronised) = (0, false, false);
                continue;
            };
            if !self.synchronised {
                // A removal means nothing to one who has no snapshot yet.
                changes.retain(|change| !matches!(change, BoardChange::Removed(_)));
            }
            let complete = last == self.seen;
            self.seen = last;
            if !self.started {
                self.started = true;
                changes.insert(0, BoardChange::Restarted);
            }
            if complete && !self.synchronised {
                self.synchronised = true;
                changes.push(BoardChange::Synchronised);
            }
            if !changes.is_empty() {
                return Some(changes);
            }
            if complete {
                self.latest.changed().await.ok()?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Texts = Board<u32, &'static str>;

    async fn next(watcher: &mut Watcher<u32, &'static str>) -> Vec<String> {
        let changes = watcher.next().await.unwrap();
        changes
            .into_iter()
            .map(|change| match change {
                BoardChange::Restarted => "restarted".to_owned(),
                BoardChange::Put(value) => (*value).to_owned(),
                BoardChange::Removed(key) => format!("-{key}"),
                BoardChange::Synchronised => "synchronised".to_owned(),
            })
            .collect()
    }

    #[tokio::test]
    async fn a_watcher_gets_a_snapshot_then_changes() {
        let board = Arc::new(Texts::default());
        board.put(1, "a");
        board.put(2, "b");
        let mut watcher = board.watch();
        assert_eq!(next(&mut watcher).await, ["restarted", "a", "b"]);
        assert_eq!(next(&mut watcher).await, ["synchronised"]);
        board.put(1, "c");
        board.remove(&2);
        assert_eq!(next(&mut watcher).await, ["c", "-2"]);
    }

    #[tokio::test]
    async fn a_slow_watcher_gets_the_latest_of_each_and_no_queue_grows() {
        let board = Arc::new(Texts::default());
        let mut watcher = board.watch();
        assert_eq!(next(&mut watcher).await, ["restarted", "synchronised"]);
        for _ in 0..10_000 {
            board.put(1, "old");
        }
        board.put(1, "new");
        assert_eq!(next(&mut watcher).await, ["new"]);
        assert_eq!(board.inner.read().unwrap().order.len(), 1);
    }

    #[tokio::test]
    async fn a_watcher_that_missed_forgotten_removals_starts_again() {
        let board = Arc::new(Texts::default());
        board.put(0, "kept");
        let mut watcher = board.watch();
        while next(&mut watcher).await.last().map(String::as_str) != Some("synchronised") {}
        for key in 1..=REMOVED as u32 + 1 {
            board.put(key, "x");
            board.remove(&key);
        }
        assert_eq!(next(&mut watcher).await, ["restarted", "kept"]);
    }

    #[tokio::test]
    async fn a_removed_key_may_come_back() {
        let board = Arc::new(Texts::default());
        board.put(1, "a");
        board.remove(&1);
        board.put(1, "b");
        let mut watcher = board.watch();
        assert_eq!(next(&mut watcher).await, ["restarted", "b"]);
    }
}
