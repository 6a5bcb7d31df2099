//! A recording of charging sessions: CSV with the columns `session,station,plug_in,plug_out,kwh`, in any order.
//!
//! Pure. One reading finds every invalid line, with its number. Energy is parsed into whole watt-hours without floats.

use std::{collections::BTreeMap, io::Read, time::Duration};

use proto::{ChargingPointId, DriverId, Energy};
use time::{
    PrimitiveDateTime,
    format_description::{BorrowedFormatItem, well_known::Iso8601},
    macros::format_description,
};

/// One recorded session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordedSession {
    /// Line in the file, from 1.
    pub(super) line: u64,
    /// Unique in the recording.
    pub(super) session: String,
    pub(super) station: ChargingPointId,
    /// The driver that is made up for this station.
    pub(super) driver: DriverId,
    pub(super) plug_in: PrimitiveDateTime,
    /// Time from plug-in to plug-out.
    pub(super) lasts: Duration,
    pub(super) energy: Energy,
}

/// A line that is not a valid session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InvalidLine {
    pub(super) line: u64,
    pub(super) why: String,
}

impl std::fmt::Display for InvalidLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

/// A whole recording, with its rows in the order of their plug-in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recording {
    pub(super) rows: Vec<RecordedSession>,
    pub(super) bad: Vec<InvalidLine>,
}

/// Why a file is not a recording at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordingError {
    #[error("there is no column {0:?}; a recording has a first line with the columns {COLUMNS}")]
    MissingColumn(&'static str),
    #[error("the first line cannot be read: {0}; a recording has a first line with the columns {COLUMNS}")]
    Header(csv::Error),
}

const COLUMNS: &str = "session, station, plug_in, plug_out, kwh";
const MINUTES: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day] [hour]:[minute]");
const SECONDS: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");

struct ColumnIndexes {
    session: usize,
    station: usize,
    plug_in: usize,
    plug_out: usize,
    kwh: usize,
}

impl Recording {
    pub(super) fn read(input: impl Read) -> Result<Self, RecordingError> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(input);
        let columns = ColumnIndexes::of(reader.headers().map_err(RecordingError::Header)?)?;
        let mut recording = Self::default();
        let mut seen = BTreeMap::new();
        for record in reader.records() {
            match record {
                Ok(record) => {
                    let line = record.position().map_or(0, csv::Position::line);
                    match columns.row(line, &record).and_then(|row| unique(row, &mut seen)) {
                        Ok(row) => recording.rows.push(row),
                        Err(why) => recording.bad.push(InvalidLine { line, why }),
                    }
                }
                Err(error) => {
                    let line = error.position().map_or(0, csv::Position::line);
                    recording.bad.push(InvalidLine { line, why: error.to_string() });
                }
            }
        }
        recording.rows.sort_by_key(|row| (row.plug_in, row.line));
        Ok(recording)
    }

    /// The rows of each station, in the order of their plug-in.
    pub(super) fn by_station(&self) -> BTreeMap<ChargingPointId, Vec<RecordedSession>> {
        let mut stations: BTreeMap<_, Vec<RecordedSession>> = BTreeMap::new();
        for row in &self.rows {
            stations.entry(row.station.clone()).or_default().push(row.clone());
        }
        stations
    }

    pub(super) fn energy(&self) -> Energy {
        self.rows.iter().map(|row| row.energy).sum()
    }
}

fn unique(row: RecordedSession, seen: &mut BTreeMap<String, u64>) -> Result<RecordedSession, String> {
    match seen.insert(row.session.clone(), row.line) {
        Some(before) => Err(format!("session {:?} is on line {before} already", row.session)),
        None => Ok(row),
    }
}

impl ColumnIndexes {
    fn of(header: &csv::StringRecord) -> Result<Self, RecordingError> {
        let find = |name: &'static str| {
            let named = |h: &str| h.trim_start_matches('\u{feff}').eq_ignore_ascii_case(name);
            header.iter().position(named).ok_or(RecordingError::MissingColumn(name))
        };
        Ok(Self {
            session: find("session")?,
            station: find("station")?,
            plug_in: find("plug_in")?,
            plug_out: find("plug_out")?,
            kwh: find("kwh")?,
        })
    }

    fn row(&self, line: u64, record: &csv::StringRecord) -> Result<RecordedSession, String> {
        let get = |at: usize, name: &str| {
            record.get(at).filter(|text| !text.is_empty()).ok_or_else(|| format!("{name} is missing"))
        };
        let session = get(self.session, "session")?;
        if session.len() > 100 || session.chars().any(char::is_control) {
            return Err(format!("session {session:?} is not a name of at most 100 characters"));
        }
        let station = get(self.station, "station")?;
        let named = |id: &str| id.parse::<ChargingPointId>().map_err(|e| format!("station: {e}"));
        let driver = format!("D-{station}");
        let driver = driver.parse().map_err(|_| format!("station {station:?} is too long: at most 62 characters"));
        let plug_in = at(get(self.plug_in, "plug_in")?, "plug_in")?;
        let plug_out = at(get(self.plug_out, "plug_out")?, "plug_out")?;
        let lasts = Duration::try_from(plug_out - plug_in).ok().filter(|lasts| !lasts.is_zero());
        Ok(RecordedSession {
            line,
            session: session.to_owned(),
            station: named(station)?,
            driver: driver?,
            plug_in,
            lasts: lasts.ok_or_else(|| format!("plug_out {plug_out} is not after plug_in {plug_in}"))?,
            energy: kwh(get(self.kwh, "kwh")?)?,
        })
    }
}

