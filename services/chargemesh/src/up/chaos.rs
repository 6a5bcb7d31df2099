//! What a seeded chaos does (SPEC 9.2): at random moments it kills, ends or freezes a random part, kills both of a
//! charging point, cuts or silences a line, or fills a disk. The same seed and the same parts give the same deeds.
//!
//! Pure.

use std::{fmt, time::Duration};

use super::supervisor::{is_central, is_charging_point};

/// What lasts ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// SIGKILL, a power cut.
    Kill,
    /// SIGKILL, engine and monitor of one charging point at once: its power fails.
    KillBoth,
    /// SIGTERM, an orderly end.
    Restart,
    /// Frozen: half-open links, missed signs of life.
    Freeze(Duration),
    /// Its network is down: connections are closed.
    Cut(Duration),
    /// Its network loses everything: connections stay, half-open.
    Silence(Duration),
    /// Each of its files may still grow to so many bytes, what a full disk has left of a block: some writes fail, some
    /// in their middle.
    FillDisk(Duration, u64),
}

impl Act {
    /// How long it lasts; nothing where it is done at once.
    pub(crate) fn lasts(self) -> Option<Duration> {
        match self {
            Self::Kill | Self::KillBoth | Self::Restart => None,
            Self::Freeze(lasts) | Self::Cut(lasts) | Self::Silence(lasts) | Self::FillDisk(lasts, _) => Some(lasts),
        }
    }
}

/// One deed, so long after the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    pub(crate) after: Duration,
    pub(crate) part: String,
    pub(crate) act: Act,
}

/// What it does, as a sentence without its subject.
impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = &self.part;
        match self.act {
            Act::Kill => write!(f, "kills {part}"),
            Act::KillBoth => write!(f, "takes the power from {}", point_of(part)),
            Act::Restart => write!(f, "restarts {part}"),
            Act::Freeze(lasts) => write!(f, "freezes {part} for {lasts:?}"),
            Act::Cut(lasts) => write!(f, "cuts {} for {lasts:?}", Line(part)),
            Act::Silence(lasts) => write!(f, "silences {} for {lasts:?}", Line(part)),
            Act::FillDisk(lasts, 0) => write!(f, "fills the disk of {part} for {lasts:?}"),
            Act::FillDisk(lasts, room) => {
                write!(f, "fills the disk of {part} for {lasts:?}, but for {room} bytes of each file")
            }
        }
    }
}

/// The line that a part is at, in words.
struct Line<'a>(&'a str);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            part if is_central(part) => f.write_str("every line to Central"),
            "registry" => f.write_str("the line between Central and Registry"),
            part if is_charging_point(part) => write!(f, "the line of {}", point_of(part)),
            part => write!(f, "the line of {part}"),
        }
    }
}

fn point_of(part: &str) -> &str {
    part.rsplit_once('/').map_or(part, |(point, _)| point)
}

/// Engine and monitor of the charging point that this part belongs to.
pub(crate) fn both_of(part: &str) -> [String; 2] {
    ["engine", "monitor"].map(|name| format!("{}/{name}", point_of(part)))
}

#[derive(Clone, Debug)]
pub(crate) struct Chaos {
    chance: u64,
}

