//! Central: the decisions of a charging network (SPEC 1.1). It authenticates charging points and drivers, authorises and
//! commands, keeps sessions, bills, audits, and serves the operators' API.
//!
//! ```text
//!  monitors, engines, drivers ─▶ links.rs ─┐                                    ┌─▶ database.rs ─▶ store: one transaction a turn
//!  operators ──────────────────▶ grpc.rs ──┤ event_loop.rs ▶ charge_point.rs ▶ ... ──┼─▶ links: the charging point, the driver
//!  Registry ───────────────▶ registry.rs ──┤            (pure)                  ├─▶ watch.rs ─▶ grpc.rs: answers, streams
//!  time ───────────────────────────────────┘                                    └─▶ outbox in the store
//!  readings ───────────▶ telemetry.rs: opened, counted, shown; decide nothing ─▶ topics.rs ─▶ Kafka
//!  events in the store ▶ outbox.rs ─────────────────────────────────────────────────────────▶ Kafka
//! ```
//!
//! * `charge_point`, `session`, `key`, `takeover`, `driver`, `order` decide, and touch no clock, socket or database.
//! * `turns` gives each of them one turn at a time; `event_loop` is the one loop: store first, then send.
//! * `shared` is what the loop publishes to links and gRPC.

mod access_log;
pub mod audit;
pub mod charge_point;
mod conditions;
mod config;
mod database;
pub mod digest;
mod documents;
pub mod driver;
mod event;
mod event_loop;
mod grpc;
pub mod key;
mod links;
mod listeners;
pub mod order;
pub mod origin;
mod outbox;
mod reading_keys;
mod registry;
mod rows;
mod running_time;
mod secrets;
pub mod session;
pub mod settings;
mod shared;
pub mod takeover;
mod telemetry;
#[cfg(test)]
mod testing;
mod topics;
mod turns;
mod upkeep;
mod watch;
mod write_queue;

use std::sync::Arc;

use mesh::{
    identity::TlsIdentity,
    process::{Context, Misuse},
};
use proto::central::v1::{
    audit_server::AuditServer, charging_points_server::ChargingPointsServer, conditions_server::ConditionsServer,
    sessions_server::SessionsServer,
};
use store::{
    Database, OpenDatabaseError,
    central::{Committer, CommitterSettings, GenerationRow, KeyRow, RowWrite, audit::Checkpoints},
};

pub use config::{Config, KeyConfig, LinkConfig, Retention, SupplyConfig};
pub use reading_keys::{ReadingKeys, SealedReadingError};

use self::{
    audit::{AuditAction, AuditRecord},
    database::{Store, StoreMetrics},
    listeners::{CentralServices, Listeners},
    origin::Origin,
    running_time::{KeysAtRest, RunningTime},
    secrets::Secrets,
    shared::SharedState,
    write_queue::WriteQueue,
};

