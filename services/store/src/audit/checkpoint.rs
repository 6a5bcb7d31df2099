//! Checkpoints: signed lines in a file outside the database, each over the heads of all writers.
//!
//! Somebody who changes the database cannot change the checkpoints without the audit key. Each line contains the hash
//! of the line before, so no line can be removed from the middle. The file is only appended to, and synced before
//! `write` returns.
//!
//! The file also says, signed, what may be missing from the database, before it is removed there. This information
//! comes from the file and from the pruning call, never from the database, because somebody who changes the database
//! could otherwise have a deletion signed.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};

use super::{AuditRow, writer::Head};
use crate::{Conn, Database, StoreError, private};

/// One writer's chain at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointHead {
    pub writer: String,
    /// The number of the last entry, which is also the number of entries.
    pub number: i64,
    pub hash: String,
    /// Entries up to this number may have been removed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pruned: i64,
    /// Entries up to this number may have lost their address.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub addresses_pruned: i64,
}

// Serde passes a reference. Zeros are left out of a line.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this form")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub at_ms: i64,
    /// SHA-256 of the line before, in hexadecimal; empty in the first line.
    pub previous: String,
    pub heads: Vec<CheckpointHead>,
    /// It covers old entries that the file should have covered long before: the file, or its end, was lost, and nothing
    /// vouches for what was written since the line before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anew: bool,
    /// The Ed25519 public key of the signature, in hexadecimal.
    pub key: String,
    /// The signature of the line in which this field is empty.
    pub signature: String,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("cannot {does} the checkpoint file {file}: {why}")]
    File { does: &'static str, file: String, why: String },
    #[error("the audit key is not an Ed25519 key in PKCS#8 (hexadecimal, as `AuditKey::generate` writes it)")]
    Key,
    #[error(
        "the checkpoint file {0} is gone, or somebody else has changed it, so nothing vouches for new audit entries; put it back as it was and start this process again"
    )]
    Lost(String),
    #[error("another verification is running; try again when it has finished")]
    UnderWay,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The key that signs checkpoints.
pub struct AuditKey(Ed25519KeyPair);

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditKey({})", self.public())
    }
}

impl AuditKey {
    /// The text of a new key's file.
    pub fn generate() -> zeroize::Zeroizing<String> {
        let document =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("the operating system has randomness");
        zeroize::Zeroizing::new(hex::encode(document.as_ref()) + "\n")
    }

    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let bytes = zeroize::Zeroizing::new(hex::decode(text.trim()).map_err(|_| CheckpointError::Key)?);
        Ed25519KeyPair::from_pkcs8(&bytes).map(Self).map_err(|_| CheckpointError::Key)
    }

    /// The public key in hexadecimal, which a verification must be told to trust.
    pub fn public(&self) -> String {
        hex::encode(self.0.public_key())
    }
}

impl Checkpoint {
    fn unsigned(&self) -> String {
        let bare = Self { signature: String::new(), ..self.clone() };
        serde_json::to_string(&bare).expect("texts and numbers always serialise")
    }

    fn sign(mut self, key: &AuditKey) -> Self {
        self.key = key.public();
        self.signature = hex::encode(key.0.sign(self.unsigned().as_bytes()));
        self
    }

    /// Whether the line was signed with the key that it names.
    pub(super) fn is_signed(&self) -> bool {
        let (Ok(key), Ok(signature)) = (hex::decode(&self.key), hex::decode(&self.signature)) else { return false };
        UnparsedPublicKey::new(&ED25519, key).verify(self.unsigned().as_bytes(), &signature).is_ok()
    }
}

pub(super) fn line_hash(line: &str) -> String {
    hex::encode(digest(&SHA256, line.as_bytes()))
}

/// The open file, and what is needed to append to it.
#[derive(Debug)]
pub struct Checkpoints {
    path: PathBuf,
    file: File,
    key: AuditKey,
    last: LastLine,
    /// Its length, as long as nobody else writes to it.
    length: u64,
    /// Whether this process has compared it with the database.
    compared: bool,
    /// Whether it begins anew in this process, though old entries are there.
    anew: bool,
    removable: Removable,
    older: OlderLines,
}

/// The last line; all zero and empty: there is none.
#[derive(Debug, Default)]
struct LastLine {
    at_ms: i64,
    hash: String,
    heads: Vec<CheckpointHead>,
}

/// A process that was killed leaves entries of its last seconds, which are covered when it starts again, however long
/// after the last line they were written: a process that writes no entries writes no lines either. Where uncovered entries
/// are further apart than this, the process ran long enough after the first of them to cover it.
const LATE_MS: i64 = 120_000;

