//! A charging point (SPEC 1.4): the *engine* is its hardware, the *monitor* the authority on its health and identity;
//! two processes, so that either may die alone. A *fleet* is many of both in one process, for load.
//!
//! ```text
//!              person: terminal keys, ctl                      person: terminal keys, ctl
//!                         │                                               │
//!  journal ◀─▶ engine (pure) ◀── pairing: id, key; health ──▶ monitor (pure) ──▶ Registry (HTTPS): enrolment
//!                         │                                               │
//!                   mesh::peer (pure)                               mesh::peer (pure)
//!                         └───── link: orders, meter, readings ── Central ┘ link: health, keys, view
//! ```
//!
//! Guarantees: energy flows only for a session that Central authorised and whose start is in the journal; a final value
//! is on disk before it is sent and is sent until answered; whichever part dies, what was supplied is billed once.
//!
//! Architecture invariant: [`engine`], [`monitor`], [`meter`] and [`journal_state`] touch no clock, socket, file or source of
//! chance; their `event_loop` modules, [`journal`] and the other rims decide nothing.

mod args;
mod commands;
mod config;
pub mod engine;
pub mod fleet;
pub mod journal;
pub mod journal_state;
mod labels;
pub mod meter;
pub mod monitor;
mod other_part;
pub mod pairing;
mod screen;

use mesh::{
    control,
    peer::{self, RegistryClient, StoredIdentity},
    process::{Context, Misuse},
};
use proto::enrolment::PeerKind;
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use tokio::sync::mpsc;

pub use crate::{
    config::{
        EngineConfig, EnrolmentConfig, FleetConfig, MeterConfig, MonitorConfig, PairingConfig, ReachConfig,
        VehicleConfig,
    },
    fleet::Fleet,
};
use crate::{
    engine::{
        Engine,
        event_loop::{Disk, EngineEvent, EngineHandle, EngineLoop},
    },
    journal::Journal,
    monitor::{
        Monitor,
        event_loop::{MonitorEvent, MonitorHandle, MonitorLoop},
    },
    other_part::OtherPart,
};

/// Inputs that may wait for a loop.
const EVENTS: usize = 64;

/// The role `engine`.
///
/// # Errors
/// Where the journal, the pairing or the control socket cannot be used.
pub async fn run_engine(config: EngineConfig, ctx: Context) -> anyhow::Result<()> {
    let place = config.pairing.place(&config.data);
    let secret = pairing::secret(&place, config.pairing.pairing_secret_file.as_deref())?;
    let now = ctx.clock.now();
    let journal = Journal::open(&config.data.join("journal"), config.meter.journal(true), now.wall_ms)
        .map_err(|error| Misuse::new(error.to_string()))?;
    let settings = config::engine_settings(&config.vehicle, &config.meter, &config.reach, config.drills);
    let core =
        Engine::new(settings, journal.state().clone(), rand::random(), StdRng::seed_from_u64(rand::random()), now);

    let (events, happened) = mpsc::channel(EVENTS);
    let handle = EngineHandle(events.clone());
    let monitor = OtherPart::Pairing(None);
    let engine = EngineLoop::new(core, journal, Disk::new(1), ctx.clock, events.clone(), monitor).displayed(&ctx);

    let settings = config.pairing.wire();
    ctx.spawn("pairing", pairing::seek(ctx.clone(), place, secret, settings, events, EngineEvent::Pairing));
    let asked = handle.clone();
    if let Some(path) = ctx.control_socket() {
        let handle = handle.clone();
        control::serve(&ctx, path, move |request| commands::engine(handle.clone(), request)).await?;
    }
    let answer = move |request| said(commands::engine(asked.clone(), request));
    screen::start(&ctx, screen::ENGINE_KEYS, answer, screen::engine_line);
    peer::run(engine, happened, ctx.stop.clone(), ctx.clock).await
}

/// The role `monitor`.
///
/// # Errors
/// Where the stored identity, the pairing or the control socket cannot be used.
pub async fn run_monitor(config: MonitorConfig, ctx: Context) -> anyhow::Result<()> {
    let place = config.pairing.place(&config.data);
    let secret = pairing::secret(&place, config.pairing.pairing_secret_file.as_deref())?;
    let path = config.data.join("identity.json");
    let stored = StoredIdentity::load(&path).map_err(|error| Misuse::new(error.to_string()))?;
    if let (Some(stored), Some(given)) = (&stored.id, &config.id)
        && stored != given.as_str()
    {
        let text = format!("{} is the identity of {stored}, not of {given}: each has its own --data", path.display());
        return Err(Misuse::new(text).into());
    }
    let mut settings = config.enrolment.settings(&config.reach)?;
    settings.enrollee.enrolment.id = config.id.as_ref().map(ToString::to_string).unwrap_or_default();
    settings.enrollee.enrolment.city.clone_from(&config.city);
    settings.enrollee.enrolment.place.clone_from(&config.place);
    let core = Monitor::new(settings, stored, StdRng::seed_from_u64(rand::random()), ctx.clock.now());

    let (events, happened) = mpsc::channel(EVENTS);
    let handle = MonitorHandle(events.clone());
    let registry = RegistryClient::new(PeerKind::ChargingPoint, &config.enrolment.registry);
    let engine = OtherPart::Pairing(None);
    let monitor = MonitorLoop::new(core, path, registry, ctx.clock, events.clone(), engine).displayed(&ctx);

    let settings = config.pairing.wire();
    pairing::listen(&ctx, &place, secret, settings, events, MonitorEvent::Pairing).await?;
    if let Some(path) = ctx.control_socket() {
        let handle = handle.clone();
        control::serve(&ctx, path, move |request| commands::monitor(handle.clone(), request)).await?;
    }
    let answer = move |request| said(commands::monitor(handle.clone(), request));
    screen::start(&ctx, screen::MONITOR_KEYS, answer, screen::monitor_line);
    peer::run(monitor, happened, ctx.stop.clone(), ctx.clock).await
}

/// For a screen, where a sentence is all.
async fn said(answer: impl Future<Output = Result<Value, control::ControlRefusal>>) -> Result<Value, String> {
    answer.await.map_err(|refusal| refusal.to_string())
}

/// The role `fleet`.
///
/// # Errors
/// Where the folder of the fleet cannot be used.
pub async fn run_fleet(config: FleetConfig, ctx: Context) -> anyhow::Result<()> {
    let fleet = Fleet::start(&config, &ctx)?;
    if let Some(path) = ctx.control_socket() {
        let fleet = fleet.clone();
        control::serve(&ctx, path, move |request| fleet::answer(fleet.clone(), request)).await?;
    }
    fleet.watch(&ctx).await
}
