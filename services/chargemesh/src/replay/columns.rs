//! Where the columns of a recording are in a file that has others, other names and another separator.
//!
//! Pure.

use std::{fmt, str::FromStr};

/// What the recording must tell of each session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordingColumn {
    Session,
    Station,
    PlugIn,
    PlugOut,
    Kwh,
}

const COLUMNS: [RecordingColumn; 5] = [
    RecordingColumn::Session,
    RecordingColumn::Station,
    RecordingColumn::PlugIn,
    RecordingColumn::PlugOut,
    RecordingColumn::Kwh,
];

impl RecordingColumn {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Station => "station",
            Self::PlugIn => "plug_in",
            Self::PlugOut => "plug_out",
            Self::Kwh => "kwh",
        }
    }

    fn all() -> String {
        COLUMNS.map(Self::name).join(", ")
    }
}

/// `plug_in=Start Date+Start Time`: where the file has another name for a column, or spreads it over several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ColumnMapping {
    column: RecordingColumn,
    name: String,
}

impl FromStr for ColumnMapping {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not COLUMN=NAME; the columns are {}", RecordingColumn::all());
        let (column, name) = text.split_once('=').ok_or_else(bad)?;
        let (column, name) = (column.trim(), name.trim());
        let column = COLUMNS.into_iter().find(|c| c.name() == column).ok_or_else(bad)?;
        if name.is_empty() { Err(bad()) } else { Ok(Self { column, name: name.to_owned() }) }
    }
}

impl fmt::Display for ColumnMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.column.name(), self.name)
    }
}

/// The character between two columns of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Separator {
    #[default]
    Comma,
    Semicolon,
    Tab,
    Bar,
}

impl Separator {
    /// The one that the first line has most often outside of quotation marks.
    pub(super) fn of(text: &[u8]) -> Self {
        let mut counts = [Self::Comma, Self::Semicolon, Self::Tab, Self::Bar].map(|separator| (0, separator));
        let mut quoted = false;
        for byte in text.iter().take_while(|b| **b != b'\n') {
            quoted ^= *byte == b'"';
            for (count, separator) in &mut counts {
                *count += usize::from(!quoted && separator.byte() == *byte);
            }
        }
        // Of equal ones the first.
        counts.into_iter().rev().max_by_key(|(count, _)| *count).map(|(_, separator)| separator).unwrap_or_default()
    }

    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Comma => b',',
            Self::Semicolon => b';',
            Self::Tab => b'\t',
            Self::Bar => b'|',
        }
    }
}

impl fmt::Display for Separator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Comma => "a comma",
            Self::Semicolon => "a semicolon",
            Self::Tab => "a tab",
            Self::Bar => "a vertical bar",
        })
    }
}

/// Why a file is not a recording at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordingError {
    #[error(
        "there is no column {name:?}{} among those of its first line, separated by {separator}: {there}; name it with \
         --map {}=NAME",
        if *.name == column.name() { String::new() } else { format!(" (for {})", column.name()) },
        column.name()
    )]
    MissingColumn { column: RecordingColumn, name: String, separator: Separator, there: String },
    #[error("two columns have the name {0:?}")]
    TwoColumns(String),
    #[error("--map names {0} twice")]
    MappedTwice(&'static str),
    #[error("the first line cannot be read: {error}; a recording has a first line with the columns {columns}")]
    Header { error: csv::Error, columns: String },
}

/// Where each column is found.
#[derive(Debug)]
pub(super) struct ColumnIndexes([ColumnSource; 5]);

/// Where the text of a column comes from.
#[derive(Debug)]
enum ColumnSource {
    /// These columns of the file, joined by a space.
    Fields(Vec<usize>),
    /// The number of the line.
    Line,
}

impl RecordingError {
    pub(super) fn header(error: csv::Error) -> Self {
        Self::Header { error, columns: RecordingColumn::all() }
    }
}

impl ColumnIndexes {
    pub(super) fn of(
        header: &csv::StringRecord,
        separator: Separator,
        map: &[ColumnMapping],
    ) -> Result<Self, RecordingError> {
        for (at, mapping) in map.iter().enumerate() {
            if map[..at].iter().any(|before| before.column == mapping.column) {
                return Err(RecordingError::MappedTwice(mapping.column.name()));
            }
        }
        let [a, b, c, d, e] = COLUMNS.map(|column| source(column, header, separator, map));
        Ok(Self([a?, b?, c?, d?, e?]))
    }

    /// # Errors
    /// Where the line has nothing for this column.
    pub(super) fn text(
        &self,
        column: RecordingColumn,
        line: u64,
        record: &csv::StringRecord,
    ) -> Result<String, String> {
        let [session, station, plug_in, plug_out, kwh] = &self.0;
        let source = match column {
            RecordingColumn::Session => session,
            RecordingColumn::Station => station,
            RecordingColumn::PlugIn => plug_in,
            RecordingColumn::PlugOut => plug_out,
            RecordingColumn::Kwh => kwh,
        };
        let ColumnSource::Fields(fields) = source else { return Ok(line.to_string()) };
        let parts: Vec<&str> = fields.iter().filter_map(|at| record.get(*at)).filter(|text| !text.is_empty()).collect();
        if parts.len() < fields.len() { Err(format!("{} is missing", column.name())) } else { Ok(parts.join(" ")) }
    }
}

fn source(
    column: RecordingColumn,
    header: &csv::StringRecord,
    separator: Separator,
    map: &[ColumnMapping],
) -> Result<ColumnSource, RecordingError> {
    let name = map.iter().find(|mapping| mapping.column == column).map_or(column.name(), |mapping| &mapping.name);
    if name == "#" && column == RecordingColumn::Session {
        return Ok(ColumnSource::Line);
    }
    let find = |name: &str| {
        let mut found = header.iter().enumerate().filter(|(_, there)| is_named(there, name)).map(|(at, _)| at);
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(RecordingError::TwoColumns(name.to_owned())),
            (Some(at), None) => Ok(at),
            (None, _) => Err(RecordingError::MissingColumn {
                column,
                name: name.to_owned(),
                separator,
                there: header.iter().collect::<Vec<_>>().join(" | "),
            }),
        }
    };
    // A name may itself contain a plus.
    if name.contains('+') && !header.iter().any(|there| is_named(there, name)) {
        return Ok(ColumnSource::Fields(name.split('+').map(|part| find(part.trim())).collect::<Result<_, _>>()?));
    }
    Ok(ColumnSource::Fields(vec![find(name)?]))
}

fn is_named(there: &str, name: &str) -> bool {
    there.trim_start_matches('\u{feff}').eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_names_a_column_of_the_recording_and_one_of_the_file() {
        let mapping: ColumnMapping = "plug_in=Start Date+Start Time".parse().unwrap();
        assert_eq!(mapping.to_string(), "plug_in=Start Date+Start Time");
        for bad in ["plug_in", "plug_in=", "begin=Start", "=x"] {
            let why = bad.parse::<ColumnMapping>().unwrap_err();
            assert!(why.contains("COLUMN=NAME") && why.contains("plug_out"), "{why}");
        }
    }

    #[test]
    fn the_separator_is_the_one_that_the_first_line_has() {
        for (line, separator) in [
            ("a,b,c\n1;2;3;4;5", Separator::Comma),
            ("a;b;\"c, d, e, f\"", Separator::Semicolon),
            ("a\tb", Separator::Tab),
            ("a|b", Separator::Bar),
            ("a", Separator::Comma),
        ] {
            assert_eq!(Separator::of(line.as_bytes()), separator, "{line}");
        }
    }
}
