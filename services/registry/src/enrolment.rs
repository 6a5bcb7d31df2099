//! Who is enrolled, and what may be done with an identity (SPEC 7.4, 4.7). Pure: records and the time go in, changed
//! records or an error come out. The caller has checked secrets and hashes, and writes the change in the transaction
//! in which it read the records.
//!
//! ```text
//!            enrol                    void
//!  (none) ─────────▶ ENROLLED ─────────────────▶ VOID
//!                     ▲ ▲  │ ▲ one-use token      │ │
//!              enrol  │ │  │ └────────────────────┘ │
//!                     │ └──┘ old credential,        │
//!                     │      one-use token          │ remove
//!                READMITTED ◀─────── REMOVED ◀──────┴──── (also from ENROLLED)
//!                            readmit
//! ```
//!
//! `incarnation` rises by one with each enrolment of an id, and with nothing else.

use proto::{PeerId, enrolment::PeerKind, link::v1::Reason};

use crate::{
    error::{Error, refuse},
    token::{Permits, TokenRecord, within},
};

/// Maximum length of the name of a city or a place, in bytes.
const MAX_NAME: usize = 200;

/// An identity as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdentityRecord {
    pub(crate) peer: PeerId,
    pub(crate) state: EnrolmentState,
    /// Empty for a driver, as are place and price.
    pub(crate) city: String,
    pub(crate) place: String,
    pub(crate) price_e4: u32,
    pub(crate) enrolled_at_ms: i64,
    pub(crate) incarnation: u64,
    /// The revision of the last change, assigned by the store.
    pub(crate) revision: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnrolmentState {
    Enrolled,
    /// The credential is right but is refused until an operator restores the identity.
    Void,
    Removed,
    /// Removed, but may be enrolled again.
    Readmitted,
}

/// What an enrolment request says about the identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EnrolmentDetails {
    pub(crate) peer: PeerId,
    /// Empty (or 0): taken from the token or from the earlier enrolment. The same holds for place and price.
    pub(crate) city: String,
    pub(crate) place: String,
    pub(crate) price_e4: u32,
}

/// Why the enrolment is allowed.
#[derive(Clone, Debug)]
pub(crate) enum Permission<'a> {
    /// A token whose secret was right.
    Token(&'a TokenRecord),
    /// The identity's current credential, which was right.
    OldCredential,
    /// An operator who enrols an id that is not enrolled, which is no more than a token would permit.
    Operator,
}

/// The outcome of an allowed enrolment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AllowedEnrolment {
    pub(crate) identity: IdentityRecord,
    /// The token with one use less.
    pub(crate) token: Option<TokenRecord>,
}

impl EnrolmentDetails {
    /// The names may be any text of one short line.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (what, name) in [("city", &self.city), ("place", &self.place)] {
            if name.len() > MAX_NAME || name.chars().any(char::is_control) {
                let detail = format!("the {what} must be one line of at most {MAX_NAME} bytes");
                return Err(refuse(Reason::Invalid, detail));
            }
        }
        Ok(())
    }
}

/// Enrols. The permission is checked first, so that a caller without one learns nothing about an id.
pub(crate) fn enrol(
    known: Option<&IdentityRecord>,
    details: &EnrolmentDetails,
    permission: Permission<'_>,
    now_ms: i64,
) -> Result<AllowedEnrolment, Error> {
    details.check()?;
    let id = details.peer.as_str();
    let (city, token) = match permission {
        Permission::Operator => (new(known, id).map(|()| details.city.as_str())?, None),
        Permission::OldCredential => (renewed(known, id).map(|()| details.city.as_str())?, None),
        Permission::Token(token) => {
            token.alive(now_ms)?;
            let city = match &token.permits {
                Permits::Anyone { kind, pattern, city } => {
                    let city = within((*kind, pattern, city), &details.peer, &details.city)?;
                    new(known, id).map(|()| city)?
                }
                Permits::One { peer, revision } => {
                    reissued(known, &details.peer, peer, *revision).map(|()| details.city.as_str())?
                }
            };
            (city, Some(token.used()))
        }
    };
    Ok(AllowedEnrolment { identity: enrolled(known, details, city, now_ms), token })
}

/// The id must be new, or readmitted after a removal.
fn new(known: Option<&IdentityRecord>, id: &str) -> Result<(), Error> {
    match known.map(|known| known.state) {
        None | Some(EnrolmentState::Readmitted) => Ok(()),
        Some(EnrolmentState::Removed) => Err(removed(id)),
        Some(EnrolmentState::Enrolled | EnrolmentState::Void) => Err(refuse(
            Reason::AlreadyEnrolled,
            format!(
                "{id} is enrolled already; present its credential, or a one-use token that an operator created for it"
            ),
        )),
    }
}

fn renewed(known: Option<&IdentityRecord>, id: &str) -> Result<(), Error> {
    match known.map(|known| known.state) {
        Some(EnrolmentState::Enrolled) => Ok(()),
        Some(EnrolmentState::Void) => Err(void(id)),
        Some(EnrolmentState::Removed | EnrolmentState::Readmitted) | None => Err(not_enrolled(id)),
    }
}

fn reissued(known: Option<&IdentityRecord>, peer: &PeerId, bound: &PeerId, revision: u64) -> Result<(), Error> {
    if peer != bound {
        return Err(refuse(Reason::TokenInvalid, format!("this token is for {bound} alone, not for {peer}")));
    }
    match known {
        Some(known) if known.state == EnrolmentState::Removed => Err(removed(peer.as_str())),
        Some(known)
            if known.revision == revision && matches!(known.state, EnrolmentState::Enrolled | EnrolmentState::Void) =>
        {
            Ok(())
        }
        Some(_) | None => Err(refuse(
            Reason::TokenSpent,
            format!("{peer} has changed since this token was created for it; ask for another"),
        )),
    }
}