/// What may be missing from the database, by writer.
pub(super) type Removable = BTreeMap<String, RemovableParts>;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RemovableParts {
    pub(super) entries: i64,
    pub(super) addresses: i64,
}

/// The lines that are older than a retention, remembered so that each line is read once.
#[derive(Debug, Default)]
struct OlderLines {
    bytes: u64,
    heads: Vec<CheckpointHead>,
}

impl Checkpoints {
    /// Opens the file or creates it. Blocks.
    pub fn open(path: &Path, key: AuditKey) -> Result<Self, CheckpointError> {
        let wrong = |does| move |error: std::io::Error| file_error(does, path, &error);
        let mut opening = OpenOptions::new();
        opening.read(true).append(true).create(true).mode(0o600);
        let mut file = opening.open(path).map_err(wrong("open"))?;
        private::shut_out_others(path).map_err(wrong("shut others out of"))?;
        // A crash while writing a line leaves an incomplete line, which never was a checkpoint.
        let (whole, last) = last_line(&mut file).map_err(wrong("read"))?;
        if whole < file.metadata().map_err(wrong("read"))?.len() {
            file.set_len(whole).map_err(wrong("repair"))?;
        }
        let read = last.as_deref().and_then(|line| serde_json::from_str::<Checkpoint>(line).ok());
        let (at_ms, heads) =
            read.filter(Checkpoint::is_signed).map(|last| (last.at_ms, last.heads)).unwrap_or_default();
        let removable_parts =
            |head: &CheckpointHead| RemovableParts { entries: head.pruned, addresses: head.addresses_pruned };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(wrong("sync the folder of"))?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            key,
            length: whole,
            compared: false,
            anew: false,
            removable: heads.iter().map(|head| (head.writer.clone(), removable_parts(head))).collect(),
            last: LastLine { at_ms, hash: last.as_deref().map(line_hash).unwrap_or_default(), heads },
            older: OlderLines::default(),
        })
    }

    /// Appends a checkpoint over everything committed so far; `None` if nothing was written since the last one. To be
    /// called at least every 10 s, and before the process ends.
    pub async fn write(&mut self, database: &Database, at_ms: i64) -> Result<Option<Checkpoint>, CheckpointError> {
        self.check_there()?;
        let anew = !self.compared && self.is_late(database, at_ms).await?;
        let heads = database.read("audit_heads", Head::all).await?;
        let heads: Vec<_> = heads
            .into_iter()
            .filter(|head| head.audit_number > 0)
            .map(|head| {
                let RemovableParts { entries, addresses } =
                    self.removable.get(&head.writer).copied().unwrap_or_default();
                let (writer, number, hash) = (head.writer, head.audit_number, head.audit_hash);
                CheckpointHead { writer, number, hash, pruned: entries, addresses_pruned: addresses }
            })
            .collect();
        if heads == self.last.heads {
            self.compared = true;
            return Ok(None);
        }
        let (key, signature) = (String::new(), String::new());
        let checkpoint =
            Checkpoint { at_ms, previous: self.last.hash.clone(), heads, anew, key, signature }.sign(&self.key);
        let line = serde_json::to_string(&checkpoint).expect("texts and numbers always serialise");
        let mut file = self.file.try_clone().map_err(|error| file_error("write", &self.path, &error))?;
        let bytes = format!("{line}\n");
        let written = tokio::task::spawn_blocking(move || append(&mut file, bytes.as_bytes())).await;
        written
            .unwrap_or_else(|_| Err(std::io::Error::other("the write was interrupted")))
            .map_err(|error| file_error("write", &self.path, &error))?;
        (self.compared, self.anew) = (true, self.anew || anew);
        self.length += line.len() as u64 + 1;
        self.last = LastLine { at_ms, hash: line_hash(&line), heads: checkpoint.heads.clone() };
        Ok(Some(checkpoint))
    }

    /// What a person must know about this file for as long as the process runs; `None`: nothing.
    pub fn doubt(&self) -> Option<String> {
        let file = self.path.display();
        self.anew.then(|| {
            format!(
                "the checkpoint file {file}, or its end, was lost: nothing vouches for the audit entries before this start, and \
                 their verification fails"
            )
        })
    }

    /// Whether the path still names the open file, as this process left it.
    fn check_there(&self) -> Result<(), CheckpointError> {
        let same = std::fs::metadata(&self.path).and_then(|named| {
            let open = self.file.metadata()?;
            Ok((named.dev(), named.ino(), named.len()) == (open.dev(), open.ino(), self.length))
        });
        if same.unwrap_or(false) { Ok(()) } else { Err(CheckpointError::Lost(self.path.display().to_string())) }
    }

    /// Whether entries are there that the last line does not cover, though a process ran long enough to cover them. Without
    /// any line, a single old entry says so.
    async fn is_late(&self, database: &Database, at_ms: i64) -> Result<bool, CheckpointError> {
        let covered: BTreeMap<_, _> = self.last.heads.iter().map(|head| (head.writer.clone(), head.number)).collect();
        let times = (self.last.at_ms.saturating_add(LATE_MS), at_ms.saturating_sub(LATE_MS));
        let longest_ms = if self.last.heads.is_empty() { -1 } else { LATE_MS };
        let look = move |conn: &mut Conn| {
            let (mut first, mut last) = (i64::MAX, i64::MIN);
            for head in Head::all(conn)? {
                let after = covered.get(&head.writer).copied().unwrap_or_default();
                if let Some((from, to)) = AuditRow::times_between(conn, &head.writer, after, times)? {
                    (first, last) = (first.min(from), last.max(to));
                }
            }
            Ok(last.saturating_sub(first) > longest_ms)
        };
        Ok(database.read("audit_late", look).await?)
    }

    /// Signs that entries up to `heads` may miss what `which` selects. Only after that may they be changed.
    pub(super) async fn sign_removable(
        &mut self,
        database: &Database,
        at_ms: i64,
        heads: &[CheckpointHead],
        which: impl Fn(&mut RemovableParts) -> &mut i64,
    ) -> Result<Removable, CheckpointError> {
        for head in heads {
            let through = which(self.removable.entry(head.writer.clone()).or_default());
            *through = head.number.max(*through);
        }
        self.write(database, at_ms).await?;
        Ok(self.removable.clone())
    }

    /// The heads of the last checkpoint before the first one at or after `at_ms`. All entries up to these heads are
    /// older than `at_ms`, whatever time the database gives them.
    pub(super) async fn heads_before(&mut self, at_ms: i64) -> Result<Vec<CheckpointHead>, CheckpointError> {
        let (path, mut older) = (self.path.clone(), std::mem::take(&mut self.older));
        let read = tokio::task::spawn_blocking(move || older.read_on(&path, at_ms).map(|()| older)).await;
        self.older = read
            .unwrap_or_else(|_| Err(std::io::Error::other("the read was interrupted")))
            .map_err(|error| file_error("read", &self.path, &error))?;
        Ok(self.older.heads.clone())
    }
}

