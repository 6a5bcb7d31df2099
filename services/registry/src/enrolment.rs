//! Who is enrolled, and what may be done with an identity (SPEC 7.4, 4.7). Pure: rows and the time go in, changed rows
//! or a refusal come out; who calls has checked secrets and hashes, and makes the change durable against the very rows
//! that were read.
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

use proto::{PeerId, enrolment::Kind, link::v1::Reason};

use crate::{
    refusal::{Refusal, refuse},
    token::{Permits, Token, within},
};

/// Longest name of a city or a place, in bytes.
const MAX_NAME: usize = 200;

/// An identity as its row tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) peer: PeerId,
    pub(crate) state: State,
    /// Drivers have neither city, place nor price.
    pub(crate) city: String,
    pub(crate) place: String,
    pub(crate) price_e4: u32,
    pub(crate) enrolled_at_ms: i64,
    pub(crate) incarnation: u64,
    /// Of the last change; the store gives it.
    pub(crate) revision: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Enrolled,
    /// The credential is right but worth nothing until an operator restores it.
    Void,
    Removed,
    /// Removed, and may be enrolled again.
    Readmitted,
}

/// What somebody who enrols says of himself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) peer: PeerId,
    /// Empty: as the token or the earlier enrolment says; likewise the two below.
    pub(crate) city: String,
    pub(crate) place: String,
    pub(crate) price_e4: u32,
}

/// Why he may.
#[derive(Clone, Debug)]
pub(crate) enum Permission<'a> {
    /// A token whose secret was right.
    Token(&'a Token),
    /// The credential he has, which was right.
    OldCredential,
    /// An operator in person, for an id that is not enrolled: no more than he could do with a token of his.
    Operator,
}

/// An enrolment that was allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Enrolment {
    pub(crate) identity: Identity,
    /// The token with one use less.
    pub(crate) token: Option<Token>,
}

impl Wish {
    /// Names are anyone's text, but short and on one line.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        for (what, name) in [("city", &self.city), ("place", &self.place)] {
            if name.len() > MAX_NAME || name.chars().any(char::is_control) {
                let detail = format!("the {what} must be one line of at most {MAX_NAME} bytes");
                return Err(refuse(Reason::Invalid, detail));
            }
        }
        Ok(())
    }
}

/// Enrols, or says why not. The permission is judged first, so that a stranger learns nothing of an id.
pub(crate) fn enrol(
    known: Option<&Identity>,
    wish: &Wish,
    permission: Permission<'_>,
    now_ms: i64,
) -> Result<Enrolment, Refusal> {
    wish.check()?;
    let id = wish.peer.as_str();
    let (city, token) = match permission {
        Permission::Operator => (new(known, id).map(|()| wish.city.as_str())?, None),
        Permission::OldCredential => (renewed(known, id).map(|()| wish.city.as_str())?, None),
        Permission::Token(token) => {
            token.alive(now_ms)?;
            let city = match &token.permits {
                Permits::Anyone { kind, pattern, city } => {
                    let city = within((*kind, pattern, city), &wish.peer, &wish.city)?;
                    new(known, id).map(|()| city)?
                }
                Permits::One { peer, revision } => {
                    reissued(known, &wish.peer, peer, *revision).map(|()| wish.city.as_str())?
                }
            };
            (city, Some(token.used()))
        }
    };
    Ok(Enrolment { identity: enrolled(known, wish, city, now_ms), token })
}

/// An id that nobody has, or that may be had again.
fn new(known: Option<&Identity>, id: &str) -> Result<(), Refusal> {
    match known.map(|known| known.state) {
        None | Some(State::Readmitted) => Ok(()),
        Some(State::Removed) => Err(removed(id)),
        Some(State::Enrolled | State::Void) => Err(refuse(
            Reason::AlreadyEnrolled,
            format!("{id} is enrolled already; show its credential, or a one-use token that an operator made for it"),
        )),
    }
}

fn renewed(known: Option<&Identity>, id: &str) -> Result<(), Refusal> {
    match known.map(|known| known.state) {
        Some(State::Enrolled) => Ok(()),
        Some(State::Void) => Err(void(id)),
        Some(State::Removed | State::Readmitted) | None => Err(not_enrolled(id)),
    }
}

fn reissued(known: Option<&Identity>, peer: &PeerId, bound: &PeerId, revision: u64) -> Result<(), Refusal> {
    if peer != bound {
        return Err(refuse(Reason::TokenInvalid, format!("this token is for {bound} alone, not for {peer}")));
    }
    match known {
        Some(known) if known.state == State::Removed => Err(removed(peer.as_str())),
        Some(known) if known.revision == revision && matches!(known.state, State::Enrolled | State::Void) => Ok(()),
        Some(_) | None => Err(refuse(
            Reason::TokenSpent,
            format!("{peer} has changed since this token was made for it; ask for another"),
        )),
    }
}

