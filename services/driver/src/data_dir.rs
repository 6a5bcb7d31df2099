//! The driver's data folder: its identity (mode 0600), the state that a restart needs (requests in flight and the
//! position in the file of requests), and the tickets.
//!
//! Each file but the tickets is replaced as a whole and synced, so that a crash leaves either the old or the new one.
//! Tickets are appended and synced; a line that a crash cut short is removed at the next start, and Central sends that
//! ticket again, because it was not acknowledged.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use proto::link::v1::{SignedDocument, Ticket};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::request::DriverRequest;

/// The folder or a file in it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("cannot {what} {}: {source}; free some space or give a writable folder with --data", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is damaged: {source}; move it away to start without it", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// What a driver must remember over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedState {
    /// The file of requests that is worked through.
    pub file: Option<PathBuf>,
    /// The last line of that file whose request has ended.
    pub done: u64,
    pub requests: Vec<DriverRequest>,
    /// The highest generation of Central that has got every ticket back (SPEC 10.5).
    #[serde(default)]
    pub handed_back: u32,
}

/// The open folder.
#[derive(Debug)]
pub struct DataDir {
    folder: PathBuf,
    tickets: File,
}

impl DataDir {
    /// Opens or creates the folder, and removes a last ticket that a crash cut short.
    pub fn open(folder: &Path) -> Result<Self, DataDirError> {
        fs::create_dir_all(folder).map_err(io_error("make", folder))?;
        let path = folder.join(TICKETS);
        let mut tickets = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        cut_torn_line(&mut tickets).map_err(io_error("repair", &path))?;
        Ok(Self { folder: folder.to_owned(), tickets })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the driver's identity is stored.
    pub fn identity(&self) -> PathBuf {
        self.folder.join("identity.json")
    }

    pub fn state(&self) -> Result<SavedState, DataDirError> {
        Ok(self.read(STATE)?.unwrap_or_default())
    }

    pub fn save_state(&self, state: &SavedState) -> Result<(), DataDirError> {
        self.write(STATE, state)
    }

    /// Appends a ticket, which is on disk when this returns.
    pub fn save_ticket(&mut self, ticket: &Ticket) -> Result<(), DataDirError> {
        let path = self.folder.join(TICKETS);
        let damaged = |source| DataDirError::Damaged { path: path.clone(), source };
        let mut line = serde_json::to_vec(ticket).map_err(damaged)?;
        line.push(b'\n');
        let length = self.tickets.metadata().map_err(io_error("look at", &path))?.len();
        let written = self.tickets.write_all(&line).and_then(|()| self.tickets.sync_data());
        if written.is_err() {
            // Half a line would spoil the next ticket; if this fails too, the next start removes it.
            let _ = self.tickets.set_len(length);
        }
        written.map_err(io_error("write", &path))
    }

    /// Makes each later ticket fail, as on a full disk.
    #[cfg(test)]
    pub(crate) fn fill_disk(&mut self) {
        self.tickets = OpenOptions::new().append(true).open("/dev/full").unwrap();
    }

    /// All tickets, the oldest first; a corrected ticket is there in each of its versions.
    pub fn tickets(&self) -> Result<Vec<Ticket>, DataDirError> {
        let path = self.folder.join(TICKETS);
        let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        let parse = |line: &str| serde_json::from_str(line);
        text.lines().map(parse).collect::<Result<_, _>>().map_err(|source| DataDirError::Damaged { path, source })
    }

    /// The signed tickets of supplies that ended at `since_ms` or later, each once.
    pub fn signed_tickets_since(&self, since_ms: i64) -> Result<Vec<SignedDocument>, DataDirError> {
        let tickets = self.tickets()?.into_iter().filter(|ticket| ticket.ended_at_ms >= since_ms);
        let signed: BTreeMap<_, _> = tickets.filter_map(|t| Some((t.session_id, t.signed?))).collect();
        Ok(signed.into_values().collect())
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, DataDirError> {
        let path = self.folder.join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|source| DataDirError::Damaged { path, source })
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), DataDirError> {
        let path = self.folder.join(name);
        let text =
            serde_json::to_vec_pretty(value).map_err(|source| DataDirError::Damaged { path: path.clone(), source })?;
        replace(&self.folder, &path, &text).map_err(io_error("write", &path))
    }
}

const STATE: &str = "state.json";
const TICKETS: &str = "tickets.jsonl";

fn replace(folder: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

fn cut_torn_line(file: &mut File) -> io::Result<()> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        file.set_len(whole as u64)?;
        file.sync_all()?;
    }
    Ok(())
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(session: &str) -> Ticket {
        Ticket { session_id: session.into(), ..Ticket::default() }
    }

    #[test]
    fn a_torn_ticket_is_cut_off_and_the_others_stay_spec_9_disk_full() {
        let folder = tempfile::tempdir().unwrap();
        let mut data_dir = DataDir::open(folder.path()).unwrap();
        data_dir.save_ticket(&ticket("s1")).unwrap();
        drop(data_dir);
        let path = folder.path().join(TICKETS);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"session_id\":\"s2").unwrap();
        drop(file);
        let mut data_dir = DataDir::open(folder.path()).unwrap();
        data_dir.save_ticket(&ticket("s3")).unwrap();
        assert_eq!(data_dir.tickets().unwrap(), [ticket("s1"), ticket("s3")]);
    }

    #[test]
    fn a_saved_state_survives_and_a_damaged_one_is_named_and_not_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(folder.path()).unwrap();
        assert_eq!(data_dir.state().unwrap(), SavedState::default());
        let state = SavedState { done: 4, ..SavedState::default() };
        data_dir.save_state(&state).unwrap();
        assert_eq!(data_dir.state().unwrap(), state);
        fs::write(folder.path().join(STATE), "{").unwrap();
        let error = data_dir.state().unwrap_err().to_string();
        assert!(error.contains("state.json is damaged"), "{error}");
    }

    #[test]
    fn an_unwritable_folder_is_said_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataDir::open(&file.join("sub")).unwrap_err().to_string();
        assert!(error.contains("cannot make") && error.contains("--data"), "{error}");
    }
}
