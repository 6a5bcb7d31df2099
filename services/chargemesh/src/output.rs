//! Output of commands: tables and sentences for people, or JSON for programs. Nothing else writes to standard output.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use comfy_table::{Cell, ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle};
pub(crate) use mesh::screen::escaped;
use serde::Serialize;

/// A record that can be printed as a row of a table.
pub(crate) trait Columns {
    const HEADERS: &'static [&'static str];
    fn cells(&self) -> Vec<String>;
}

/// A table whose only line is below its headers.
const STYLE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none())
    .header_separator(LineStyle::none().fill('-').junction('-'))
    .content_lines(ContentLineStyle::none());

/// Output format of a command.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Output {
    /// Print JSON: one object, or one object per line for lists and streams
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Output {
    /// Prints a list: as a table, or as one JSON object per line.
    pub(crate) fn list<T: Columns + Serialize>(self, items: &[T]) -> anyhow::Result<()> {
        if self.json {
            return items.iter().try_for_each(|item| self.json_line(item));
        }
        if items.is_empty() {
            return line("none");
        }
        let mut table = Table::new();
        // Wrapped to the terminal's width; not wrapped where a program reads it.
        let arrangement =
            if io::stdout().is_terminal() { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.load_style(STYLE).set_content_arrangement(arrangement);
        table.set_header(T::HEADERS.iter().map(Cell::new));
        for item in items {
            table.add_row(item.cells());
        }
        line(&table.to_string())
    }

    /// Prints one record: its columns below each other, or a JSON object.
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

    /// Prints one record of a stream: as one line, or as one JSON object.
    pub(crate) fn item<T: Columns + Serialize>(self, item: &T) -> anyhow::Result<()> {
        if self.json {
            return self.json_line(item);
        }
        line(&one_line(item))
    }

    /// Prints a sentence, or a JSON object with the same content.
    pub(crate) fn sentence<T: Serialize>(self, sentence: &str, object: &T) -> anyhow::Result<()> {
        if self.json { self.json_line(object) } else { line(sentence) }
    }

    fn json_line<T: Serialize>(self, item: &T) -> anyhow::Result<()> {
        line(&serde_json::to_string(item)?)
    }
}

/// The cells of an item that are not empty, on one line.
pub(crate) fn one_line<T: Columns>(item: &T) -> String {
    item.cells().iter().filter(|cell| !cell.is_empty()).cloned().collect::<Vec<_>>().join("  ")
}

/// Prints a line to standard output. A closed pipe (`| head`) ends the program without an error message.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        result => result.context("cannot write to standard output"),
    }
}

/// The reader of standard output has closed it: not a failure.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed by its reader")]
pub(crate) struct ReaderGone;

/// Prints a line for people to standard error.
pub(crate) fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}
