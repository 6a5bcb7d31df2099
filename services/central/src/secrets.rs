//! Central's own long-lived secrets, in files of mode 0600 in the folder `identity` of its data, made at the first
//! start: the static keys of the link, the key-encryption keys, the audit key, the ticket key, and the name under which it
//! writes.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
};

use anyhow::Context as _;
use mesh::process::Misuse;
use rand::Rng as _;
use store::{
    Database,
    central::{KeyEncryption, KeyRow, audit::AuditKey},
};
use wire::{
    LinkKey, PublicKey, StaticKey,
    signature::{DocumentKey, DocumentKeys},
};
use zeroize::Zeroizing;

use crate::documents::Documents;

pub(crate) struct Secrets {
    /// The current one first; a second one while it is rolled (SPEC 10.7).
    pub link: Vec<StaticKey>,
    pub key_encryption: KeyEncryption,
    pub audit: AuditKey,
    /// The former audit keys too: public halves, in hexadecimal.
    pub audit_trusted: Vec<String>,
    /// The key that signs tickets.
    pub documents: Documents,
    /// Names this Central's audit chain and outbox for good.
    pub writer: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("writer", &self.writer).finish_non_exhaustive()
    }
}

impl Secrets {
    /// Reads them from `folder`, making what is missing.
    ///
    /// # Errors
    /// Where a file cannot be read or made, or is not what it should be.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        make_folder(folder)?;
        let link = read_or_make(&folder.join("link.key"), || Zeroizing::new(hex::encode(random()) + "\n"))?;
        let link = link.lines().map(str::trim).filter(|line| !line.is_empty()).map(parse_link_key);
        let link: Vec<_> =
            link.collect::<Option<_>>().filter(|keys: &Vec<_>| (1..=2).contains(&keys.len())).ok_or_else(|| {
                bad(
                    &folder.join("link.key"),
                    "one or two lines of 64 hexadecimal digits are needed, the current key first",
                )
            })?;
        let kek = folder.join("kek");
        let key_encryption = KeyEncryption::parse(&read_or_make(&kek, || KeyEncryption::generate("k1"))?)
            .map_err(|error| bad(&kek, &error.to_string()))?;
        let path = folder.join("audit.key");
        let audit = AuditKey::parse(&read_or_make(&path, AuditKey::generate)?)
            .map_err(|error| bad(&path, &error.to_string()))?;
        // Beside the secret, for whoever verifies without it; former keys stay in it.
        let trusted = folder.join("audit.pub");
        let mut audit_trusted: Vec<String> = read_or_make(&trusted, || Zeroizing::new(audit.public() + "\n"))?
            .lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect();
        if !audit_trusted.contains(&audit.public()) {
            audit_trusted.push(audit.public());
        }
        let documents = Documents::open(folder)?;
        let writer = read_or_make(&folder.join("writer"), || {
            Zeroizing::new(format!("central-{:08x}\n", rand::random::<u32>()))
        })?;
        Ok(Self { link, key_encryption, audit, audit_trusted, documents, writer: writer.trim().to_owned() })
    }

    /// A database whose link keys were all kept by another Central is not ours to write in, nor are its peers ours.
    /// Answers the keys that were wrapped under a former key-encryption key, wrapped under the current one (SPEC 10.7).
    ///
    /// # Errors
    /// Where it is, or cannot be read.
    pub(crate) async fn check(&self, database: &Database, data: &Path) -> anyhow::Result<Vec<KeyRow>> {
        let keys = database.read("keys", KeyRow::usable).await?;
        if keys.is_empty() || keys.iter().any(|key| self.key_encryption.unwrap(key).is_ok()) {
            // One that does not open is damaged, and is shown where it is used.
            return Ok(keys.iter().filter_map(|key| self.key_encryption.rewrap(key).ok().flatten()).collect());
        }
        let text = format!(
            "the key-encryption key in {} opens none of the {} link keys in this database: another Central keeps them; \
             give that one's --data, or another --database",
            data.join("identity").join("kek").display(),
            keys.len()
        );
        Err(Misuse::new(text).into())
    }

    /// What peers pin.
    pub(crate) fn pins(&self) -> Vec<PublicKey> {
        self.link.iter().map(StaticKey::public).collect()
    }
}

/// A fresh key of a link, from the operating system's generator.
pub(crate) fn fresh_link_key() -> Arc<LinkKey> {
    Arc::new(LinkKey::generate(random()))
}

/// 32 bytes of the operating system's generator.
pub(crate) fn random() -> [u8; 32] {
    #[expect(clippy::disallowed_methods, reason = "a central: chance enters here")]
    let bytes = rand::rng().random();
    bytes
}

fn parse_link_key(line: &str) -> Option<StaticKey> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    hex::decode_to_slice(line, bytes.as_mut_slice()).ok()?;
    Some(StaticKey::from_bytes(*bytes))
}

