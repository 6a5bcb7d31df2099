//! Failures of those who proved nothing, counted per minute, reason and address prefix, so that nobody can fill the
//! audit (SPEC 8.2); and how often one may try a credential. Pure.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use mesh::principal::network_of;

use crate::audit::{Action, Entry};

/// Most groups a minute; what is past them is counted together.
const GROUPS: usize = 256;
/// Credentials refused to one (address, id) before it must wait.
const ATTEMPTS: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// Pairs that are remembered; the oldest go first.
const PAIRS: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Strangers {
    counts: BTreeMap<(&'static str, String), u64>,
    attempts: HashMap<Pair, Vec<Instant>>,
    /// In the order in which they came.
    order: VecDeque<Pair>,
}

type Pair = (IpAddr, String);

impl Strangers {
    /// A failure of somebody at `address`; `reason` is one of a fixed set.
    pub(super) fn failed(&mut self, reason: &'static str, address: IpAddr) {
        let key = (reason, network_of(address));
        let key =
            if self.counts.len() < GROUPS || self.counts.contains_key(&key) { key } else { (reason, String::new()) };
        *self.counts.entry(key).or_default() += 1;
    }

    /// What the minute gathered, as entries.
    pub(super) fn take(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.counts)
            .into_iter()
            .map(|((reason, prefix), count)| {
                let mut entry = Entry::new(Action::StrangersRefused, "link").with("count", count).with("from", prefix);
                reason.clone_into(&mut entry.outcome);
                entry
            })
            .collect()
    }

    /// A credential was refused.
    pub(super) fn refused(&mut self, address: IpAddr, id: &str, now: Instant) {
        let pair = (address, id.to_owned());
        if !self.attempts.contains_key(&pair) {
            // Never the other way about: whoever tries ten thousand ids would lock all others out.
            while self.order.len() >= PAIRS
                && let Some(oldest) = self.order.pop_front()
            {
                self.attempts.remove(&oldest);
            }
            self.order.push_back(pair.clone());
        }
        let tries = self.attempts.entry(pair).or_default();
        tries.retain(|at| now.saturating_duration_since(*at) < WINDOW);
        if tries.len() < ATTEMPTS {
            tries.push(now);
        }
    }

    /// How long (address, id) must wait before it may show a credential again.
    pub(super) fn must_wait(&self, address: IpAddr, id: &str, now: Instant) -> Option<Duration> {
        let tries = self.attempts.get(&(address, id.to_owned()))?;
        let recent: Vec<_> = tries.iter().filter(|at| now.saturating_duration_since(**at) < WINDOW).collect();
        let oldest = recent.first().filter(|_| recent.len() >= ATTEMPTS)?;
        Some((**oldest + WINDOW).saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn a_thousand_failures_from_one_network_are_one_entry_with_a_count_spec_8_2() {
        let mut strangers = Strangers::default();
        for n in 0..1_000u32 {
            strangers.failed("HANDSHAKE_FAILED", IpAddr::from([192, 0, 2, (n % 250) as u8]));
        }
        let entries = strangers.take();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].parameters, [("count", "1000".to_owned()), ("from", "192.0.2.0/24".to_owned())]);
        assert!(strangers.take().is_empty());
    }

    #[test]
    fn very_many_networks_are_bounded_and_none_is_uncounted_spec_8_2() {
        let mut strangers = Strangers::default();
        for n in 0..100_000u32 {
            strangers.failed("GARBAGE", IpAddr::from((n << 8).to_be_bytes()));
        }
        assert!(strangers.take().len() <= GROUPS + 1);
    }

    #[test]
    fn five_wrong_credentials_a_minute_and_then_a_wait() {
        let (mut strangers, address) = (Strangers::default(), IpAddr::from([192, 0, 2, 1]));
        for second in 0..5 {
            assert_eq!(strangers.must_wait(address, "CP1", at(second).mono), None);
            strangers.refused(address, "CP1", at(second).mono);
        }
        assert_eq!(strangers.must_wait(address, "CP1", at(10).mono), Some(Duration::from_secs(50)));
        assert_eq!(strangers.must_wait(address, "CP2", at(10).mono), None, "by address and id");
        assert_eq!(strangers.must_wait(address, "CP1", at(60).mono), None);
    }

    #[test]
    fn whoever_guesses_at_very_many_ids_locks_nobody_else_out() {
        let (mut strangers, now) = (Strangers::default(), at(1).mono);
        for n in 0..3 * PAIRS {
            strangers.refused(IpAddr::from([192, 0, 2, 1]), &format!("CP{n}"), now);
        }
        assert_eq!(strangers.must_wait(IpAddr::from([198, 51, 100, 7]), "CP1", now), None);
        assert_eq!((strangers.attempts.len(), strangers.order.len()), (PAIRS, PAIRS));
    }
}
