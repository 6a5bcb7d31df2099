//! Link keys at rest: wrapped under a key-encryption key, erased when revoked or deleted (SPEC 4.7, DESIGN 3).

use std::{collections::BTreeMap, fmt};

use diesel::prelude::*;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::{Zeroize as _, Zeroizing};

use super::schema::keys;
use crate::{Conn, StoreError, connection::on};

/// `KeyRow::state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum KeyState {
    /// Granted, but not proven yet.
    Staged = 1,
    Active = 2,
    /// Replaced by a newer key; still opens what was sealed under it.
    Retired = 3,
    /// Compromised; it never opens anything again.
    Revoked = 4,
    /// Renewed; the holder enrolled or connected anew.
    Deleted = 5,
}

impl From<KeyState> for i32 {
    fn from(state: KeyState) -> Self {
        state as Self
    }
}

#[derive(Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = keys, primary_key(holder, key_no), treat_none_as_default_value = false, treat_none_as_null = true)]
pub struct KeyRow {
    /// `proto::PeerId` as text.
    pub holder: String,
    /// Unique per holder, across incarnations.
    pub key_no: i64,
    pub incarnation: i64,
    /// [`KeyState`].
    pub state: i32,
    /// The result of [`KeyEncryption::wrap`]. The store erases it when the state becomes revoked or deleted.
    pub wrapped: Option<String>,
    pub kek_id: String,
    pub granted_at_ms: i64,
    pub expires_at_ms: i64,
    /// How long Central had run in all when it was granted.
    pub granted_running_ms: i64,
    pub changed_at_ms: i64,
}

impl fmt::Debug for KeyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRow({} no {} state {} kek {})", self.holder, self.key_no, self.state, self.kek_id)
    }
}

impl KeyRow {
    pub fn find(conn: &mut Conn, holder: &str, key_no: i64) -> Result<Option<Self>, StoreError> {
        Ok(on!(conn, |c| keys::table.find((holder, key_no)).select(Self::as_select()).first(c).optional())?)
    }

    /// All keys of a holder, by number.
    pub fn of(conn: &mut Conn, holder: &str) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| keys::table
            .filter(keys::holder.eq(holder))
            .order(keys::key_no)
            .select(Self::as_select())
            .load(c))?)
    }

    /// All keys that still open something (staged, active, retired), which Central loads at its start.
    pub fn usable(conn: &mut Conn) -> Result<Vec<Self>, StoreError> {
        Ok(on!(conn, |c| keys::table
            .filter(keys::wrapped.is_not_null())
            .order((keys::holder, keys::key_no))
            .select(Self::as_select())
            .load(c))?)
    }

    /// The highest key number that the holder was ever granted; 0: none.
    pub fn last_no(conn: &mut Conn, holder: &str) -> Result<i64, StoreError> {
        let last: Option<i64> =
            on!(conn, |c| keys::table.filter(keys::holder.eq(holder)).select(diesel::dsl::max(keys::key_no)).first(c))?;
        Ok(last.unwrap_or(0))
    }

    /// Inserts or replaces the row. A revoked or deleted key is stored without its material.
    pub(super) fn upsert(&self, conn: &mut Conn) -> Result<(), StoreError> {
        let gone = self.state == i32::from(KeyState::Revoked) || self.state == i32::from(KeyState::Deleted);
        let row = if gone { Self { wrapped: None, ..self.clone() } } else { self.clone() };
        on!(conn, |c| diesel::insert_into(keys::table)
            .values(&row)
            .on_conflict((keys::holder, keys::key_no))
            .do_update()
            .set(&row)
            .execute(c))?;
        Ok(())
    }

    /// Deletes retired, revoked and deleted keys that last changed before `before_ms` and returns their number. A
    /// retired key must outlive the telemetry that was sealed under it.
    pub fn prune(conn: &mut Conn, before_ms: i64) -> Result<usize, StoreError> {
        Ok(on!(conn, |c| diesel::delete(
            keys::table.filter(keys::changed_at_ms.lt(before_ms)).filter(keys::state.ge(i32::from(KeyState::Retired)))
        )
        .execute(c))?)
    }
}

