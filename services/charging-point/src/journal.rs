//! The engine's journal on disk: an append-only file of checksummed records.
//!
//! Guarantees: records that `append` is asked to make durable survive a loss of power once it returns; a crash during a
//! write leaves a torn tail, which the next opening cuts off and keeps in a file beside the journal; a write that failed
//! leaves nothing behind, because the next one first cuts the file back to its last good length.
//!
//! A file begins with [`MAGIC`]. A record is its length (4 bytes, little endian), a checksum (8 bytes) and the body; the
//! checksum is the beginning of the SHA-256 of length and body.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message as _;

use crate::journal_state::{JournalRecord, JournalState};

#[cfg(test)]
mod tests;

const MAGIC: &[u8; 8] = b"CMJRNL1\n";
const HEADER: usize = 12;
/// Largest body of a record. It is far above any record that is written, so a longer one means a damaged file.
const MOST_BODY: usize = 64 * 1024;

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal {path} cannot be used: {source}; give a folder that can be written with --data")]
    Unusable { path: PathBuf, source: io::Error },
    #[error("the journal {path} is in use by another engine; stop that one or give another folder with --data")]
    InUse { path: PathBuf },
    #[error("{path} is not an engine's journal; move it away or give another folder with --data")]
    Foreign { path: PathBuf },
}

/// Settings of a journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalSettings {
    /// Whether the file stays open and locked. A fleet needs its file descriptors for its links, so it locks the folder
    /// instead.
    pub held_open: bool,
    /// How long settled sessions are kept.
    pub retention: Duration,
    /// Size in bytes at which the file is rewritten without the records that no longer matter.
    pub rewrite_at: u64,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self { held_open: true, retention: Duration::from_secs(35 * 86_400), rewrite_at: 256 * 1024 }
    }
}

/// A journal and the state that its records add up to.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    settings: JournalSettings,
    file: Option<File>,
    state: JournalState,
    good_len: u64,
    /// Whether the file may hold bytes of a failed write behind `good_len`.
    dirty: bool,
    rewrite_at: u64,
}

