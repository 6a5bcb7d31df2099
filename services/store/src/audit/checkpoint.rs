//! Checkpoints: signed lines in a file outside the database, each over all writers' heads.
//!
//! Whoever changes the database cannot change them without the audit key. A line holds the hash of the line before,
//! so none can be taken out of the middle. The file is only ever appended to, and synced before a write returns.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};

use super::writer::Head;
use crate::{Database, StoreError};

/// One writer's chain at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointHead {
    pub writer: String,
    /// The last entry's number, which is also their count.
    pub number: i64,
    pub hash: String,
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub at_ms: i64,
    /// SHA-256 of the line before, in hexadecimal; empty in the first.
    pub previous: String,
    pub heads: Vec<CheckpointHead>,
    /// Ed25519 public key that signed, in hexadecimal.
    pub key: String,
    /// Over the line with this field empty.
    pub signature: String,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("cannot {does} the checkpoint file {file}: {why}")]
    File { does: &'static str, file: String, why: String },
    #[error("the audit key is not an Ed25519 key in PKCS#8 (hexadecimal, as `AuditKey::generate` writes it)")]
    Key,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Signs checkpoints.
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

    /// What a verification must be told to trust, in hexadecimal.
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

    /// Whether the key that it names signed it.
    pub(super) fn is_signed(&self) -> bool {
        let (Ok(key), Ok(signature)) = (hex::decode(&self.key), hex::decode(&self.signature)) else { return false };
        UnparsedPublicKey::new(&ED25519, key).verify(self.unsigned().as_bytes(), &signature).is_ok()
    }
}

pub(super) fn line_hash(line: &str) -> String {
    hex::encode(digest(&SHA256, line.as_bytes()))
}

/// The file, open for more.
#[derive(Debug)]
pub struct Checkpoints {
    path: PathBuf,
    file: File,
    key: AuditKey,
    previous: String,
    heads: Vec<CheckpointHead>,
}

impl Checkpoints {
    /// Makes the file where it is missing. Blocks.
    pub fn open(path: &Path, key: AuditKey) -> Result<Self, CheckpointError> {
        let wrong = |does| move |error: std::io::Error| file_error(does, path, &error);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(wrong("open"))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(wrong("read"))?;
        // A crash in the middle of a line leaves a piece that never was a checkpoint.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(whole as u64).map_err(wrong("mend"))?;
            text.truncate(whole);
        }
        let last = text.lines().next_back();
        let heads = last.and_then(|line| serde_json::from_str::<Checkpoint>(line).ok()).map(|last| last.heads);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(wrong("keep"))?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            key,
            previous: last.map(line_hash).unwrap_or_default(),
            heads: heads.unwrap_or_default(),
        })
    }

    /// Appends a checkpoint over what is committed now; nothing where nothing was written since the last one.
    /// To be called at least every 10 s, and at the end.
    pub async fn write(&mut self, database: &Database, at_ms: i64) -> Result<Option<Checkpoint>, CheckpointError> {
        let heads = database.read("audit_heads", Head::all).await?;
        let heads: Vec<_> = heads
            .into_iter()
            .filter(|head| head.audit_number > 0)
            .map(|head| CheckpointHead { writer: head.writer, number: head.audit_number, hash: head.audit_hash })
            .collect();
        if heads == self.heads {
            return Ok(None);
        }
        let (key, signature) = (String::new(), String::new());
        let checkpoint = Checkpoint { at_ms, previous: self.previous.clone(), heads, key, signature }.sign(&self.key);
        let line = serde_json::to_string(&checkpoint).expect("texts and numbers always serialise");
        let mut file = self.file.try_clone().map_err(|error| file_error("write", &self.path, &error))?;
        let bytes = format!("{line}\n");
        let written = tokio::task::spawn_blocking(move || append(&mut file, bytes.as_bytes())).await;
        written
            .unwrap_or_else(|_| Err(std::io::Error::other("the writing was cut off")))
            .map_err(|error| file_error("write", &self.path, &error))?;
        self.previous = line_hash(&line);
        self.heads.clone_from(&checkpoint.heads);
        Ok(Some(checkpoint))
    }
}

/// Whole or not at all: a full disk must not leave half a line before the next one.
fn append(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    let before = file.metadata()?.len();
    file.write_all(bytes).and_then(|()| file.sync_data()).inspect_err(|_| {
        let _ = file.set_len(before);
    })
}

fn file_error(does: &'static str, path: &Path, error: &std::io::Error) -> CheckpointError {
    CheckpointError::File { does, file: path.display().to_string(), why: error.to_string() }
}
