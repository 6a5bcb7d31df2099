//! Who a peer is, on disk, so that a restart reconnects by key: one file of mode 0600, replaced as a whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use proto::{
    enrolment::{Blob, SecretText, Trust},
    link::v1::KeyGrant,
};
use serde::{Deserialize, Serialize};
use wire::{LinkKey, PublicKey};
use zeroize::Zeroizing;

use super::registry::Shown;

/// Everything that outlives the process. Secrets show nothing in `Debug`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredIdentity {
    /// The charging point or the driver.
    pub id: Option<String>,
    pub credential: Option<SecretText>,
    /// Central's static public keys.
    pub pins: Vec<Blob>,
    /// Certificates that Registry's HTTPS descends from.
    pub roots: Vec<Blob>,
    /// The newest first; a second one while the newest is not proven yet.
    pub keys: Vec<StoredKey>,
    pub highest_epoch: u64,
    /// The request id of an enrolment whose answer is not here yet.
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

/// Why there is no identity to begin with.
#[derive(Debug, thiserror::Error)]
pub enum StoredIdentityError {
    #[error("the identity {path} cannot be read: {source}; give a folder that can be with --data")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the identity {path} is damaged: {source}; move it away and enrol again")]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// Those pins that are public keys.
pub fn public_keys<'a>(pins: impl IntoIterator<Item = &'a [u8]>) -> Vec<PublicKey> {
    pins.into_iter().filter_map(|pin| <[u8; 32]>::try_from(pin).ok()).map(PublicKey::from_bytes).collect()
}

impl StoredKey {
    /// None where the grant does not hold a key.
    pub fn new(grant: &KeyGrant) -> Option<Self> {
        let key = <[u8; 32]>::try_from(grant.key.as_slice()).map(LinkKey::from_bytes).ok()?;
        Some(Self { key_no: grant.key_no, key, expires_at_ms: grant.expires_at_ms })
    }
}

impl StoredIdentity {
    /// What proves it to Registry.
    pub(super) fn shown(&self) -> Option<Shown> {
        let trust = Trust { pins: self.pins.clone(), roots: self.roots.clone() };
        Some(Shown { id: self.id.clone()?, credential: self.credential.clone()?, trust })
    }

    /// The older key still opens a link, should the new one never be taken up (make before break).
    pub(super) fn add_key(&mut self, key: StoredKey) {
        self.keys.retain(|known| known.key_no != key.key_no);
        self.keys.truncate(1);
        self.keys.insert(0, key);
    }

    pub(super) fn trust(&mut self, trust: &Trust) {
        if !trust.pins.is_empty() {
            self.pins.clone_from(&trust.pins);
        }
        if !trust.roots.is_empty() {
            self.roots.clone_from(&trust.roots);
        }
    }

    /// Nothing stored yet is an empty identity.
    pub fn load(path: &Path) -> Result<Self, StoredIdentityError> {
        match fs::read(path).map(Zeroizing::new) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|source| StoredIdentityError::Damaged { path: path.to_owned(), source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(StoredIdentityError::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// On disk when it returns; a crash in between leaves the old file.
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
            id: Some("CP-1".to_owned()),
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
