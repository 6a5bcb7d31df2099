//! The engine's loop: feeds inputs to the core, carries its commands out.

use std::sync::Arc;

use mesh::{clock::Clock, health::Component, link::SendQueue, process::Context};
use prometheus_client::metrics::gauge::Gauge;
use proto::link::v1::{FromEngine, FromMonitor};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    journal::Journal,
    journal_state::JournalRecord,
    lines::Lines,
    monitor,
    pairing::{self, Heard},
    uplink::{LinkEvent, LinkNo},
};

use super::{Action, Command, Engine, EngineMetrics, EngineStatus, Input};

/// What the loop takes. One bounded channel, so that everything is in order.
#[derive(Debug)]
pub(crate) enum Event {
    Link(LinkNo, LinkEvent),
    Pairing(Heard<FromMonitor>),
    /// From a monitor in the same process.
    Direct(Direct<FromMonitor>),
    Act(Action, oneshot::Sender<Result<(), String>>),
    Status(oneshot::Sender<EngineStatus>),
}

/// A pairing without a socket.
#[derive(Debug)]
pub(crate) enum Direct<M> {
    Paired,
    Message(Box<M>),
}

/// How the monitor is reached.
#[derive(Debug)]
pub(crate) enum Monitor {
    Pairing(Option<SendQueue>),
    Here(mpsc::WeakSender<monitor::drive::Event>),
}

/// The engine's end of its loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EngineHandle(pub(crate) mpsc::Sender<Event>);

impl EngineHandle {
    /// Does it, or says why not.
    pub async fn act(&self, action: Action) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "the engine is stopping".to_owned();
        self.0.send(Event::Act(action, reply)).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    pub async fn status(&self) -> Option<EngineStatus> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Event::Status(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// What the loop writes with, shared by a fleet.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<Semaphore>);

impl Disk {
    pub(crate) fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }
}

type Write = JoinHandle<(Journal, u64, Result<(), String>)>;

pub(crate) struct Drive {
    core: Engine,
    clock: Clock,
    disk: Disk,
    journal: Option<Journal>,
    writing: Option<Write>,
    lines: Lines<Event>,
    monitor: Monitor,
    /// Told apart in the log only where one engine is alone in its process.
    shown: Option<Shown>,
}

impl Drive {
    pub(crate) fn new(
        core: Engine,
        journal: Journal,
        disk: Disk,
        clock: Clock,
        back: mpsc::Sender<Event>,
        monitor: Monitor,
    ) -> Self {
        let lines = Lines::new(clock, back, Event::Link);
        Self { core, clock, disk, journal: Some(journal), writing: None, lines, monitor, shown: None }
    }

    /// Logs each change of what a person must know, and lets it stand in the role's health.
    pub(crate) fn talkative(mut self, ctx: &Context) -> Self {
        self.shown = Some(Shown::new(ctx));
        self
    }

