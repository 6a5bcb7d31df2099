//! The rules of SPEC 2 to 4 and 9 as traces: what comes in, and exactly what is told.

use std::sync::Arc;

use proto::{
    Energy, Price,
    link::v1::{Cause, KeyState, Part, Reason, SessionState, State},
};
use wire::LinkKey;

use super::{harness::*, *};
use crate::audit::AuditAction;

fn material() -> Arc<LinkKey> {
    Arc::new(LinkKey::from_bytes([9; 32]))
}

mod hostile;
mod keys;
mod ledger;
mod links;
mod metering;
mod request;
mod state;
mod supply;
mod weather;
