//! Central as Registry's client (SPEC 1.2): judges credentials at first contacts, follows every enrolment and removal,
//! keeps a mirror of them in the store, and sees to it that what was revoked here is void there.
//!
//! Registry may be away for as long as it likes: the mirror stands, reconnects by key go on, and first contacts are told
//! so. A stream that breaks is taken up where the mirror ends.

use std::{net::IpAddr, sync::Arc, time::Duration};

use mesh::{
    client::Channel, clock::Now, health::Component, link::Backoff, policy::DenyList, process::Context,
    status::reason_of,
};
use proto::{
    PeerId,
    link::v1::{KeyState, Reason},
    millis,
    registry::v1::{
        IdentityEvent, IdentityState, Kind, PinsRequest, VerifyRequest, WatchRequest,
        identities_client::IdentitiesClient, identity_event::Event,
    },
};
use store::central::{ChargingPointRow, MirroredIdentityRow, MirroredOperatorRow, RowWrite};
use tokio::sync::Semaphore;
use tonic::Status;
use wire::PublicKey;

use crate::{
    event_loop::{LoopHandle, Message},
    settings::CentralSettings,
    shared::SharedState,
};

mod void;

#[cfg(test)]
mod tests;

pub(crate) use void::void;

/// Credentials that are with Registry at the same time.
const AT_ONCE: usize = 64;
/// Events of the mirror in one transaction.
const BATCH: usize = 256;
/// What Registry hands out as this Central's link keys is looked at this often.
const PINS_EVERY: Duration = Duration::from_secs(5);

/// What Registry says of a credential.
#[derive(Debug)]
pub(crate) enum CredentialVerdict {
    /// It is right; void: right, but worth nothing until reissued.
    Verified {
        void: bool,
    },
    Refused(Reason),
    /// Nobody could judge it now, and why: it may be shown again later; after how long, if that is known.
    Undecided(Reason, String, Option<Duration>),
}

impl CredentialVerdict {
    fn unreachable(why: impl Into<String>) -> Self {
        Self::Undecided(Reason::RegistryUnreachable, why.into(), None)
    }

    /// Registry may say itself that it cannot now; what else goes wrong on the way to it is the way's fault.
    fn of_failure(status: &Status) -> Self {
        let reason = reason_of(status).filter(|reason| reason.is_undecided());
        let reason = reason.unwrap_or(Reason::RegistryUnreachable);
        Self::Undecided(reason, status.message().to_owned(), mesh::status::wait_of(status))
    }
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Verifier {
    client: IdentitiesClient<Channel>,
    at_once: Arc<Semaphore>,
    shared: Arc<SharedState>,
    event_loop: LoopHandle,
}

impl Verifier {
    pub(crate) fn new(channel: Channel, shared: Arc<SharedState>, event_loop: LoopHandle) -> Self {
        let client = IdentitiesClient::new(channel);
        Self { client, at_once: Arc::new(Semaphore::new(AT_ONCE)), shared, event_loop }
    }

    pub(crate) async fn verify(&self, peer: &PeerId, credential: &[u8], address: IpAddr) -> CredentialVerdict {
        let Ok(_place) = self.at_once.acquire().await else { return CredentialVerdict::unreachable("stopping") };
        let request = VerifyRequest {
            kind: kind(peer).into(),
            id: peer.as_str().to_owned(),
            credential: credential.to_vec(),
            address: address.to_string(),
        };
        let answer = match self.client.clone().verify(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return CredentialVerdict::of_failure(&status),
        };
        // A code that this build does not know is a refusal all the same.
        let reason = match answer.reason_code.as_str() {
            "" => Reason::Unspecified,
            code => Reason::of_code(code).unwrap_or(Reason::Unrecognised),
        };
        if !matches!(reason, Reason::Unspecified | Reason::CredentialVoid) {
            return CredentialVerdict::Refused(reason);
        }
        // Its enrolment may be so young that the stream has not reported it.
        match answer.identity {
            None => {}
            Some(identity) => match self.mirror(identity).await {
                Ok(Mirrored::Taken) => {}
                Ok(Mirrored::Late) => {
                    let why = "its identity has changed at Registry while it was asked; try again";
                    return CredentialVerdict::unreachable(why);
                }
                Err(why) => return CredentialVerdict::unreachable(why),
            },
        }
        CredentialVerdict::Verified { void: reason == Reason::CredentialVoid }
    }

