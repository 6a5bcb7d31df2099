//! A charging point (SPEC 1.4): the *engine* is its hardware, and the *monitor* is responsible for its health and
//! identity. They are two processes, so that each can fail alone. A *fleet* runs many of both in one process, to make
//! load.
//!
//! ```text
//!              person: terminal keys, ctl                      person: terminal keys, ctl
//!                         │                                               │
//!  journal ◀─▶ engine (pure) ◀── pairing: id, key; health ──▶ monitor (pure) ──▶ Registry (HTTPS): enrolment
//!                         │                                               │
//!                       uplink (pure)                                   uplink (pure)
//!                         └───── link: orders, meter, readings ── Central ┘ link: health, keys, view
//! ```
//!
//! Guarantees: energy flows only for a session that Central has authorised and whose start is in the journal; a final
//! value is on disk before it is sent, and is sent until it is answered; whichever process dies, all energy is billed
//! exactly once.
//!
//! Architecture invariant: [`engine`], [`monitor`], [`uplink`], [`meter`] and [`journal_state`] touch no clock, socket, file
//! or chance; their event loops, [`journal`] and the other I/O modules decide nothing.

mod args;
mod chance;
mod commands;
mod config;
pub mod engine;
pub mod fleet;
pub mod journal;
pub mod journal_state;
mod labels;
mod lines;
pub mod meter;
pub mod monitor;
pub mod pairing;
mod screen;
pub mod uplink;

use mesh::{
    control,
    process::{Context, Misuse},
};
use serde_json::Value;
use tokio::sync::mpsc;

pub use crate::{
    chance::Chance,
    config::{
        EngineConfig, EnrolmentConfig, FleetConfig, MeterConfig, MonitorConfig, PairingConfig, ReachConfig,
        VehicleConfig,
    },
    fleet::Fleet,
};
use crate::{
    engine::{Engine, drive::EngineHandle},
    journal::Journal,
    monitor::{Monitor, StoredIdentity, drive::MonitorHandle, registry::Door},
};

/// Most inputs that wait for an event loop.
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
    let core = Engine::new(settings, journal.state().clone(), rand::random(), Chance::seeded(rand::random()), now);

    let (events, happened) = mpsc::channel(EVENTS);
    let handle = EngineHandle(events.clone());
    let monitor = engine::drive::Monitor::Pairing(None);
    let disk = engine::drive::Disk::new(1);
    let drive = engine::drive::Drive::new(core, journal, disk, ctx.clock, events.clone(), monitor).talkative(&ctx);

    let settings = config.pairing.wire();
    ctx.spawn("pairing", pairing::seek(ctx.clone(), place, secret, settings, events, engine::drive::Event::Pairing));
    let asked = handle.clone();
    if let Some(path) = ctx.control_socket() {
        let handle = handle.clone();
        control::serve(&ctx, path, move |request| commands::engine(handle.clone(), request)).await?;
    }
    let answer = move |request| said(commands::engine(asked.clone(), request));
    screen::start(&ctx, screen::ENGINE_KEYS, answer, screen::engine_line);
    drive.run(happened, ctx.stop.clone()).await
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
        && stored != given
    {
        let text = format!("{} is the identity of {stored}, not of {given}: each has its own --data", path.display());
        return Err(Misuse::new(text).into());
    }
    let settings = monitor::Settings {
        id: config.id.clone(),
        city: config.city.clone(),
        place: config.place.clone(),
        ..config.enrolment.settings(&config.reach)?
    };
    let core = Monitor::new(settings, stored, Chance::seeded(rand::random()), ctx.clock.now());

    let (events, happened) = mpsc::channel(EVENTS);
    let handle = MonitorHandle(events.clone());
    let door = Some(Door::new(&config.enrolment.registry));
    let engine = monitor::drive::Engine::Pairing(None);
    let drive = monitor::drive::Drive::new(core, path, door, ctx.clock, &events, engine).talkative(&ctx);

    let settings = config.pairing.wire();
    pairing::listen(&ctx, &place, secret, settings, events, monitor::drive::Event::Pairing).await?;
    if let Some(path) = ctx.control_socket() {
        let handle = handle.clone();
        control::serve(&ctx, path, move |request| commands::monitor(handle.clone(), request)).await?;
    }
    let answer = move |request| said(commands::monitor(handle.clone(), request));
    screen::start(&ctx, screen::MONITOR_KEYS, answer, screen::monitor_line);
    drive.run(happened, ctx.stop.clone()).await
}

/// The answer as a screen shows it: an error is one sentence.
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
