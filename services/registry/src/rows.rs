//! Converts between the store's rows, the records that decisions are made on, and the messages of the API.

use proto::{enrolment::PeerKind, registry::v1 as contract, timestamp};
use store::{
    StoreError,
    registry::{IdentityRow, TokenRow},
};

use crate::{
    enrolment::{EnrolmentState, IdentityRecord},
    token::{Permits, TokenRecord},
};

/// The number of the kind in the API and in rows.
pub(crate) fn kind_no(kind: PeerKind) -> i32 {
    match kind {
        PeerKind::ChargingPoint => contract::Kind::ChargingPoint as i32,
        PeerKind::Driver => contract::Kind::Driver as i32,
    }
}

pub(crate) fn kind_of(no: i32) -> Option<PeerKind> {
    PeerKind::ALL.into_iter().find(|kind| kind_no(*kind) == no)
}

fn state_no(state: EnrolmentState) -> i32 {
    match state {
        EnrolmentState::Enrolled => 1,
        EnrolmentState::Void => 2,
        EnrolmentState::Removed => 3,
        EnrolmentState::Readmitted => 4,
    }
}

fn state_of(no: i32) -> Option<EnrolmentState> {
    [EnrolmentState::Enrolled, EnrolmentState::Void, EnrolmentState::Removed, EnrolmentState::Readmitted]
        .into_iter()
        .find(|state| state_no(*state) == no)
}

/// The name of a state in metrics.
pub(crate) fn state_name(no: i32) -> &'static str {
    match state_of(no) {
        Some(EnrolmentState::Enrolled) => "enrolled",
        Some(EnrolmentState::Void) => "void",
        Some(EnrolmentState::Removed) => "removed",
        Some(EnrolmentState::Readmitted) => "readmitted",
        None => "unknown",
    }
}

/// # Errors
/// If the row contains a value that this program does not know.
pub(crate) fn identity(row: &IdentityRow) -> Result<IdentityRecord, StoreError> {
    let read = || {
        Some(IdentityRecord {
            peer: kind_of(row.kind)?.peer(&row.id).ok()?,
            state: state_of(row.state)?,
            city: row.city.clone(),
            place: row.place.clone(),
            price_e4: u32::try_from(row.price_e4).ok()?,
            enrolled_at_ms: row.enrolled_at_ms,
            incarnation: u64::try_from(row.incarnation).ok()?,
            revision: u64::try_from(row.revision).ok()?,
        })
    };
    read().ok_or_else(|| StoreError::Rejected(format!("{row:?} is not readable")))
}

/// `hash` is the credential's hash; it is stored only while the identity is enrolled or void.
pub(crate) fn identity_row(identity: &IdentityRecord, revision: i64, hash: Option<String>) -> IdentityRow {
    let kept = matches!(identity.state, EnrolmentState::Enrolled | EnrolmentState::Void);
    IdentityRow {
        kind: kind_no(PeerKind::of(&identity.peer)),
        id: identity.peer.as_str().to_owned(),
        state: state_no(identity.state),
        city: identity.city.clone(),
        place: identity.place.clone(),
        price_e4: i64::from(identity.price_e4),
        enrolled_at_ms: identity.enrolled_at_ms,
        incarnation: i64::try_from(identity.incarnation).unwrap_or(i64::MAX),
        revision,
        credential_hash: hash.filter(|_| kept),
    }
}

/// # Errors
/// If the row contains a value that this program does not know.
pub(crate) fn token(row: &TokenRow) -> Result<TokenRecord, StoreError> {
    let read = || {
        let permits = match row.bound_revision {
            Some(revision) => Permits::One {
                peer: kind_of(row.kind)?.peer(&row.id_pattern).ok()?,
                revision: u64::try_from(revision).ok()?,
            },
            None => {
                Permits::Anyone { kind: kind_of(row.kind), pattern: row.id_pattern.clone(), city: row.city.clone() }
            }
        };
        Some(TokenRecord {
            id: row.id.clone(),
            permits,
            uses_left: u32::try_from(row.uses_left).ok()?,
            expires_at_ms: row.expires_at_ms,
            created_by: row.created_by.clone(),
            revoked: row.revoked,
        })
    };
    read().ok_or_else(|| StoreError::Rejected(format!("{row:?} is not readable")))
}

pub(crate) fn token_row(token: &TokenRecord, created_at_ms: i64, secret_hash: String) -> TokenRow {
    let (kind, id_pattern, city, bound_revision) = match &token.permits {
        Permits::Anyone { kind, pattern, city } => (kind.map_or(0, kind_no), pattern.clone(), city.clone(), None),
        Permits::One { peer, revision } => (
            kind_no(PeerKind::of(peer)),
            peer.as_str().to_owned(),
            String::new(),
            Some(i64::try_from(*revision).unwrap_or(i64::MAX)),
        ),
    };
    TokenRow {
        id: token.id.clone(),
        kind,
        id_pattern,
        city,
        bound_revision,
        uses_left: i64::from(token.uses_left),
        expires_at_ms: token.expires_at_ms,
        created_at_ms,
        created_by: token.created_by.clone(),
        revoked: token.revoked,
        secret_hash,
    }
}

/// The identity as the API shows it.
pub(crate) fn told(identity: &IdentityRecord) -> contract::Identity {
    let state = match identity.state {
        EnrolmentState::Enrolled => contract::IdentityState::Enrolled,
        EnrolmentState::Void => contract::IdentityState::Void,
        EnrolmentState::Removed | EnrolmentState::Readmitted => contract::IdentityState::Removed,
    };
    contract::Identity {
        kind: kind_no(PeerKind::of(&identity.peer)),
        id: identity.peer.as_str().to_owned(),
        state: state as i32,
        city: identity.city.clone(),
        place: identity.place.clone(),
        price_e4: Some(identity.price_e4).filter(|price| *price > 0),
        enrol_time: timestamp(identity.enrolled_at_ms),
        incarnation: identity.incarnation,
        may_enrol: identity.state == EnrolmentState::Readmitted,
    }
}
