//! The file of requests that a driver works through: one request per line, `CP-ID[,kWh]`, with `#` comments (SPEC 3.10).
//!
//! Pure. A line that is not a request is reported with its number and skipped. The next request is found by the number of
//! the last line that has ended, so that a restarted driver continues at the right line.

use proto::{ChargingPointId, Energy};

/// One line that is a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileRequest {
    /// Line number, from 1.
    pub line: u64,
    pub charging_point: ChargingPointId,
    /// Zero: until unplugged.
    pub energy: Energy,
}

/// A line that is not a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RejectedLine {
    pub line: u64,
    pub why: String,
}

/// The lines of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestFile {
    pub requests: Vec<FileRequest>,
    pub rejected: Vec<RejectedLine>,
}

impl RequestFile {
    pub(crate) fn parse(text: &str) -> Self {
        let mut file = Self::default();
        for (line, content) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
            let content = content.split('#').next().unwrap_or_default().trim();
            if content.is_empty() {
                continue;
            }
            match parse_line(content) {
                Ok((charging_point, energy)) => file.requests.push(FileRequest { line, charging_point, energy }),
                Err(why) => file.rejected.push(RejectedLine { line, why }),
            }
        }
        file
    }

    /// The first request after this line.
    pub(crate) fn next_after(&self, done: u64) -> Option<&FileRequest> {
        self.requests.iter().find(|request| request.line > done)
    }
}

fn parse_line(content: &str) -> Result<(ChargingPointId, Energy), String> {
    let (id, energy) = match content.split_once(',') {
        Some((id, energy)) => (id.trim(), parse_kwh(energy.trim())?),
        None => (content, Energy::ZERO),
    };
    let id = id.parse::<ChargingPointId>().map_err(|e| format!("{e}; a line is CP-ID or CP-ID,kWh"))?;
    Ok((id, energy))
}

/// Parses kilowatt-hours: a decimal number above zero with at most three places.
pub fn parse_kwh(text: &str) -> Result<Energy, String> {
    let bad = || format!("{text:?} is not an energy: kWh above 0 with at most three decimal places, such as 7.5");
    let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(places) || places.len() > 3 || whole.len() > 9 {
        return Err(bad());
    }
    let wh = whole.parse::<u64>().ok().and_then(|kwh| kwh.checked_mul(1000));
    let rest = format!("{places:0<3}").parse::<u64>().ok();
    match wh.zip(rest).map(|(wh, rest)| wh + rest) {
        Some(wh) if wh > 0 => Ok(Energy::from_wh(wh)),
        Some(_) | None => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_is_read_line_by_line_and_bad_lines_keep_their_number_spec_3_10() {
        let file = RequestFile::parse("# morning\nCP-1\n\n CP-2 , 7.5 # to work\n-bad\nCP-3,zero\nCP-4,0.001\r\n");
        let requests: Vec<_> =
            file.requests.iter().map(|w| (w.line, w.charging_point.as_str(), w.energy.wh())).collect();
        assert_eq!(requests, [(2, "CP-1", 0), (4, "CP-2", 7500), (7, "CP-4", 1)]);
        assert_eq!(file.rejected.iter().map(|b| b.line).collect::<Vec<_>>(), [5, 6]);
        assert!(file.rejected[1].why.contains("\"zero\" is not an energy"), "{}", file.rejected[1].why);
    }

    #[test]
    fn a_restarted_driver_goes_on_after_the_last_line_that_is_over_spec_3_10() {
        let file = RequestFile::parse("A\nbroken line\nB\n#\nC");
        let next = |done| file.next_after(done).map(|w| w.charging_point.as_str());
        assert_eq!((next(0), next(1), next(3), next(5)), (Some("A"), Some("B"), Some("C"), None));
    }

    #[test]
    fn energies_are_whole_watt_hours() {
        for (text, wh) in [("7", 7000), ("7.5", 7500), ("0.001", 1), ("17.366", 17_366)] {
            assert_eq!(parse_kwh(text), Ok(Energy::from_wh(wh)));
        }
        for bad in ["", "0", "0.0", "-1", "1.2345", "1e3", "1,5", ".5", "5.", "99999999999"] {
            assert!(parse_kwh(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_every_line_is_good_bad_or_empty(text in "\\PC{0,200}(\n\\PC{0,40}){0,5}") {
            let file = RequestFile::parse(&text);
            prop_assert!(file.requests.len() + file.rejected.len() <= text.lines().count());
        }
    }
}