fn at(text: &str, name: &str) -> Result<PrimitiveDateTime, String> {
    PrimitiveDateTime::parse(text, &Iso8601::DEFAULT)
        .or_else(|_| PrimitiveDateTime::parse(&text.replace('T', " "), SECONDS))
        .or_else(|_| PrimitiveDateTime::parse(&text.replace('T', " "), MINUTES))
        .map_err(|_| format!("{name} {text:?} is not a time such as 2019-03-01T06:20:00"))
}

/// Parses kWh into whole watt-hours; further decimals are rounded half to even. Zero is a session without energy.
fn kwh(text: &str) -> Result<Energy, String> {
    let bad = || format!("kwh {text:?} is not an energy: a decimal number from 0 to 1000000, such as 4.216");
    let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(places) {
        return Err(bad());
    }
    let kwh: u64 = whole.parse().ok().filter(|kwh| *kwh <= 1_000_000).ok_or_else(bad)?;
    let (milli, rest) = places.split_at(places.len().min(3));
    let wh = kwh * 1000 + format!("{milli:0<3}").parse::<u64>().map_err(|_| bad())?;
    let half = rest.trim_end_matches('0').cmp("5");
    let up = half.is_gt() || (half.is_eq() && wh % 2 == 1);
    Ok(Energy::from_wh(wh + u64::from(up)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = include_bytes!("../../../../deploy/samples/caltech-2019-03-a.csv");

    fn read(text: &str) -> Recording {
        Recording::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_caltech_recording_has_475_sessions_and_no_invalid_line() {
        let recording = Recording::read(SAMPLE).unwrap();
        assert_eq!((recording.rows.len(), recording.bad.len()), (475, 0));
        assert!(recording.rows.is_sorted_by_key(|row| row.plug_in));
        assert_eq!(recording.by_station().values().map(Vec::len).sum::<usize>(), 475);
    }

    #[test]
    fn columns_may_stand_in_any_order_and_energy_is_exact() {
        let recording = read("kwh,plug_out,plug_in,station,session\n17.366,2019-03-01 16:45,2019-03-01T07:35:00,A,s");
        assert_eq!(recording.bad, []);
        assert_eq!(recording.rows[0].energy, Energy::from_wh(17_366));
        assert_eq!(recording.rows[0].lasts, Duration::from_secs(550 * 60));
        assert_eq!(recording.rows[0].driver.as_str(), "D-A");
    }

    #[test]
    fn energies_are_whole_watt_hours_rounded_half_to_even() {
        for (text, wh) in
            [("0", 0), ("4.216", 4216), ("1.0005", 1000), ("1.0015", 1002), ("1.00051", 1001), ("2.0004999", 2000)]
        {
            assert_eq!(kwh(text), Ok(Energy::from_wh(wh)), "{text}");
        }
        for bad in ["", "-1", "1e3", "1,5", ".5", "much", "99999999"] {
            assert!(kwh(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_invalid_line_is_reported_with_its_number_and_what_is_wrong() {
        let recording = read(
            "session,station,plug_in,plug_out,kwh\n\
             a,A,2019-03-01T06:00:00,2019-03-01T07:00:00,1\n\
             b,A,2019-03-01T08:00:00,2019-03-01T08:00:00,1\n\
             c,A b,2019-03-01T06:00:00,2019-03-01T07:00:00,1\n\
             d,A,yesterday,2019-03-01T07:00:00,1\n\
             e,A,2019-03-01T06:00:00,2019-03-01T07:00:00,much\n\
             a,A,2019-03-01T06:00:00,2019-03-01T07:00:00,1\n\
             f,A,2019-03-01T06:00:00\n\
             g,A,2019-03-01T06:00:00,2019-03-01T07:00:00,0.5\n",
        );
        assert_eq!(recording.rows.len(), 2);
        let bad: Vec<String> = recording.bad.iter().map(ToString::to_string).collect();
        for (got, (start, says)) in bad.iter().zip([
            ("line 3:", "is not after plug_in"),
            ("line 4:", "is not an id"),
            ("line 5:", "is not a time such as"),
            ("line 6:", "is not an energy"),
            ("line 7:", "is on line 2 already"),
            ("line 8:", "plug_out is missing"),
        ]) {
            assert!(got.starts_with(start) && got.contains(says), "{got}");
        }
        assert_eq!(bad.len(), 6);
    }

    #[test]
    fn a_file_without_the_columns_is_not_a_recording() {
        let error = Recording::read("a,b\n1,2".as_bytes()).unwrap_err().to_string();
        assert!(error.contains("no column \"session\"") && error.contains("plug_out"), "{error}");
    }
}
