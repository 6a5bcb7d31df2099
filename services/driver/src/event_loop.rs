//! The driver with its I/O, for [`mesh::peer::run`]: orders, files and Central's messages go to the rules, whose commands
//! are carried out in their order.

mod central;
mod disk;
mod orders;
mod reporter;
#[cfg(test)]
mod tests;
mod waiting;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use mesh::{
    clock::{Clock, Now},
    health::Health,
    peer::{
        Enrollee, EnrolleeInput, EnrolleeIo, EnrolleeSettings, PeerRole, PeerSettings, RegistryClient, StoredIdentity,
    },
};
use proto::{
    DriverId, Energy,
    enrolment::{EnrolBody, PeerKind, SecretText},
    link::v1::{Part, Ticket, up},
};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use self::{
    reporter::Reporter,
    waiting::{CommandAnswer, WaitingUsers},
};
use crate::{
    commands::UserCommand,
    data_dir::{DataDir, DataDirError, SavedState},
    file_queue::FileQueue,
    notification::Notification,
    random_requests::RandomRequests,
    request::{ConfirmPolicy, DriverOrder, DriverRequest},
    trip::{TripCommand, TripInput, TripSettings, Trips},
};

/// What a driver is told before it starts; every time is a setting.
#[derive(Clone, Debug)]
pub struct DriverSettings {
    pub enrollee: EnrolleeSettings,
    /// Registry's HTTPS address.
    pub registry: String,
    /// Time after which a request made by hand ends, if Central could not be reached.
    pub request_expires: Duration,
    pub confirm: ConfirmPolicy,
    /// Pause between the end of a request and the next one of the file.
    pub pause: Duration,
    pub file: Option<PathBuf>,
    /// Seed of requests at random.
    pub random_requests: Option<u64>,
    /// End when the file is over.
    pub exit_when_done: bool,
}

impl DriverSettings {
    /// With the specification's times. `central`: its link addresses, tried in turn. `token`: an enrolment token, needed
    /// at the first start.
    pub fn new(driver: &DriverId, central: Vec<String>, registry: String, token: Option<SecretText>) -> Self {
        let enrollee = EnrolleeSettings {
            part: Part::Driver,
            enrolment: EnrolBody { id: driver.to_string(), ..EnrolBody::default() },
            token,
            central,
            life_sign: Duration::from_millis(500),
            authenticate_again: Duration::from_secs(5),
            refusals: 3,
            registry_again: Duration::from_secs(1),
            peer: PeerSettings { retry_min: Duration::from_millis(250), ..PeerSettings::default() },
        };
        Self {
            enrollee,
            registry,
            request_expires: Duration::from_secs(60),
            confirm: ConfirmPolicy::Ask,
            pause: Duration::from_secs(4),
            file: None,
            random_requests: None,
            exit_when_done: false,
        }
    }
}

/// What the loop takes.
#[derive(Debug)]
pub(crate) enum DriverEvent {
    Enrollee(EnrolleeInput),
    /// Typed or sent; the answer, where one is waited for, is JSON or a sentence.
    UserCommand(UserCommand, Option<oneshot::Sender<CommandAnswer>>),
    Request(DriverRequest),
}

impl From<EnrolleeInput> for DriverEvent {
    fn from(input: EnrolleeInput) -> Self {
        Self::Enrollee(input)
    }
}

/// What a driver works through by itself.
struct Plans {
    state: SavedState,
    queue: Option<FileQueue>,
    random_requests: Option<RandomRequests>,
    /// What the disk did not take is tried again then.
    save_at: Option<Instant>,
}

pub(crate) struct DriverLoop {
    settings: DriverSettings,
    clock: Clock,
    enrollee: Enrollee,
    io: EnrolleeIo<DriverEvent>,
    data_dir: DataDir,
    trips: Trips,
    plans: Plans,
    waiting: WaitingUsers,
    reporter: Reporter,
    has_quit: bool,
}

impl DriverLoop {
    pub(crate) fn new(
        settings: DriverSettings,
        data_dir: DataDir,
        stored: StoredIdentity,
        clock: Clock,
        events: mpsc::Sender<DriverEvent>,
        notifications: mpsc::Sender<(Now, Notification)>,
        health: Option<Health>,
    ) -> Result<Self, DataDirError> {
        let now = clock.now();
        let state = data_dir.state()?;
        let tickets: Vec<_> = data_dir.tickets()?.into_iter().map(|t| (t.session_id, t.corrections.len())).collect();
        let rules = TripSettings { expire: settings.request_expires, confirm: settings.confirm };
        let random_requests = settings.random_requests.map(|seed| RandomRequests::new(seed, settings.pause, now.mono));
        let registry = RegistryClient::new(PeerKind::Driver, &settings.registry);
        let rng = StdRng::seed_from_u64(rand::random());
        Ok(Self {
            trips: Trips::new(rules, state.requests.clone(), tickets),
            enrollee: Enrollee::new(settings.enrollee.clone(), stored, rng, now),
            io: EnrolleeIo::new(registry, data_dir.identity(), clock, events),
            plans: Plans { state, queue: None, random_requests, save_at: None },
            settings,
            clock,
            data_dir,
            waiting: WaitingUsers::default(),
            reporter: Reporter::new(clock, notifications, health),
            has_quit: false,
        })
    }

    fn is_reachable(&self) -> bool {
        self.enrollee.is_reachable()
    }

    // ---- Commands of the rules