/// Builds, connects and spawns, in the order in which data flows. The listeners open first, since the database may be
/// awaited.
///
/// # Errors
/// A sentence that names what cannot be used.
pub async fn run(config: Config, ctx: Context) -> anyhow::Result<()> {
    mesh::control::serve_status(&ctx).await?;
    let secrets = Secrets::open(&config.data.join("identity"))?;
    let telemetry = telemetry::Telemetry::new(&ctx.metrics);
    let reading_topics = reading_topics(&config)?;
    // Two committers under one name would spoil each other's audit chain.
    ctx.hold(mesh::data_folder::lock(&config.data, "Central")?);
    let identity = TlsIdentity::open(&ctx, &config.identity)?;
    let doors = Listeners::open(&config, &ctx, &identity).await?;
    let Some(database) = open(&ctx, &config, &secrets.writer, &doors).await? else { return Ok(()) };
    database::hold_lease(&ctx, database.clone(), secrets.writer.clone());
    let rewrapped = secrets.check(&database, &config.data).await?;
    let restored = database.read("generation", GenerationRow::read).await?;
    let committer = Committer::start(&database, &secrets.writer, CommitterSettings::default())?;
    let running = RunningTime::load(&database, ctx.clock.mono()).await?;
    let checkpoints_file = config.data.join("audit.checkpoints");
    let trusted = secrets.audit_trusted.clone();
    let shared = Arc::new(SharedState {
        settings: config.settings(),
        clock: ctx.clock,
        store: Store::new(committer, database, &ctx),
        directory: shared::Directory::default(),
        points: Arc::default(),
        sessions: Arc::default(),
        telemetry,
        reading_topics,
        access_log: doors.access_log.clone(),
        write_queue: WriteQueue::default(),
        pins: secrets.pins(),
        link_keys: secrets.link,
        key_encryption: Arc::new(KeysAtRest { encryption: secrets.key_encryption, running }),
        ledger: shared::LedgerState::new(restored),
        conditions: conditions::ReportedConditions::default(),
        documents: secrets.documents,
        owner: secrets.writer,
    });
    if let Some(path) = &config.audit_file {
        upkeep::follow_audit(upkeep::AuditFile::open(path, &shared).await?, &shared, &ctx);
    }
    note_role(&shared, AuditAction::RoleStarted).await;
    write_rewrapped(&shared, rewrapped).await;

    let (of_writes, stop) = (Arc::clone(&shared), ctx.stop.clone());
    spawn(&ctx, "writes", async move { of_writes.write_queue.run(&of_writes.store, stop).await });
    let (event_loop, inbox) = event_loop::channel();
    registry::load_denied(&shared, &doors.denied).await?;
    let running = event_loop::EventLoop::load(Arc::clone(&shared), &ctx).await?;
    spawn(&ctx, "event_loop", running.run(inbox, ctx.clone()));

    let target = mesh::client::RoleAddress::new("registry", config.registry.clone());
    let channel = mesh::client::channel(&identity, target, &config.client).watched_by(&ctx.health);
    let registry = registry::Verifier::new(channel, Arc::clone(&shared), event_loop.clone());
    spawn(&ctx, "registry", registry::follow(registry.clone(), doors.denied.clone(), ctx.clone()));
    spawn(&ctx, "voids", registry::void(registry.clone(), ctx.clone()));

    publish(&config, &shared, &ctx)?;

    let orders = grpc::Orders::new(Arc::clone(&shared), event_loop.clone(), &ctx, config.stagger);
    orders.resume().await?;
    let audit = grpc::AuditService { shared: Arc::clone(&shared), checkpoints: checkpoints_file.clone(), trusted };
    let sessions = grpc::SessionsService { shared: Arc::clone(&shared), orders: orders.clone() };
    let (of_shared, of_registry) = (Arc::clone(&shared), registry.clone());
    let charging_points = grpc::ChargingPointsService { shared: of_shared, orders, registry: of_registry };
    let conditions = grpc::ConditionsService { shared: Arc::clone(&shared), event_loop: event_loop.clone() };
    spawn(&ctx, "weather", upkeep::watch_frost(Arc::clone(&shared), ctx.clone()));
    spawn(&ctx, "access_log", access_log::write(doors.access_log, Arc::clone(&shared), ctx.stop.clone()));
    let links = links::Links::new(Arc::clone(&shared), event_loop, registry, config.bounds(), doors.port, &ctx);
    doors.awaited.arrived(CentralServices {
        charging_points: ChargingPointsServer::new(charging_points),
        sessions: SessionsServer::new(sessions),
        audit: AuditServer::new(audit),
        conditions: ConditionsServer::new(conditions),
        links,
    });

    let file = Checkpoints::open(&checkpoints_file, secrets.audit).map_err(|error| Misuse::new(error.to_string()))?;
    spawn(&ctx, "running_time", upkeep::save_running_time(Arc::clone(&shared), ctx.clone()));
    spawn(&ctx, "database", shared.store.clone().watch(ctx.stop.clone()));
    spawn(&ctx, "components", upkeep::components(Arc::clone(&shared), ctx.clone()));
    let waiting_too = !config.kafka.is_set();
    let prune = upkeep::prune(config.retention.clone(), waiting_too, Arc::clone(&shared), ctx.clone());
    spawn(&ctx, "prune", prune);
    upkeep::checkpoint(file, (config.checkpoint_every, config.retention.keep_addresses), shared, &ctx);
    Ok(())
}

