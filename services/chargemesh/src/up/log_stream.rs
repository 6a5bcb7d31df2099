//! One log stream of all processes' output: each line begins with the process's name, coloured on a terminal.
//!
//! Output never blocks a process: when the reader of the stream is too slow, lines are dropped and counted.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    sync::mpsc,
};

const LINES: usize = 4096;
/// A longer line is cut, so that one process cannot fill the screen.
const LONGEST: usize = 4000;
const COLOURS: [u8; 10] = [36, 32, 33, 35, 34, 96, 92, 93, 95, 94];

/// Where the lines are written.
#[derive(Debug)]
pub(crate) enum LogSink {
    Stdout,
    /// For commands whose standard output is a table or JSON.
    Stderr,
    File(File),
}

/// The stream's sending end. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LogStream {
    lines: mpsc::Sender<(Arc<str>, String)>,
    dropped: Arc<AtomicU64>,
}

impl LogStream {
    pub(crate) fn start(to: LogSink) -> (Self, tokio::task::JoinHandle<()>) {
        let (lines, mut received) = mpsc::channel::<(Arc<str>, String)>(LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        let task = tokio::task::spawn_blocking(move || {
            let plain = std::env::var_os("NO_COLOR").is_some();
            let (mut out, colour): (Box<dyn Write>, bool) = match to {
                LogSink::Stdout => (Box::new(io::stdout()), io::stdout().is_terminal()),
                LogSink::Stderr => (Box::new(io::stderr()), io::stderr().is_terminal()),
                LogSink::File(file) => (Box::new(file), false),
            };
            while let Some((process, text)) = received.blocking_recv() {
                let mut block = format(&process, &text, colour && !plain);
                let lost = lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let note = format("up", &format!("{lost} lines dropped here"), colour && !plain);
                    block = format!("{note}\n{block}");
                }
                // A reader that is gone or a full disk does not end the network.
                drop(writeln!(out, "{block}"));
            }
        });
        (Self { lines, dropped }, task)
    }

    pub(crate) fn write(&self, process: &Arc<str>, text: impl Into<String>) {
        if self.lines.try_send((Arc::clone(process), text.into())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes a line of the supervisor's own.
    pub(crate) fn up(&self, text: impl Into<String>) {
        self.write(&Arc::from("up"), text);
    }

    /// Relays the output of a process until it ends.
    pub(crate) async fn follow(&self, process: Arc<str>, output: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(output).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let text = String::from_utf8_lossy(&line);
            let text: String = text.trim_end().chars().take(LONGEST).collect();
            if !text.is_empty() {
                self.write(&process, text);
            }
        }
    }
}

fn format(process: &str, text: &str, colour: bool) -> String {
    if colour {
        let sum = process.bytes().fold(7u32, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
        let colour = COLOURS.get(sum as usize % COLOURS.len()).copied().unwrap_or(37);
        format!("\x1b[{colour}m{process:<16}\x1b[0m {text}")
    } else {
        format!("{process:<16} {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_begins_with_its_process_and_is_plain_where_it_is_not_a_terminal() {
        assert_eq!(format("central", "listening", false), "central          listening");
        assert!(format("central", "listening", true).starts_with("\x1b["));
    }
}