impl Journal {
    /// Opens or creates the file, cuts off a torn tail, and applies its records.
    pub fn open(path: &Path, settings: JournalSettings, now_ms: i64) -> Result<Self, JournalError> {
        let unusable = |source| JournalError::Unusable { path: path.to_owned(), source };
        let mut file = open_file(path).map_err(unusable)?;
        if settings.held_open {
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(JournalError::InUse { path: path.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(unusable(source)),
            }
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(unusable)?;
        if !bytes.starts_with(MAGIC) && !MAGIC.starts_with(&bytes) {
            return Err(JournalError::Foreign { path: path.to_owned() });
        }
        let (state, good_len) = read(&bytes);
        let mut journal = Self {
            path: path.to_owned(),
            settings,
            file: Some(file),
            state,
            good_len,
            dirty: false,
            rewrite_at: settings.rewrite_at,
        };
        journal.repair(&bytes).map_err(unusable)?;
        if !settings.held_open {
            journal.file = None;
        }
        journal.state.forget(now_ms, settings.retention);
        journal.rewrite_if_grown(now_ms).map_err(unusable)?;
        Ok(journal)
    }

    /// The state that the records add up to.
    pub fn state(&self) -> &JournalState {
        &self.state
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends the records; with `durable` they survive a loss of power once this returns. After an error none of them is in
    /// the journal, and the caller appends the same records again.
    pub fn append(&mut self, records: &[JournalRecord], durable: bool, now_ms: i64) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(records.len() * 64);
        for record in records {
            encode(record, &mut bytes);
        }
        let was_dirty = std::mem::replace(&mut self.dirty, true);
        let mut file = self.take_file()?;
        if was_dirty {
            file.set_len(self.good_len)?;
        }
        file.seek(SeekFrom::Start(self.good_len))?;
        file.write_all(&bytes)?;
        if durable {
            file.sync_data()?;
        }
        self.dirty = false;
        self.good_len += bytes.len() as u64;
        if self.settings.held_open {
            self.file = Some(file);
        }
        for record in records {
            self.state.apply(record);
        }
        // The records are appended already, so a failed rewrite only leaves a longer file.
        if let Err(error) = self.rewrite_if_grown(now_ms) {
            tracing::warn!(path = %self.path.display(), %error, "the journal could not be compacted");
            self.rewrite_at = self.good_len * 2;
        }
        Ok(())
    }

    fn take_file(&mut self) -> io::Result<File> {
        match self.file.take() {
            Some(file) => Ok(file),
            None => {
                let file = open_file(&self.path)?;
                if self.settings.held_open {
                    file.try_lock().map_err(io::Error::other)?;
                }
                Ok(file)
            }
        }
    }

    /// Cuts off a torn tail, keeps its bytes in a file beside the journal, and writes the beginning of a new file.
    fn repair(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = self.file.as_mut() else { return Ok(()) };
        let good = usize::try_from(self.good_len).unwrap_or(bytes.len());
        if good == bytes.len() && good > 0 {
            return Ok(());
        }
        if bytes.len() > MAGIC.len() {
            let torn = bytes.get(good..).unwrap_or_default();
            tracing::warn!(path = %self.path.display(), bytes = torn.len(), "cut a torn tail off the journal");
            private().truncate(true).open(beside(&self.path, "torn"))?.write_all(torn)?;
        }
        file.set_len(self.good_len)?;
        if self.good_len == 0 {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(MAGIC)?;
            self.good_len = MAGIC.len() as u64;
        }
        file.sync_all()?;
        sync_folder(&self.path)
    }

    fn rewrite_if_grown(&mut self, now_ms: i64) -> io::Result<()> {
        if self.good_len < self.rewrite_at {
            return Ok(());
        }
        self.state.forget(now_ms, self.settings.retention);
        let mut bytes = MAGIC.to_vec();
        for record in self.state.records() {
            encode(&record, &mut bytes);
        }
        let fresh = beside(&self.path, "new");
        let mut file = private().truncate(true).open(&fresh)?;
        if self.settings.held_open {
            file.try_lock().map_err(io::Error::other)?;
        }
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        // The rename has replaced the old file, so the new one is in use even if syncing the folder fails.
        self.good_len = bytes.len() as u64;
        self.rewrite_at = self.settings.rewrite_at.max(self.good_len * 2);
        self.file = self.settings.held_open.then_some(file);
        sync_folder(&self.path)
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

fn open_file(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    private().truncate(false).open(path)
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(extension);
    path.with_file_name(name)
}

/// A new or renamed file survives a loss of power only once its folder is synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn checksum(length: [u8; 4], body: &[u8]) -> [u8; 8] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(&length);
    context.update(body);
    let mut sum = [0; 8];
    sum.copy_from_slice(&context.finish().as_ref()[..8]);
    sum
}

fn encode(record: &JournalRecord, bytes: &mut Vec<u8>) {
    let body = record.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&checksum(length, &body));
    bytes.extend_from_slice(&body);
}

/// Applies the records up to the first damaged one, and returns the length of the file up to there.
fn read(bytes: &[u8]) -> (JournalState, u64) {
    let mut state = JournalState::default();
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else { return (state, 0) };
    while let Some((record, after)) = first(rest) {
        state.apply(&record);
        rest = after;
    }
    (state, (bytes.len() - rest.len()) as u64)
}

fn first(bytes: &[u8]) -> Option<(JournalRecord, &[u8])> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let (length, sum) = header.split_at_checked(4)?;
    let length: [u8; 4] = length.try_into().ok()?;
    let size = usize::try_from(u32::from_le_bytes(length)).ok().filter(|n| *n <= MOST_BODY)?;
    let (body, rest) = rest.split_at_checked(size)?;
    if checksum(length, body) != sum {
        return None;
    }
    Some((JournalRecord::decode(body).ok()?, rest))
}
