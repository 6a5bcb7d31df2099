//! The counters of [`super::AccessLog`]. Pure, and of bounded size.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use super::{AccessEntry, RefusedAccess};
use crate::rate::Tally;

/// Maximum number of groups, for unauthenticated and for authenticated callers each; the rest is counted together.
const GROUPS: usize = 256;

#[derive(Debug)]
pub(super) struct Counters {
    every: Duration,
    unauthenticated: Groups,
    authenticated: Groups,
    /// A person's connections from one address.
    logins: HashMap<(String, IpAddr), Tally>,
}

#[derive(Debug, Default)]
struct Groups {
    counts: BTreeMap<(&'static str, &'static str, Option<String>, String), u64>,
    /// When the first of them was counted.
    since: Option<Instant>,
}

impl Groups {
    fn add(&mut self, refused: RefusedAccess, now: Instant) {
        let RefusedAccess { what, reason, who, from, count } = refused;
        let key = (what, reason, who, from);
        let key = if self.counts.len() < GROUPS || self.counts.contains_key(&key) {
            key
        } else {
            // `what` and `reason` are from fixed sets, so the number of these groups is bounded too.
            (what, reason, None, String::new())
        };
        *self.counts.entry(key).or_default() += count;
        self.since.get_or_insert(now);
    }

    fn take(&mut self) -> impl Iterator<Item = AccessEntry> + use<> {
        self.since = None;
        std::mem::take(&mut self.counts).into_iter().map(|((what, reason, who, from), count)| {
            AccessEntry::Refused(RefusedAccess { what, reason, who, from, count })
        })
    }
}