/// Why a stored key could not be opened, or the key-encryption keys could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("line {0} of the key-encryption keys is not ID:HEX with 64 hexadecimal digits")]
    Line(usize),
    #[error("there is no key-encryption key: one line ID:HEX is needed, the first is the current one")]
    Empty,
    #[error("key {key_no} of {holder} is wrapped under {kek_id:?}, which is not among the key-encryption keys")]
    UnknownKek { holder: String, key_no: i64, kek_id: String },
    #[error("key {key_no} of {holder} was erased")]
    Erased { holder: String, key_no: i64 },
    #[error("key {key_no} of {holder} does not open: its row was changed, or the key-encryption key is another one")]
    Broken { holder: String, key_no: i64 },
}

/// The key-encryption keys: the current one wraps, all of them unwrap, so that the current one can be replaced (SPEC
/// 10.7).
pub struct KeyEncryption {
    current: String,
    keys: BTreeMap<String, LessSafeKey>,
}

impl fmt::Debug for KeyEncryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyEncryption(current {:?}, {} in all)", self.current, self.keys.len())
    }
}

impl KeyEncryption {
    /// Parses the text of the file or secret: one line `ID:HEX` per key with 32 bytes each, the current one first.
    /// Empty lines and `#` comments are skipped.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (mut current, mut keys) = (None, BTreeMap::new());
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = || KeyError::Line(index + 1);
            let (id, digits) = line.split_once(':').ok_or_else(wrong)?;
            let mut bytes = Zeroizing::new([0; 32]);
            hex::decode_to_slice(digits.trim(), bytes.as_mut()).map_err(|_| wrong())?;
            let key = UnboundKey::new(&AES_256_GCM, bytes.as_ref()).map_err(|_| wrong())?;
            current.get_or_insert_with(|| id.trim().to_owned());
            keys.insert(id.trim().to_owned(), LessSafeKey::new(key));
        }
        Ok(Self { current: current.ok_or(KeyError::Empty)?, keys })
    }

    /// The line of a new random key under `id`.
    pub fn generate(id: &str) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; 32]);
        fill(bytes.as_mut());
        let digits = Zeroizing::new(hex::encode(bytes.as_ref()));
        Zeroizing::new(format!("{id}:{}\n", digits.as_str()))
    }

    /// The id of the key that wraps.
    pub fn current(&self) -> &str {
        &self.current
    }

    /// The columns `wrapped` and `kek_id`: nonce, ciphertext and tag in hexadecimal, bound to holder and number.
    pub fn wrap(&self, holder: &str, key_no: i64, key: &[u8; 32]) -> (String, String) {
        let mut nonce = [0; NONCE_LEN];
        fill(&mut nonce);
        let mut sealed = key.to_vec();
        self.keys[&self.current]
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                bound_to(holder, key_no, &self.current),
                &mut sealed,
            )
            .expect("48 bytes are far below the limit of AES-GCM");
        (hex::encode(nonce) + &hex::encode(&sealed), self.current.clone())
    }

    /// Unwraps the key of a row.
    pub fn unwrap(&self, row: &KeyRow) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let (holder, key_no) = (row.holder.clone(), row.key_no);
        let Some(wrapped) = &row.wrapped else { return Err(KeyError::Erased { holder, key_no }) };
        let Some(kek) = self.keys.get(&row.kek_id) else {
            return Err(KeyError::UnknownKek { holder, key_no, kek_id: row.kek_id.clone() });
        };
        let open = || {
            let bytes = hex::decode(wrapped).ok()?;
            let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
            let mut opened = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let plain = kek.open_in_place(nonce, bound_to(&row.holder, row.key_no, &row.kek_id), &mut opened).ok()?;
            let key = <[u8; 32]>::try_from(&*plain).ok().map(Zeroizing::new);
            opened.zeroize();
            key
        };
        open().ok_or(KeyError::Broken { holder, key_no })
    }

    /// The row wrapped under the current key-encryption key; `None` if it is already, or if its key was erased.
    pub fn rewrap(&self, row: &KeyRow) -> Result<Option<KeyRow>, KeyError> {
        if row.wrapped.is_none() || row.kek_id == self.current {
            return Ok(None);
        }
        let (wrapped, kek_id) = self.wrap(&row.holder, row.key_no, &*self.unwrap(row)?);
        Ok(Some(KeyRow { wrapped: Some(wrapped), kek_id, ..row.clone() }))
    }
}

/// The associated data: wrapped material opens only in its own row.
fn bound_to(holder: &str, key_no: i64, kek_id: &str) -> Aad<String> {
    Aad::from(format!("{holder}|{key_no}|{kek_id}"))
}

fn fill(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect("the operating system has randomness");
}