impl Chaos {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { chance: seed }
    }

    /// The next deed among these parts; nothing where there are none.
    pub(crate) fn next(&mut self, parts: &[String]) -> Option<Deed> {
        let after = Duration::from_millis(300 + self.draw(2200));
        let at = usize::try_from(self.draw(u64::try_from(parts.len().max(1)).unwrap_or(1))).unwrap_or(0);
        let act = match self.draw(16) {
            0..=1 if parts.get(at).is_some_and(|part| is_charging_point(part)) => Act::KillBoth,
            0..=5 => Act::Kill,
            6..=7 => Act::Restart,
            8..=9 => Act::Freeze(self.a_while()),
            10..=11 => Act::Cut(self.a_while()),
            12..=13 => Act::Silence(self.a_while()),
            // Now nothing at all, now a part of most files.
            _ => Act::FillDisk(self.a_while(), self.draw(1024).saturating_sub(512)),
        };
        parts.get(at).map(|part| Deed { after, part: part.clone(), act })
    }

    /// Shorter or longer than the signs of life that may be missed.
    fn a_while(&mut self) -> Duration {
        Duration::from_millis(500 + self.draw(4500))
    }

    /// SplitMix64, below `bound`.
    fn draw(&mut self, bound: u64) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deeds(seed: u64) -> Vec<Deed> {
        let parts: Vec<String> = ["central", "registry", "CP-1/engine"].map(str::to_owned).to_vec();
        let mut chaos = Chaos::seeded(seed);
        (0..300).filter_map(|_| chaos.next(&parts)).collect()
    }

    #[test]
    fn a_seed_gives_the_same_deeds_again_and_another_seed_others() {
        assert_eq!(deeds(7), deeds(7));
        assert_ne!(deeds(7), deeds(8));
    }

    #[test]
    fn every_part_suffers_every_kind_of_deed_sooner_or_later_spec_9_2() {
        let deeds = deeds(1);
        let kinds: [fn(&Act) -> bool; 7] = [
            |a| *a == Act::Kill,
            |a| *a == Act::Restart,
            |a| matches!(a, Act::Freeze(_)),
            |a| matches!(a, Act::Cut(_)),
            |a| matches!(a, Act::Silence(_)),
            |a| matches!(a, Act::FillDisk(_, 0)),
            |a| matches!(a, Act::FillDisk(_, 1..)),
        ];
        for part in ["central", "registry", "CP-1/engine"] {
            let missing = kinds.iter().position(|kind| !deeds.iter().any(|d| d.part == part && kind(&d.act)));
            assert_eq!(missing, None, "{part}");
        }
        assert_eq!(Chaos::seeded(1).next(&[]), None);
    }

    #[test]
    fn what_lasts_is_over_within_seconds_spec_9_2() {
        let longest = deeds(1).iter().filter_map(|deed| deed.act.lasts()).max().unwrap();
        assert!(longest > Duration::from_secs(4) && longest < Duration::from_secs(5), "{longest:?}");
        assert_eq!(Act::Kill.lasts(), None);
    }

    #[test]
    fn a_deed_is_said_in_plain_words() {
        let said = |part: &str, act| Deed { after: Duration::ZERO, part: part.into(), act }.to_string();
        let a_while = Duration::from_millis(1500);
        assert_eq!(said("CP-1/engine", Act::KillBoth), "takes the power from CP-1");
        assert_eq!(said("registry", Act::Freeze(a_while)), "freezes registry for 1.5s");
        assert_eq!(said("CP-1/engine", Act::Cut(a_while)), "cuts the line of CP-1 for 1.5s");
        assert_eq!(said("driver/D-1", Act::Silence(a_while)), "silences the line of driver/D-1 for 1.5s");
        assert_eq!(said("central", Act::Cut(a_while)), "cuts every line to Central for 1.5s");
        assert_eq!(said("registry", Act::Cut(a_while)), "cuts the line between Central and Registry for 1.5s");
        assert_eq!(said("central", Act::FillDisk(a_while, 0)), "fills the disk of central for 1.5s");
    }

    #[test]
    fn both_of_a_charging_point_die_at_once_sooner_or_later_and_no_role_has_two_spec_9() {
        let both: Vec<_> = deeds(1).into_iter().filter(|deed| deed.act == Act::KillBoth).collect();
        assert!(!both.is_empty() && both.iter().all(|deed| deed.part == "CP-1/engine"));
        assert_eq!(both_of("CP-1/engine"), ["CP-1/engine", "CP-1/monitor"]);
        assert_eq!(both_of("CP-1/monitor"), ["CP-1/engine", "CP-1/monitor"]);
    }
}