/// Where readings go, if Kafka is there.
fn reading_topics(config: &Config) -> anyhow::Result<Option<Arc<topics::ReadingTopics>>> {
    if !config.kafka.is_set() {
        return Ok(None);
    }
    Ok(Some(Arc::new(topics::ReadingTopics::new(&config.kafka, &config.readings)?)))
}

/// Publishes events, and watches Kafka, if it is there.
fn publish(config: &Config, shared: &Arc<SharedState>, ctx: &Context) -> anyhow::Result<()> {
    let Some(readings) = shared.reading_topics.clone() else { return Ok(()) };
    let (topics, component) = (topics::topics(&config.kafka, &config.topics), ctx.health.component("kafka"));
    let (is_up, watch) = mesh::kafka::watch_broker(&config.kafka, topics, component, ctx.stop.clone())?;
    spawn(ctx, "kafka", watch);
    let outbox = outbox::OutboxPublisher::new(Arc::clone(shared), &config.kafka, is_up, ctx)?;
    spawn(ctx, "outbox", outbox.run(ctx.clone()));
    let (stop, grace) = (ctx.stop.clone(), ctx.grace);
    ctx.spawn_and_finally(
        "readings",
        async move {
            stop.cancelled().await;
            Ok(())
        },
        async move |()| {
            readings.flush(grace / 2).await;
        },
    );
    Ok(())
}

fn spawn(ctx: &Context, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    ctx.spawn(name, async move {
        work.await;
        Ok(())
    });
}

/// The database as soon as it is there and migrated, and no other Central uses it; nothing where the process stops before.
async fn open(ctx: &Context, config: &Config, owner: &str, doors: &Listeners) -> anyhow::Result<Option<Database>> {
    let observed = Arc::new(StoreMetrics::new(&ctx.metrics));
    let open = async || {
        let database =
            Database::open_observed(&config.database_url(), store::central::SCHEMA, observed.clone()).await?;
        if !config.allow_fsync_off {
            database.require_fsync().await?;
        }
        database.take_lease(owner).await?;
        Ok(database)
    };
    let passes = |error: &OpenDatabaseError| error.is_transient() || matches!(error, OpenDatabaseError::TooOld { .. });
    Ok(doors.awaited.opened(&ctx.stop, open, passes).await?)
}

/// Link keys under a key-encryption key that was rolled, wrapped under the current one (SPEC 10.7).
async fn write_rewrapped(shared: &SharedState, keys: Vec<KeyRow>) {
    for some in keys.chunks(500) {
        let writes = some.iter().cloned().map(RowWrite::Key).collect();
        if let Err(error) = shared.store.write("rewrap", writes).await {
            tracing::warn!(%error, "link keys stay under a former key-encryption key; the next start tries again");
            return;
        }
    }
    if !keys.is_empty() {
        tracing::info!(
            keys = keys.len(),
            "all link keys are under the current key-encryption key; its former lines can go"
        );
    }
}

/// Starts and stops of roles are audited (SPEC 8.1).
async fn note_role(shared: &SharedState, action: AuditAction) {
    let entry = AuditRecord::new(action, "central").with("version", env!("CARGO_PKG_VERSION"));
    let entry = rows::audit(&entry.by(&Origin::central(), shared.clock.now()));
    if let Err(error) = shared.store.write("role", vec![RowWrite::Audit(entry)]).await {
        tracing::warn!(%error, "the start or stop of this role could not be noted");
    }
}
