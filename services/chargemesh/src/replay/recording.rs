//! A recording of charging sessions: CSV with the columns `session`, `station`, `plug_in`, `plug_out` and `kwh`, in any
//! order and among others; [`super::columns`] finds them where they have other names.
//!
//! Pure. One reading finds every invalid line, with its number. Energy is parsed into whole watt-hours without floats.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use proto::{ChargingPointId, DriverId, Energy};
use time::OffsetDateTime;

use super::{
    columns::{ColumnIndexes, ColumnMapping, RecordingColumn, RecordingError, Separator},
    dates::DateFormat,
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
    pub(super) plug_in: OffsetDateTime,
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

/// How a file tells its sessions.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct RecordingFormat {
    /// Where the file has another name for a column: session, station, plug_in, plug_out or kwh. NAME+NAME joins two
    /// columns; session=# names each session by its line
    #[arg(long, env = "CHARGEMESH_RECORDING_MAP", value_name = "COLUMN=NAME", value_delimiter = ';')]
    pub(super) map: Vec<ColumnMapping>,
    /// How the file writes its times; each may end with an offset from UTC
    #[arg(long, env = "CHARGEMESH_RECORDING_DATES", value_name = "FORMAT", value_enum, default_value = "iso")]
    pub(super) dates: DateFormat,
}

/// A whole recording, with its rows in the order of their plug-in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recording {
    pub(super) rows: Vec<RecordedSession>,
    pub(super) bad: Vec<InvalidLine>,
    pub(super) separator: Separator,
    /// Names of stations that are no ids, with the ids that were made of them.
    pub(super) renamed: BTreeMap<String, ChargingPointId>,
}

