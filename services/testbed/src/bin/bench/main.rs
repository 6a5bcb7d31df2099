//! `make bench`: what Central costs, as ratios to bare floors measured in the same run (DESIGN 9).
//!
//! CPU time is user + system of the measured process alone; pairs alternate between floor and Central; medians and
//! spread are printed and, with `--json FILE`, written.

mod authorise;
mod durable;
mod floor;
mod load;
mod measure;
mod overload;
mod rows;

use std::path::PathBuf;

use anyhow::Context as _;

use measure::BenchRow;

const HELP: &str = "\
Usage: bench [--json FILE] [--charging-points N] [--pairs N] [--kills N] [ROW ...]

Rows: sealed-message, idle-memory, authorise, reconnect, central-killed, rotate, durable, overload; all where none is
named.";

/// How large a run is.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// In the rows that need a fleet.
    charging_points: usize,
    /// Alternating pairs of floor and Central.
    pairs: usize,
    /// Of Central, in the row that counts what is lost.
    kills: usize,
}

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let mut json: Option<PathBuf> = None;
    let mut size = Size { charging_points: 1_000, pairs: 5, kills: 1_000 };
    let mut wanted = Vec::new();
    while let Some(word) = words.next() {
        let mut number = || -> anyhow::Result<usize> {
            let text = words.next().with_context(|| format!("{word} needs a number"))?;
            text.parse().with_context(|| format!("{word} {text:?} is not a number"))
        };
        match word.as_str() {
            // The parent starts itself again as the floor.
            "floor-sealed" => return floor::sealed(),
            "floor-echo" => return floor::echo(),
            "floor-handshake" => return floor::handshake(),
            "floor-authorise" => return authorise::floor(),
            "--json" => json = Some(words.next().context("--json needs a file")?.into()),
            "--charging-points" => size.charging_points = number()?,
            "--pairs" => size.pairs = number()?,
            "--kills" => size.kills = number()?,
            "--help" | "-h" => return say(HELP),
            row if rows::NAMES.contains(&row) => wanted.push(word),
            other => anyhow::bail!("{other:?} is neither a row nor a flag\n{HELP}"),
        }
    }
    if wanted.is_empty() {
        wanted.extend(rows::NAMES.iter().map(|&name| name.to_owned()));
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let mut done = Vec::new();
    for name in &wanted {
        let row = runtime.block_on(rows::run(name, size)).with_context(|| format!("row {name}"))?;
        say(&row.to_string())?;
        done.push(row);
    }
    if let Some(path) = json {
        std::fs::write(&path, serde_json::to_vec_pretty(&done)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    let missed: Vec<&BenchRow> = done.iter().filter(|row| !row.met()).collect();
    say(&format!("{} of {} goals met", done.len() - missed.len(), done.len()))
}

#[expect(clippy::print_stdout, reason = "a command line tool's answer")]
fn say(text: &str) -> anyhow::Result<()> {
    println!("{text}");
    Ok(())
}
