//! Finds the first audit entry that was changed (SPEC 8.2).
//!
//! It compares every entry with the chain, the chain with the signed checkpoints, and the end of the chain with the
//! writer's row. It also reports how many entries come after the last checkpoint, which no signature covers yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use diesel::prelude::*;

use super::{
    AuditRow, Checkpoint, CheckpointError, CheckpointHead,
    chain::{address_hash, entry_hash},
    checkpoint::line_hash,
    schema::audit,
    writer::Head,
};
use crate::{Conn, Database, StoreError, connection::on, database::ExclusiveReader};

/// The number of rows in memory at a time.
const STRIDE: i64 = 1000;

/// An entry that was changed, and how that was noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEntry {
    /// The chain; `checkpoints` for the file itself, with `number` as the line.
    pub writer: String,
    pub number: i64,
    pub detail: String,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// The number of entries that were read.
    pub entries: i64,
    pub checkpoints: i64,
    /// The number of entries that no checkpoint covers yet.
    pub uncovered: i64,
    /// `None`: the audit is intact.
    pub first_bad: Option<BadEntry>,
}

/// What the checkpoints say, by writer.
type Anchors = BTreeMap<String, Anchor>;

/// What was signed about one writer.
#[derive(Debug, Default)]
struct Anchor {
    /// Hashes by entry number.
    hashes: BTreeMap<i64, String>,
    /// The last entry that may have been removed, and the last that may have lost its address.
    pruned: i64,
    addresses_pruned: i64,
}

impl Anchor {
    fn add(&mut self, head: CheckpointHead) {
        // The first signed hash of an entry counts: a later checkpoint over a changed entry proves the change.
        self.hashes.entry(head.number).or_insert(head.hash);
        self.pruned = head.pruned.max(self.pruned);
        self.addresses_pruned = head.addresses_pruned.max(self.addresses_pruned);
    }

    /// The last entry that a checkpoint covers.
    fn last(&self) -> i64 {
        self.hashes.keys().next_back().copied().unwrap_or(0)
    }
}

/// Reads everything in one snapshot of the database. `trusted` are public keys in hexadecimal
/// ([`super::AuditKey::public`]), including the earlier ones if the key was replaced. Only one verification runs at a
/// time, even if its caller has gone: it may take minutes, and has a connection of its own.
pub async fn verify(
    database: &Database,
    checkpoints: &Path,
    trusted: &[String],
) -> Result<Verification, CheckpointError> {
    let reader = database.exclusive_reader().ok_or(CheckpointError::UnderWay)?;
    let found = verify_once(&reader, checkpoints, trusted).await?;
    // Entries that were pruned between the reading of the file and that of the database look removed without
    // permission; a second look sees the permission.
    if found.first_bad.is_some() { verify_once(&reader, checkpoints, trusted).await } else { Ok(found) }
}

async fn verify_once(
    reader: &ExclusiveReader,
    checkpoints: &Path,
    trusted: &[String],
) -> Result<Verification, CheckpointError> {
    let (path, trusted) = (checkpoints.to_owned(), trusted.to_vec());
    // The file is read first, because a checkpoint that is written meanwhile covers entries that are not seen here.
    let kept = reader.clone();
    let read = tokio::task::spawn_blocking(move || {
        let _kept = kept;
        let error = |error: std::io::Error| CheckpointError::File {
            does: "read",
            file: path.display().to_string(),
            why: error.to_string(),
        };
        match File::open(&path) {
            Ok(file) => anchors(BufReader::new(file), &trusted).map(Some).map_err(error),
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(unreadable) => Err(error(unreadable)),
        }
    });
    let read = read.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the read was interrupted".into()).into()))?;
    let is_missing = read.is_none();
    let (anchors, checkpoints, bad_line) = read.unwrap_or_default();
    let mut found = reader.read("audit_verify", move |conn| all_chains(conn, &anchors)).await?;
    found.checkpoints = checkpoints;
    let missing = (is_missing && found.entries > 0).then(|| bad_line_of(1, "the checkpoint file is missing"));
    found.first_bad = missing.or(bad_line).or(found.first_bad);
    Ok(found)
}

/// The heads of every good line up to the first bad one, and the number of lines. Holds one line at a time.
fn anchors(mut file: impl BufRead, trusted: &[String]) -> std::io::Result<(Anchors, i64, Option<BadEntry>)> {
    let (mut anchors, mut lines, mut previous, mut doubt) = (Anchors::new(), 0, String::new(), None);
    let mut bytes = Vec::new();
    // A last line without a line end was cut off by a crash and never was a checkpoint.
    while file.read_until(b'\n', &mut bytes)? > 0 && bytes.pop() == Some(b'\n') {
        lines += 1;
        let line = String::from_utf8_lossy(&bytes);
        let checkpoint = match read_line(&line, &previous, trusted) {
            Ok(checkpoint) => checkpoint,
            Err(detail) => return Ok((anchors, lines, doubt.or(Some(bad_line_of(lines, detail))))),
        };
        if checkpoint.anew && doubt.is_none() {
            let detail =
                "here the file begins anew: it was lost, and nothing vouches for older entries past the line before";
            doubt = Some(bad_line_of(lines, detail));
        }
        for head in checkpoint.heads {
            anchors.entry(head.writer.clone()).or_default().add(head);
        }
        previous = line_hash(&line);
        bytes.clear();
    }
    Ok((anchors, lines, doubt))
}

fn bad_line_of(number: i64, detail: &str) -> BadEntry {
    BadEntry { writer: "checkpoints".into(), number, detail: detail.into() }
}

