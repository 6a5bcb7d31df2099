//! The link (SPEC 4).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod event;
mod key;
mod link;
mod seal;
mod settings;
pub mod telemetry;

pub use event::{Closed, Event, Hello, Unintelligible};
pub use key::{LinkKey, PairingSecret, Pin, PublicKey, StaticKey};
pub use link::{Admit, Link, Proof, SendError};
pub use settings::{LONGEST_RETRY, Settings};

/// The version of the wire that a Hello names.
pub const VERSION: u32 = 1;
