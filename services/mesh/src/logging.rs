//! Logs of a process on standard error: lines for people or JSON for machines, each with time, level and target.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people, in colour on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Libraries say at most this, unless the filter names them.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tower=warn,tonic=warn,rustls=warn,reqwest=warn,mio=warn";

/// For `#[arg(value_parser = mesh::logging::parse_filter)]`.
pub fn parse_filter(text: &str) -> Result<String, String> {
    EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|error| {
        format!(
            "{error}; give a level (error, warn, info, debug, trace) or levels by module, such as info,central=debug"
        )
    })
}

/// Does nothing where the process logs already.
pub(crate) fn start(filter: &str, format: LogFormat) {
    let filter = EnvFilter::builder().parse_lossy(format!("{QUIET},{filter}"));
    let lines = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Text => lines.with(fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal())).try_init(),
        LogFormat::Json => lines.with(fmt::layer().json().flatten_event(true).with_writer(stderr)).try_init(),
    };
    drop(started);
}