fn read_line(line: &str, previous: &str, trusted: &[String]) -> Result<Checkpoint, &'static str> {
    let checkpoint: Checkpoint = serde_json::from_str(line).map_err(|_| "this line is not a checkpoint")?;
    if !trusted.contains(&checkpoint.key) {
        return Err("this line names a key that is not trusted");
    }
    if !checkpoint.is_signed() || serde_json::to_string(&checkpoint).ok().as_deref() != Some(line) {
        return Err("this line is not what was signed");
    }
    if checkpoint.previous != previous {
        return Err("the line before this one was changed or taken out");
    }
    Ok(checkpoint)
}

fn all_chains(conn: &mut Conn, anchors: &Anchors) -> Result<Verification, StoreError> {
    let heads: BTreeMap<_, _> = Head::all(conn)?.into_iter().map(|head| (head.writer.clone(), head)).collect();
    let written: Vec<String> = on!(conn, |c| audit::table.select(audit::writer).distinct().load(c))?;
    let writers: BTreeSet<_> = written.iter().chain(heads.keys()).chain(anchors.keys()).cloned().collect();
    let mut found = Verification::default();
    for writer in writers {
        let nothing = Anchor::default();
        let signed = anchors.get(&writer).unwrap_or(&nothing);
        let walk = Chain { writer: &writer, head: heads.get(&writer), signed }.walk(conn)?;
        found.entries += walk.entries;
        found.uncovered += walk.uncovered;
        found.first_bad = found.first_bad.or(walk.first_bad);
    }
    Ok(found)
}

struct Chain<'a> {
    writer: &'a str,
    head: Option<&'a Head>,
    signed: &'a Anchor,
}

impl Chain<'_> {
    fn walk(&self, conn: &mut Conn) -> Result<Verification, StoreError> {
        let mut found = Verification::default();
        let (mut last, mut hash) =
            self.head.map_or((0, String::new()), |head| (head.pruned_number, head.pruned_hash.clone()));
        let mut read_through = i64::MIN;
        found.first_bad = self.bad_start(last, &hash);
        loop {
            let rows: Vec<AuditRow> = on!(conn, |c| audit::table
                .filter(audit::writer.eq(self.writer))
                .filter(audit::number.gt(read_through))
                .order(audit::number)
                .limit(STRIDE)
                .select(AuditRow::as_select())
                .load(c))?;
            let Some(end) = rows.last() else { break };
            read_through = end.number;
            for row in &rows {
                found.entries += 1;
                if found.first_bad.is_none() {
                    found.first_bad = self.bad_entry(row, last, &hash);
                }
                last = row.number;
                hash.clone_from(&row.hash);
            }
        }
        found.first_bad = found.first_bad.or_else(|| self.bad_end(last, &hash));
        found.uncovered = (last - self.signed.last()).max(0);
        Ok(found)
    }

    /// A chain that does not begin at 1 must begin at a checkpoint, and a checkpoint must allow it.
    fn bad_start(&self, pruned: i64, hash: &str) -> Option<BadEntry> {
        if pruned != 0 && self.signed.hashes.get(&pruned).map(String::as_str) != Some(hash) {
            return Some(self.bad(pruned, "the chain was cut here, and no checkpoint stands here"));
        }
        let gone = self.signed.pruned + 1;
        (pruned >= gone).then(|| self.bad(gone, "this entry is gone, and no checkpoint allows it"))
    }

    fn bad_entry(&self, row: &AuditRow, last: i64, previous: &str) -> Option<BadEntry> {
        if row.number != last + 1 {
            return Some(self.bad(last + 1, "this entry is missing"));
        }
        if let Some(detail) = self.bad_address(row) {
            return Some(self.bad(row.number, detail));
        }
        if entry_hash(previous, row) != row.hash {
            return Some(self.bad(row.number, "this entry was changed"));
        }
        if self.signed.hashes.get(&row.number).is_some_and(|signed| *signed != row.hash) {
            // The chain is consistent in itself, so it was rewritten after the last checkpoint that agrees with it.
            let agreed = self.signed.hashes.range(..row.number).next_back().map_or(0, |(number, _)| *number);
            let detail = format!("the entries from here to {} are not those that were signed", row.number);
            return Some(BadEntry { writer: self.writer.into(), number: agreed + 1, detail });
        }
        None
    }

    fn bad_address(&self, row: &AuditRow) -> Option<&'static str> {
        match (&row.address, &row.address_salt) {
            (Some(address), Some(salt)) if address_hash(salt, address) == row.address_hash => None,
            (None, None) if row.number > self.signed.addresses_pruned => {
                Some("this entry's address is gone, and no checkpoint allows it")
            }
            (None, None) if self.head.is_some_and(|head| row.number <= head.addresses_pruned_number) => None,
            _ => Some("this entry's address was changed"),
        }
    }

    fn bad_end(&self, last: i64, hash: &str) -> Option<BadEntry> {
        let signed = self.signed.last();
        if last < signed {
            return Some(self.bad(last + 1, "this entry and what follows was cut off, though a checkpoint names it"));
        }
        match self.head {
            None => Some(self.bad(last, "there is no writer of this name")),
            Some(head) if last < head.audit_number => {
                Some(self.bad(last + 1, "this entry and what follows was cut off"))
            }
            Some(head) if last > head.audit_number => Some(self.bad(head.audit_number + 1, "this entry was added")),
            Some(head) if hash != head.audit_hash => Some(self.bad(last, "the writer ended with another entry")),
            Some(_) => None,
        }
    }

    fn bad(&self, number: i64, detail: &str) -> BadEntry {
        BadEntry { writer: self.writer.into(), number, detail: detail.into() }
    }
}
