//! The monitor's loop: feeds inputs to the core, carries its commands out.

use std::path::PathBuf;

use mesh::{clock::Clock, health::Component, link::SendQueue, process::Context};
use prometheus_client::metrics::gauge::Gauge;
use proto::link::v1::{FromEngine, FromMonitor};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{
        self,
        drive::{Direct, at},
    },
    lines::Lines,
    pairing::{self, Heard},
    uplink::{LinkEvent, LinkNo},
};

use super::{
    Action, Command, Input, Monitor, MonitorStatus, StoredIdentity,
    registry::{Door, RegistryError},
};

/// What the loop takes. One bounded channel, so that everything is in order.
#[derive(Debug)]
pub(crate) enum Event {
    Link(LinkNo, LinkEvent),
    Pairing(Heard<FromEngine>),
    /// From an engine in the same process.
    Direct(Direct<FromEngine>),
    Registry(Input),
    Act(Action, oneshot::Sender<Result<(), String>>),
    Status(oneshot::Sender<MonitorStatus>),
}

/// How the engine is reached.
#[derive(Debug)]
pub(crate) enum Engine {
    Pairing(Option<SendQueue>),
    Here(mpsc::WeakSender<engine::drive::Event>),
}

/// The person's end of a monitor's loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MonitorHandle(pub(crate) mpsc::Sender<Event>);

impl MonitorHandle {
    /// Does it, or says why not.
    pub async fn act(&self, action: Action) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "the monitor is stopping".to_owned();
        self.0.send(Event::Act(action, reply)).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    pub async fn status(&self) -> Option<MonitorStatus> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Event::Status(reply)).await.ok()?;
        answer.await.ok()
    }
}

pub(crate) struct Drive {
    core: Monitor,
    clock: Clock,
    path: PathBuf,
    saving: Option<JoinHandle<Result<(), String>>>,
    registry: Option<Door>,
    lines: Lines<Event>,
    back: mpsc::WeakSender<Event>,
    engine: Engine,
    shown: Option<Shown>,
}

impl Drive {
    pub(crate) fn new(
        core: Monitor,
        path: PathBuf,
        registry: Option<Door>,
        clock: Clock,
        back: &mpsc::Sender<Event>,
        engine: Engine,
    ) -> Self {
        let lines = Lines::new(clock, back.clone(), Event::Link);
        let back = back.downgrade();
        Self { core, clock, path, saving: None, registry, lines, back, engine, shown: None }
    }

    /// Logs each change of what a person must know, and lets it stand in the role's health.
    pub(crate) fn talkative(mut self, ctx: &Context) -> Self {
        self.shown = Some(Shown::new(ctx));
        self
    }

