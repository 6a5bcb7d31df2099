//! The link (SPEC 4).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod event;
pub mod frame;
mod handshake;
mod incoming;
mod key;
pub mod kind;
mod link;
mod outgoing;
#[cfg(test)]
mod pair;
mod proof;
mod seal;
mod settings;
pub mod telemetry;
#[cfg(test)]
mod tests;

pub use event::{Closed, Event, Hello, Unintelligible};
pub use key::{LinkKey, PairingSecret, Pin, PublicKey, StaticKey};
pub use link::{Counts, Link, SendError};
pub use proof::{Admit, Proof};
pub use settings::{LONGEST_RETRY, Settings};

/// The version of the wire that a Hello names.
pub const VERSION: u32 = 1;
