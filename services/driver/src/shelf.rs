//! What a driver keeps on disk, in one folder: credential and key (mode 0600), the position (requests in flight and how
//! far the file is worked off) and the tickets.
//!
//! Every file but the tickets is replaced as a whole and synced, so that a crash leaves the old or the new one. Tickets
//! are appended and synced; a line torn by a crash is cut off at the next start, and Central sends that ticket again,
//! since it was never acknowledged.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use proto::{enrolment::SecretText, link::v1::KeyGrant};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{ticket::TicketText, trip::Request};

/// The folder or a file in it does not do what it must.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    #[error("cannot {what} {}: {source}; free some space or give a writable folder with --data", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is damaged: {source}; move it away to begin anew", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// What enrolment gave: who this driver is, how to prove it, and Central's static keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enrolment {
    pub driver: String,
    pub credential: SecretText,
    /// 32 bytes each, in hex.
    pub pins: Vec<String>,
    /// Registry's roots in DER, base64url, and its address: for asking again for pins.
    pub roots: Vec<proto::enrolment::Blob>,
    pub registry: String,
}

/// The key of the link.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Key {
    pub key_no: u64,
    /// 32 bytes in hex.
    key: String,
    pub expires_at_ms: i64,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("key_no", &self.key_no).finish_non_exhaustive()
    }
}

impl Key {
    pub fn new(grant: &KeyGrant) -> Self {
        Self { key_no: grant.key_no, key: hex::encode(&grant.key), expires_at_ms: grant.expires_at_ms }
    }

    /// Nothing where the file does not hold 32 bytes.
    pub fn bytes(&self) -> Option<[u8; 32]> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(&self.key, &mut bytes).ok().map(|()| bytes)
    }
}

/// How far this driver is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The file being worked off.
    pub file: Option<PathBuf>,
    /// Its last line that is over.
    pub done: u64,
    pub requests: Vec<Request>,
}

/// The folder.
#[derive(Debug)]
pub struct Shelf {
    folder: PathBuf,
    tickets: File,
}

impl Shelf {
    /// Opens or makes the folder, and heals the tickets' last line.
    pub fn open(folder: &Path) -> Result<Self, ShelfError> {
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

    pub fn enrolment(&self) -> Result<Option<Enrolment>, ShelfError> {
        self.read(ENROLMENT)
    }

    pub fn keep_enrolment(&self, enrolment: &Enrolment) -> Result<(), ShelfError> {
        self.write(ENROLMENT, enrolment)
    }

    pub fn key(&self) -> Result<Option<Key>, ShelfError> {
        self.read(KEY)
    }

    pub fn keep_key(&self, key: &Key) -> Result<(), ShelfError> {
        self.write(KEY, key)
    }

    /// The key is void; the next contact is a first one.
    pub fn forget_key(&self) -> Result<(), ShelfError> {
        let path = self.folder.join(KEY);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub fn position(&self) -> Result<Position, ShelfError> {
        Ok(self.read(POSITION)?.unwrap_or_default())
    }

    pub fn keep_position(&self, position: &Position) -> Result<(), ShelfError> {
        self.write(POSITION, position)
    }

    /// Appended and on disk when this returns.
    pub fn keep_ticket(&mut self, ticket: &TicketText) -> Result<(), ShelfError> {
        let path = self.folder.join(TICKETS);
        let damaged = |source| ShelfError::Damaged { path: path.clone(), source };
        let mut line = serde_json::to_vec(ticket).map_err(damaged)?;
        line.push(b'\n');
        let length = self.tickets.metadata().map_err(io_error("look at", &path))?.len();
        let written = self.tickets.write_all(&line).and_then(|()| self.tickets.sync_data());
        if written.is_err() {
            // A half-written line would hide the next ticket; if even this fails, the next start cuts it.
            let _ = self.tickets.set_len(length);
        }
        written.map_err(io_error("write", &path))
    }

    /// From now on its disk takes no ticket.
    #[cfg(test)]
    pub(crate) fn fill(&mut self) {
        self.tickets = OpenOptions::new().append(true).open("/dev/full").unwrap();
    }

    /// All, oldest first; of a corrected ticket every version.
    pub fn tickets(&self) -> Result<Vec<TicketText>, ShelfError> {
        let path = self.folder.join(TICKETS);
        let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        let parse = |line: &str| serde_json::from_str(line);
        text.lines().map(parse).collect::<Result<_, _>>().map_err(|source| ShelfError::Damaged { path, source })
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ShelfError> {
        let path = self.folder.join(name);
        let text = match fs::read(&path) {
            Ok(text) => zeroize::Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|source| ShelfError::Damaged { path, source })
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), ShelfError> {
        let path = self.folder.join(name);
        let text = serde_json::to_vec_pretty(value)
            .map(zeroize::Zeroizing::new)
            .map_err(|source| ShelfError::Damaged { path: path.clone(), source })?;
        replace(&self.folder, &path, &text).map_err(io_error("write", &path))
    }
}

const ENROLMENT: &str = "enrolment.json";
const KEY: &str = "key.json";
const POSITION: &str = "position.json";
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

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ShelfError {
    let path = path.to_owned();
    move |source| ShelfError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proto::link::v1::Ticket;

    use super::*;

    fn ticket(session: &str) -> TicketText {
        Ticket { session_id: session.into(), ..Ticket::default() }.into()
    }

    #[test]
    fn a_torn_ticket_is_cut_off_and_the_others_stay_spec_9_disk_full() {
        let folder = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(folder.path()).unwrap();
        shelf.keep_ticket(&ticket("s1")).unwrap();
        drop(shelf);
        let path = folder.path().join(TICKETS);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"session\":\"s2").unwrap();
        drop(file);
        let mut shelf = Shelf::open(folder.path()).unwrap();
        shelf.keep_ticket(&ticket("s3")).unwrap();
        assert_eq!(shelf.tickets().unwrap(), [ticket("s1"), ticket("s3")]);
    }

    #[test]
    fn secrets_are_readable_by_their_owner_alone_spec_7_4() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path()).unwrap();
        let grant = KeyGrant { key_no: 7, key: vec![9; 32], ..KeyGrant::default() };
        shelf.keep_key(&Key::new(&grant)).unwrap();
        let mode = fs::metadata(folder.path().join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let key = shelf.key().unwrap().unwrap();
        assert_eq!((key.key_no, key.bytes()), (7, Some([9; 32])));
        assert!(!format!("{key:?}").contains("09"), "{key:?}");
        shelf.forget_key().unwrap();
        shelf.forget_key().unwrap();
        assert!(shelf.key().unwrap().is_none());
    }

    #[test]
    fn a_position_survives_and_a_damaged_one_is_named_and_not_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path()).unwrap();
        assert_eq!(shelf.position().unwrap(), Position::default());
        let position = Position { done: 4, ..Position::default() };
        shelf.keep_position(&position).unwrap();
        assert_eq!(shelf.position().unwrap(), position);
        fs::write(folder.path().join(POSITION), "{").unwrap();
        let error = shelf.position().unwrap_err().to_string();
        assert!(error.contains("position.json is damaged"), "{error}");
    }

    #[test]
    fn an_unwritable_folder_is_said_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Shelf::open(&file.join("sub")).unwrap_err().to_string();
        assert!(error.contains("cannot make") && error.contains("--data"), "{error}");
    }
}
