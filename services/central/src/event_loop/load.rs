//! What a starting Central goes on with: everything durable, with deadlines running again from what was left of them.

use std::{collections::HashMap, sync::Arc};

use mesh::process::Context;
use proto::{
    ChargingPointId, PeerId,
    link::v1::KeyState,
    registry::v1::{IdentityState, Kind},
};
use store::{
    Conn, StoreError,
    central::{ChargingPointRow, KeyRow, MirroredIdentityRow, SessionRow},
};

use super::{EventLoop, drivers::DriverEntry};
use crate::{
    charge_point::{ChargePoint, Record},
    driver::DriverAccount,
    key::{KeyEntry, KeyStage, Keyring},
    rows,
    session::Session,
    shared::SharedState,
};

struct Loaded {
    points: Vec<ChargingPointRow>,
    keys: Vec<KeyRow>,
    /// Highest number per holder, of those whose keys are all gone too.
    last: HashMap<String, i64>,
    sessions: Vec<SessionRow>,
    identities: Vec<MirroredIdentityRow>,
}

fn read(conn: &mut Conn) -> Result<Loaded, StoreError> {
    let points = ChargingPointRow::all(conn)?;
    let keys = KeyRow::usable(conn)?;
    let identities = MirroredIdentityRow::all(conn)?;
    let mut last: HashMap<String, i64> = HashMap::new();
    for key in &keys {
        let highest = last.entry(key.holder.clone()).or_default();
        *highest = key.key_no.max(*highest);
    }
    for identity in &identities {
        if let Some(peer) = rows::peer(identity).map(|peer| peer.to_string()) {
            // The newest may be deleted or revoked, and its number must not come again.
            last.insert(peer.clone(), KeyRow::last_no(conn, &peer)?);
        }
    }
    Ok(Loaded { points, keys, last, sessions: SessionRow::unsettled(conn)?, identities })
}

impl EventLoop {
    /// Loads all that is durable and applies what the mirror says of identities, in case a crash came between the two.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub(crate) async fn load(shared: Arc<SharedState>, ctx: &Context) -> Result<Self, StoreError> {
        let loaded = shared.store.read("load", read).await?;
        let now = shared.clock.now();
        let states = ctx.metrics.register(
            "charging_points",
            "Charging points by state",
            prometheus_client::metrics::family::Family::default(),
        );
        let quarantined = ctx.metrics.register(
            "charging_points_quarantined",
            "Charging points that are quarantined after repeated takeovers of their link, until an operator releases them",
            prometheus_client::metrics::gauge::Gauge::default(),
        );
        let mut event_loop = Self {
            shared: shared.clone(),
            points: Vec::new(),
            index: HashMap::new(),
            drivers: HashMap::new(),
            links: HashMap::new(),
            cities: HashMap::new(),
            contacts: HashMap::new(),
            waiting: HashMap::new(),
            next_order: 0,
            timers: Default::default(),
            dirty: Vec::new(),
            turns: Default::default(),
            tickets: Default::default(),
            ending: false,
            next_sweep: now.mono + shared.settings.sweep_every(),
            hears_until: None,
            turned_at: now.mono,
            closed: Default::default(),
            states,
            quarantined,
        };
        let mut keys: HashMap<String, Vec<KeyEntry>> = HashMap::new();
        for row in &loaded.keys {
            keys.entry(row.holder.clone()).or_default().push(rows::key(row, &shared.key_encryption, now));
        }
        let mut sessions: HashMap<String, Vec<Session>> = HashMap::new();
        for row in &loaded.sessions {
            match rows::session(row, &shared.settings, now) {
                Ok(session) => sessions.entry(row.cp_id.clone()).or_default().push(session),
                Err(error) => tracing::error!(%error, "a session cannot be read; a person must look at it"),
            }
        }
        let is_point = |identity: &&MirroredIdentityRow| identity.kind == i32::from(Kind::ChargingPoint);
        let mirrored: HashMap<_, _> =
            loaded.identities.iter().filter(is_point).map(|identity| (identity.id.as_str(), identity)).collect();
        for row in &loaded.points {
            let holder = format!("charging-point/{}", row.cp_id);
            let last = loaded.last.get(&holder).copied().unwrap_or_default();
            let keys =
                ring(row, mirrored.get(row.cp_id.as_str()).copied(), last, keys.remove(&holder).unwrap_or_default());
            match rows::record(row, keys, sessions.remove(&row.cp_id).unwrap_or_default()) {
                Ok(record) => drop(event_loop.add_point(ChargePoint::new(record, now), row.since_ms, now)),
                Err(error) => tracing::error!(%error, "a charging point cannot be read; a person must look at it"),
            }
        }
        event_loop.presume_weather();
        event_loop.load_drivers(&loaded, &mut keys);
        loaded.identities.iter().for_each(|row| event_loop.identity(row));
        event_loop.show_all();
        Ok(event_loop)
    }

    fn load_drivers(&mut self, loaded: &Loaded, keys: &mut HashMap<String, Vec<KeyEntry>>) {
        for row in &loaded.identities {
            let Some(PeerId::Driver(id)) = rows::peer(row) else { continue };
            let holder = format!("driver/{id}");
            let last = loaded.last.get(&holder).copied().unwrap_or_default();
            let removed = row.state == i32::from(IdentityState::Removed);
            let keys = keys.remove(&holder).unwrap_or_default();
            // A crash may have come between the mirror and what it means for keys: then it is done again.
            let left_over = keys.iter().any(|key| matches!(key.stage, KeyStage::Staged | KeyStage::Active));
            let void = row.state == i32::from(IdentityState::Void) && !left_over;
            let incarnation = keys.iter().map(|key| key.incarnation).max();
            let incarnation = incarnation.unwrap_or_else(|| rows::unsigned(row.incarnation));
            let ring = Keyring::stored(incarnation, void, rows::unsigned(last), keys).with_void(void);
            self.shared.directory.publish(&PeerId::Driver(id.clone()), &ring);
            self.drivers.insert(id.clone(), DriverEntry::new(DriverAccount::new(id, ring, removed)));
        }
    }
}

