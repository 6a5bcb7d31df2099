//! Compares what Central billed after a replay with the recording.
//!
//! The charging points of a killed run end with it, and Central bills what they had supplied (SPEC 9). The next run
//! requests such a row again; the ticket of the interrupted supply is counted separately and never for the row.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proto::{
    Energy, Money,
    central::v1::{Session, SessionState, Ticket},
};
use serde::Serialize;

use super::recording::{RecordedSession, Recording};
use crate::output::Columns;

/// The request id of a row: the same in every run, and another one for each attempt after a refusal or an interruption. The
/// session's name stands last, so that no name is taken for another one and an attempt.
pub(super) fn request_id(row: &RecordedSession, attempt: u32) -> String {
    format!("row:{attempt}:{}", row.session)
}

/// The name of the recorded session that a request was for.
fn row_of(request_id: &str) -> Option<&str> {
    let (attempt, session) = request_id.strip_prefix("row:")?.split_once(':')?;
    attempt.parse::<u32>().is_ok().then_some(session)
}

/// Sessions and tickets as Central has them.
#[derive(Debug)]
pub(super) struct Books {
    sessions: Vec<Session>,
    /// Indexes of sessions, by the name of the row that requested them.
    by_row: HashMap<String, Vec<usize>>,
    /// By session id.
    tickets: BTreeMap<String, Vec<Ticket>>,
    /// Ids of requests whose end a run has seen: their tickets count, even when their energy is wrong.
    ended: BTreeSet<String>,
}

/// The result of a replay.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) sessions: usize,
    /// Like what is billed below: without tickets of interrupted supplies.
    pub(super) tickets: usize,
    pub(super) refused: u64,
    pub(super) energy_wh_expected: u64,
    pub(super) energy_wh_billed: u64,
    pub(super) money_minor_billed: i64,
    /// Tickets of supplies that were interrupted by the end of a run.
    pub(super) interrupted: usize,
    pub(super) interrupted_energy_wh: u64,
    pub(super) interrupted_money_minor: i64,
    pub(super) currency: String,
    pub(super) authorise_ms_p50: f64,
    pub(super) authorise_ms_p99: f64,
    pub(super) mismatches: usize,
    pub(super) seconds: f64,
}

impl Books {
    pub(super) fn new(sessions: Vec<Session>, all: Vec<Ticket>, ended: BTreeSet<String>) -> Self {
        let mut tickets: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ticket in all {
            tickets.entry(ticket.session_id.clone()).or_default().push(ticket);
        }
        let mut by_row: HashMap<_, Vec<_>> = HashMap::new();
        for (index, session) in sessions.iter().enumerate() {
            if let Some(row) = row_of(&session.request_id) {
                by_row.entry(row.to_owned()).or_default().push(index);
            }
        }
        Self { sessions, by_row, tickets, ended }
    }

    /// Whether the row needs no further request.
    pub(super) fn is_billed(&self, row: &RecordedSession) -> bool {
        self.of(row).any(|session| session.state() == SessionState::Billed && !self.is_cut_short(session, row))
    }

    /// Whether a run ended while this row was reserved or supplied.
    pub(super) fn is_interrupted(&self, row: &RecordedSession) -> bool {
        let is_over = |s: &Session| matches!(s.state(), SessionState::Billed | SessionState::Released);
        self.of(row).any(|session| !is_over(session) || self.is_cut_short(session, row)) && !self.is_billed(row)
    }

    /// The id of every request that led to a session.
    pub(super) fn requests(&self) -> BTreeSet<String> {
        self.sessions.iter().map(|session| session.request_id.clone()).collect()
    }

    /// Whether a session was billed with less than its row and no run saw its end: its charging point ended with its run.
    fn is_cut_short(&self, session: &Session, row: &RecordedSession) -> bool {
        let tickets = self.tickets.get(&session.id).map(Vec::as_slice).unwrap_or_default();
        let is_short = matches!(tickets, [t] if t.energy_wh < row.energy.wh() && t.disputed_wh == 0);
        is_short && !self.ended.contains(&session.request_id)
    }