impl Recording {
    pub(super) fn read(text: &[u8], format: &RecordingFormat) -> Result<Self, RecordingError> {
        let separator = Separator::of(text);
        let mut builder = csv::ReaderBuilder::new();
        builder.flexible(true).trim(csv::Trim::All).delimiter(separator.byte());
        let mut reader = builder.from_reader(text);
        let header = reader.headers().map_err(RecordingError::header)?;
        let columns = ColumnIndexes::of(header, separator, &format.map)?;
        let mut recording = Self { separator, ..Self::default() };
        let mut rows =
            RowReader { columns, dates: format.dates, lines: HashMap::new(), names: HashMap::new(), offset: None };
        for record in reader.records() {
            let (line, row) = match record {
                Ok(record) => {
                    let line = record.position().map_or(0, csv::Position::line);
                    (line, rows.row(line, &record))
                }
                Err(error) => (error.position().map_or(0, csv::Position::line), Err(error.to_string())),
            };
            match row {
                Ok(row) => recording.rows.push(row),
                Err(why) => recording.bad.push(InvalidLine { line, why }),
            }
        }
        recording.rows.sort_by_key(|row| (row.plug_in, row.line));
        recording.renamed =
            rows.names.into_iter().filter(|(id, name)| id.as_str() != name).map(|(id, name)| (name, id)).collect();
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

/// Reads rows one after another, and remembers what later ones must not contradict.
struct RowReader {
    columns: ColumnIndexes,
    dates: DateFormat,
    /// The line of each session.
    lines: HashMap<String, u64>,
    /// The name of the station that each id was made of.
    names: HashMap<ChargingPointId, String>,
    /// Whether times have an offset, and the line that has shown it.
    offset: Option<(bool, u64)>,
}

impl RowReader {
    fn row(&mut self, line: u64, record: &csv::StringRecord) -> Result<RecordedSession, String> {
        let get = |column| self.columns.text(column, line, record);
        let session = get(RecordingColumn::Session)?;
        if session.len() > 100 || session.chars().any(char::is_control) {
            return Err(format!("session {session:?} is not a name of at most 100 characters"));
        }
        let name = get(RecordingColumn::Station)?;
        let station = station(&name)?;
        let driver = format!("D-{station}");
        let driver = driver.parse().map_err(|_| format!("station {name:?} is too long: at most 62 characters"));
        let time = |column: RecordingColumn| {
            let text = get(column)?;
            self.dates.parse(&text).map_err(|why| format!("{} {why}", column.name()))
        };
        let (plug_in, plug_out) = (time(RecordingColumn::PlugIn)?, time(RecordingColumn::PlugOut)?);
        let lasts = Duration::try_from(plug_out.at - plug_in.at).ok().filter(|lasts| !lasts.is_zero());
        let row = RecordedSession {
            line,
            station,
            driver: driver?,
            plug_in: plug_in.at,
            lasts: lasts.ok_or_else(|| format!("plug_out {} is not after plug_in {}", plug_out.at, plug_in.at))?,
            energy: kwh(&get(RecordingColumn::Kwh)?)?,
            session,
        };
        for time in [plug_in, plug_out] {
            self.agrees(line, time.has_offset)?;
        }
        self.is_unique(&row, name)?;
        Ok(row)
    }

    /// Times with and without an offset cannot be put in one order.
    fn agrees(&mut self, line: u64, has_offset: bool) -> Result<(), String> {
        let (before, first) = *self.offset.get_or_insert((has_offset, line));
        let says = |has: bool| if has { "has an offset from UTC" } else { "has no offset from UTC" };
        if before == has_offset {
            return Ok(());
        }
        Err(format!("a time {}, and one on line {first} {}", says(has_offset), says(before)))
    }

    fn is_unique(&mut self, row: &RecordedSession, name: String) -> Result<(), String> {
        let other = self.names.entry(row.station.clone()).or_insert_with(|| name.clone());
        if *other != name {
            return Err(format!("the stations {name:?} and {other:?} would both be called {}", row.station));
        }
        match self.lines.insert(row.session.clone(), row.line) {
            Some(before) => {
                self.lines.insert(row.session.clone(), before);
                Err(format!("session {:?} is on line {before} already", row.session))
            }
            None => Ok(()),
        }
    }
}

/// The id of a station: its name, or a name in which each run of characters that an id cannot have is a hyphen.
fn station(name: &str) -> Result<ChargingPointId, String> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let words = name.split(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_');
    let id = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-");
    id.trim_start_matches(['.', '_']).parse().map_err(|error| format!("station {name:?}: {error}"))
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

    fn format(map: &[&str], dates: DateFormat) -> RecordingFormat {
        RecordingFormat { map: map.iter().map(|m| m.parse().unwrap()).collect(), dates }
    }

    fn read(text: &str) -> Recording {
        Recording::read(text.as_bytes(), &RecordingFormat::default()).unwrap()
    }

    #[test]
    fn the_caltech_recording_has_475_sessions_and_no_invalid_line() {
        let recording = Recording::read(SAMPLE, &RecordingFormat::default()).unwrap();
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
             c,/,2019-03-01T06:00:00,2019-03-01T07:00:00,1\n\
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
        let error = Recording::read("a;b\n1;2".as_bytes(), &RecordingFormat::default()).unwrap_err().to_string();
        for says in ["no column \"session\"", "a | b", "separated by a semicolon", "--map session=NAME"] {
            assert!(error.contains(says), "{error}");
        }
        let map = format(&["session=id", "session=event"], DateFormat::Iso);
        assert!(Recording::read("id,event".as_bytes(), &map).unwrap_err().to_string().contains("session twice"));
        let map = format(&["session=id"], DateFormat::Iso);
        let error = Recording::read("id,id".as_bytes(), &map).unwrap_err().to_string();
        assert!(error.contains("two columns have the name \"id\""), "{error}");
    }

    #[test]
    fn offsets_from_utc_decide_how_long_a_session_lasts_and_which_is_first() {
        let spring = read(
            "session,station,plug_in,plug_out,kwh\nx,ST-1,2024-03-31T01:30:00+01:00,2024-03-31T03:30:00+02:00,1.0",
        );
        assert_eq!(spring.rows[0].lasts, Duration::from_secs(3600), "over the change to summer time");
        let order = read(
            "session,station,plug_in,plug_out,kwh\n\
             madrid,ST-1,2024-03-01T02:30:00+01:00,2024-03-01T03:30:00+01:00,2\n\
             tokyo,ST-1,2024-03-01T09:00:00+09:00,2024-03-01T10:00:00+09:00,1",
        );
        assert_eq!(order.rows.iter().map(|row| row.session.as_str()).collect::<Vec<_>>(), ["tokyo", "madrid"]);
        let mixed = read(
            "session,station,plug_in,plug_out,kwh\n\
             a,ST-1,2024-03-01T02:30:00+01:00,2024-03-01T03:30:00+01:00,2\n\
             b,ST-1,2024-03-01T09:00:00,2024-03-01T10:00:00,1",
        );
        assert_eq!(mixed.rows.len(), 1);
        assert!(mixed.bad[0].why.contains("no offset from UTC, and one on line 2 has"), "{}", mixed.bad[0]);
    }

    #[test]
    fn the_shapes_of_public_recordings_are_read_by_names_and_a_date_format() {
        let acn = "\
            _id,connectionTime,disconnectTime,kWhDelivered,sessionID,stationID,timezone\n\
            5bc,2018-04-25 04:08:04-07:00,2018-04-25 06:20:10-07:00,7.932,2_39_78_362_2018-04-25 11:08:04.4,2-39-78-362,LA\n";
        let acn_names = [
            "session=sessionID",
            "station=stationID",
            "plug_in=connectionTime",
            "plug_out=disconnectTime",
            "kwh=kWhDelivered",
        ];
        let acn_json = "\
            connectionTime;disconnectTime;kWhDelivered;sessionID;stationID\n\
            \"Wed, 25 Apr 2018 11:08:04 GMT\";\"Wed, 25 Apr 2018 13:20:10 GMT\";7.932;s;2-39-78-362\n";
        let boulder = "\
            ObjectId,Station_Name,Start_Date___Time,Start_Time_Zone,End_Date___Time,End_Time_Zone,Energy__kWh_\n\
            1,BOULDER / JUNCTION ST1,4/25/2018 5:08,MDT,4/25/2018 7:20,MDT,7.932\n";
        let boulder_names = [
            "session=ObjectId",
            "station=Station_Name",
            "plug_in=Start_Date___Time+Start_Time_Zone",
            "plug_out=End_Date___Time+End_Time_Zone",
            "kwh=Energy__kWh_",
        ];
        let palo_alto = "\
            Station Name,Start Date,Start Time Zone,End Date,End Time Zone,Energy (kWh),Plug In Event Id\n\
            PALO ALTO CA / HAMILTON #1,4/25/2018 4:08,PDT,4/25/2018 6:20,PDT,7.932,3\n";
        let palo_alto_names = [
            "session=Plug In Event Id",
            "station=Station Name",
            "plug_in=Start Date+Start Time Zone",
            "plug_out=End Date+End Time Zone",
            "kwh=Energy (kWh)",
        ];
        let dundee = "\
            CP ID,Connector,Start Date,Start Time,End Date,End Time,Total kWh,Site\n\
            51010,2,25/04/2018,11:08,25/04/2018,13:20,7.932,\"Gellatly Street Car Park, Dundee\"\n";
        let dundee_names = [
            "session=#",
            "station=CP ID+Connector",
            "plug_in=Start Date+Start Time",
            "plug_out=End Date+End Time",
            "kwh=Total kWh",
        ];
        for (text, names, dates, station, seconds) in [
            (acn, acn_names, DateFormat::Iso, "2-39-78-362", 4),
            (acn_json, acn_names, DateFormat::Rfc2822, "2-39-78-362", 4),
            (boulder, boulder_names, DateFormat::MonthFirst, "BOULDER-JUNCTION-ST1", 0),
            (palo_alto, palo_alto_names, DateFormat::MonthFirst, "PALO-ALTO-CA-HAMILTON-1", 0),
            (dundee, dundee_names, DateFormat::DayFirst, "51010-2", 0),
        ] {
            let recording = Recording::read(text.as_bytes(), &format(&names, dates)).unwrap();
            assert_eq!(recording.bad, [], "{text}");
            let row = &recording.rows[0];
            assert_eq!((row.station.as_str(), row.energy), (station, Energy::from_wh(7932)), "{text}");
            assert_eq!(row.plug_in, time::macros::datetime!(2018-04-25 11:08 UTC) + Duration::from_secs(seconds));
        }
    }

    #[test]
    fn two_stations_are_never_made_into_one() {
        let recording = read(
            "session,station,plug_in,plug_out,kwh\n\
             a,A / B,2024-03-01T02:30:00,2024-03-01T03:30:00,2\n\
             b,A B,2024-03-01T09:00:00,2024-03-01T10:00:00,1\n\
             c,A / B,2024-03-01T09:00:00,2024-03-01T10:00:00,1",
        );
        assert_eq!(recording.rows.len(), 2);
        assert!(
            recording.bad[0].why.contains("\"A B\" and \"A / B\" would both be called A-B"),
            "{}",
            recording.bad[0]
        );
        assert_eq!(recording.renamed.keys().collect::<Vec<_>>(), ["A / B"]);
    }
}
