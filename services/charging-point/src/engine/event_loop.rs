//! The engine with its I/O, for [`mesh::peer::run`].

use std::{sync::Arc, time::Instant};

use mesh::{
    clock::Clock,
    health::Component,
    peer::{LinkEvent, LinkNo, PeerConnections, PeerRole},
    process::Context,
};
use prometheus_client::metrics::gauge::Gauge;
use proto::link::v1::{FromEngine, FromMonitor};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};

use super::{Engine, EngineAction, EngineCommand, EngineInput, EngineMetrics, EngineStatus};
use crate::{
    journal::Journal,
    journal_state::JournalRecord,
    other_part::{FromOther, OtherPart},
    pairing::PairingEvent,
};

/// What the loop takes.
#[derive(Debug)]
pub(crate) enum EngineEvent {
    Link(LinkNo, LinkEvent),
    Pairing(PairingEvent<FromMonitor>),
    Monitor(FromOther<FromMonitor>),
    /// The journal back from a write, up to this number.
    Written(Journal, u64, Result<(), String>),
    Act(EngineAction, oneshot::Sender<Result<(), String>>),
    Status(oneshot::Sender<EngineStatus>),
}

/// The person's end of an engine's loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EngineHandle(pub(crate) mpsc::Sender<EngineEvent>);

impl EngineHandle {
    /// Does it, or says why not.
    pub async fn act(&self, action: EngineAction) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "the engine is stopping".to_owned();
        self.0.send(EngineEvent::Act(action, reply)).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    pub async fn status(&self) -> Option<EngineStatus> {
        let (reply, answer) = oneshot::channel();
        self.0.send(EngineEvent::Status(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// How many journals may be written at once, shared by a fleet.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<Semaphore>);

impl Disk {
    pub(crate) fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }
}

pub(crate) struct EngineLoop {
    core: Engine,
    clock: Clock,
    disk: Disk,
    journal: Option<Journal>,
    writing: Option<JoinHandle<EngineEvent>>,
    connections: PeerConnections<EngineEvent>,
    monitor: OtherPart<FromEngine>,
    /// Shown only where one engine is alone in its process.
    display: Option<EngineDisplay>,
}

impl EngineLoop {
    pub(crate) fn new(
        core: Engine,
        journal: Journal,
        disk: Disk,
        clock: Clock,
        events: mpsc::Sender<EngineEvent>,
        monitor: OtherPart<FromEngine>,
    ) -> Self {
        let connections = PeerConnections::new(clock, events, EngineEvent::Link);
        Self { core, clock, disk, journal: Some(journal), writing: None, connections, monitor, display: None }
    }

    /// Logs each change of what a person must know, and shows it in the role's health.
    pub(crate) fn displayed(mut self, ctx: &Context) -> Self {
        self.display = Some(EngineDisplay::new(ctx));
        self
    }

    fn monitor_event(&mut self, heard: FromOther<FromMonitor>) {
        let input = match heard {
            FromOther::Paired => EngineInput::Paired,
            FromOther::Message(message) => EngineInput::Monitor(message),
            FromOther::Gone(why) => EngineInput::Unpaired(why),
        };
        self.core.handle(input, self.clock.now());
    }

    /// Off the loop: a disk may be slow, and meters must not wait for it.
    fn write(&mut self, records: Vec<JournalRecord>, upto: u64, durable: bool) {
        let Some(mut journal) = self.journal.take() else { return };
        let (disk, wall_ms) = (self.disk.clone(), self.clock.wall_ms());
        self.writing = Some(tokio::spawn(async move {
            // The semaphore is never closed.
            let _permit = disk.0.acquire().await;
            let work = tokio::task::spawn_blocking(move || {
                let result = journal.append(&records, durable, wall_ms).map_err(|error| error.to_string());
                EngineEvent::Written(journal, upto, result)
            });
            match work.await {
                Ok(done) => done,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }));
    }
}

impl PeerRole for EngineLoop {
    type Event = EngineEvent;

    async fn handle(&mut self, event: EngineEvent) -> anyhow::Result<()> {
        let now = self.clock.now();
        match event {
            EngineEvent::Link(link, event) => self.core.handle(EngineInput::Link(link, event), now),
            EngineEvent::Pairing(heard) => {
                if let Some(heard) = self.monitor.paired(heard) {
                    self.monitor_event(heard);
                }
            }
            EngineEvent::Monitor(heard) => self.monitor_event(heard),
            EngineEvent::Written(journal, upto, result) => {
                self.journal = Some(journal);
                let input = result.map_or_else(EngineInput::WriteFailed, |()| EngineInput::Written(upto));
                self.core.handle(input, now);
            }
            // Who asked may have given up waiting.
            EngineEvent::Act(action, reply) => drop(reply.send(self.core.act(action, now))),
            EngineEvent::Status(reply) => drop(reply.send(self.core.status())),
        }
        Ok(())
    }

    async fn carry_out(&mut self) -> anyhow::Result<()> {
        while let Some(command) = self.core.next_command() {
            match command {
                EngineCommand::Link(command) => self.connections.carry_out(command),
                EngineCommand::Spoil { link, on } => self.connections.spoil(link, on),
                EngineCommand::Report(message) => self.monitor.tell(message),
                EngineCommand::Write { records, upto, durable } => self.write(records, upto, durable),
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
        self.core.handle(EngineInput::Timeout, self.clock.now());
    }

    fn job(&mut self) -> &mut Option<JoinHandle<EngineEvent>> {
        &mut self.writing
    }

    /// The supply that runs ends with its final value on disk and, if Central can be reached, told.
    fn stop(&mut self) {
        self.core.stop(self.clock.now());
    }

    fn is_persisted(&self) -> bool {
        self.core.is_persisted()
    }

    async fn close(self) {
        self.connections.close().await;
    }
}

/// A gauge and its figure.
type FigureGauge = (Gauge, fn(&EngineMetrics) -> u64);

/// What is seen of an engine that has a process of its own: its log, its health, its metrics.
pub(super) struct EngineDisplay {
    line: String,
    central: Component,
    figures: Vec<FigureGauge>,
}

impl EngineDisplay {
    pub(super) fn new(ctx: &Context) -> Self {
        let gauge = |name: &str, help: &str| ctx.metrics.register(name, help, Gauge::default());
        let figures: Vec<FigureGauge> = vec![
            (gauge("meter_wh", "Lifetime register in watt-hours"), |f| f.meter_wh),
            (gauge("supplying", "1 while a supply runs"), |f| u64::from(f.supplying)),
            (gauge("central_reachable", "1 while the link to Central is open"), |f| u64::from(f.central_reachable)),
            (gauge("sessions_unsettled", "Ended sessions that Central has not settled"), |f| f.unsettled as u64),
            (gauge("messages_unintelligible", "Messages from Central that did not open"), |f| f.unintelligible),
            (gauge("readings_waiting", "Readings kept for Central"), |f| f.readings_waiting as u64),
        ];
        Self { line: String::new(), central: ctx.health.component("central"), figures }
    }

    pub(super) fn update(&mut self, core: &Engine) {
        let figures = core.figures();
        for (gauge, figure) in &self.figures {
            gauge.set(i64::try_from(figure(&figures)).unwrap_or(i64::MAX));
        }
        let line = core.headline();
        if self.line != line {
            tracing::info!("{line}");
            self.line = line;
            // To be without Central is no reason to be restarted (SPEC 9.1).
            match core.warnings().into_iter().next() {
                Some(warning) => self.central.degraded(warning),
                None if figures.central_reachable => self.central.ready(),
                None => self.central.degraded(core.status().detail),
            }
        }
    }
}