    /// An answer can be older than what the stream has told meanwhile; then that stands, and is told again.
    async fn mirror(&self, identity: proto::registry::v1::Identity) -> Result<Mirrored, String> {
        let (wanted_kind, id) = (identity.kind, identity.id.clone());
        let known =
            self.shared.store.read("identity", move |conn| MirroredIdentityRow::find(conn, wanted_kind, &id)).await;
        let known = known.map_err(|error| error.to_string())?;
        let revision = known.as_ref().map_or(0, |row| row.revision);
        let row = row_of(identity, revision);
        let is_known =
            known.as_ref().is_some_and(|known| (known.incarnation, known.state) == (row.incarnation, row.state));
        if is_known && row.state != i32::from(IdentityState::Enrolled) {
            return Ok(Mirrored::Taken);
        }
        if let Some(known) = known.filter(|known| row.is_behind(known)) {
            self.event_loop.send(Message::Identities(vec![known])).await;
            return Ok(Mirrored::Late);
        }
        if !is_known {
            let now = self.shared.clock.now();
            let writes = mirror_writes(&row, &self.shared.settings, now);
            self.shared.store.write("mirror", writes).await.map_err(|error| error.to_string())?;
        }
        // Where the stream has made it durable, it may not have told the loop yet; told again it changes nothing.
        self.event_loop.send(Message::Identities(vec![row])).await;
        Ok(Mirrored::Taken)
    }
}

/// What became of an identity in an answer of Registry's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mirrored {
    Taken,
    Late,
}

/// Follows Registry until the process stops.
pub(crate) async fn follow(verifier: Verifier, denied: DenyList, ctx: Context) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let component = ctx.health.component("registry mirror");
    component.degraded("Registry has not been reached yet: enrolments and removals are not known");
    let pins = ctx.health.component("pins at Registry");
    pins.ready();
    loop {
        let followed = async {
            match stream(&verifier, &denied, &component, &pins).await {
                Ok(()) => backoff.reset(),
                Err(why) => {
                    component.degraded(format!("enrolments and removals are not followed: {why}"));
                    tracing::debug!(why, "Registry's stream ended");
                }
            }
            let wait = backoff.wait(rand::random());
            tokio::time::sleep(wait).await;
        };
        if ctx.stop.run_until_cancelled(followed).await.is_none() {
            return;
        }
    }
}

async fn stream(verifier: &Verifier, denied: &DenyList, component: &Component, pins: &Component) -> Result<(), String> {
    let shared = &verifier.shared;
    let since =
        shared.store.read("revision", MirroredIdentityRow::revision).await.map_err(|error| error.to_string())?;
    let link_keys = shared.pins.iter().map(|pin| pin.as_bytes().to_vec()).collect();
    let first = WatchRequest { since_revision: crate::rows::unsigned(since), link_keys };
    // The stream of requests stays open: its end would say that this Central has gone.
    let requests = futures::StreamExt::chain(futures::stream::iter([first]), futures::stream::pending());
    let status = |status: Status| status.message().to_owned();
    let mut events = verifier.client.clone().watch(requests).await.map_err(status)?.into_inner();
    let (mut batch, mut every, mut is_synchronised) = (Vec::new(), tokio::time::interval(PINS_EVERY), false);
    loop {
        let event = tokio::select! {
            event = events.message() => event.map_err(status)?,
            // Not before: our own were reported with the first message.
            _ = every.tick(), if is_synchronised => {
                look_at_pins(verifier, pins).await;
                continue;
            }
        };
        let Some(event) = event else { return Err("the stream was ended".to_owned()) };
        let mut synchronised = matches!(event.event, Some(Event::Synchronised(_)));
        batch.push(event);
        // What is there already goes along in one transaction.
        while batch.len() < BATCH {
            match futures::FutureExt::now_or_never(events.message()) {
                Some(Ok(Some(event))) => {
                    synchronised |= matches!(event.event, Some(Event::Synchronised(_)));
                    batch.push(event);
                }
                Some(Err(error)) => return Err(status(error)),
                Some(Ok(None)) | None => break,
            }
        }
        take(&verifier.shared, &verifier.event_loop, denied, std::mem::take(&mut batch)).await?;
        if synchronised {
            is_synchronised = true;
            component.ready();
        }
    }
}

/// Another Central that reports its keys takes the place of this one's, and every newcomer goes there. Which of the two
/// is right only a person knows, so this one says so and leaves it.
async fn look_at_pins(verifier: &Verifier, component: &Component) {
    let Ok(told) = verifier.client.clone().pins(PinsRequest {}).await else { return };
    if are_ours(&verifier.shared.pins, &told.into_inner().pins) {
        component.ready();
    } else {
        component.degraded(
            "Registry hands out the link keys of another Central, so whoever is new cannot link here: stop the other \
             one, then start this one again",
        );
    }
}

