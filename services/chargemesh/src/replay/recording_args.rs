//! The recording that a person names on the command line: read, checked, and described in words.

use std::path::PathBuf;

use clap::Args;
use mesh::process::Misuse;

use super::recording::{Recording, RecordingFormat};
use crate::output::note;

#[derive(Clone, Debug, Args)]
pub(super) struct RecordingArgs {
    /// The recording, a CSV file
    #[arg(value_name = "FILE", env = "CHARGEMESH_RECORDING")]
    pub(super) file: PathBuf,
    #[command(flatten)]
    format: RecordingFormat,
    /// Replay the valid lines of a recording that has invalid ones
    #[arg(long, env = "CHARGEMESH_SKIP_BAD_LINES")]
    skip_bad_lines: bool,
}

impl RecordingArgs {
    /// The recording, and a hash that identifies it and the way in which it was read.
    pub(super) fn read(&self) -> anyhow::Result<(Recording, u64)> {
        let file = self.file.display();
        let text =
            std::fs::read(&self.file).map_err(|e| Misuse::new(format!("cannot read the recording {file}: {e}")))?;
        let recording =
            Recording::read(&text, &self.format).map_err(|e| Misuse::new(format!("{file} is not a recording: {e}")))?;
        self.describe(&recording);
        let bad = recording.bad.len();
        if bad > 0 && !self.skip_bad_lines {
            let text =
                format!("{file} has {bad} invalid lines; correct them, or replay the others with --skip-bad-lines");
            return Err(Misuse::new(text).into());
        }
        if recording.rows.is_empty() {
            return Err(Misuse::new(format!("{file} has no sessions")).into());
        }
        let read_as = format!("{:?}", self.format);
        let bytes = text.iter().chain(read_as.as_bytes());
        let mark = bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
        Ok((recording, mark))
    }

    fn describe(&self, recording: &Recording) {
        let file = self.file.display();
        for bad in &recording.bad {
            note(&format!("{file}: {bad}"));
        }
        let (rows, separator) = (recording.rows.len(), recording.separator);
        note(&format!("{file}: {rows} sessions, columns separated by {separator}"));
        if let Some((name, id)) = recording.renamed.first_key_value() {
            let all = recording.renamed.len();
            note(&format!("{file}: {all} stations have names that are no ids; {name:?} is called {id}, and so on"));
        }
    }
}