    /// Until `stop`; the links are closed in order then.
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
            result = saved(&mut self.saving) => {
                self.saving = None;
                self.core.handle(Input::Saved(result), self.clock.now());
            }
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
            Event::Direct(Direct::Message(message)) => self.core.handle(Input::Engine(message), now),
            Event::Registry(input) => self.core.handle(input, now),
            // Whoever asked may have given up waiting.
            Event::Act(action, reply) => drop(reply.send(self.core.act(action, now))),
            Event::Status(reply) => drop(reply.send(self.core.status())),
        }
    }

    fn heard(&mut self, heard: Heard<FromEngine>) {
        let now = self.clock.now();
        match heard {
            Heard::Paired(send_queue) => {
                if let Engine::Pairing(Some(old)) =
                    std::mem::replace(&mut self.engine, Engine::Pairing(Some(send_queue)))
                {
                    tracing::warn!("another engine paired; the one before is let go");
                    old.close();
                }
                self.core.handle(Input::Paired, now);
            }
            Heard::Message(message) => self.core.handle(Input::Engine(message), now),
            Heard::Ended(which, why) => {
                // A late end of a pairing that was replaced says nothing of the present one.
                let present =
                    matches!((&self.engine, &which), (Engine::Pairing(Some(now)), Some(gone)) if now.same_link(gone));
                if present {
                    self.engine = Engine::Pairing(None);
                    self.core.handle(Input::Unpaired(why), now);
                }
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.core.next_command() {
            match command {
                Command::Link(order) => self.lines.carry(order),
                Command::Tell(message) => self.tell(message),
                Command::Save(stored) => self.save(*stored),
                Command::Enrol(body) => self.ask_registry(
                    move |door| async move { Input::Enrolled(door.enrol(&body).await.map(Box::new)) },
                    |error| Input::Enrolled(Err(error)),
                ),
                Command::AskRegistry { id, credential, trust } => self.ask_registry(
                    move |door| async move {
                        Input::EnrolmentStatus(door.status(&id, &credential, &trust).await.map(Box::new))
                    },
                    |error| Input::EnrolmentStatus(Err(error)),
                ),
                Command::Remove { id, credential, trust } => self.ask_registry(
                    move |door| async move { Input::Removed(door.remove(&id, &credential, &trust).await) },
                    |error| Input::Removed(Err(error)),
                ),
            }
        }
    }

    fn tell(&self, message: Box<FromMonitor>) {
        match &self.engine {
            Engine::Pairing(Some(send_queue)) => pairing::tell(send_queue, &*message),
            Engine::Pairing(None) => {}
            Engine::Here(engine) => {
                if let Some(engine) = engine.upgrade() {
                    // An engine that takes no message for long is noticed by its silence.
                    drop(engine.try_send(engine::drive::Event::Direct(Direct::Message(message))));
                }
            }
        }
    }

    fn save(&mut self, stored: StoredIdentity) {
        let path = self.path.clone();
        self.saving = Some(tokio::task::spawn_blocking(move || {
            stored.save(&path).map_err(|error| format!("{}: {error}", path.display()))
        }));
    }

    /// Beside the loop; the answer comes back as an event.
    fn ask_registry<F, Fut>(&self, ask: F, failed: fn(RegistryError) -> Input)
    where
        F: FnOnce(Door) -> Fut + Send + 'static,
        Fut: Future<Output = Input> + Send + 'static,
    {
        let (back, door) = (self.back.clone(), self.registry.clone());
        tokio::spawn(async move {
            let input = match door {
                Some(door) => ask(door).await,
                None => failed(RegistryError::Unreachable("no address; give one with --registry".to_owned())),
            };
            if let Some(back) = back.upgrade() {
                // Ended meanwhile: nobody wants the answer.
                drop(back.send(Event::Registry(input)).await);
            }
        });
    }

    fn show(&mut self) {
        if let Some(shown) = &mut self.shown {
            shown.look(&self.core);
        }
    }

    async fn wind_up(mut self, events: &mut mpsc::Receiver<Event>) -> anyhow::Result<()> {
        let stored = async {
            while !self.core.is_persisted() {
                self.step(events).await;
                self.carry_out();
            }
        };
        drop(tokio::time::timeout(std::time::Duration::from_secs(2), stored).await);
        events.close();
        self.lines.farewell().await;
        Ok(())
    }
}

/// What is seen of a monitor that has a process of its own: its log, its health, its metrics.
struct Shown {
    line: String,
    central: Component,
    central_reachable: Gauge,
    engine_healthy: Gauge,
    key_expires_at: Gauge,
}

impl Shown {
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

    fn look(&mut self, core: &Monitor) {
        self.central_reachable.set(core.is_reachable().into());
        self.engine_healthy.set(core.health().healthy.into());
        self.key_expires_at.set(core.key_expires_at_ms() / 1000);
        let line = core.headline();
        if self.line != line {
            tracing::info!("{line}");
            self.line = line;
            // Being alone is no reason to be restarted (SPEC 9.1).
            match core.warnings().first() {
                Some(warning) => self.central.degraded(warning.clone()),
                None => self.central.ready(),
            }
        }
    }
}

async fn saved(saving: &mut Option<JoinHandle<Result<(), String>>>) -> Result<(), String> {
    match saving {
        Some(task) => task.await.unwrap_or_else(|error| Err(error.to_string())),
        None => std::future::pending().await,
    }
}
