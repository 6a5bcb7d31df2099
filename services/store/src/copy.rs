//! A copy of a SQLite database while others use it (SPEC 10.5).

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use crate::{
    Conn, Database, StoreError,
    connection::Use,
    database::{OpenDatabase, blocking},
};

/// How long SQLite waits for a lock on the database.
const WITHIN: Duration = Duration::from_secs(5);

impl Database {
    /// Writes one consistent state of a SQLite database to a new file of mode 0600.
    ///
    /// # Errors
    /// Where the file is there already, cannot be written, or the database is PostgreSQL, which has tools of its own.
    pub async fn copy_to(&self, file: &Path) -> Result<(), StoreError> {
        let (inner, file) = (self.inner.clone(), file.to_owned());
        blocking(move || copy(&inner, &file)).await
    }
}

fn copy(from: &OpenDatabase, file: &Path) -> Result<(), StoreError> {
    let rejected = |why: String| StoreError::Rejected(format!("{}: {why}", file.display()));
    if from.address.sqlite_path().is_none() {
        return Err(rejected("a PostgreSQL database is copied with pg_dump".into()));
    }
    // SQLite writes into an empty file, which thereby has this mode from the beginning.
    let empty = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    empty.map_err(|error| rejected(error.to_string()))?;
    let name = file.to_str().ok_or_else(|| rejected("the path is not UTF-8".into()))?;
    let mut conn = Conn::establish(&from.address, Use::Write, WITHIN)?;
    conn.execute(&format!("VACUUM INTO '{}'", name.replace('\'', "''")))?;
    File::open(file).and_then(|file| file.sync_all()).map_err(|error| rejected(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::registry::{Revision, SCHEMA, head, raise_revision};

    #[tokio::test]
    async fn a_copy_is_one_state_of_its_own_and_replaces_nothing_spec_10_5() {
        let dir = tempfile::tempdir().unwrap();
        let url = |name: &str| format!("sqlite:{}", dir.path().join(name).display());
        Database::migrate(&url("registry.db"), SCHEMA).await.unwrap();
        let database = Database::open(&url("registry.db"), SCHEMA).await.unwrap();
        let take = |conn: &mut Conn| Ok::<_, crate::Abort<()>>(Revision::take(conn)?.0);
        database.transaction("test", take).await.unwrap().unwrap();
        let file = dir.path().join("it's a copy.db");
        database.copy_to(&file).await.unwrap();
        database.transaction("test", take).await.unwrap().unwrap();
        let copied = Database::open(&url("it's a copy.db"), SCHEMA).await.unwrap();
        assert_eq!((copied.read("test", head).await.unwrap(), database.read("test", head).await.unwrap()), (1, 2));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(database.copy_to(&file).await.is_err(), "the file is there");
        let raise = |conn: &mut Conn| Ok::<_, crate::Abort<()>>((raise_revision(conn, 90)?, raise_revision(conn, 7)?));
        assert_eq!(copied.transaction("test", raise).await.unwrap(), Ok((90, 90)), "it never goes back");
    }
}
