//! What a seeded chaos does (SPEC 9.2): at random moments it kills, ends or freezes a random part, or kills both of a
//! charging point. The same seed and the same parts give the same deeds.
//!
//! Pure.

use std::time::Duration;

use super::supervisor::is_charging_point;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// SIGKILL, a power cut.
    Kill,
    /// SIGKILL, engine and monitor of one charging point at once: its power fails.
    KillBoth,
    /// SIGTERM, an orderly end.
    Restart,
    /// Frozen for so long: half-open links, missed signs of life.
    Freeze(Duration),
}

/// One deed, so long after the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    pub(crate) after: Duration,
    pub(crate) part: String,
    pub(crate) act: Act,
}

/// Engine and monitor of the charging point that this part belongs to.
pub(crate) fn both_of(part: &str) -> [String; 2] {
    let point = part.rsplit_once('/').map_or(part, |(point, _)| point);
    ["engine", "monitor"].map(|name| format!("{point}/{name}"))
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
        let act = match self.draw(10) {
            0..=1 if parts.get(at).is_some_and(|part| is_charging_point(part)) => Act::KillBoth,
            0..=5 => Act::Kill,
            6..=7 => Act::Restart,
            _ => Act::Freeze(Duration::from_millis(500 + self.draw(4500))),
        };
        parts.get(at).map(|part| Deed { after, part: part.clone(), act })
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
    fn every_part_is_killed_ended_and_frozen_sooner_or_later() {
        let deeds = deeds(1);
        for part in ["central", "registry", "CP-1/engine"] {
            let of = |act: fn(&Act) -> bool| deeds.iter().any(|d| d.part == part && act(&d.act));
            assert!(of(|a| *a == Act::Kill) && of(|a| *a == Act::Restart) && of(|a| matches!(a, Act::Freeze(_))));
        }
        assert_eq!(Chaos::seeded(1).next(&[]), None);
    }

    #[test]
    fn both_of_a_charging_point_die_at_once_sooner_or_later_and_no_role_has_two_spec_9() {
        let both: Vec<_> = deeds(1).into_iter().filter(|deed| deed.act == Act::KillBoth).collect();
        assert!(!both.is_empty() && both.iter().all(|deed| deed.part == "CP-1/engine"));
        assert_eq!(both_of("CP-1/engine"), ["CP-1/engine", "CP-1/monitor"]);
        assert_eq!(both_of("CP-1/monitor"), ["CP-1/engine", "CP-1/monitor"]);
    }
}
