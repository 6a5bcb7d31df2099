//! The identity that a monitor stores on disk, so that it reconnects with its key after a restart: one file of mode 0600
//! that is replaced as a whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use proto::{
    ChargingPointId,
    enrolment::{Blob, SecretText},
};
use serde::{Deserialize, Serialize};
use wire::LinkKey;
use zeroize::Zeroizing;

/// Identity, keys and state of the monitor that survive a restart. `Debug` prints no secret.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredIdentity {
    pub id: Option<ChargingPointId>,
    pub credential: Option<SecretText>,
    /// Central's static public keys.
    pub pins: Vec<Blob>,
    /// Root certificates of Registry's HTTPS server.
    pub roots: Vec<Blob>,
    /// Granted keys, the newest first; there is a second one until Central has answered under the newest.
    pub keys: Vec<StoredKey>,
    pub highest_epoch: u64,
    /// Request id of an enrolment that was not answered yet.
    pub enrolling: Option<String>,
}

/// A granted key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredKey {
    pub key_no: u64,
    #[serde(with = "key_text")]
    pub key: LinkKey,
    pub expires_at_ms: i64,
}

mod key_text {
    use proto::enrolment::Blob;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};
    use wire::LinkKey;

    pub(super) fn serialize<S: Serializer>(key: &LinkKey, s: S) -> Result<S::Ok, S::Error> {
        Blob(key.as_bytes().to_vec()).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<LinkKey, D::Error> {
        let bytes = zeroize::Zeroizing::new(Blob::deserialize(d)?.0);
        let bytes = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| D::Error::custom("a key has 32 bytes"))?;
        Ok(LinkKey::from_bytes(bytes))
    }
}

/// Why the stored identity cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum StoredIdentityError {
    #[error("the identity {path} cannot be read: {source}; give a readable folder with --data")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the identity {path} is damaged: {source}; move it away and enrol again")]
    Damaged { path: PathBuf, source: serde_json::Error },
}

impl StoredIdentity {
    /// Loads the identity; an empty one where there is no file.
    pub fn load(path: &Path) -> Result<Self, StoredIdentityError> {
        match fs::read(path).map(Zeroizing::new) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|source| StoredIdentityError::Damaged { path: path.to_owned(), source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(StoredIdentityError::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// Replaces the file. The identity is on disk when this returns; a crash before leaves the old file.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let text = Zeroizing::new(serde_json::to_vec_pretty(self)?);
        let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let fresh = path.with_file_name(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_identity_survives_a_restart_in_a_file_of_mode_0600_spec_7_4() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/identity.json");
        assert!(StoredIdentity::load(&path).unwrap().credential.is_none());
        let stored = StoredIdentity {
            id: Some("CP-1".parse().unwrap()),
            credential: Some(SecretText::new("cmc1.cp-CP-1.x.y")),
            keys: vec![StoredKey { key_no: 7, key: LinkKey::from_bytes([9; 32]), expires_at_ms: 5 }],
            highest_epoch: 1 << 32,
            ..StoredIdentity::default()
        };
        stored.save(&path).unwrap();
        stored.save(&path).unwrap();
        let loaded = StoredIdentity::load(&path).unwrap();
        assert_eq!(loaded.keys[0].key, stored.keys[0].key);
        assert_eq!(loaded.credential.unwrap().expose(), "cmc1.cp-CP-1.x.y");
        assert_eq!((loaded.id, loaded.highest_epoch), (stored.id, stored.highest_epoch));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_identity_is_named_and_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.json");
        fs::write(&path, "{").unwrap();
        assert!(StoredIdentity::load(&path).unwrap_err().to_string().contains("is damaged"));
    }
}
