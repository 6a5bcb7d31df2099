//! Logs of a process on standard error: lines for people or JSON for machines, each with time, level and target.

use std::{
    io::{IsTerminal as _, stderr},
    str::FromStr as _,
};

use tracing_subscriber::{
    EnvFilter, filter::LevelFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text for people, in colour on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The maximum level of these libraries unless the filter names them.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tower=warn,tonic=warn,rustls=warn,reqwest=warn,mio=warn";

/// Checks a filter, for `#[arg(value_parser = mesh::logging::parse_filter)]`.
pub fn parse_filter(text: &str) -> Result<String, String> {
    let advice = "give a level (error, warn, info, debug, trace, off) or levels by module, such as info,central=debug";
    // A single word that is not a level would name a module and silence all others.
    let is_level = |word: &&str| {
        word.contains(['=', '[', ']', '{', '}']) || !word.is_empty() && LevelFilter::from_str(word).is_ok()
    };
    if let Some(word) = text.split(',').map(str::trim).find(|word| !is_level(word)) {
        return Err(format!("{word:?} is no level; {advice}"));
    }
    EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|error| format!("{error}; {advice}"))
}

/// Starts logging; does nothing where it has started already.
pub(crate) fn start(filter: &str, format: LogFormat) {
    let filter = EnvFilter::builder().parse_lossy(format!("{QUIET},{filter}"));
    let lines = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Text => lines.with(fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal())).try_init(),
        LogFormat::Json => lines.with(fmt::layer().json().flatten_event(true).with_writer(stderr)).try_init(),
    };
    drop(started);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_is_refused_and_silences_nobody_spec_1_7() {
        for good in ["info", "WARN", "off", "info,central=debug", "info,h2=trace", "central[turn]=debug"] {
            assert_eq!(parse_filter(good).as_deref(), Ok(good));
        }
        for bad in ["loud", "", "info,loud", "central=loud", "central"] {
            assert!(parse_filter(bad).unwrap_err().contains("give a level (error"), "{bad}");
        }
    }
}