fn enrolled(known: Option<&Identity>, wish: &Wish, city: &str, now_ms: i64) -> Identity {
    let before = |pick: fn(&Identity) -> &str| known.map(pick).unwrap_or_default().to_owned();
    let or = |new: &str, old: String| if new.is_empty() { old } else { new.to_owned() };
    let (city, place, price_e4) = match Kind::of(&wish.peer) {
        Kind::Driver => (String::new(), String::new(), 0),
        Kind::ChargingPoint => (
            or(city, before(|known| &known.city)),
            or(&wish.place, before(|known| &known.place)),
            if wish.price_e4 == 0 { known.map_or(0, |known| known.price_e4) } else { wish.price_e4 },
        ),
    };
    Identity {
        peer: wish.peer.clone(),
        state: State::Enrolled,
        city,
        place,
        price_e4,
        enrolled_at_ms: now_ms,
        incarnation: known.map_or(0, |known| known.incarnation) + 1,
        revision: known.map_or(0, |known| known.revision),
    }
}

/// What a change did: the changed identity, or nothing where it was so before.
pub(crate) type Change = Result<Option<Identity>, Refusal>;

/// Removes by an operator's order, whatever the state of the credential.
pub(crate) fn remove(known: Option<&Identity>, id: &str) -> Change {
    match known {
        None => Err(not_enrolled(id)),
        Some(known) => match known.state {
            State::Enrolled | State::Void => Ok(Some(Identity { state: State::Removed, ..known.clone() })),
            // An operator who removes what was readmitted takes the permission back.
            State::Readmitted => Ok(Some(Identity { state: State::Removed, ..known.clone() })),
            State::Removed => Ok(None),
        },
    }
}

/// Removes itself, by its right credential. A void one cannot, or a thief could undo what a revocation leaves open.
pub(crate) fn leave(known: Option<&Identity>, id: &str) -> Change {
    renewed(known, id)?;
    remove(known, id)
}

pub(crate) fn make_void(known: Option<&Identity>, id: &str) -> Change {
    match known {
        Some(known) if known.state == State::Enrolled => Ok(Some(Identity { state: State::Void, ..known.clone() })),
        Some(known) if known.state == State::Void => Ok(None),
        Some(_) | None => Err(not_enrolled(id)),
    }
}

pub(crate) fn readmit(known: Option<&Identity>, id: &str) -> Change {
    match known.map(|known| (known, known.state)) {
        Some((known, State::Removed)) => Ok(Some(Identity { state: State::Readmitted, ..known.clone() })),
        Some((_, State::Readmitted)) => Ok(None),
        Some((_, State::Enrolled | State::Void)) => {
            Err(refuse(Reason::AlreadyEnrolled, format!("{id} is enrolled; only a removed id can be readmitted")))
        }
        None => Err(refuse(Reason::NotFound, format!("{id} was never enrolled; nothing keeps it from it"))),
    }
}

/// Allows one new credential for an identity as it stands.
pub(crate) fn reissue(
    known: Option<&Identity>,
    peer: &PeerId,
    token_id: String,
    by: String,
    now_ms: i64,
) -> Result<Token, Refusal> {
    match known {
        Some(known) if matches!(known.state, State::Enrolled | State::Void) => {
            Ok(Token::for_one(token_id, peer.clone(), known.revision, by, now_ms))
        }
        Some(known) if known.state == State::Removed => Err(removed(peer.as_str())),
        Some(_) | None => Err(not_enrolled(peer.as_str())),
    }
}

/// What a shown credential is worth, `right` being whether its hash is the identity's.
pub(crate) fn verified(known: Option<&Identity>, id: &str, right: bool) -> Result<(), Refusal> {
    match known.map(|known| known.state) {
        None | Some(State::Removed | State::Readmitted) => Err(not_enrolled(id)),
        Some(State::Enrolled | State::Void) if !right => Err(wrong_credential(id)),
        Some(State::Enrolled) => Ok(()),
        Some(State::Void) => Err(void(id)),
    }
}

pub(crate) fn wrong_credential(id: &str) -> Refusal {
    refuse(Reason::WrongCredential, format!("this is not the credential of {id}"))
}

fn not_enrolled(id: &str) -> Refusal {
    refuse(Reason::NotEnrolled, format!("{id} is not enrolled"))
}

fn void(id: &str) -> Refusal {
    refuse(Reason::CredentialVoid, format!("the credential of {id} is void until an operator restores it"))
}

fn removed(id: &str) -> Refusal {
    refuse(Reason::NotReadmitted, format!("{id} was removed; an operator must readmit it first"))
}

#[cfg(test)]
mod tests;
