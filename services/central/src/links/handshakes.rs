//! Turns to compute a handshake: a bounded share of the CPU, divided among networks, so that one that asks for very many
//! delays no other (DESIGN 4).

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mesh::{clock::Clock, limiter::network};
use tokio::sync::oneshot;

use super::fair_queue::FairQueue;

/// The longest that a handshake waits for its turn before the peer is told to come later.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many turns are given together: those of so much time.
const TOGETHER: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct HandshakeTurns {
    clock: Clock,
    state: Mutex<HandshakeQueue<oneshot::Sender<()>>>,
}

/// Who waits, and when the next turn is. Pure.
#[derive(Debug)]
struct HandshakeQueue<T> {
    /// Of one handshake.
    share: Duration,
    /// When the next handshake may begin; it may begin earlier by what is given together.
    next: Option<Instant>,
    waiting: FairQueue<IpAddr, T>,
    is_pacing: bool,
}

impl HandshakeTurns {
    pub(super) fn new(per_second: u32, clock: Clock) -> Arc<Self> {
        Arc::new(Self { clock, state: Mutex::new(HandshakeQueue::new(per_second)) })
    }

    /// Waits until a handshake with `address` may be computed. False: the peer must come later.
    pub(super) async fn turn(self: &Arc<Self>, address: IpAddr) -> bool {
        let given = {
            let mut state = self.lock();
            if state.begins_at_once(self.clock.mono()) {
                return true;
            }
            let (give, given) = oneshot::channel();
            // Whoever loses his place hears of it by the end of his channel.
            drop(state.waiting.push(network(address), give));
            if !std::mem::replace(&mut state.is_pacing, true) {
                tokio::spawn(Arc::clone(self).pace());
            }
            given
        };
        matches!(tokio::time::timeout(PATIENCE, given).await, Ok(Ok(())))
    }

    /// Gives turns until nobody waits.
    async fn pace(self: Arc<Self>) {
        loop {
            let due = {
                let mut state = self.lock();
                let now = self.clock.mono();
                // Whoever has gone takes no turn.
                state.give(now, |give| give.send(()).is_ok());
                if state.waiting.is_empty() {
                    state.is_pacing = false;
                    return;
                }
                state.next.unwrap_or(now)
            };
            self.clock.sleep_until(due).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HandshakeQueue<oneshot::Sender<()>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> HandshakeQueue<T> {
    fn new(per_second: u32) -> Self {
        let share = Duration::from_secs(1) / per_second.max(1);
        let most = usize::try_from(per_second).unwrap_or(usize::MAX);
        Self { share, next: None, waiting: FairQueue::new(most), is_pacing: false }
    }

    fn begins_at_once(&mut self, now: Instant) -> bool {
        let begins = self.waiting.is_empty() && self.is_due(now);
        if begins {
            self.begin(now);
        }
        begins
    }

    /// Gives the turns that are due, each to one who takes it.
    fn give(&mut self, now: Instant, takes: impl Fn(T) -> bool) {
        while self.is_due(now) {
            let Some(waiting) = self.waiting.pop() else { return };
            if takes(waiting) {
                self.begin(now);
            }
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now + TOGETHER)
    }

    fn begin(&mut self, now: Instant) {
        self.next = Some(self.next.unwrap_or(now).max(now) + self.share);
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, net::Ipv4Addr};

    use super::*;
    use crate::testing::at_ms;

    /// Milliseconds at which each handshake that was asked for began, by the last byte of its address.
    fn begun(asked: impl Fn(u64) -> Vec<u8>, for_ms: u64) -> Vec<(u8, u64, u64)> {
        let (mut state, begun) = (HandshakeQueue::new(100), RefCell::new(Vec::new()));
        for ms in 0..for_ms {
            let now = at_ms(ms).mono;
            for last in asked(ms) {
                if state.begins_at_once(now) {
                    begun.borrow_mut().push((last, ms, ms));
                } else {
                    let _lost = state.waiting.push(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)), (last, ms));
                }
            }
            state.give(now, |(last, asked_at)| {
                let is_patient = ms - asked_at <= 1_000;
                begun.borrow_mut().extend(is_patient.then_some((last, asked_at, ms)));
                is_patient
            });
        }
        begun.into_inner()
    }

    #[test]
    fn handshakes_have_a_bounded_share_of_the_cpu_design_4() {
        let begun = begun(|_| vec![1; 4], 3_000);
        assert!((295..=305).contains(&begun.len()), "{} in three seconds", begun.len());
    }

    #[test]
    fn of_one_address_that_asks_for_very_many_others_notice_nothing_design_4() {
        // 400 a second of one address, of which 100 can be given; then 40 others, ten of them at a time.
        let asked = |ms: u64| {
            let honest = (ms >= 2_000 && ms.is_multiple_of(100) && ms < 2_400).then(|| 2 + (ms - 2_000) / 10);
            let honest = honest.into_iter().flat_map(|first| (0..10).map(move |n| u8::try_from(first + n).unwrap()));
            [1].into_iter().filter(|_| ms % 5 < 2).chain(honest).collect::<Vec<_>>()
        };
        let begun = begun(asked, 5_000);
        let honest: Vec<_> = begun.iter().filter(|(last, ..)| *last != 1).collect();
        let longest = honest.iter().map(|(_, asked_at, at)| at - asked_at).max();
        assert!(honest.len() == 40 && longest <= Some(250), "{} began, after {longest:?} ms at most", honest.len());
    }
}
