//! `cities.json` in the data folder: what a restart must not forget.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use mesh::process::Misuse;

use crate::cities::SavedCities;

#[derive(Clone, Debug)]
pub(crate) struct StateFile(PathBuf);

impl StateFile {
    pub(crate) fn new(folder: &Path) -> Self {
        Self(folder.join("cities.json"))
    }

    /// # Errors
    /// A sentence that names the file, where it is there and cannot be read.
    pub(crate) fn read(&self) -> Result<SavedCities, Misuse> {
        let cannot = |why: String| {
            Misuse::new(format!("cannot read {}: {why}; repair it, or remove it and order anew", self.0.display()))
        };
        match fs::read(&self.0) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| cannot(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(SavedCities::default()),
            Err(error) => Err(cannot(error.to_string())),
        }
    }

    /// Replaces the file: there is always the old or the new one, whole.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(crate) async fn write(&self, saved: &SavedCities) -> Result<(), String> {
        let cannot = |why: String| format!("cannot write {}: {why}", self.0.display());
        let text = serde_json::to_vec(saved).map_err(|error| cannot(error.to_string()))?;
        let path = self.0.clone();
        let written = tokio::task::spawn_blocking(move || replace(&path, &text)).await;
        written.map_err(|error| cannot(error.to_string()))?.map_err(|error| cannot(error.to_string()))
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}
