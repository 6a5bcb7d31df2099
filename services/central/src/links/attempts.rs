//! How often one may show a wrong credential. Pure.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

/// Credentials refused to one (address, id) before it must wait.
const ATTEMPTS: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// Pairs that are remembered; the oldest go first.
const PAIRS: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct CredentialAttempts {
    tries: HashMap<AddressAndId, Vec<Instant>>,
    /// In the order in which they came.
    order: VecDeque<AddressAndId>,
}

type AddressAndId = (IpAddr, String);

impl CredentialAttempts {
    /// A credential was refused.
    pub(super) fn refused(&mut self, address: IpAddr, id: &str, now: Instant) {
        let pair = (address, id.to_owned());
        if !self.tries.contains_key(&pair) {
            // Never the other way about: whoever tries ten thousand ids would lock all others out.
            while self.order.len() >= PAIRS
                && let Some(oldest) = self.order.pop_front()
            {
                self.tries.remove(&oldest);
            }
            self.order.push_back(pair.clone());
        }
        let recent = self.tries.entry(pair).or_default();
        recent.retain(|at| now.saturating_duration_since(*at) < WINDOW);
        if recent.len() < ATTEMPTS {
            recent.push(now);
        }
    }

    /// How long (address, id) must wait before it may show a credential again.
    pub(super) fn must_wait(&self, address: IpAddr, id: &str, now: Instant) -> Option<Duration> {
        let tries = self.tries.get(&(address, id.to_owned()))?;
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
    fn five_wrong_credentials_a_minute_and_then_a_wait() {
        let (mut attempts, address) = (CredentialAttempts::default(), IpAddr::from([192, 0, 2, 1]));
        for second in 0..5 {
            assert_eq!(attempts.must_wait(address, "CP1", at(second).mono), None);
            attempts.refused(address, "CP1", at(second).mono);
        }
        assert_eq!(attempts.must_wait(address, "CP1", at(10).mono), Some(Duration::from_secs(50)));
        assert_eq!(attempts.must_wait(address, "CP2", at(10).mono), None, "by address and id");
        assert_eq!(attempts.must_wait(address, "CP1", at(60).mono), None);
    }

    #[test]
    fn whoever_guesses_at_very_many_ids_locks_nobody_else_out() {
        let (mut attempts, now) = (CredentialAttempts::default(), at(1).mono);
        for n in 0..3 * PAIRS {
            attempts.refused(IpAddr::from([192, 0, 2, 1]), &format!("CP{n}"), now);
        }
        assert_eq!(attempts.must_wait(IpAddr::from([198, 51, 100, 7]), "CP1", now), None);
        assert_eq!((attempts.tries.len(), attempts.order.len()), (PAIRS, PAIRS));
    }
}
