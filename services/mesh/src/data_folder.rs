//! The folder that one role keeps its files in: of one process at a time, and for its user alone (SPEC 10.8).

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use crate::process::Misuse;

/// Locks `folder` for this process until the returned file is dropped. Creates it where missing, and shuts others out of
/// one that is there. `who` names this kind of process, such as `driver`.
///
/// # Errors
/// Where another process has locked it, or it cannot be created.
pub fn lock(folder: &Path, who: &str) -> Result<File, Misuse> {
    let cannot = |error: std::io::Error| {
        Misuse::new(format!("cannot use the data folder {}: {error}; give another with --data", folder.display()))
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(cannot)?;
    shut_out_others(folder);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(folder.join("lock"));
    let file = file.map_err(cannot)?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Misuse::new(format!(
            "another {who} uses {}; give another folder with --data, or stop that one",
            folder.display()
        )),
        TryLockError::Error(error) => cannot(error),
    })?;
    Ok(file)
}

/// A mounted volume may belong to another user; its files are private all the same.
fn shut_out_others(folder: &Path) {
    let Ok(there) = fs::metadata(folder) else { return };
    if there.permissions().mode() & 0o077 != 0
        && let Err(error) = fs::set_permissions(folder, Permissions::from_mode(0o700))
    {
        tracing::warn!(folder = %folder.display(), %error, "others may look into the data folder");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_is_for_its_user_alone_also_one_that_was_open_to_others_spec_10_8() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (new, old) = (dir.path().join("new/central"), dir.path().join("old"));
        fs::create_dir(&old).unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o755)).unwrap();
        for folder in [new, old] {
            let _lock = lock(&folder, "Central").unwrap();
            assert_eq!((mode(&folder), mode(&folder.join("lock"))), (0o700, 0o600), "{}", folder.display());
        }
    }
}
