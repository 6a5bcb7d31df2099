//! The monitor with its I/O, for [`mesh::peer::run`].

use std::{path::PathBuf, time::Instant};

use mesh::{
    clock::Clock,
    health::Component,
    peer::{EnrolleeInput, EnrolleeIo, PeerRole, RegistryClient},
    process::Context,
};
use prometheus_client::metrics::gauge::Gauge;
use proto::link::v1::{FromEngine, FromMonitor};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{Monitor, MonitorAction, MonitorCommand, MonitorInput, MonitorStatus};
use crate::{
    other_part::{FromOther, OtherPart},
    pairing::PairingEvent,
};

/// What the loop takes.
#[derive(Debug)]
pub(crate) enum MonitorEvent {
    Enrollee(EnrolleeInput),
    Pairing(PairingEvent<FromEngine>),
    Engine(FromOther<FromEngine>),
    Act(MonitorAction, oneshot::Sender<Result<(), String>>),
    Status(oneshot::Sender<MonitorStatus>),
}

impl From<EnrolleeInput> for MonitorEvent {
    fn from(input: EnrolleeInput) -> Self {
        Self::Enrollee(input)
    }
}

/// The person's end of a monitor's loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MonitorHandle(pub(crate) mpsc::Sender<MonitorEvent>);

impl MonitorHandle {
    /// Does it, or says why not.
    pub async fn act(&self, action: MonitorAction) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "the monitor is stopping".to_owned();
        self.0.send(MonitorEvent::Act(action, reply)).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    pub async fn status(&self) -> Option<MonitorStatus> {
        let (reply, answer) = oneshot::channel();
        self.0.send(MonitorEvent::Status(reply)).await.ok()?;
        answer.await.ok()
    }
}

pub(crate) struct MonitorLoop {
    core: Monitor,
    clock: Clock,
    io: EnrolleeIo<MonitorEvent>,
    engine: OtherPart<FromMonitor>,
    /// Shown only where one monitor is alone in its process.
    display: Option<MonitorDisplay>,
}

impl MonitorLoop {
    /// `path`: of the identity.
    pub(crate) fn new(
        core: Monitor,
        path: PathBuf,
        registry: RegistryClient,
        clock: Clock,
        events: mpsc::Sender<MonitorEvent>,
        engine: OtherPart<FromMonitor>,
    ) -> Self {
        let io = EnrolleeIo::new(registry, path, clock, events);
        Self { core, clock, io, engine, display: None }
    }

    /// Logs each change of what a person must know, and shows it in the role's health.
    pub(crate) fn displayed(mut self, ctx: &Context) -> Self {
        self.display = Some(MonitorDisplay::new(ctx));
        self
    }

    fn engine_event(&mut self, heard: FromOther<FromEngine>) {
        let input = match heard {
            FromOther::Paired => MonitorInput::Paired,
            FromOther::Message(message) => MonitorInput::Engine(message),
            FromOther::Gone(why) => MonitorInput::Unpaired(why),
        };
        self.core.handle(input, self.clock.now());
    }
}

impl PeerRole for MonitorLoop {
    type Event = MonitorEvent;

    async fn handle(&mut self, event: MonitorEvent) -> anyhow::Result<()> {
        let now = self.clock.now();
        match event {
            MonitorEvent::Enrollee(input) => self.core.handle(MonitorInput::Enrollee(input), now),
            MonitorEvent::Pairing(heard) => {
                if let Some(heard) = self.engine.paired(heard) {
                    self.engine_event(heard);
                }
            }
            MonitorEvent::Engine(heard) => self.engine_event(heard),
            // Who asked may have given up waiting.
            MonitorEvent::Act(action, reply) => drop(reply.send(self.core.act(action, now))),
            MonitorEvent::Status(reply) => drop(reply.send(self.core.status())),
        }
        Ok(())
    }

    async fn carry_out(&mut self) -> anyhow::Result<()> {
        while let Some(command) = self.core.next_command() {
            match command {
                MonitorCommand::Enrollee(command) => self.io.carry_out(command),
                MonitorCommand::Tell(message) => self.engine.tell(message),
            }
        }
        if let Some(display) = &mut self.display {
            display.update(&self.core);
        }
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.core.poll_timeout()
    }

    fn handle_timeout(&mut self) {
        self.core.handle(MonitorInput::Timeout, self.clock.now());
    }

    fn job(&mut self) -> &mut Option<JoinHandle<MonitorEvent>> {
        &mut self.io.saving
    }

    fn is_persisted(&self) -> bool {
        self.core.is_persisted()
    }

    async fn close(self) {
        self.io.close().await;
    }
}

/// What is seen of a monitor that has a process of its own: its log, its health, its metrics.
struct MonitorDisplay {
    line: String,
    central: Component,
    central_reachable: Gauge,
    engine_healthy: Gauge,
    key_expires_at: Gauge,
}

impl MonitorDisplay {
    fn new(ctx: &Context) -> Self {
        let gauge = |name: &str, help: &str| ctx.metrics.register(name, help, Gauge::default());
        Self {
            line: String::new(),
            central: ctx.health.component("central"),
            central_reachable: gauge("central_reachable", "1 while the link to Central is open"),
            engine_healthy: gauge("engine_healthy", "The monitor's verdict on its engine"),
            key_expires_at: gauge("key_expires_at_seconds", "When the link's key expires, in Unix time; 0: no key"),
        }
    }

    fn update(&mut self, core: &Monitor) {
        self.central_reachable.set(core.is_reachable().into());
        self.engine_healthy.set(core.engine_is_healthy().into());
        self.key_expires_at.set(core.key_expires_at_ms() / 1000);
        let line = core.headline();
        if self.line != line {
            tracing::info!("{line}");
            self.line = line;
            // To be without Central is no reason to be restarted (SPEC 9.1).
            match core.warnings().first() {
                Some(warning) => self.central.degraded(warning.clone()),
                None => self.central.ready(),
            }
        }
    }
}
