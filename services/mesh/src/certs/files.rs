//! Writes files whole or not at all.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::CertsError;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Overwrite {
    Allow,
    Refuse,
}

pub(super) fn read(path: &Path) -> Result<String, CertsError> {
    fs::read_to_string(path).map_err(|error| CertsError::File { path: path.into(), error })
}

/// Writes a file, and creates its folder where missing.
pub(super) fn write(path: &Path, text: &str, mode: u32, overwrite: Overwrite) -> Result<(), CertsError> {
    if overwrite == Overwrite::Refuse && path.exists() {
        return Err(CertsError::Exists(path.into()));
    }
    let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| replace(path, text.as_bytes(), mode));
    made.map_err(|error| CertsError::File { path: path.into(), error })
}

/// Replaces a file: writes a new one beside it, syncs it and renames it, so that a reader sees the old or the new
/// content.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let beside = beside(path);
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&beside, path));
    if renamed.is_err() {
        drop(fs::remove_file(&beside));
    }
    renamed
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:08x}", rand::random::<u32>()));
    path.with_file_name(name)
}