    fn interrupted<'a>(&'a self, recording: &'a Recording) -> impl Iterator<Item = &'a Ticket> {
        let sessions = recording
            .rows
            .iter()
            .flat_map(move |row| self.of(row).filter(move |session| self.is_cut_short(session, row)));
        sessions.filter_map(|session| self.tickets.get(&session.id)).flatten()
    }

    fn of<'a>(&'a self, row: &'a RecordedSession) -> impl Iterator<Item = &'a Session> {
        let at_station =
            |s: &&Session| s.charging_point_id == row.station.as_str() && s.driver_id == row.driver.as_str();
        let indexes = self.by_row.get(&row.session).map(Vec::as_slice).unwrap_or_default();
        indexes.iter().filter_map(|index| self.sessions.get(*index)).filter(at_station)
    }

    fn tickets_of(&self, row: &RecordedSession) -> Vec<&Ticket> {
        let counted = self.of(row).filter(|session| !self.is_cut_short(session, row));
        counted.filter_map(|session| self.tickets.get(&session.id)).flatten().collect()
    }

    /// A sentence for each row that does not have exactly one ticket with exactly its watt-hours, and for each ticket that
    /// belongs to no row. Tickets of interrupted supplies are left out.
    pub(super) fn mismatches(&self, recording: &Recording) -> Vec<String> {
        let mut mismatches: Vec<String> = recording.rows.iter().filter_map(|row| self.mismatch(row)).collect();
        let expected: BTreeSet<&str> =
            recording.rows.iter().flat_map(|row| self.of(row)).map(|s| s.id.as_str()).collect();
        let stray = self.tickets.keys().filter(|id| !expected.contains(id.as_str()));
        mismatches.extend(stray.map(|id| format!("a ticket for session {id}, which no row requested")));
        mismatches
    }

    fn mismatch(&self, row: &RecordedSession) -> Option<String> {
        let name = format!("line {} ({} at {})", row.line, row.session, row.station);
        match self.tickets_of(row).as_slice() {
            [ticket] if ticket.energy_wh == row.energy.wh() && ticket.disputed_wh == 0 => None,
            [ticket] => Some(format!(
                "{name}: recorded {} Wh, billed {} Wh and {} Wh disputed",
                row.energy.wh(),
                ticket.energy_wh,
                ticket.disputed_wh
            )),
            tickets => Some(format!("{name}: {} tickets", tickets.len())),
        }
    }

    /// `authorised`: the time of each authorisation, in microseconds.
    pub(super) fn summary(&self, recording: &Recording, authorised: &[u64], refused: u64) -> Summary {
        let apart: BTreeSet<&str> = self.interrupted(recording).map(|t| t.session_id.as_str()).collect();
        let tickets = || self.tickets.values().flatten().filter(|t| !apart.contains(t.session_id.as_str()));
        let mut sorted = authorised.to_vec();
        sorted.sort_unstable();
        Summary {
            sessions: recording.rows.len(),
            tickets: tickets().count(),
            refused,
            energy_wh_expected: recording.energy().wh(),
            energy_wh_billed: tickets().map(|t| t.energy_wh).sum(),
            money_minor_billed: tickets().map(|t| t.amount_minor).sum(),
            interrupted: apart.len(),
            interrupted_energy_wh: self.interrupted(recording).map(|t| t.energy_wh).sum(),
            interrupted_money_minor: self.interrupted(recording).map(|t| t.amount_minor).sum(),
            currency: self.tickets.values().flatten().next().map(|t| t.currency.clone()).unwrap_or_default(),
            authorise_ms_p50: percentile_ms(&sorted, 50),
            authorise_ms_p99: percentile_ms(&sorted, 99),
            mismatches: self.mismatches(recording).len(),
            seconds: 0.0,
        }
    }
}

/// The percentile of sorted times (nearest rank), in milliseconds.
fn percentile_ms(sorted_us: &[u64], percent: usize) -> f64 {
    let rank = (sorted_us.len() * percent).div_ceil(100).max(1) - 1;
    let us = sorted_us.get(rank).copied().unwrap_or(0);
    f64::from(u32::try_from(us).unwrap_or(u32::MAX)) / 1000.0
}

