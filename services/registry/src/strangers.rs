//! Failures of people who proved nothing, counted instead of written one by one (SPEC 8.2): per minute, reason and
//! address prefix, so that nobody can fill the audit. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use mesh::principal::network_of;
use proto::link::v1::Reason;

/// Most groups a minute; what is past them is counted together.
const GROUPS: usize = 256;

/// Where it came from, coarsely: IPv4 /24, IPv6 /48, or nothing where unknown or past the bound.
pub(crate) type Prefix = String;

/// The failures of the running minute.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    counts: BTreeMap<(&'static str, Reason, Prefix), u64>,
}

/// One group of failures, for the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failures {
    /// What was tried: `ENROL`, `VERIFY`, ...
    pub(crate) action: &'static str,
    pub(crate) reason: Reason,
    pub(crate) prefix: Prefix,
    pub(crate) count: u64,
}

impl Strangers {
    pub(crate) fn failed(&mut self, action: &'static str, reason: Reason, address: Option<IpAddr>) {
        let key = (action, reason, address.map(network_of).unwrap_or_default());
        if self.counts.len() < GROUPS || self.counts.contains_key(&key) {
            *self.counts.entry(key).or_default() += 1;
        } else {
            *self.counts.entry((action, reason, String::new())).or_default() += 1;
        }
    }

    /// Takes back what could not be written.
    pub(crate) fn give_back(&mut self, failures: Vec<Failures>) {
        for Failures { action, reason, prefix, count } in failures {
            *self.counts.entry((action, reason, prefix)).or_default() += count;
        }
    }

    /// Takes what the minute gathered.
    pub(crate) fn take(&mut self) -> Vec<Failures> {
        std::mem::take(&mut self.counts)
            .into_iter()
            .map(|((action, reason, prefix), count)| Failures { action, reason, prefix, count })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_failures_from_one_network_are_one_entry_spec_8_2() {
        let mut strangers = Strangers::default();
        for n in 0..1000u16 {
            let address = IpAddr::from([192, 0, 2, (n % 250) as u8]);
            strangers.failed("VERIFY", Reason::WrongCredential, Some(address));
        }
        let prefix = "192.0.2.0/24".to_owned();
        let one = Failures { action: "VERIFY", reason: Reason::WrongCredential, prefix, count: 1000 };
        assert_eq!(strangers.take(), [one]);
        assert_eq!(strangers.take(), []);
    }

    #[test]
    fn failures_from_very_many_networks_are_bounded_and_none_is_uncounted_spec_8_2() {
        let mut strangers = Strangers::default();
        for n in 0..100_000u32 {
            strangers.failed("ENROL", Reason::TokenInvalid, Some(IpAddr::from((n << 8).to_be_bytes())));
        }
        let taken = strangers.take();
        assert!(taken.len() <= GROUPS + 1);
        assert_eq!(taken.iter().map(|failures| failures.count).sum::<u64>(), 100_000);
    }
}
