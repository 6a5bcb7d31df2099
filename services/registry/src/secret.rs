//! The files that hold Registry's secrets: created if missing, readable by their owner alone.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use mesh::process::Misuse;
use zeroize::Zeroizing;

/// Reads `path`, or creates it with the text from `make`. A new file is completely on disk before it is used, because
/// what depends on it would be lost with it.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn read_or_make(path: &Path, make: impl FnOnce() -> Zeroizing<String>) -> Result<Zeroizing<String>, Misuse> {
    let misuse = |what: &str, error: std::io::Error| Misuse::new(format!("cannot {what} {}: {error}", path.display()));
    match std::fs::read_to_string(path) {
        Ok(text) => return Ok(Zeroizing::new(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(misuse("read", error)),
    }
    let text = make();
    let draft = path.with_extension("new");
    // An interrupted start may have left this file.
    drop(std::fs::remove_file(&draft));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&draft, path))
        .and_then(|()| match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => std::fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        });
    written.map_err(|error| misuse("write", error))?;
    tracing::info!(file = %path.display(), "created a new secret; keep a backup, all credentials depend on it");
    Ok(text)
}

/// Reads 32 bytes from hexadecimal text.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn bytes(path: &Path, text: &str) -> Result<Zeroizing<[u8; 32]>, Misuse> {
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), bytes.as_mut())
        .map_err(|_| Misuse::new(format!("{} must hold 64 hexadecimal digits", path.display())))?;
    Ok(bytes)
}
