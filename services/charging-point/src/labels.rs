//! States as the screens and JSON name them.

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

/// Why the engine has no key, in words.
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

/// Who pays for a supply.
pub(crate) fn account(driver: &str) -> &str {
    if driver.is_empty() { "the charging point's own account" } else { driver }
}
