//! The driver's one loop: feeds orders, links, files and time to the pure parts, and carries out what they command.

mod disk;
mod links;
mod orders;
mod registry;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use futures::FutureExt as _;
use mesh::{
    clock::{Clock, Now},
    health::{Component, Health},
    process::Context,
    skew::{self, ClockReader},
};
use proto::{DriverId, Energy, link::v1::Ticket};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::{
    commands::UserCommand,
    contact::{Contact, How, Rules},
    data_dir::{DataDir, DataDirError, DriverEnrolment, DriverKey, SavedState},
    file_queue::FileQueue,
    link::{Connection, LinkEvent, LinkNo},
    notification::Notification,
    random_requests::RandomRequests,
    request::{ConfirmPolicy, DriverOrder, DriverRequest},
    ticket::TicketText,
    trip::{TripCommand, TripInput, TripSettings, Trips},
};

/// What a driver needs to drive; every time is a setting.
#[derive(Clone, Debug)]
pub struct Settings {
    pub driver: DriverId,
    /// Central's link addresses, tried in turn.
    pub central: Vec<String>,
    /// Of each link.
    pub wire: wire::LinkSettings,
    pub clock: skew::SkewSettings,
    /// An unanswered message is sent again after this.
    pub repeat: Duration,
    /// A request by hand is over where Central could not be reached within this.
    pub request_expires: Duration,
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// A refused credential is shown again after this, or later if Central asks for that (SPEC 4.7).
    pub authenticate_again: Duration,
    /// So many refusals of the credential end the tries (SPEC 4.7).
    pub refusals: u32,
    pub confirm: ConfirmPolicy,
    /// From the end of a file's request to the next one.
    pub pause: Duration,
    pub file: Option<PathBuf>,
    /// Requests by chance, with this seed.
    pub random_requests: Option<u64>,
    /// End when the file is over.
    pub exit_when_done: bool,
}

impl Settings {
    /// With the specification's times.
    pub fn new(driver: DriverId, central: Vec<String>) -> Self {
        Self {
            driver,
            central,
            wire: wire::LinkSettings::default(),
            clock: skew::SkewSettings::default(),
            repeat: Duration::from_secs(5),
            request_expires: Duration::from_secs(60),
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(5),
            authenticate_again: Duration::from_secs(5),
            refusals: 3,
            confirm: ConfirmPolicy::Ask,
            pause: Duration::from_secs(4),
            file: None,
            random_requests: None,
            exit_when_done: false,
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            retry_min: self.retry_min,
            retry_max: self.retry_max,
            authenticate_again: self.authenticate_again,
            refusals: self.refusals.max(1),
            longest_retry: self.wire.longest_retry,
        }
    }
}

/// What somebody wants of the loop.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Typed or sent; the answer, where one is waited for, is JSON or a sentence.
    UserCommand(UserCommand, Option<oneshot::Sender<Result<Value, String>>>),
    Request(DriverRequest),
}

/// Somebody waits for what Central says next about this.
struct Waiting {
    offers: bool,
    answer: oneshot::Sender<Result<Value, String>>,
    until: std::time::Instant,
}

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Drive {
    settings: Settings,
    clock: Clock,
    data_dir: DataDir,
    enrolment: DriverEnrolment,
    key: Option<DriverKey>,
    contact: Contact,
    trips: Trips,
    state: SavedState,
    queue: Option<FileQueue>,
    random_requests: Option<RandomRequests>,
    active: Option<Connection>,
    /// Under a new key, or a further try: takes over once Central has spoken on it.
    next: Option<Connection>,
    last_no: LinkNo,
    dial_at: Option<std::time::Instant>,
    /// What the disk did not take is tried again then.
    keep_at: Option<std::time::Instant>,
    asking: Option<registry::Asking>,
    unreachable: Option<String>,
    unintelligible: u64,
    /// Of Central's clock.
    reading: ClockReader,
    clock_trouble: Option<String>,
    /// A ticket could not be put on the disk, and that was said.
    tickets_wait: bool,
    health: Option<Health>,
    waiting: Vec<Waiting>,
    events: mpsc::Sender<(LinkNo, LinkEvent)>,
    told: mpsc::Sender<(Now, Notification)>,
    said_over: bool,
}