impl OlderLines {
    fn read_on(&mut self, path: &Path, before_ms: i64) -> std::io::Result<()> {
        let mut file = BufReader::new(File::open(path)?);
        file.seek(SeekFrom::Start(self.bytes))?;
        let mut line = String::new();
        while file.read_line(&mut line)? > 0 {
            let Ok(checkpoint) = serde_json::from_str::<Checkpoint>(line.trim_end()) else { break };
            if checkpoint.at_ms >= before_ms {
                break;
            }
            self.bytes += line.len() as u64;
            self.heads = checkpoint.heads;
            line.clear();
        }
        Ok(())
    }
}

/// The length of the whole lines, and the last of them. Reads no more than that line takes.
fn last_line(file: &mut File) -> std::io::Result<(u64, Option<String>)> {
    let length = file.metadata()?.len();
    let mut block = 1 << 16;
    loop {
        let start = length.saturating_sub(block);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        file.read_to_end(&mut bytes)?;
        let end = bytes.iter().rposition(|&byte| byte == b'\n');
        let begin = end.and_then(|end| bytes[..end].iter().rposition(|&byte| byte == b'\n')).map(|before| before + 1);
        match (end, begin) {
            (Some(end), begin) if begin.is_some() || start == 0 => {
                let line = String::from_utf8_lossy(&bytes[begin.unwrap_or_default()..end]).into_owned();
                return Ok((start + end as u64 + 1, Some(line)));
            }
            (None, _) if start == 0 => return Ok((0, None)),
            _ => block *= 2,
        }
    }
}

/// Writes all bytes or none: a full disk must not leave half a line before the next one.
fn append(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    let before = file.metadata()?.len();
    file.write_all(bytes).and_then(|()| file.sync_data()).inspect_err(|_| {
        let _ = file.set_len(before);
    })
}

fn file_error(does: &'static str, path: &Path, error: &std::io::Error) -> CheckpointError {
    CheckpointError::File { does, file: path.display().to_string(), why: error.to_string() }
}
