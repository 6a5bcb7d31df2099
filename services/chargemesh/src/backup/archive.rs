//! The archive: a tar file of mode 0600, written beside its name, synced, and then renamed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

use anyhow::Context as _;
use mesh::process::Misuse;

use super::{
    manifest::{BackupManifest, MANIFEST},
    places::beside,
};

/// A folder of mode 0700 that is gone when this is dropped.
pub(super) struct StagingFolder(pub(super) PathBuf);

impl StagingFolder {
    pub(super) fn new(path: PathBuf) -> anyhow::Result<Self> {
        // Left over by a command that was killed.
        drop(fs::remove_dir_all(&path));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| Misuse::new(format!("cannot make the folder {}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for StagingFolder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Writes the content of `folder`, with the manifest first.
pub(super) fn write(archive: &Path, folder: &Path, manifest: &BackupManifest) -> anyhow::Result<()> {
    let draft = beside(archive, ".new");
    drop(fs::remove_file(&draft));
    let write = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        let mut tar = tar::Builder::new(file);
        tar.mode(tar::HeaderMode::Complete);
        tar.follow_symlinks(false);
        let text = serde_json::to_vec_pretty(manifest).map_err(io::Error::other)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, MANIFEST, text.as_slice())?;
        tar.append_dir_all("", folder)?;
        tar.into_inner()?.sync_all()?;
        fs::rename(&draft, archive)?;
        let parent = archive.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| Misuse::new(format!("cannot write the archive {}", archive.display())))
}

/// Unpacks everything below `to` and answers the manifest.
pub(super) fn read(archive: &Path, to: &Path) -> anyhow::Result<BackupManifest> {
    let unusable = || Misuse::new(format!("{} cannot be read as a backup", archive.display()));
    let file = File::open(archive).with_context(unusable)?;
    let mut tar = tar::Archive::new(file);
    tar.set_preserve_permissions(true);
    let mut manifest = None;
    for entry in tar.entries().with_context(unusable)? {
        let mut entry = entry.with_context(unusable)?;
        let path = entry.path().with_context(unusable)?.into_owned();
        if manifest.is_none() {
            anyhow::ensure!(path == Path::new(MANIFEST), unusable());
            let mut text = String::new();
            entry.read_to_string(&mut text).with_context(unusable)?;
            manifest = Some(BackupManifest::parse(&text)?);
            continue;
        }
        let is_inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        let is_plain = entry.header().entry_type().is_file() || entry.header().entry_type().is_dir();
        anyhow::ensure!(is_inside && is_plain, unusable());
        entry.unpack_in(to).with_context(unusable)?;
    }
    manifest.with_context(unusable)
}

/// Copies a file or a folder with all that is in it, as mode 0600 and 0700; what is not there is left out.
pub(super) fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let cannot = || Misuse::new(format!("cannot copy {} to {}", from.display(), to.display()));
    let meta = match fs::symlink_metadata(from) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(cannot),
    };
    if meta.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(to).with_context(cannot)?;
        for entry in fs::read_dir(from).with_context(cannot)? {
            let name = entry.with_context(cannot)?.file_name();
            copy(&from.join(&name), &to.join(&name))?;
        }
    } else if meta.is_file() {
        let mut source = File::open(from).with_context(cannot)?;
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to);
        let mut target = made.with_context(cannot)?;
        io::copy(&mut source, &mut target).and_then(|_| target.sync_all()).with_context(cannot)?;
    }
    Ok(())
}
