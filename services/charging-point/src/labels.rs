//! States in the words of the screens.

use proto::link::v1::{KeyState, KeyWithdrawn, State};

pub(crate) fn state(state: State) -> &'static str {
    match state {
        State::Unspecified => "UNKNOWN",
        State::Disconnected => "DISCONNECTED",
        State::Broken => "BROKEN",
        State::OutOfOrder => "OUT OF ORDER",
        State::Supplying => "SUPPLYING",
        State::Reserved => "RESERVED",
        State::Available => "AVAILABLE",
    }
}

pub(crate) fn key_state(state: KeyState) -> &'static str {
    match state {
        KeyState::Unspecified => "NONE",
        KeyState::Active => "ACTIVE",
        KeyState::Deleted => "DELETED",
        KeyState::Revoked => "REVOKED",
        KeyState::Rotating => "ROTATING",
    }
}

/// What the engine says of a key that was taken away.
pub(crate) fn withdrawn(withdrawn: &KeyWithdrawn) -> String {
    match withdrawn.key_state() {
        KeyState::Revoked => "key revoked".to_owned(),
        KeyState::Deleted => "key deleted; the monitor authenticates again".to_owned(),
        KeyState::Unspecified | KeyState::Active | KeyState::Rotating => {
            let detail = if withdrawn.detail.is_empty() { withdrawn.reason().in_words() } else { &withdrawn.detail };
            format!("no key: {detail}")
        }
    }
}

/// Whose money it is.
pub(crate) fn account(driver: &str) -> &str {
    if driver.is_empty() { "the charging point's own account" } else { driver }
}
