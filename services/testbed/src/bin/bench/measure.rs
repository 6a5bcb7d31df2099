//! CPU time and memory of processes, and the result of a row.

use std::{
    fmt,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use serde::Serialize;

/// User and system CPU time of a process so far.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain spaces and parentheses; the numbers follow the last one.
    let (_, numbers) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let ticks: u64 =
        numbers.split_whitespace().skip(11).take(2).map(|number| number.parse::<u64>().unwrap_or_default()).sum();
    let per_second: u64 = 100;
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}

/// Resident memory of a process in bytes.
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// A floor: this program, started again as another process.
#[derive(Debug)]
pub(crate) struct Floor {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Floor {
    pub(crate) fn start(name: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?).arg(name).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        Ok(Self { child, address: line.trim().parse().with_context(|| format!("floor {name} said {line:?}"))? })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A figure over several runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self { least: at(0), median: at(values.len() / 2), most: at(values.len().saturating_sub(1)) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.median, self.least, self.most)
    }
}

/// The result of a row of DESIGN 9.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BenchRow {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) central: Spread,
    pub(crate) floor: Option<Spread>,
    /// Central divided by floor, pair by pair; absent where the goal is an absolute number.
    pub(crate) ratio: Option<Spread>,
    /// The bound of the median (of the ratio, else of Central's figure).
    pub(crate) goal: f64,
    pub(crate) at_least: bool,
    pub(crate) remark: String,
}

impl BenchRow {
    pub(crate) fn met(&self) -> bool {
        let judged = self.ratio.as_ref().unwrap_or(&self.central).median;
        if self.at_least { judged >= self.goal } else { judged <= self.goal }
    }
}

impl fmt::Display for BenchRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<16} central {} {}", self.name, self.central, self.unit)?;
        if let Some(floor) = &self.floor {
            write!(f, ", floor {floor}")?;
        }
        if let Some(ratio) = &self.ratio {
            write!(f, ", ratio {ratio}")?;
        }
        let sign = if self.at_least { ">=" } else { "<=" };
        write!(f, "; goal {sign} {}: {}", self.goal, if self.met() { "met" } else { "missed" })?;
        if self.remark.is_empty() { Ok(()) } else { write!(f, " ({})", self.remark) }
    }
}
