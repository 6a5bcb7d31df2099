//! What the event loop publishes, and links and gRPC read without asking it: keys by holder, what is shown, who is
//! enrolled.
//!
//! Written by the loop alone, after the store has it; each lock is held for one look-up.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use mesh::{access_log::AccessLog, clock::Clock};
use proto::{ChargingPointId, PeerId, central::v1 as contract};
use store::central::{GenerationRow, KeyRow, RowWrite};
use tokio::sync::watch;
use wire::{LinkKey, PublicKey, StaticKey};

use crate::{
    audit::AuditRecord,
    conditions::ReportedConditions,
    database::Store,
    documents::Documents,
    key::{KeyStage, Keyring},
    rows,
    running_time::KeysAtRest,
    session::SessionId,
    settings::CentralSettings,
    telemetry::{Look, Streams, Telemetry},
    topics::ReadingTopics,
    watch::Board,
    write_queue::WriteQueue,
};

/// Charging points as they are shown.
pub(crate) type PointBoard = Board<ChargingPointId, contract::ChargingPoint>;
/// Open sessions, and the latest that ended.
pub(crate) type SessionBoard = Board<SessionId, contract::Session>;

#[derive(Debug)]
pub(crate) struct SharedState {
    pub settings: CentralSettings,
    pub clock: Clock,
    pub store: Store,
    pub directory: Directory,
    pub points: Arc<PointBoard>,
    pub sessions: Arc<SessionBoard>,
    pub telemetry: Telemetry,
    /// None: readings go no further than here.
    pub reading_topics: Option<Arc<ReadingTopics>>,
    /// Counts refusals for the audit.
    pub access_log: AccessLog,
    pub write_queue: WriteQueue,
    pub link_keys: Vec<StaticKey>,
    pub pins: Vec<PublicKey>,
    pub key_encryption: Arc<KeysAtRest>,
    pub ledger: LedgerState,
    pub conditions: ReportedConditions,
    /// Signs tickets and authorisations.
    pub documents: Documents,
    /// The name under which this process owns charging points.
    pub owner: String,
}

impl SharedState {
    /// Queues an audit entry that nobody waits for; without a peer it is about a part of the system.
    pub(crate) fn audit(&self, about: Option<PeerId>, entry: &AuditRecord) {
        self.write_queue.push(about, RowWrite::Audit(rows::audit(entry)));
    }
}

/// Where the ledger stands after restores of the database (SPEC 10.5).
#[derive(Debug, Default)]
pub(crate) struct LedgerState {
    /// The last restore.
    pub restored: GenerationRow,
    behind: AtomicBool,
}

impl LedgerState {
    pub(crate) fn new(restored: GenerationRow) -> Self {
        let behind = AtomicBool::new(!restored.behind.is_empty());
        Self { restored, behind }
    }

    /// Whether something that Central has signed is missing in its database.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Acquire)
    }

    /// True for the first time.
    pub(crate) fn note_behind(&self) -> bool {
        !self.behind.swap(true, Ordering::AcqRel)
    }
}

/// Who holds which keys, found in O(1).
#[derive(Debug, Default)]
pub(crate) struct Directory {
    epochs: RwLock<HashMap<ChargingPointId, Epoch>>,
    holders: RwLock<HashMap<PeerId, HolderKeys>>,
    /// Whom Registry removed, and as which incarnation.
    removed: RwLock<HashMap<PeerId, u64>>,
    unvoided: PendingVoids,
}

/// Charging points that are revoked and whose credential may still be worth something at Registry, and of which
/// enrolment it is.
#[derive(Debug, Default)]
pub(crate) struct PendingVoids(watch::Sender<BTreeMap<ChargingPointId, u64>>);

impl PendingVoids {
    pub(crate) fn put(&self, id: &ChargingPointId, incarnation: Option<u64>) {
        self.0.send_if_modified(|all| match incarnation {
            Some(incarnation) => all.insert(id.clone(), incarnation) != Some(incarnation),
            None => all.remove(id).is_some(),
        });
    }

    pub(crate) fn follow(&self) -> watch::Receiver<BTreeMap<ChargingPointId, u64>> {
        self.0.subscribe()
    }
}

/// Under which epoch a charging point is held now; every message to it carries it (SPEC 4.9).
#[derive(Clone, Debug, Default)]
pub(crate) struct Epoch(Arc<AtomicU64>);

impl Epoch {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Debug, Default, PartialEq)]
struct HolderKeys {
    incarnation: u64,
    usable: Vec<(u64, Arc<LinkKey>)>,
    openable: Vec<(u64, Arc<LinkKey>)>,
}

impl Directory {
    /// Follows it; 0 for a charging point that there is not.
    pub(crate) fn epoch(&self, id: &ChargingPointId) -> Epoch {
        let epochs = self.epochs.read().unwrap_or_else(PoisonError::into_inner);
        epochs.get(id).cloned().unwrap_or_default()
    }

