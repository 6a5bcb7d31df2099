//! The faults of `up --chaos SEED` (SPEC 9.2): at random moments it kills, restarts or freezes a random process, kills
//! engine and monitor of a charging point at once, cuts or silences a network connection, or fills a disk. The same seed
//! and the same processes give the same faults.
//!
//! Pure.

use std::{fmt, time::Duration};

use super::supervisor::{is_central, is_charging_point};

/// Faults with a duration are undone when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// SIGKILL.
    Kill,
    /// SIGKILL to engine and monitor of one charging point at once, as in a power cut.
    KillBoth,
    /// SIGTERM: an orderly end, and a start.
    Restart,
    /// SIGSTOP: its links stay half-open, its signs of life are missed.
    Freeze(Duration),
    /// Its connections are closed, and new ones are refused.
    Cut(Duration),
    /// Its connections stay open but carry nothing.
    Silence(Duration),
    /// No file may grow past so many bytes: some writes fail, some after a part of their bytes.
    FillDisk(Duration, u64),
}

impl FaultKind {
    /// How long the fault lasts; `None` where it is over at once.
    pub(crate) fn duration(self) -> Option<Duration> {
        match self {
            Self::Kill | Self::KillBoth | Self::Restart => None,
            Self::Freeze(time) | Self::Cut(time) | Self::Silence(time) | Self::FillDisk(time, _) => Some(time),
        }
    }
}

/// One fault, injected `after` the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) after: Duration,
    pub(crate) process: String,
    pub(crate) kind: FaultKind,
}

/// A sentence without its subject, such as "freezes registry for 1.5s".
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = &self.process;
        match self.kind {
            FaultKind::Kill => write!(f, "kills {process}"),
            FaultKind::KillBoth => write!(f, "powers off {}", point_of(process)),
            FaultKind::Restart => write!(f, "restarts {process}"),
            FaultKind::Freeze(time) => write!(f, "freezes {process} for {time:?}"),
            FaultKind::Cut(time) => write!(f, "cuts {} for {time:?}", ConnectionsOf(process)),
            FaultKind::Silence(time) => write!(f, "silences {} for {time:?}", ConnectionsOf(process)),
            FaultKind::FillDisk(time, 0) => write!(f, "fills the disk of {process} for {time:?}"),
            FaultKind::FillDisk(time, room) => {
                write!(f, "fills the disk of {process} for {time:?} past {room} bytes of each file")
            }
        }
    }
}

/// The network connections that a process depends on, in words.
struct ConnectionsOf<'a>(&'a str);

impl fmt::Display for ConnectionsOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            process if is_central(process) => f.write_str("every connection to Central"),
            "registry" => f.write_str("the connection between Central and Registry"),
            process if is_charging_point(process) => write!(f, "the connections of {}", point_of(process)),
            process => write!(f, "the connections of {process}"),
        }
    }
}

fn point_of(process: &str) -> &str {
    process.rsplit_once('/').map_or(process, |(point, _)| point)
}

/// Engine and monitor of the charging point that `process` belongs to.
pub(crate) fn both_of(process: &str) -> [String; 2] {
    ["engine", "monitor"].map(|name| format!("{}/{name}", point_of(process)))
}

#[derive(Clone, Debug)]
pub(crate) struct Chaos {
    state: u64,
}

impl Chaos {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next fault at one of these processes; `None` where there are no processes.
    pub(crate) fn next(&mut self, processes: &[String]) -> Option<Fault> {
        let after = Duration::from_millis(300 + self.draw(2200));
        let at = usize::try_from(self.draw(u64::try_from(processes.len().max(1)).unwrap_or(1))).unwrap_or(0);
        let kind = match self.draw(16) {
            0..=1 if processes.get(at).is_some_and(|process| is_charging_point(process)) => FaultKind::KillBoth,
            0..=5 => FaultKind::Kill,
            6..=7 => FaultKind::Restart,
            8..=9 => FaultKind::Freeze(self.short_time()),
            10..=11 => FaultKind::Cut(self.short_time()),
            12..=13 => FaultKind::Silence(self.short_time()),
            // Half of the time no file may grow, half of the time each keeps up to 512 bytes.
            _ => FaultKind::FillDisk(self.short_time(), self.draw(1024).saturating_sub(512)),
        };
        processes.get(at).map(|process| Fault { after, process: process.clone(), kind })
    }