    /// Until `stop`. A running supply ends then with its final value, and the links are closed in order.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            self.carry_out();
            self.show();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.step(&mut events) => {}
            }
        }
        self.wind_up(&mut events).await
    }

    async fn step(&mut self, events: &mut mpsc::Receiver<Event>) {
        let due = self.core.poll_timeout();
        tokio::select! {
            biased;
            done = written(&mut self.writing) => self.wrote(done),
            Some(event) = events.recv() => self.take(event),
            () = at(self.clock, due) => self.core.handle(Input::Timeout, self.clock.now()),
        }
    }

    fn take(&mut self, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Link(link, event) => self.core.handle(Input::Link(link, event), now),
            Event::Pairing(heard) => self.heard(heard),
            Event::Direct(Direct::Paired) => self.core.handle(Input::Paired, now),
            Event::Direct(Direct::Message(message)) => self.core.handle(Input::Monitor(message), now),
            // Whoever asked may have given up waiting.
            Event::Act(action, reply) => drop(reply.send(self.core.act(action, now))),
            Event::Status(reply) => drop(reply.send(self.core.status())),
        }
    }

    fn heard(&mut self, heard: Heard<FromMonitor>) {
        let now = self.clock.now();
        match heard {
            Heard::Paired(send_queue) => {
                self.monitor = Monitor::Pairing(Some(send_queue));
                self.core.handle(Input::Paired, now);
            }
            Heard::Message(message) => self.core.handle(Input::Monitor(message), now),
            Heard::Ended(_, why) => {
                self.monitor = Monitor::Pairing(None);
                self.core.handle(Input::Unpaired(why), now);
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.core.next_command() {
            match command {
                Command::Link(order) => self.lines.carry(order),
                Command::Spoil { link, on } => self.lines.spoil(link, on),
                Command::Report(message) => self.report(message),
                Command::Write { records, upto, durable } => self.write(records, upto, durable),
            }
        }
    }

    fn report(&self, message: Box<FromEngine>) {
        match &self.monitor {
            Monitor::Pairing(Some(send_queue)) => pairing::tell(send_queue, &*message),
            Monitor::Pairing(None) => {}
            Monitor::Here(monitor) => {
                if let Some(monitor) = monitor.upgrade() {
                    // A monitor that is behind gets the next report.
                    drop(monitor.try_send(monitor::drive::Event::Direct(Direct::Message(message))));
                }
            }
        }
    }

    /// Off the loop: a disk may be slow, and meters must not wait for it.
    fn write(&mut self, records: Vec<JournalRecord>, upto: u64, durable: bool) {
        let Some(mut journal) = self.journal.take() else { return };
        let (disk, wall_ms) = (self.disk.clone(), self.clock.wall_ms());
        self.writing = Some(tokio::spawn(async move {
            // Closed never: the disk is as long as its engines.
            let _turn = disk.0.acquire().await;
            let work = tokio::task::spawn_blocking(move || {
                let result = journal.append(&records, durable, wall_ms).map_err(|error| error.to_string());
                (journal, upto, result)
            });
            match work.await {
                Ok(done) => done,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }));
    }

    fn wrote(&mut self, (journal, upto, result): (Journal, u64, Result<(), String>)) {
        self.writing = None;
        self.journal = Some(journal);
        let input = match result {
            Ok(()) => Input::Written(upto),
            Err(why) => Input::WriteFailed(why),
        };
        self.core.handle(input, self.clock.now());
    }

    fn show(&mut self) {
        if let Some(shown) = &mut self.shown {
            shown.look(&self.core);
        }
    }

    /// The supply that runs ends with its final value on disk and, if Central can be reached, told.
    async fn wind_up(mut self, events: &mut mpsc::Receiver<Event>) -> anyhow::Result<()> {
        self.core.stop(self.clock.now());
        self.carry_out();
        let settled = async {
            while !self.core.is_persisted() {
                self.step(events).await;
                self.carry_out();
            }
        };
        drop(tokio::time::timeout(std::time::Duration::from_secs(3), settled).await);
        // Whatever still comes must not hold the links back while they say goodbye.
        events.close();
        self.lines.farewell().await;
        Ok(())
    }
}

/// A gauge and its figure.
type Shows = (Gauge, fn(&EngineMetrics) -> u64);

/// What is seen of an engine that has a process of its own: its log, its health, its metrics.
pub(super) struct Shown {
    line: String,
    central: Component,
    figures: Vec<Shows>,
}

impl Shown {
    pub(super) fn new(ctx: &Context) -> Self {
        let gauge = |name: &str, help: &str| ctx.metrics.register(name, help, Gauge::default());
        let figures: Vec<Shows> = vec![
            (gauge("meter_wh", "Lifetime register in watt-hours"), |f| f.meter_wh),
            (gauge("supplying", "1 while a supply runs"), |f| u64::from(f.supplying)),
            (gauge("central_reachable", "1 while the link to Central is open"), |f| u64::from(f.central_reachable)),
            (gauge("sessions_unsettled", "Ended sessions that Central has not settled"), |f| f.unsettled as u64),
            (gauge("messages_unintelligible", "Messages from Central that did not open"), |f| f.unintelligible),
            (gauge("readings_waiting", "Readings kept for Central"), |f| f.readings_waiting as u64),
        ];
        Self { line: String::new(), central: ctx.health.component("central"), figures }
    }

    pub(super) fn look(&mut self, core: &Engine) {
        let figures = core.figures();
        for (gauge, figure) in &self.figures {
            gauge.set(i64::try_from(figure(&figures)).unwrap_or(i64::MAX));
        }
        let line = core.headline();
        if self.line != line {
            tracing::info!("{line}");
            self.line = line;
            // Being alone is no reason to be restarted (SPEC 9.1).
            match core.warnings().into_iter().next() {
                Some(warning) => self.central.degraded(warning),
                None if figures.central_reachable => self.central.ready(),
                None => self.central.degraded(core.status().detail),
            }
        }
    }
}

async fn written(writing: &mut Option<Write>) -> (Journal, u64, Result<(), String>) {
    match writing {
        Some(task) => match task.await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        },
        None => std::future::pending().await,
    }
}

pub(crate) async fn at(clock: Clock, due: Option<std::time::Instant>) {
    match due {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
