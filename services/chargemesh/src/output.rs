//! What the command line prints: a table for people, or JSON for programs; nothing else writes to standard output.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use comfy_table::{Cell, ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle};
pub(crate) use mesh::screen::escaped;
use serde::Serialize;

/// One kind of thing that can be listed.
pub(crate) trait Columns {
    const HEADERS: &'static [&'static str];
    fn cells(&self) -> Vec<String>;
}

/// A line below the headers and nothing else.
const STYLE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none())
    .header_separator(LineStyle::none().fill('-').junction('-'))
    .content_lines(ContentLineStyle::none());

/// How to print.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Output {
    /// Print JSON: one object, or one a line for lists and streams
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Output {
    /// A whole list: a table, or one JSON object a line.
    pub(crate) fn list<T: Columns + Serialize>(self, items: &[T]) -> anyhow::Result<()> {
        if self.json {
            return items.iter().try_for_each(|item| self.json_line(item));
        }
        if items.is_empty() {
            return line("none");
        }
        let mut table = Table::new();
        // Only as wide as the terminal; whole lines where a program reads.
        let arrangement =
            if io::stdout().is_terminal() { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.load_style(STYLE).set_content_arrangement(arrangement);
        table.set_header(T::HEADERS.iter().map(Cell::new));
        for item in items {
            table.add_row(item.cells());
        }
        line(&table.to_string())
    }

    /// One thing: its columns below each other, or a JSON object.
    pub(crate) fn one<T: Columns + Serialize>(self, item: &T) -> anyhow::Result<()> {
        if self.json {
            return self.json_line(item);
        }
        let width = T::HEADERS.iter().map(|h| h.len()).max().unwrap_or(0);
        for (header, cell) in T::HEADERS.iter().zip(item.cells()).filter(|(_, cell)| !cell.is_empty()) {
            line(&format!("{header:<width$}  {cell}"))?;
        }
        Ok(())
    }

    /// One line of a stream.
    pub(crate) fn item<T: Columns + Serialize>(self, item: &T) -> anyhow::Result<()> {
        if self.json {
            return self.json_line(item);
        }
        line(item.cells().iter().filter(|cell| !cell.is_empty()).cloned().collect::<Vec<_>>().join("  ").as_str())
    }

    /// A sentence for people, an object for programs.
    pub(crate) fn said<T: Serialize>(self, sentence: &str, object: &T) -> anyhow::Result<()> {
        if self.json { self.json_line(object) } else { line(sentence) }
    }

    fn json_line<T: Serialize>(self, item: &T) -> anyhow::Result<()> {
        line(&serde_json::to_string(item)?)
    }
}

/// A line on standard output. A reader that went away (`| head`) ends the program quietly.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        result => result.context("cannot write to standard output"),
    }
}

/// Nobody reads any more: not a failure.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub(crate) struct ReaderGone;

/// A line on standard error, for the person, beside what is piped on.
pub(crate) fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}