impl Documents {
    /// Reads the ticket key and the published keys beside it, which a key that was rolled stays in.
    fn open(folder: &Path) -> anyhow::Result<Self> {
        let (path, published) = (folder.join("ticket.key"), folder.join("ticket.pub"));
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |error: wire::signature::KeyTextError| bad(&path, &error.to_string())
        };
        let key = DocumentKey::parse(&read_or_make(&path, DocumentKey::generate)?).map_err(unusable(&path))?;
        let mut text = read_or_make(&published, || Zeroizing::new(key.public() + "\n"))?.to_string();
        if !text.lines().any(|line| line.trim() == key.public()) {
            text = format!("{}\n{text}", key.public());
            write_whole(&published, &text)?;
        }
        let keys = DocumentKeys::parse(&text).map_err(unusable(&published))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let (current, older): (Vec<_>, Vec<_>) = lines.map(str::to_owned).partition(|line| *line == key.public());
        Ok(Self::new(key, keys, current.into_iter().chain(older).collect()))
    }
}

fn bad(path: &Path, why: &str) -> anyhow::Error {
    Misuse::new(format!("{} is not usable: {why}", path.display())).into()
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o700)))
        .map_err(|error| {
            Misuse::new(format!("cannot make the folder {}: {error}; give another one with --data", folder.display()))
        })
        .map_err(Into::into)
}

fn read_or_make(path: &Path, make: impl FnOnce() -> Zeroizing<String>) -> anyhow::Result<Zeroizing<String>> {
    match fs::read_to_string(path) {
        Ok(text) => return Ok(Zeroizing::new(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Misuse::new(format!("cannot read {}: {error}", path.display())).into()),
    }
    let text = make();
    write_whole(path, &text)?;
    Ok(text)
}

/// Whole or not at all: written beside, synced, then renamed.
fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    write().with_context(|| Misuse::new(format!("cannot write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_made_once_with_mode_0600_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("identity");
        let first = Secrets::open(&folder).unwrap();
        let second = Secrets::open(&folder).unwrap();
        assert_eq!(first.pins(), second.pins());
        assert_eq!((first.writer, first.audit.public()), (second.writer, second.audit.public()));
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn a_rolled_ticket_key_stays_published_behind_the_new_one_spec_10_7() {
        let dir = tempfile::tempdir().unwrap();
        let first = Secrets::open(dir.path()).unwrap().documents;
        let old = first.sign_ticket(proto::link::v1::Ticket { session_id: "s1".into(), ..Default::default() });
        fs::remove_file(dir.path().join("ticket.key")).unwrap();
        let second = Secrets::open(dir.path()).unwrap().documents;
        assert_ne!(first.published()[0], second.published()[0]);
        assert_eq!(first.published()[0], second.published()[1]);
        assert_eq!(second.ticket(old.signed.unwrap()).map(|ticket| ticket.session_id), Ok("s1".to_owned()));
        assert_eq!(fs::read_to_string(dir.path().join("ticket.pub")).unwrap().lines().count(), 2);
    }

    #[tokio::test]
    async fn another_centrals_database_is_refused_with_the_key_that_does_not_open_it_spec_10_7() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("central.db").display());
        Database::migrate(&url, store::central::SCHEMA).await.unwrap();
        let database = Database::open(&url, store::central::SCHEMA).await.unwrap();
        let open = |name: &str| Secrets::open(&dir.path().join(name).join("identity")).unwrap();
        let (first, second) = (open("first"), open("second"));
        second.check(&database, dir.path()).await.expect("nobody has kept a key yet");
        let (wrapped, kek_id) = first.key_encryption.wrap("driver/D1", 1, &[7; 32]);
        let (state, wrapped) = (store::central::KeyState::Active.into(), Some(wrapped));
        let row = KeyRow {
            holder: "driver/D1".into(),
            key_no: 1,
            incarnation: 1,
            state,
            wrapped,
            kek_id,
            granted_at_ms: 0,
            expires_at_ms: 0,
            granted_running_ms: 0,
            changed_at_ms: 0,
        };
        let committer = store::central::Committer::start(&database, "first", Default::default()).unwrap();
        let turn = store::central::Turn {
            id: store::central::TurnId::random(),
            name: "keys",
            guard: None,
            writes: vec![store::central::RowWrite::Key(row)],
        };
        committer.submit(turn).await.unwrap();
        assert_eq!(first.check(&database, dir.path()).await.unwrap(), []);
        // A key-encryption key is rolled by a new line before the old one.
        let kek = dir.path().join("first/identity/kek");
        let old = fs::read_to_string(&kek).unwrap();
        fs::write(&kek, KeyEncryption::generate("k2").to_string() + &old).unwrap();
        let rolled = open("first").check(&database, dir.path()).await.unwrap();
        assert_eq!(rolled.iter().map(|key| key.kek_id.as_str()).collect::<Vec<_>>(), ["k2"]);
        fs::write(&kek, fs::read_to_string(&kek).unwrap().lines().next().unwrap()).unwrap();
        let opened = open("first").key_encryption.unwrap(&rolled[0]).unwrap();
        assert_eq!(*opened, [7; 32], "the old line can go");
        let refused = second.check(&database, &dir.path().join("second")).await.unwrap_err();
        assert_eq!(mesh::process::exit_code(&refused), 2);
        let text = refused.to_string();
        assert!(text.contains("second/identity/kek opens none of the 1 link keys"), "{text}");
    }

    #[test]
    fn a_spoiled_secret_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("link.key"), "abc").unwrap();
        let error = Secrets::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("link.key is not usable"), "{error}");
    }
}