fn are_ours(ours: &[PublicKey], told: &[Vec<u8>]) -> bool {
    ours.iter().map(|pin| &pin.as_bytes()[..]).eq(told.iter().map(Vec::as_slice))
}

/// Who is removed is out first, since that waits for no disk (SPEC 7.3, 7.4). All else is durable first, then told; what
/// cannot be made durable comes again with the next stream.
async fn take(
    shared: &SharedState,
    event_loop: &LoopHandle,
    denied: &DenyList,
    events: Vec<IdentityEvent>,
) -> Result<(), String> {
    let now = shared.clock.now();
    let (mut writes, mut identities, mut operators) = (Vec::new(), Vec::new(), Vec::new());
    let mut revision = 0;
    for event in events {
        revision = revision.max(crate::rows::signed(event.revision));
        match event.event {
            Some(Event::Identity(identity)) => {
                let row = row_of(identity, crate::rows::signed(event.revision));
                writes.extend(mirror_writes(&row, &shared.settings, now));
                identities.push(row);
            }
            Some(Event::Operator(operator)) => {
                let row = MirroredOperatorRow {
                    name: operator.name.clone(),
                    role: operator.role,
                    removed: operator.removed,
                    revision: crate::rows::signed(event.revision),
                };
                writes.push(RowWrite::Operator(row.clone()));
                operators.push(row);
            }
            Some(Event::Synchronised(_)) | None => {}
        }
    }
    writes.push(RowWrite::Mirrored(revision));
    deny(denied, &operators);
    let is_removed = |row: &&MirroredIdentityRow| row.state == i32::from(IdentityState::Removed);
    let removed: Vec<_> = identities.iter().filter(is_removed).cloned().collect();
    if !removed.is_empty() {
        event_loop.send(Message::ShutOut(removed)).await;
    }
    shared.store.write("mirror", writes).await.map_err(|error| error.to_string())?;
    if !identities.is_empty() {
        event_loop.send(Message::Identities(identities)).await;
    }
    Ok(())
}

/// Operators who were removed are refused at once (SPEC 7.3).
fn deny(denied: &DenyList, operators: &[MirroredOperatorRow]) {
    for row in operators {
        let Ok(name) = row.name.parse() else { continue };
        if row.removed {
            denied.deny(&name);
        } else {
            denied.allow(&name);
        }
    }
}

/// The list as the mirror has it, before Registry is reached.
///
/// # Errors
/// Where the database cannot be read.
pub(crate) async fn load_denied(shared: &SharedState, denied: &DenyList) -> Result<(), store::StoreError> {
    let operators = shared.store.read("operators", MirroredOperatorRow::all).await?;
    deny(denied, &operators);
    Ok(())
}

fn row_of(identity: proto::registry::v1::Identity, revision: i64) -> MirroredIdentityRow {
    MirroredIdentityRow {
        kind: identity.kind,
        id: identity.id,
        state: identity.state,
        city: identity.city,
        place: identity.place,
        price_e4: i64::from(identity.price_e4.unwrap_or_default()),
        enrolled_at_ms: millis(identity.enrol_time.as_ref()),
        incarnation: crate::rows::signed(identity.incarnation),
        revision,
    }
}

pub(crate) fn mirror_writes(row: &MirroredIdentityRow, settings: &CentralSettings, now: Now) -> Vec<RowWrite> {
    let new = row.kind == i32::from(Kind::ChargingPoint) && row.state != i32::from(IdentityState::Removed);
    let point = new.then(|| RowWrite::AddChargingPoint(new_row(row, settings, now)));
    [RowWrite::Identity(row.clone())].into_iter().chain(point).collect()
}

/// A charging point as Central first hears of it: city and price come from Registry, and Central rules over them
/// afterwards (DESIGN 3).
pub(crate) fn new_row(row: &MirroredIdentityRow, settings: &CentralSettings, now: Now) -> ChargingPointRow {
    let price = if row.price_e4 == 0 { i64::from(settings.price.e4()) } else { row.price_e4 };
    ChargingPointRow {
        cp_id: row.id.clone(),
        // Its first enrolment comes as an input, as every later one does.
        incarnation: 0,
        city: row.city.clone(),
        place: row.place.clone(),
        price_e4: price,
        key_state: KeyState::Deleted.into(),
        since_ms: now.wall_ms,
        ..ChargingPointRow::default()
    }
}

fn kind(peer: &PeerId) -> Kind {
    match peer {
        PeerId::ChargingPoint(_) => Kind::ChargingPoint,
        PeerId::Driver(_) => Kind::Driver,
    }
}