fn ring(row: &ChargingPointRow, mirrored: Option<&MirroredIdentityRow>, last_no: i64, keys: Vec<KeyEntry>) -> Keyring {
    let revoked = row.key_state == i32::from(KeyState::Revoked);
    let void = mirrored.is_some_and(|identity| {
        identity.incarnation >= row.incarnation && identity.state != i32::from(IdentityState::Enrolled)
    });
    Keyring::stored(rows::unsigned(row.incarnation), revoked, rows::unsigned(last_no), keys).with_void(revoked && void)
}

/// One charging point as it is on disk now.
pub(super) async fn one(shared: &Arc<SharedState>, id: &ChargingPointId) -> Option<Record> {
    let wanted = id.to_string();
    let read = move |conn: &mut Conn| {
        let holder = format!("charging-point/{wanted}");
        let row = ChargingPointRow::find(conn, &wanted)?;
        let (keys, last) = (KeyRow::of(conn, &holder)?, KeyRow::last_no(conn, &holder)?);
        let mirrored = MirroredIdentityRow::find(conn, Kind::ChargingPoint.into(), &wanted)?;
        let sessions = SessionRow::unsettled(conn)?.into_iter().filter(|session| session.cp_id == wanted).collect();
        Ok((row, mirrored, keys, last, sessions))
    };
    let (row, mirrored, keys, last, sessions): (_, _, Vec<KeyRow>, _, Vec<SessionRow>) =
        shared.store.read("reload", read).await.ok()?;
    let row: Option<ChargingPointRow> = row;
    let (row, now) = (row?, shared.clock.now());
    let keys = keys.iter().filter(|key| key.wrapped.is_some()).map(|key| rows::key(key, &shared.key_encryption, now));
    let sessions = sessions.iter().filter_map(|row| rows::session(row, &shared.settings, now).ok()).collect();
    rows::record(&row, ring(&row, mirrored.as_ref(), last, keys.collect()), sessions).ok()
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use proto::link::v1::Part;

    use super::*;
    use crate::{
        charge_point::PointOrder,
        registry::mirror_writes,
        settings::CentralSettings,
        testing::{TestCentral, ana},
    };

    /// What Registry says as Central ends, so that the mirror has it and nothing else.
    async fn mirrored(
        central: &TestCentral,
        kind: Kind,
        id: &str,
        state: IdentityState,
        incarnation: i64,
        revision: i64,
    ) {
        let row = MirroredIdentityRow {
            kind: kind.into(),
            id: id.to_owned(),
            state: state.into(),
            incarnation,
            revision,
            ..MirroredIdentityRow::default()
        };
        central.write(mirror_writes(&row, &central.shared.settings, central.shared.clock.now())).await;
    }

    async fn started(central: &TestCentral) -> EventLoop {
        let mut event_loop = EventLoop::load(Arc::clone(&central.shared), &central.ctx).await.unwrap();
        while let Some(done) = event_loop.turns.next().await {
            event_loop.done(done);
        }
        event_loop
    }

    #[tokio::test]
    async fn a_revocation_that_registry_does_not_know_of_yet_outlasts_a_restart_spec_4_7() {
        let central = TestCentral::new(CentralSettings::default(), 10).await;
        let id = central.charging_points(1).await.remove(0);
        central.authenticate(PeerId::ChargingPoint(id.clone())).await;
        central.both_parts(&id, 1).await;
        central.orders.one(&id, PointOrder::Revoke, ana()).await;
        for (state, revision, to_be_void) in [(IdentityState::Enrolled, 5, Some(1)), (IdentityState::Void, 6, None)] {
            mirrored(&central, Kind::ChargingPoint, id.as_str(), state, 2, revision).await;
            let event_loop = started(&central).await;
            let keys = &event_loop.points[0].core.record.keys;
            assert_eq!((keys.state(), keys.to_be_void()), (KeyState::Revoked, to_be_void), "{state:?}");
            assert_eq!((keys.takes(2), keys.takes(3)), (false, to_be_void.is_none()));
        }
    }

    #[tokio::test]
    async fn a_drivers_removal_that_a_crash_left_half_done_is_done_at_the_next_start_and_once_spec_7_4() {
        let central = TestCentral::new(CentralSettings::default(), 10).await;
        let driver = central.driver("D1").await;
        let peer = PeerId::Driver(driver.clone());
        central.authenticate(peer.clone()).await;
        central.until(|| central.shared.directory.usable(&peer, 1).is_some()).await;
        central.arrive(peer.clone(), Part::Driver, 1).await;
        mirrored(&central, Kind::Driver, "D1", IdentityState::Removed, 1, 5).await;
        for _ in 0..2 {
            let mut event_loop = started(&central).await;
            assert!(event_loop.driver(&driver).account.removed && central.shared.directory.usable(&peer, 1).is_none());
            assert_eq!(central.audited("REMOVED").await.len(), 1);
        }
    }
}