    /// Half a second to five seconds: sometimes short enough to be survived as a missed sign of life, sometimes not.
    fn short_time(&mut self) -> Duration {
        Duration::from_millis(500 + self.draw(4500))
    }

    /// The next number of SplitMix64, below `bound`.
    fn draw(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(seed: u64) -> Vec<Fault> {
        let processes: Vec<String> = ["central", "registry", "CP-1/engine"].map(str::to_owned).to_vec();
        let mut chaos = Chaos::seeded(seed);
        (0..300).filter_map(|_| chaos.next(&processes)).collect()
    }

    #[test]
    fn a_seed_gives_the_same_faults_again_and_another_seed_others() {
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
    }

    #[test]
    fn every_process_gets_every_kind_of_fault_sooner_or_later_spec_9_2() {
        let faults = faults(1);
        let kinds: [fn(&FaultKind) -> bool; 7] = [
            |a| *a == FaultKind::Kill,
            |a| *a == FaultKind::Restart,
            |a| matches!(a, FaultKind::Freeze(_)),
            |a| matches!(a, FaultKind::Cut(_)),
            |a| matches!(a, FaultKind::Silence(_)),
            |a| matches!(a, FaultKind::FillDisk(_, 0)),
            |a| matches!(a, FaultKind::FillDisk(_, 1..)),
        ];
        for process in ["central", "registry", "CP-1/engine"] {
            let missing = kinds.iter().position(|kind| !faults.iter().any(|d| d.process == process && kind(&d.kind)));
            assert_eq!(missing, None, "{process}");
        }
        assert_eq!(Chaos::seeded(1).next(&[]), None);
    }

    #[test]
    fn a_fault_is_over_within_seconds_spec_9_2() {
        let longest = faults(1).iter().filter_map(|fault| fault.kind.duration()).max().unwrap();
        assert!(longest > Duration::from_secs(4) && longest < Duration::from_secs(5), "{longest:?}");
        assert_eq!(FaultKind::Kill.duration(), None);
    }

    #[test]
    fn a_fault_is_described_in_plain_words() {
        let said = |process: &str, kind| Fault { after: Duration::ZERO, process: process.into(), kind }.to_string();
        let a_while = Duration::from_millis(1500);
        assert_eq!(said("CP-1/engine", FaultKind::KillBoth), "powers off CP-1");
        assert_eq!(said("registry", FaultKind::Freeze(a_while)), "freezes registry for 1.5s");
        assert_eq!(said("CP-1/engine", FaultKind::Cut(a_while)), "cuts the connections of CP-1 for 1.5s");
        assert_eq!(said("driver/D-1", FaultKind::Silence(a_while)), "silences the connections of driver/D-1 for 1.5s");
        assert_eq!(said("central", FaultKind::Cut(a_while)), "cuts every connection to Central for 1.5s");
        assert_eq!(
            said("registry", FaultKind::Cut(a_while)),
            "cuts the connection between Central and Registry for 1.5s"
        );
        assert_eq!(said("central", FaultKind::FillDisk(a_while, 0)), "fills the disk of central for 1.5s");
    }

    #[test]
    fn both_of_a_charging_point_die_at_once_sooner_or_later_and_no_role_has_two_spec_9() {
        let both: Vec<_> = faults(1).into_iter().filter(|fault| fault.kind == FaultKind::KillBoth).collect();
        assert!(!both.is_empty() && both.iter().all(|fault| fault.process == "CP-1/engine"));
        assert_eq!(both_of("CP-1/engine"), ["CP-1/engine", "CP-1/monitor"]);
        assert_eq!(both_of("CP-1/monitor"), ["CP-1/engine", "CP-1/monitor"]);
    }
}