    /// Before anything is sent under it, since links also answer without the event loop.
    pub(crate) fn publish_epoch(&self, id: &ChargingPointId, epoch: u64) {
        let known = self.epochs.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let shared = known.unwrap_or_else(|| {
            let mut epochs = self.epochs.write().unwrap_or_else(PoisonError::into_inner);
            epochs.entry(id.clone()).or_default().clone()
        });
        shared.0.store(epoch, Ordering::Release);
    }

    /// The key with which `holder` may open a link.
    pub(crate) fn usable(&self, holder: &PeerId, key_no: u64) -> Option<Arc<LinkKey>> {
        let removed = self.removed.read().unwrap_or_else(PoisonError::into_inner).get(holder).copied();
        let holders = self.holders.read().unwrap_or_else(PoisonError::into_inner);
        let held = holders.get(holder)?;
        find(&held.usable, key_no).filter(|_| removed.is_none_or(|incarnation| held.incarnation > incarnation))
    }

    /// The key under which `holder` sealed a reading.
    pub(crate) fn openable(&self, holder: &PeerId, key_no: u64) -> Option<Arc<LinkKey>> {
        let holders = self.holders.read().unwrap_or_else(PoisonError::into_inner);
        find(&holders.get(holder)?.openable, key_no)
    }

    /// Whether `holder` may have had that key before those at hand; as which incarnation of its id it has them.
    fn incarnation_before(&self, holder: &PeerId, key_no: u64) -> Option<u64> {
        let holders = self.holders.read().unwrap_or_else(PoisonError::into_inner);
        let held = holders.get(holder)?;
        held.openable.iter().all(|(no, _)| key_no < *no).then_some(held.incarnation)
    }

    /// No link is opened by a key of that enrolment any more, whatever is published of it.
    pub(crate) fn shut_out(&self, holder: &PeerId, incarnation: u64) {
        let mut removed = self.removed.write().unwrap_or_else(PoisonError::into_inner);
        let last = removed.entry(holder.clone()).or_default();
        *last = incarnation.max(*last);
    }

    pub(crate) fn unvoided(&self) -> &PendingVoids {
        &self.unvoided
    }

    /// What `keys` says from now on; whether that is anything new. Cheap where it is not, so whoever may have changed
    /// something publishes.
    pub(crate) fn publish(&self, holder: &PeerId, keys: &Keyring) -> bool {
        let incarnation = keys.incarnation;
        let held = HolderKeys { incarnation, usable: keys.usable().collect(), openable: keys.openable().collect() };
        let held = (!held.openable.is_empty()).then_some(held);
        if self.holders.read().unwrap_or_else(PoisonError::into_inner).get(holder) == held.as_ref() {
            return false;
        }
        let mut holders = self.holders.write().unwrap_or_else(PoisonError::into_inner);
        match held {
            Some(held) => drop(holders.insert(holder.clone(), held)),
            None => drop(holders.remove(holder)),
        }
        true
    }
}

fn find(keys: &[(u64, Arc<LinkKey>)], key_no: u64) -> Option<Arc<LinkKey>> {
    keys.iter().find(|(no, _)| *no == key_no).map(|(_, key)| Arc::clone(key))
}

impl SharedState {
    /// The key under which `holder` sealed a reading: at hand, or one of the older retired ones, which the store keeps
    /// for as long as telemetry is retained (SPEC 4.6). What was revoked or deleted is nowhere any more.
    pub(crate) async fn reading_key(&self, streams: &Streams, holder: &PeerId, key_no: u64) -> Option<Arc<LinkKey>> {
        if let Some(key) = self.directory.openable(holder, key_no) {
            return Some(key);
        }
        let incarnation = self.directory.incarnation_before(holder, key_no)?;
        match streams.older(key_no, self.clock.mono()) {
            Look::Known(key) => return key,
            Look::NotNow => return None,
            Look::Read => {}
        }
        let (of, no) = (holder.to_string(), rows::signed(key_no));
        let row = self.store.look_up("older key", move |conn| KeyRow::find(conn, &of, no)).await.ok()?;
        let key = row.map(|row| rows::key(&row, &self.key_encryption, self.clock.now()));
        let key = key.filter(|key| key.stage == KeyStage::Retired && key.incarnation == incarnation);
        let material = key.and_then(|key| key.material);
        streams.remember(key_no, material.clone());
        material
    }

    /// The static key that a Hello's pin names.
    pub(crate) fn link_key(&self, pin: &[u8]) -> Option<&StaticKey> {
        let index = self.pins.iter().position(|public| public.pin().as_slice() == pin)?;
        self.link_keys.get(index)
    }
}
