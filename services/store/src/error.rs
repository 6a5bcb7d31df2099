//! The store's errors, grouped by what a caller can do about them.

use diesel::result::{DatabaseErrorKind, Error as DieselError};

/// A database could not be opened or migrated.
#[derive(Debug, thiserror::Error)]
pub enum OpenDatabaseError {
    #[error("not a database address: {0}")]
    Address(String),
    #[error("{0}; the address of the database names this file")]
    File(String),
    #[error("cannot reach the database {at}: {why}")]
    Unreachable { at: String, why: String },
    /// The server says that a commit may be lost in a power failure.
    #[error(
        "the database {at} has fsync off, so a commit may be lost in a power failure; set fsync = on at the server (or give --allow-fsync-off for data that may be lost)"
    )]
    Unsafe { at: String },
    /// Several Centrals on one database are not supported yet.
    #[error(
        "another Central ({holder}) uses the database {at}, and two would end each other's supplies; stop that one, or give this one a database of its own"
    )]
    Leased { at: String, holder: String },
    /// The server is reachable and refuses the login.
    #[error("the database {at} refuses the login: {why}; {advice}")]
    Denied { at: String, why: String, advice: &'static str },
    #[error(
        "the database {at} has no schema of {schema}, or an older one (version {found}, this program needs {needed}): run `chargemesh migrate`"
    )]
    TooOld { at: String, schema: &'static str, found: i32, needed: i32 },
    #[error(
        "the database {at} is too new: its schema of {schema} serves version {serves_from} and later, this program is of version {known}; use a newer chargemesh"
    )]
    TooNew { at: String, schema: &'static str, serves_from: i32, known: i32 },
    #[error("the database {at} belongs to {found}, not to {wanted}: each service needs its own")]
    Foreign { at: String, found: String, wanted: &'static str },
    #[error("the database {at} cannot be used: {why}; give the address of another, or a folder that can be written")]
    Unusable { at: String, why: String },
    #[error("cannot migrate the database {at}: {why}")]
    Migration { at: String, why: String },
}

impl OpenDatabaseError {
    /// The error of the first look at the database `at`.
    pub(crate) fn of(error: &StoreError, at: &str) -> Self {
        let (at, why) = (at.to_owned(), error.to_string());
        match error {
            // A file of another program does not become a database by waiting.
            StoreError::Unavailable(text) if text.contains("is not a database") => {
                Self::Unusable { at, why: text.clone() }
            }
            StoreError::Unavailable(_) | StoreError::Contended(_) | StoreError::Rejected(_) => match denied(&why) {
                Some(advice) => Self::Denied { at, why, advice },
                None => Self::Unreachable { at, why },
            },
        }
    }

    /// Whether waiting can help: until the database is reachable, or until a person fixes the login or the server,
    /// or stops another process.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Denied { .. } | Self::Unsafe { .. } | Self::Leased { .. })
    }

    /// Whether only a person can fix it.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Unsafe { .. })
    }
}

/// What to do about a refused login. It is recognised by the server's texts, because the driver gives no code.
fn denied(why: &str) -> Option<&'static str> {
    let says = |text: &str| why.contains(text);
    if says("no pg_hba.conf entry") && (says("no encryption") || says("SSL off")) {
        return Some("it may require TLS: add ?sslrootcert=FILE with the certificate authorities to trust");
    }
    let texts =
        ["password authentication failed", "no pg_hba.conf entry", "password missing", "is not permitted to log"];
    texts
        .into_iter()
        .any(says)
        .then_some("correct the user or password in the address, or the permissions on the server")
}

/// A query or a transaction failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is unreachable, full or read-only. Nothing was written; a later attempt may succeed.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The transaction lost a race with another one; the same attempt may succeed.
    #[error("the database was contended: {0}")]
    Contended(String),
    /// The database will always refuse this: a constraint was violated, or this program is wrong.
    #[error("the database rejects it: {0}")]
    Rejected(String),
}

impl From<DieselError> for StoreError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "diesel's list of errors is not exhaustive")]
    fn from(error: DieselError) -> Self {
        let text = error.to_string();
        match &error {
            DieselError::DatabaseError(kind, info) => sort(kind, info.message(), text),
            DieselError::BrokenTransactionManager => Self::Unavailable(text),
            // Includes `NotFound`: the queries here say `optional` if a missing row is a valid answer.
            _ => Self::Rejected(text),
        }
    }
}

fn sort(kind: &DatabaseErrorKind, message: &str, text: String) -> StoreError {
    use DatabaseErrorKind::{
        CheckViolation, ClosedConnection, ExclusionViolation, ForeignKeyViolation, NotNullViolation,
        ReadOnlyTransaction, RestrictViolation, SerializationFailure, UnableToSendCommand, UniqueViolation,
    };
    match kind {
        UniqueViolation | ForeignKeyViolation | NotNullViolation | CheckViolation | RestrictViolation
        | ExclusionViolation => StoreError::Rejected(text),
        SerializationFailure => StoreError::Contended(text),
        ClosedConnection | UnableToSendCommand | ReadOnlyTransaction => StoreError::Unavailable(text),
        _ if is_contention(message) => StoreError::Contended(text),
        _ if is_fault(message) => StoreError::Rejected(text),
        _ => StoreError::Unavailable(text),
    }
}

/// Recognised by their texts, because diesel passes on no code of either driver.
fn is_contention(message: &str) -> bool {
    ["deadlock detected", "database is locked", "database table is locked", "due to lock timeout"]
        .iter()
        .any(|text| message.contains(text))
}

/// Mistakes of this program, as opposed to failures of the database.
fn is_fault(message: &str) -> bool {
    [
        "syntax error",
        "no such table",
        "no such column",
        "does not exist",
        "datatype mismatch",
        "invalid byte sequence",
        "exceeds btree",
        "index row requires",
        "out of range",
        "value too long",
    ]
    .iter()
    .any(|text| message.contains(text))
}

impl StoreError {
    /// Whether the connection must not be used again.
    pub(crate) fn spoils_connection(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(text: &str) -> OpenDatabaseError {
        OpenDatabaseError::of(&StoreError::Unavailable(text.into()), "postgres://db:5432/central")
    }

    #[test]
    fn a_database_that_lets_nobody_in_is_told_from_one_that_is_away_with_what_to_do_spec_1_7() {
        let away = opened("error connecting to server: Connection refused");
        assert!(away.is_transient() && !away.is_denied() && !away.to_string().contains("tried again"), "{away}");
        let wrong = opened("db error: FATAL: password authentication failed for user \"central\"");
        assert!(wrong.is_transient() && wrong.is_denied() && wrong.to_string().contains("correct the user"), "{wrong}");
        let text = "db error: FATAL: no pg_hba.conf entry for host \"::1\", user \"u\", database \"d\", no encryption";
        assert!(opened(text).to_string().contains("?sslrootcert=FILE"));
    }

    #[tokio::test]
    async fn a_root_certificate_that_is_not_there_is_bad_input_and_not_waited_for_spec_1_7() {
        let url = "postgres://u@127.0.0.1:1/central?sslrootcert=nofile.pem";
        let open = crate::Database::open(url, crate::central::SCHEMA).await.map(drop);
        let migrate = crate::Database::migrate(url, crate::central::SCHEMA).await.map(drop);
        for error in [open.unwrap_err(), migrate.unwrap_err()] {
            assert!(!error.is_transient() && error.to_string().contains("cannot use nofile.pem"), "{error}");
        }
    }
}