impl Columns for Summary {
    const HEADERS: &'static [&'static str] = &[
        "sessions",
        "tickets",
        "refused",
        "energy recorded",
        "energy billed",
        "money billed",
        "interrupted (not counted above)",
        "authorisation time (median)",
        "authorisation time (99th percentile)",
        "mismatches",
        "duration",
    ];
    fn cells(&self) -> Vec<String> {
        let currency = self.currency.parse().unwrap_or_default();
        let interrupted = format!(
            "{} tickets, {}, {}",
            self.interrupted,
            Energy::from_wh(self.interrupted_energy_wh),
            Money { minor: self.interrupted_money_minor, currency }
        );
        vec![
            self.sessions.to_string(),
            self.tickets.to_string(),
            self.refused.to_string(),
            Energy::from_wh(self.energy_wh_expected).to_string(),
            Energy::from_wh(self.energy_wh_billed).to_string(),
            Money { minor: self.money_minor_billed, currency }.to_string(),
            // An empty cell is not shown.
            if self.interrupted == 0 { String::new() } else { interrupted },
            format!("{:.1} ms", self.authorise_ms_p50),
            format!("{:.1} ms", self.authorise_ms_p99),
            self.mismatches.to_string(),
            format!("{:.1} s", self.seconds),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::{super::recording::RecordingFormat, *};

    fn recording() -> Recording {
        let text = "session,station,plug_in,plug_out,kwh\n\
                    S1,A,2019-03-01T06:00:00,2019-03-01T07:00:00,1.5\n\
                    S10,A,2019-03-01T08:00:00,2019-03-01T09:00:00,2\n";
        Recording::read(text.as_bytes(), &RecordingFormat::default()).unwrap()
    }

    fn session(id: &str, request_id: &str) -> Session {
        Session {
            id: id.into(),
            request_id: request_id.into(),
            charging_point_id: "A".into(),
            driver_id: "D-A".into(),
            state: SessionState::Billed.into(),
            ..Session::default()
        }
    }

    fn ticket(session: &str, energy_wh: u64) -> Ticket {
        Ticket { session_id: session.into(), energy_wh, amount_minor: 10, ..Ticket::default() }
    }

    #[test]
    fn every_row_needs_exactly_one_ticket_with_exactly_its_energy() {
        let sessions = vec![session("a", "row:0:S1"), session("b", "row:2:S10")];
        let ended = || sessions.iter().map(|s| s.request_id.clone()).collect();
        let good = Books::new(sessions.clone(), vec![ticket("a", 1500), ticket("b", 2000)], ended());
        assert_eq!(good.mismatches(&recording()), Vec::<String>::new());
        let summary = good.summary(&recording(), &[3000, 1000, 2000], 1);
        assert_eq!((summary.sessions, summary.tickets, summary.mismatches, summary.refused), (2, 2, 0, 1));
        assert_eq!(
            (summary.energy_wh_expected, summary.energy_wh_billed, summary.money_minor_billed),
            (3500, 3500, 20)
        );
        assert_eq!((summary.authorise_ms_p50, summary.authorise_ms_p99), (2.0, 3.0));

        for (tickets, says) in [
            (vec![ticket("a", 1500)], "line 3 (S10 at A): 0 tickets"),
            (vec![ticket("a", 1499), ticket("b", 2000)], "recorded 1500 Wh, billed 1499 Wh"),
            (vec![ticket("a", 1500), ticket("a", 1500), ticket("b", 2000)], "line 2 (S1 at A): 2 tickets"),
            (vec![ticket("a", 1500), ticket("b", 2000), ticket("x", 1)], "session x, which no row requested"),
        ] {
            let mismatches = Books::new(sessions.clone(), tickets, ended()).mismatches(&recording());
            assert!(mismatches.len() == 1 && mismatches[0].contains(says), "{mismatches:?}");
        }
    }

    #[test]
    fn a_ticket_of_an_interrupted_supply_is_counted_separately_and_its_row_needs_another_spec_9() {
        let recording = recording();
        let (row, other) = (&recording.rows[0], &recording.rows[1]);
        let mut sessions = vec![session("a", "row:0:S1"), session("b", "row:0:S10")];
        let mut tickets = vec![ticket("a", 640), ticket("b", 2000)];
        let left = Books::new(sessions.clone(), tickets.clone(), BTreeSet::new());
        assert!(
            left.is_interrupted(row) && !left.is_billed(row) && !left.is_interrupted(other) && left.is_billed(other)
        );
        assert!(left.mismatches(&recording)[0].contains("line 2 (S1 at A): 0 tickets"));

        sessions.push(session("c", "row:1:S1"));
        tickets.push(ticket("c", 1500));
        let ended = BTreeSet::from(["row:1:S1".to_owned()]);
        let whole = Books::new(sessions, tickets, ended);
        assert!(!whole.is_interrupted(row) && whole.is_billed(row));
        let summary = whole.summary(&recording, &[], 0);
        assert_eq!((summary.tickets, summary.energy_wh_billed, summary.mismatches), (2, 3500, 0));
        assert_eq!((summary.interrupted, summary.interrupted_energy_wh, summary.interrupted_money_minor), (1, 640, 10));
    }

    #[test]
    fn a_short_ticket_whose_end_a_run_saw_is_a_mismatch() {
        let (sessions, ended) = (vec![session("a", "row:0:S1")], BTreeSet::from(["row:0:S1".to_owned()]));
        let books = Books::new(sessions, vec![ticket("a", 640)], ended);
        assert!(books.is_billed(&recording().rows[0]));
        assert!(books.mismatches(&recording())[0].contains("recorded 1500 Wh, billed 640 Wh"));
        assert_eq!(books.summary(&recording(), &[], 0).interrupted, 0);
    }

    #[test]
    fn a_request_id_belongs_to_its_row_and_to_no_other() {
        let text = "session,station,plug_in,plug_out,kwh\n\
                    17,A,2019-03-01T06:00:00,2019-03-01T07:00:00,1\n\
                    17:1,A,2019-03-01T08:00:00,2019-03-01T09:00:00,2\n\
                    0:17,A,2019-03-01T10:00:00,2019-03-01T11:00:00,3\n";
        let recording = Recording::read(text.as_bytes(), &RecordingFormat::default()).unwrap();
        for row in &recording.rows {
            for attempt in [0, 1, 17] {
                assert_eq!(row_of(&request_id(row, attempt)), Some(row.session.as_str()));
            }
        }
        for other in ["row:17", "row:x:17", "17", "file:0:17"] {
            assert_eq!(row_of(other), None, "{other}");
        }
        let requests = recording.rows.iter().map(|row| request_id(row, 0));
        let sessions: Vec<_> = requests.enumerate().map(|(n, id)| session(&format!("s{n}"), &id)).collect();
        let tickets = (0..3).map(|n| ticket(&format!("s{n}"), (n + 1) * 1000)).collect();
        let books = Books::new(sessions, tickets, BTreeSet::new());
        assert_eq!(books.mismatches(&recording), Vec::<String>::new());
    }

    #[test]
    fn the_books_of_100_000_rows_are_compared_in_one_pass() {
        let start = time::macros::datetime!(2024-01-01 0:00 UTC);
        let row = |n: u32| RecordedSession {
            line: u64::from(n) + 2,
            session: format!("S{n}"),
            station: "A".parse().unwrap(),
            driver: "D-A".parse().unwrap(),
            plug_in: start + std::time::Duration::from_secs(u64::from(n)),
            lasts: std::time::Duration::from_secs(1),
            energy: Energy::from_wh(7),
        };
        let recording = Recording { rows: (0..100_000).map(row).collect(), ..Recording::default() };
        let sessions = recording.rows.iter().map(|row| session(&row.session, &request_id(row, 0))).collect();
        let tickets = recording.rows.iter().map(|row| ticket(&row.session, 7)).collect();
        let clock = mesh::clock::Clock::system();
        let began = clock.mono();
        let books = Books::new(sessions, tickets, BTreeSet::new());
        assert!(recording.rows.iter().all(|row| books.is_billed(row) && !books.is_interrupted(row)));
        assert_eq!(books.summary(&recording, &[], 0).mismatches, 0);
        // Rows × rows would take half an hour.
        assert!(clock.mono() - began < std::time::Duration::from_secs(30));
    }
}
