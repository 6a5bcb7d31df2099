//! What the loop publishes and the rims read without asking it: keys by holder, what is shown, who is enrolled.
//!
//! Written by the loop alone, after the store has it; each lock is held for one look-up.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use mesh::clock::Clock;
use proto::{ChargingPointId, PeerId, central::v1 as contract};
use wire::{LinkKey, PublicKey, StaticKey};

use crate::{key::Keyring, ledger::Ledger, session::SessionId, settings::Settings, telemetry::Telemetry, watch::Board};

/// Charging points as they are shown.
pub(crate) type Points = Board<ChargingPointId, contract::ChargingPoint>;
/// Open sessions, and the latest that ended.
pub(crate) type Sessions = Board<SessionId, contract::Session>;

#[derive(Debug)]
pub(crate) struct Shared {
    pub settings: Settings,
    pub clock: Clock,
    pub ledger: Ledger,
    pub directory: Directory,
    pub points: Arc<Points>,
    pub sessions: Arc<Sessions>,
    pub telemetry: Telemetry,
    pub link_keys: Vec<StaticKey>,
    pub pins: Vec<PublicKey>,
    pub key_encryption: Arc<store::central::KeyEncryption>,
    /// The name under which this process owns charging points.
    pub owner: String,
}

/// Who holds which keys, found in O(1).
#[derive(Debug, Default)]
pub(crate) struct Directory {
    holders: RwLock<HashMap<PeerId, Holder>>,
}

#[derive(Debug, Default)]
struct Holder {
    usable: Vec<(u64, Arc<LinkKey>)>,
    openable: Vec<(u64, Arc<LinkKey>)>,
}

impl Directory {
    /// The key with which `holder` may open a link.
    pub(crate) fn usable(&self, holder: &PeerId, key_no: u64) -> Option<Arc<LinkKey>> {
        let holders = self.holders.read().unwrap_or_else(PoisonError::into_inner);
        find(&holders.get(holder)?.usable, key_no)
    }

    /// The key under which `holder` sealed a reading.
    pub(crate) fn openable(&self, holder: &PeerId, key_no: u64) -> Option<Arc<LinkKey>> {
        let holders = self.holders.read().unwrap_or_else(PoisonError::into_inner);
        find(&holders.get(holder)?.openable, key_no)
    }

    pub(crate) fn publish(&self, holder: &PeerId, keys: &Keyring) {
        let (usable, openable): (Vec<_>, Vec<_>) = (keys.usable().collect(), keys.openable().collect());
        let mut holders = self.holders.write().unwrap_or_else(PoisonError::into_inner);
        if openable.is_empty() {
            holders.remove(holder);
        } else {
            holders.insert(holder.clone(), Holder { usable, openable });
        }
    }
}

fn find(keys: &[(u64, Arc<LinkKey>)], key_no: u64) -> Option<Arc<LinkKey>> {
    keys.iter().find(|(no, _)| *no == key_no).map(|(_, key)| Arc::clone(key))
}

impl Shared {
    /// The static key that a Hello's pin names.
    pub(crate) fn link_key(&self, pin: &[u8]) -> Option<&StaticKey> {
        let index = self.pins.iter().position(|public| public.pin().as_slice() == pin)?;
        self.link_keys.get(index)
    }
}