impl Drive {
    pub(crate) fn new(
        settings: Settings,
        data_dir: DataDir,
        enrolment: DriverEnrolment,
        clock: Clock,
        events: mpsc::Sender<(LinkNo, LinkEvent)>,
        told: mpsc::Sender<(Now, Notification)>,
    ) -> Result<Self, DataDirError> {
        let now = clock.now();
        let key = data_dir.key()?;
        let state = data_dir.state()?;
        let stored: Vec<_> = data_dir.tickets()?.into_iter().map(|t| (t.session, t.corrections.len())).collect();
        let rules =
            TripSettings { repeat: settings.repeat, expire: settings.request_expires, confirm: settings.confirm };
        // Message ids of one driver must differ over restarts for a while: the clock sees to that.
        let first_id = u64::try_from(now.wall_ms).unwrap_or(1) << 16;
        Ok(Self {
            trips: Trips::new(rules, state.requests.clone(), stored, first_id),
            contact: Contact::new(settings.rules(), key.is_some()),
            reading: ClockReader::new(settings.clock),
            random_requests: settings.random_requests.map(|seed| RandomRequests::new(seed, settings.pause, now.mono)),
            settings,
            clock,
            data_dir,
            enrolment,
            key,
            state,
            queue: None,
            active: None,
            next: None,
            last_no: 0,
            dial_at: Some(now.mono),
            keep_at: None,
            asking: None,
            unreachable: None,
            unintelligible: 0,
            clock_trouble: None,
            tickets_wait: false,
            health: None,
            waiting: Vec::new(),
            events,
            told,
            said_over: false,
        })
    }

    /// What it cannot do now stands in the health of its role.
    pub(crate) fn shown(self, health: Option<Health>) -> Self {
        let drive = Self { health, ..self };
        drive.stand("connecting");
        drive
    }

    /// Being alone is no reason to be restarted (SPEC 9.1).
    fn stand(&self, trouble: &str) {
        let central = |health: &Health| -> Component { health.component("central") };
        match self.health.as_ref().map(central) {
            Some(central) if trouble.is_empty() => central.ready(),
            Some(central) => central.degraded(format!("cannot reach Central: {trouble}")),
            None => {}
        }
    }

    /// Until the process stops, or the file is over and that is the end.
    pub(crate) async fn run(
        mut self,
        ctx: &Context,
        mut asks: mpsc::Receiver<Ask>,
        mut events: mpsc::Receiver<(LinkNo, LinkEvent)>,
    ) -> anyhow::Result<()> {
        if let Some(file) = self.settings.file.clone() {
            self.load(file, true).await?;
        }
        loop {
            self.carry_out().await?;
            if self.is_done().await {
                break;
            }
            let due = self.due();
            tokio::select! {
                () = ctx.stop.cancelled() => break,
                Some(ask) = asks.recv() => if self.asked(ask).await? { break },
                Some((no, event)) = events.recv() => self.link_event(no, event).await?,
                said = registry::answered(&mut self.asking) => {
                    self.asking = None;
                    self.registry_said(said, self.clock.now()).await?;
                }
                () = sleep_until(self.clock, due) => self.timeout(),
            }
        }
        self.farewell(&mut events).await;
        Ok(())
    }

    fn due(&self) -> Option<std::time::Instant> {
        let random_requests = self
            .random_requests
            .as_ref()
            .filter(|_| self.reachable())
            .and_then(|r| r.due(self.trips.requests().count()));
        let queue = self.queue.as_ref().and_then(FileQueue::due);
        [self.trips.poll_timeout(), queue, self.dial_at, self.keep_at, random_requests, self.reading.due()]
            .into_iter()
            .flatten()
            .chain(self.waiting.iter().map(|w| w.until))
            .min()
    }