    /// The last hint among the notifications: an order that cannot be carried out now is refused with it.
    async fn carry_out_trips(&mut self) -> Option<String> {
        let mut hint = None;
        while let Some(command) = self.trips.next_command() {
            match command {
                TripCommand::Send(body) => {
                    self.enrollee.peer.request(body, self.clock.mono());
                }
                TripCommand::Withdraw(request_id) => self.enrollee.peer.withdraw(
                    |body| matches!(body, up::Body::RequestSupply(request) if request.request_id == request_id),
                ),
                TripCommand::SaveRequests(requests) => hint = self.save_requests(requests).await.or(hint),
                TripCommand::StoreTicket(ticket) => self.store(ticket).await,
                // A generation that has had them asks again with each link.
                TripCommand::CollectTickets(asked) if asked.generation <= self.plans.state.handed_back => {}
                TripCommand::CollectTickets(asked) => match self.data_dir.signed_tickets_since(asked.since_ms) {
                    Ok(tickets) => {
                        let input = TripInput::TicketsCollected { generation: asked.generation, tickets };
                        self.trips.handle(input, self.clock.now());
                    }
                    Err(error) => self.reporter.hint(format!("Central asks for the tickets: {error}")).await,
                },
                TripCommand::SaveHandedBack(generation) => {
                    self.plans.state.handed_back = generation;
                    self.plans.save_at = Some(self.clock.mono());
                }
                TripCommand::Notify(notification) => {
                    if let Notification::Hint { text } = &notification {
                        hint = Some(text.clone());
                    }
                    self.waiting.answer_with(&notification);
                    self.request_at_random(&notification);
                    self.reporter.notify(notification).await;
                }
            }
        }
        hint
    }

    async fn store(&mut self, ticket: Ticket) {
        match self.data_dir.save_ticket(&ticket) {
            Ok(()) => {
                self.reporter.ticket_waits = false;
                self.trips.handle(TripInput::TicketStored(Box::new(ticket)), self.clock.now());
            }
            Err(error) => {
                self.trips.ticket_not_stored(&ticket);
                // Central sends it again every few seconds: said once.
                if !std::mem::replace(&mut self.reporter.ticket_waits, true) {
                    self.reporter.hint(format!("a ticket waits at Central: {error}")).await;
                }
            }
        }
    }

    fn request_at_random(&mut self, notification: &Notification) {
        let Notification::Offers { offers } = notification else { return };
        let now = self.clock.now();
        let free: Vec<&str> = offers.iter().map(|o| o.id.as_str()).collect();
        let chosen = self.plans.random_requests.as_mut().and_then(|random| random.choose(&free, now.mono));
        if let Some((id, energy)) = chosen
            && let Ok(charging_point) = id.parse()
        {
            let request = new_request(charging_point, energy, None);
            self.trips.handle(TripInput::Order(DriverOrder::Request(request)), now);
        }
    }
}

impl PeerRole for DriverLoop {
    type Event = DriverEvent;

    async fn handle(&mut self, event: DriverEvent) -> anyhow::Result<()> {
        match event {
            DriverEvent::Enrollee(input) => {
                self.enrollee.handle(input, self.clock.now());
                self.heed_enrollee().await?;
            }
            DriverEvent::UserCommand(command, answer) => self.execute(command, answer).await,
            DriverEvent::Request(request) => {
                self.trips.handle(TripInput::Order(DriverOrder::Request(request)), self.clock.now());
            }
        }
        Ok(())
    }

    async fn carry_out(&mut self) -> anyhow::Result<()> {
        self.heed_enrollee().await?;
        self.carry_out_trips().await;
        self.report_file().await;
        // Now that what is to be on disk first is there.
        self.enrollee.flush(self.clock.now());
        while let Some(command) = self.enrollee.next_command() {
            self.io.carry_out(command);
        }
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let random = self.plans.random_requests.as_ref().filter(|_| self.is_reachable());
        let random = random.and_then(|random| random.due(self.trips.requests().count()));
        let queue = self.plans.queue.as_ref().and_then(FileQueue::due);
        let (rules, save) = (self.trips.poll_timeout(), self.plans.save_at);
        [self.enrollee.poll_timeout(), rules, queue, random, save, self.waiting.due()].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self) {
        let now = self.clock.now();
        self.enrollee.handle_timeout(now);
        self.trips.handle(TripInput::Timeout, now);
        let trouble = self.trouble().unwrap_or_else(|| "it gave no answer".to_owned());
        self.waiting.expire(now.mono, &trouble);
        self.save_again();
        if let Some(request) = self.plans.queue.as_mut().and_then(|queue| queue.next(now.mono)) {
            let request = new_request(request.charging_point, request.energy, Some(request.line));
            self.trips.handle(TripInput::Order(DriverOrder::Request(request)), now);
        }
        let idle = self.trips.requests().count();
        if self.is_reachable()
            && self.plans.random_requests.as_mut().is_some_and(|random| random.start_search(idle, now.mono))
        {
            self.trips.handle(TripInput::Order(DriverOrder::ListChargingPoints), now);
        }
    }

    fn job(&mut self) -> &mut Option<JoinHandle<DriverEvent>> {
        &mut self.io.saving
    }

    fn is_over(&self) -> bool {
        self.has_quit || self.is_done()
    }

    fn is_persisted(&self) -> bool {
        self.enrollee.is_persisted()
    }

    async fn close(self) {
        self.io.close().await;
    }
}

pub(crate) fn new_request(charging_point: proto::ChargingPointId, energy: Energy, line: Option<u64>) -> DriverRequest {
    DriverRequest { id: hex::encode(rand::random::<[u8; 16]>()), charging_point, energy, line, session: None }
}
