//! The files that a replay keeps beside its network's state: which recording the folder belongs to, which requests have
//! ended, and how long each authorisation took.
//!
//! Guarantee: a request whose end a run has seen is in the list before that run compares tickets with rows. So a request
//! that Central has and the list lacks was interrupted by the end of its run.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use mesh::process::Misuse;

use super::station::BilledRow;
use crate::up::{plan, status};

const MARK: &str = "recording.mark";

/// Whether `replay` keeps its state in this folder.
pub(crate) fn is_replay(data: &Path) -> bool {
    data.join(MARK).exists()
}

/// Marks a folder as this recording's, or checks its mark: request ids are derived from rows, so a folder belongs to one
/// recording, and to no network of `up`.
pub(super) fn keep_mark(data: &Path, file: &Path, mark: u64) -> anyhow::Result<()> {
    let path = data.join(MARK);
    let mark = format!("{mark:016x}\n");
    let refuse = |text: String| Err(Misuse::new(text).into());
    match std::fs::read_to_string(&path) {
        Ok(progress) if progress == mark => Ok(()),
        Ok(_) => refuse(format!(
            "{} holds the replay of another recording than {}; choose another folder with --data",
            data.display(),
            file.display()
        )),
        Err(error) if error.kind() != ErrorKind::NotFound => refuse(format!("cannot read {}: {error}", path.display())),
        Err(_) if plan::exists_in(data) => refuse(format!(
            "{} holds a network of `chargemesh up`, in which a replay must not bill anything; choose another folder \
             with --data",
            data.display()
        )),
        Err(_) => status::replace(&path, mark.as_bytes(), 0o644)
            .map_err(|error| Misuse::new(format!("cannot write {}: {error}", path.display())).into()),
    }
}

/// A text file to which lines are appended.
#[derive(Debug)]
struct AppendFile {
    path: PathBuf,
    file: File,
}

impl AppendFile {
    fn open(path: PathBuf) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(&path);
        Ok(Self { file: file.with_context(|| format!("cannot write {}", path.display()))?, path })
    }

    fn add(&self, line: &str) -> anyhow::Result<()> {
        let mut file = &self.file;
        file.write_all(format!("{line}\n").as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Its complete lines; the last one is left out where a kill cut it short.
    fn read(&self) -> anyhow::Result<Vec<String>> {
        let text =
            std::fs::read_to_string(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        Ok(text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect())
    }
}

/// The progress of all runs on a folder.
#[derive(Debug)]
pub(super) struct ReplayProgress {
    authorised: AppendFile,
    ended: AppendFile,
}

impl ReplayProgress {
    pub(super) fn open(data: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            authorised: AppendFile::open(data.join("authorised.csv"))?,
            ended: AppendFile::open(data.join("ended.txt"))?,
        })
    }

    pub(super) fn keep(&self, done: &BilledRow) -> anyhow::Result<()> {
        self.ended.add(&done.request_id)?;
        match done.authorised {
            Some(took) => self.authorised.add(&format!("{},{}", took.as_micros(), done.row)),
            None => Ok(()),
        }
    }

    /// The time of each authorisation, in microseconds.
    pub(super) fn authorised_us(&self) -> anyhow::Result<Vec<u64>> {
        Ok(self.authorised.read()?.iter().filter_map(|line| line.split(',').next()?.parse().ok()).collect())
    }

    /// Ids of requests whose end a run has seen.
    pub(super) fn ended(&self) -> anyhow::Result<BTreeSet<String>> {
        Ok(self.ended.read()?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_recording_and_never_to_a_network_of_up() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let file = Path::new("sessions.csv");
        std::fs::write(data.join("network.json"), "{}").unwrap();
        let error = keep_mark(data, file, 7).unwrap_err();
        assert!(error.to_string().contains("a network of `chargemesh up`"), "{error}");
        assert_eq!(mesh::process::exit_code(&error), 2);
        assert!(!is_replay(data), "no mark was written");

        std::fs::remove_file(data.join("network.json")).unwrap();
        keep_mark(data, file, 7).unwrap();
        std::fs::write(data.join("network.json"), "{}").unwrap();
        keep_mark(data, file, 7).unwrap();
        assert!(is_replay(data));
        let error = keep_mark(data, file, 8).unwrap_err();
        assert!(error.to_string().contains("another recording"), "{error}");
        assert_eq!(mesh::process::exit_code(&error), 2);
    }

    #[test]
    fn a_request_that_has_ended_is_known_at_the_next_run_and_half_a_line_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let progress = ReplayProgress::open(folder.path()).unwrap();
        let took = std::time::Duration::from_micros(1500);
        progress.keep(&BilledRow { row: "S1".into(), request_id: "row:0:S1".into(), authorised: Some(took) }).unwrap();
        progress.keep(&BilledRow { row: "S2".into(), request_id: "row:1:S2".into(), authorised: None }).unwrap();
        drop(progress);
        let mut half = File::options().append(true).open(folder.path().join("ended.txt")).unwrap();
        half.write_all(b"row:0:S3").unwrap();
        let progress = ReplayProgress::open(folder.path()).unwrap();
        assert_eq!(progress.ended().unwrap(), BTreeSet::from(["row:0:S1".to_owned(), "row:1:S2".to_owned()]));
        assert_eq!(progress.authorised_us().unwrap(), [1500]);
    }
}