    fn timeout(&mut self) {
        let now = self.clock.now();
        self.trips.handle(TripInput::Timeout, now);
        let (late, waiting) = self.waiting.drain(..).partition::<Vec<_>, _>(|w| w.until <= now.mono);
        self.waiting = waiting;
        for waiting in late {
            let why = self.unreachable.as_deref().unwrap_or("it gave no answer");
            drop(waiting.answer.send(Err(format!("cannot reach Central: {why}"))));
        }
        self.keep_again();
        if self.reading.due().is_some_and(|due| due <= now.mono) {
            self.read_clock(now);
        }
        if self.dial_at.is_some_and(|at| at <= now.mono) {
            self.dial_at = None;
            self.dial();
        }
        if let Some(request) = self.queue.as_mut().and_then(|q| q.next(now.mono)) {
            let request = new_request(request.charging_point, request.energy, Some(request.line));
            self.trips.handle(TripInput::Order(DriverOrder::Request(request)), now);
        }
        let idle = self.trips.requests().count();
        if self.reachable() && self.random_requests.as_mut().is_some_and(|r| r.start_search(idle, now.mono)) {
            self.trips.handle(TripInput::Order(DriverOrder::ListChargingPoints), now);
        }
    }

    fn reachable(&self) -> bool {
        self.active.as_ref().is_some_and(|c| c.proven && c.how == How::Key)
    }

    // ---- Commands of the pure part

    /// The last hint among what is told: what was ordered may be nonsense now, and that is its refusal.
    async fn carry_out(&mut self) -> anyhow::Result<Option<String>> {
        let mut hint = None;
        while let Some(command) = self.trips.next_command() {
            match command {
                TripCommand::Send(up) => {
                    if let Some(active) = self.active.as_ref().filter(|c| c.proven) {
                        active.send(&up);
                    }
                }
                TripCommand::SaveRequests(requests) => hint = self.keep(requests).await.or(hint),
                TripCommand::StoreTicket(ticket) => self.store(ticket).await,
                TripCommand::Notify(told) => {
                    if let Notification::Hint { text } = &told {
                        hint = Some(text.clone());
                    }
                    self.answer_waiting(&told);
                    self.request_at_random(&told);
                    self.tell(told).await;
                }
            }
        }
        Ok(hint)
    }

    async fn store(&mut self, ticket: Ticket) {
        let text = TicketText::from(ticket.clone());
        match self.data_dir.save_ticket(&text) {
            Ok(()) => {
                self.tickets_wait = false;
                self.trips.handle(TripInput::TicketStored(Box::new(ticket)), self.clock.now());
            }
            Err(error) => {
                self.trips.ticket_not_stored(&ticket);
                // Central sends it again every few seconds: said once.
                if !std::mem::replace(&mut self.tickets_wait, true) {
                    let text = format!("a ticket waits at Central: {error}");
                    self.tell(Notification::Hint { text }).await;
                }
            }
        }
    }

    async fn tell(&mut self, told: Notification) {
        let now = self.clock.now();
        if matches!(told, Notification::Running(_)) {
            // The next value says more: nothing waits for a slow screen.
            drop(self.told.try_send((now, told)));
        } else {
            drop(self.told.send((now, told)).await);
        }
    }

    fn answer_waiting(&mut self, told: &Notification) {
        let offers = matches!(told, Notification::Offers { .. });
        if !offers && !matches!(told, Notification::History { .. }) {
            return;
        }
        let (answered, waiting) = self.waiting.drain(..).partition::<Vec<_>, _>(|w| w.offers == offers);
        self.waiting = waiting;
        for waiting in answered {
            drop(waiting.answer.send(Ok(json!(told))));
        }
    }

    fn request_at_random(&mut self, told: &Notification) {
        let Notification::Offers { offers } = told else { return };
        let now = self.clock.now();
        let free: Vec<&str> = offers.iter().map(|o| o.id.as_str()).collect();
        let Some((id, energy)) = self.random_requests.as_mut().and_then(|r| r.choose(&free, now.mono)) else { return };
        if let Ok(charging_point) = id.parse() {
            let request = new_request(charging_point, energy, None);
            self.trips.handle(TripInput::Order(DriverOrder::Request(request)), now);
        }
    }
}

pub(crate) fn new_request(charging_point: proto::ChargingPointId, energy: Energy, line: Option<u64>) -> DriverRequest {
    DriverRequest { id: hex::encode(rand::random::<[u8; 16]>()), charging_point, energy, line, session: None }
}

async fn sleep_until(clock: Clock, at: Option<std::time::Instant>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().boxed().await,
    }
}