fn enrolled(known: Option<&IdentityRecord>, details: &EnrolmentDetails, city: &str, now_ms: i64) -> IdentityRecord {
    let before = |pick: fn(&IdentityRecord) -> &str| known.map(pick).unwrap_or_default().to_owned();
    let or = |new: &str, old: String| if new.is_empty() { old } else { new.to_owned() };
    let (city, place, price_e4) = match PeerKind::of(&details.peer) {
        PeerKind::Driver => (String::new(), String::new(), 0),
        PeerKind::ChargingPoint => (
            or(city, before(|known| &known.city)),
            or(&details.place, before(|known| &known.place)),
            if details.price_e4 == 0 { known.map_or(0, |known| known.price_e4) } else { details.price_e4 },
        ),
    };
    IdentityRecord {
        peer: details.peer.clone(),
        state: EnrolmentState::Enrolled,
        city,
        place,
        price_e4,
        enrolled_at_ms: now_ms,
        incarnation: known.map_or(0, |known| known.incarnation) + 1,
        revision: known.map_or(0, |known| known.revision),
    }
}

/// The changed identity, or `None` if it was in that state already.
pub(crate) type IdentityChange = Result<Option<IdentityRecord>, Error>;

/// Removes by an operator's order, whatever the state of the credential.
pub(crate) fn remove(known: Option<&IdentityRecord>, id: &str) -> IdentityChange {
    match known {
        None => Err(not_enrolled(id)),
        Some(known) => match known.state {
            EnrolmentState::Enrolled | EnrolmentState::Void => {
                Ok(Some(IdentityRecord { state: EnrolmentState::Removed, ..known.clone() }))
            }
            // Removing a readmitted id takes the readmission back.
            EnrolmentState::Readmitted => Ok(Some(IdentityRecord { state: EnrolmentState::Removed, ..known.clone() })),
            EnrolmentState::Removed => Ok(None),
        },
    }
}

/// Removes an identity at its own request. A void credential is not enough: a thief could otherwise undo what the
/// operator's revocation left open.
pub(crate) fn leave(known: Option<&IdentityRecord>, id: &str) -> IdentityChange {
    renewed(known, id)?;
    remove(known, id)
}

pub(crate) fn make_void(known: Option<&IdentityRecord>, id: &str) -> IdentityChange {
    match known {
        Some(known) if known.state == EnrolmentState::Enrolled => {
            Ok(Some(IdentityRecord { state: EnrolmentState::Void, ..known.clone() }))
        }
        Some(known) if known.state == EnrolmentState::Void => Ok(None),
        Some(_) | None => Err(not_enrolled(id)),
    }
}

pub(crate) fn readmit(known: Option<&IdentityRecord>, id: &str) -> IdentityChange {
    match known.map(|known| (known, known.state)) {
        Some((known, EnrolmentState::Removed)) => {
            Ok(Some(IdentityRecord { state: EnrolmentState::Readmitted, ..known.clone() }))
        }
        Some((_, EnrolmentState::Readmitted)) => Ok(None),
        Some((_, EnrolmentState::Enrolled | EnrolmentState::Void)) => {
            Err(refuse(Reason::WrongState, format!("{id} is enrolled; only a removed id can be readmitted")))
        }
        None => Err(refuse(
            Reason::NotEnrolled,
            format!("{id} was never enrolled; it can be enrolled without a readmission"),
        )),
    }
}

/// Creates a token that allows one new credential for the identity as it is now.
pub(crate) fn reissue(
    known: Option<&IdentityRecord>,
    peer: &PeerId,
    token_id: String,
    by: String,
    now_ms: i64,
) -> Result<TokenRecord, Error> {
    match known {
        Some(known) if matches!(known.state, EnrolmentState::Enrolled | EnrolmentState::Void) => {
            Ok(TokenRecord::for_one(token_id, peer.clone(), known.revision, by, now_ms))
        }
        Some(known) if known.state == EnrolmentState::Removed => Err(removed(peer.as_str())),
        Some(_) | None => Err(not_enrolled(peer.as_str())),
    }
}

/// Whether a presented credential is valid. `right` says whether it matched the identity's hash.
pub(crate) fn verified(known: Option<&IdentityRecord>, id: &str, right: bool) -> Result<(), Error> {
    match known.map(|known| known.state) {
        None | Some(EnrolmentState::Removed | EnrolmentState::Readmitted) => Err(not_enrolled(id)),
        Some(EnrolmentState::Enrolled | EnrolmentState::Void) if !right => Err(wrong_credential(id)),
        Some(EnrolmentState::Enrolled) => Ok(()),
        Some(EnrolmentState::Void) => Err(void(id)),
    }
}

pub(crate) fn wrong_credential(id: &str) -> Error {
    refuse(Reason::WrongCredential, format!("this is not the credential of {id}"))
}

fn not_enrolled(id: &str) -> Error {
    refuse(Reason::NotEnrolled, format!("{id} is not enrolled"))
}

fn void(id: &str) -> Error {
    refuse(Reason::CredentialVoid, format!("the credential of {id} is void until an operator restores it"))
}

fn removed(id: &str) -> Error {
    refuse(Reason::NotReadmitted, format!("{id} was removed; an operator must readmit it first"))
}

#[cfg(test)]
mod tests;