impl Counters {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, unauthenticated: Groups::default(), authenticated: Groups::default(), logins: HashMap::new() }
    }

    pub(super) fn refused(&mut self, refused: RefusedAccess, now: Instant) {
        let groups = if refused.who.is_some() { &mut self.authenticated } else { &mut self.unauthenticated };
        groups.add(refused, now);
    }

    /// Counts a login. The first is due at once; those within `every` after it when that time is over.
    pub(super) fn login(&mut self, who: String, from: IpAddr, count: u64) {
        let key = (who, from);
        let key = if self.logins.len() < GROUPS || self.logins.contains_key(&key) {
            key
        } else {
            ("several persons".to_owned(), IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        };
        let every = self.every;
        self.logins.entry(key).or_insert_with(|| Tally::new(every)).add(count);
    }

    /// The entries to write now, and when the next are due.
    pub(super) fn due(&mut self, now: Instant) -> (Vec<AccessEntry>, Option<Instant>) {
        let mut due = Vec::new();
        let every = self.every;
        self.logins.retain(|(who, from), tally| match tally.flush(now) {
            Some(count) => {
                due.push(AccessEntry::Login { who: who.clone(), from: *from, count });
                true
            }
            None => tally.due().is_some_and(|at| at > now),
        });
        for groups in [&mut self.unauthenticated, &mut self.authenticated] {
            if groups.since.is_some_and(|since| since + every <= now) {
                due.extend(groups.take());
            }
        }
        let logins = self.logins.values().filter_map(Tally::due);
        let groups = [&self.unauthenticated, &self.authenticated].into_iter().filter_map(|groups| groups.since);
        let next = logins.chain(groups.map(|since| since + every)).min();
        (due, next)
    }

    /// All entries that are left, for the end of the process.
    pub(super) fn all(&mut self) -> Vec<AccessEntry> {
        let logins = std::mem::take(&mut self.logins).into_iter().filter(|(_, tally)| tally.unreported() > 0);
        let logins = logins.map(|((who, from), tally)| AccessEntry::Login { who, from, count: tally.unreported() });
        logins.chain(self.unauthenticated.take()).chain(self.authenticated.take()).collect()
    }

    /// Takes back entries that could not be written.
    pub(super) fn give_back(&mut self, entries: Vec<AccessEntry>, now: Instant) {
        for entry in entries {
            match entry {
                AccessEntry::Login { who, from, count } => self.login(who, from, count),
                AccessEntry::Refused(refused) => self.refused(refused, now),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn counters() -> (Counters, Instant) {
        (Counters::new(MINUTE), crate::clock::Clock::system().mono())
    }

    fn refused(who: Option<&str>, from: &str, count: u64) -> RefusedAccess {
        let (what, reason, who) = ("grpc", "CERTIFICATE_EXPIRED", who.map(str::to_owned));
        RefusedAccess { what, reason, who, from: from.to_owned(), count }
    }

    #[test]
    fn a_thousand_failures_from_one_network_are_one_entry_a_minute_spec_8_2() {
        let (mut counters, start) = counters();
        for n in 0..1000 {
            counters.refused(refused(None, "192.0.2.0/24", 1), start + Duration::from_millis(n));
        }
        assert_eq!(counters.due(start + Duration::from_secs(59)), (Vec::new(), Some(start + MINUTE)));
        let (due, next) = counters.due(start + MINUTE);
        assert_eq!(due, [AccessEntry::Refused(refused(None, "192.0.2.0/24", 1000))]);
        assert_eq!(next, None);
    }

    #[test]
    fn failures_from_very_many_networks_are_bounded_and_none_is_uncounted_spec_8_2() {
        let (mut counters, start) = counters();
        for n in 0..100_000 {
            counters.refused(refused(None, &format!("net{n}"), 1), start);
        }
        counters.refused(refused(Some("operator/anna"), "192.0.2.7", 1), start);
        let all = counters.all();
        assert!(all.len() <= GROUPS + 2);
        let named = AccessEntry::Refused(refused(Some("operator/anna"), "192.0.2.7", 1));
        assert!(all.contains(&named), "unauthenticated peers do not hide an authenticated caller");
        let count = |entry: &AccessEntry| if let AccessEntry::Refused(refused) = entry { refused.count } else { 0 };
        assert_eq!(all.iter().map(count).sum::<u64>(), 100_001);
    }

    #[test]
    fn a_login_is_told_at_once_and_those_within_the_minute_as_a_count_spec_8_1() {
        let (mut counters, start) = counters();
        let (who, from) = ("operator/anna", IpAddr::from([192, 0, 2, 7]));
        let mut login = || counters.login(who.to_owned(), from, 1);
        let entry = |count| vec![AccessEntry::Login { who: who.to_owned(), from, count }];
        login();
        assert_eq!(counters.due(start).0, entry(1));
        for _ in 1..=30 {
            counters.login(who.to_owned(), from, 1);
        }
        assert_eq!(counters.due(start + Duration::from_secs(30)), (Vec::new(), Some(start + MINUTE)));
        assert_eq!(counters.due(start + MINUTE).0, entry(30));
        assert_eq!(counters.due(start + 2 * MINUTE), (Vec::new(), None));
        counters.login(who.to_owned(), from, 1);
        assert_eq!(counters.due(start + 3 * MINUTE).0, entry(1));
    }

    #[test]
    fn logins_from_very_many_addresses_are_bounded_spec_8_2() {
        let (mut counters, start) = counters();
        for n in 0..100_000u32 {
            counters.login("operator/anna".to_owned(), IpAddr::from(n.to_be_bytes()), 1);
        }
        let (due, _) = counters.due(start);
        assert!(due.len() <= GROUPS + 1);
        let count = |entry: &AccessEntry| if let AccessEntry::Login { count, .. } = entry { *count } else { 0 };
        assert_eq!(due.iter().map(count).sum::<u64>(), 100_000);
    }

    #[test]
    fn what_could_not_be_written_is_kept_with_its_count() {
        let (mut counters, start) = counters();
        counters.refused(refused(None, "192.0.2.0/24", 3), start);
        counters.login("operator/anna".to_owned(), IpAddr::from([192, 0, 2, 7]), 1);
        let all = counters.all();
        counters.give_back(all.clone(), start);
        assert_eq!(counters.all(), all);
    }
}
