//! The one event loop: feeds inputs to the cores, submits what they decide to the store, and answers when it is durable.
//!
//! Guarantees: one turn in flight per charging point, and a bounded queue behind it; what is observed never waits for
//! a turn; nothing that a decision made durable is sent before the store has it; the work per message does not depend on
//! how many charging points there are. It decides nothing itself.

mod drivers;
mod inputs;
mod links;
mod load;
mod message;
mod points;
mod publish;
mod recall;
mod tickets;
mod weather;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use mesh::{clock::Alarm, link::SendQueue, process::Context};
use prometheus_client::metrics::{family::Family, gauge::Gauge};
use proto::{ChargingPointId, DriverId, PeerId, link::v1::View};
use store::central::{CommitRefusal, Committed, Turn};
use tokio::sync::{mpsc, oneshot};

use self::{drivers::DriverEntry, points::Point, tickets::TicketDelivery};
use crate::{
    charge_point::{CityWeather, Effect, OrderOutcome, PointInput, Reply},
    origin::LinkNo,
    session::SessionId,
    shared::SharedState,
};

pub(crate) use message::{Arrival, DriverCommand, Message};

/// Messages that may wait for the loop. A sender of more waits, which holds its peer back.
pub(crate) const INBOX: usize = 8192;
/// Taken at once.
const BATCH: usize = 256;
/// The loop turns at least so often, so that it notices when it did not.
const TURNS_EVERY: Duration = Duration::from_millis(500);
/// A gap between two of its turns that shows that this process was stopped, or got no processor.
const STALLED: Duration = Duration::from_secs(1);
/// After that, what waits to be heard is heard for as long as the gap was, and at most this long: lost links are open
/// again by then.
const LONGEST_HEARING: Duration = Duration::from_secs(5);

/// The sender's end of the loop.
#[derive(Clone, Debug)]
pub(crate) struct LoopHandle(mpsc::Sender<Message>);

impl LoopHandle {
    /// Waits for room. False: Central is stopping.
    pub(crate) async fn send(&self, message: Message) -> bool {
        match self.0.try_send(message) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(message)) => Box::pin(self.0.send(message)).await.is_ok(),
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    /// Where nothing can wait: if there is no room now, as soon as there is.
    pub(crate) fn post(&self, message: Message) {
        if let Err(mpsc::error::TrySendError::Full(message)) = self.0.try_send(message)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let sender = self.0.clone();
            runtime.spawn(async move { sender.send(message).await });
        }
    }

    /// Whether so much waits that new links are told to come later (SPEC 4.2).
    pub(crate) fn is_overloaded(&self) -> bool {
        self.0.capacity() < INBOX / 4
    }
}

/// What ends as a future of the store.
enum Completion {
    Point(usize, Result<Committed, CommitRefusal>),
    Reloaded(usize, Option<Box<crate::charge_point::Record>>),
    /// A session that was not at hand, as the input it belongs to; or who is answered why it could not be read.
    Fetched(usize, Box<Result<PointInput, (Reply, String)>>),
    Driver(DriverId, Result<Committed, CommitRefusal>),
    /// Tickets that are due to a driver.
    Tickets(DriverId, Box<tickets::DueTickets>),
    /// Effects of a refusal about a charging point that does not exist: carried out whether or not it is durable.
    Stray(Vec<Effect>),
}

/// Whose timer fires.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TimerKey {
    Point(usize),
    Driver(DriverId),
}

/// A link that the loop can speak on.
struct OpenLink {
    send_queue: SendQueue,
    peer: PeerId,
    /// The view that was last sent on it, and under which epoch.
    view: Option<(u64, Arc<View>)>,
}

pub(crate) struct EventLoop {
    shared: Arc<SharedState>,
    points: Vec<Point>,
    index: HashMap<ChargingPointId, usize>,
    drivers: HashMap<DriverId, DriverEntry>,
    links: HashMap<LinkNo, OpenLink>,
    /// The weather of cities, as far as it is known.
    cities: HashMap<Arc<str>, CityWeather>,
    /// The newest link of each peer on which it has shown its credential.
    contacts: HashMap<PeerId, LinkNo>,
    /// Operators' orders that wait for their answer.
    waiting: HashMap<u64, oneshot::Sender<OrderOutcome>>,
    next_order: u64,
    timers: BinaryHeap<Reverse<(Instant, TimerKey)>>,
    dirty: Vec<usize>,
    turns: FuturesUnordered<BoxFuture<'static, Completion>>,
    tickets: TicketDelivery,
    next_sweep: Instant,
    /// Until then nothing is due, since this process was stopped (SPEC 9.0).
    hears_until: Option<Instant>,
    turned_at: Instant,
    /// Closed sessions that are still on the board, oldest first.
    closed: std::collections::VecDeque<SessionId>,
    states: Family<[(&'static str, &'static str); 1], Gauge>,
    /// Charging points that are quarantined: an operator must look whether a key was cloned (SPEC 4.9).
    quarantined: Gauge,
    /// What cannot be read now is read by the next process.
    ending: bool,
}

impl std::fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLoop").field("points", &self.points.len()).finish_non_exhaustive()
    }
}

/// The loop's two ends.
pub(crate) fn channel() -> (LoopHandle, mpsc::Receiver<Message>) {
    let (sender, receiver) = mpsc::channel(INBOX);
    (LoopHandle(sender), receiver)
}

impl EventLoop {
    /// Runs until the process stops; then what is in flight becomes durable.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Message>, ctx: Context) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut alarm = Alarm::new(self.shared.clock);
        let mut stopped = pin!(ctx.stop.cancelled());
        loop {
            alarm.arm(Some(self.next_wake().min(self.turned_at + TURNS_EVERY)));
            let done = tokio::select! {
                biased;
                () = stopped.as_mut() => break,
                Some(done) = self.turns.next(), if !self.turns.is_empty() => Some(done),
                taken = inbox.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        break;
                    }
                    None
                }
                () = alarm.rings() => None,
            };
            self.notice_stall();
            if let Some(done) = done {
                self.done(done);
            }
            batch.drain(..).for_each(|message| self.take(message));
            self.ring();
            self.show_all();
            // Links that are ready as well speak first: what they say is then taken at once, and not one by one.
            tokio::task::yield_now().await;
        }
        inbox.close();
        self.finish().await;
    }

    async fn finish(&mut self) {
        self.ending = true;
        while let Some(done) = self.turns.next().await {
            self.done(done);
            self.show_all();
        }
        self.shared.write_queue.flush(&self.shared.store).await;
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Arrived(arrival) => self.arrived(*arrival),
            Message::Verified { peer, link, send_queue, from, to, void } => {
                self.verified(peer, link, send_queue, from, to, void)
            }
            Message::Left { link, answered, detail } => self.left(link, answered, detail),
            Message::Observation { at, observation } => {
                if let Some(point) = self.index.get(&at).copied() {
                    self.observe(point, observation);
                }
            }
            Message::FromPart { at, link, inputs } => self.part_says(&at, link, inputs),
            Message::Request { at, request } => self.request(&at, *request),
            Message::DriverCommand { driver, link, session, to, command, from } => {
                self.driver_command(&driver, link, &session, to, (command, from));
            }
            Message::Order { at, order, by, answer } => self.order(&at, order, by, answer),
            Message::ShutOut(rows) => rows.iter().for_each(|row| self.shut_out(row)),
            Message::Identities(rows) => rows.iter().for_each(|row| self.identity(row)),
            Message::TicketReceived { driver, session } => self.ticket_received(&driver, &session),
            Message::TicketHandedBack { ticket, row, reply } => self.ticket_handed_back(*ticket, &row, reply),
            Message::LedgerBehind { why, by } => self.ledger_is_behind(&why, by),
            Message::Weather { reported, by } => self.weather(reported, &by),
            Message::DriverUnintelligible { driver, count, from } => self.driver_unintelligible(&driver, count, &from),
        }
    }

    fn done(&mut self, done: Completion) {
        match done {
            Completion::Point(point, result) => self.point_done(point, result),
            Completion::Reloaded(point, record) => self.reloaded(point, record),
            Completion::Fetched(point, fetched) => self.fetched(point, *fetched),
            Completion::Driver(driver, result) => self.driver_done(&driver, result),
            Completion::Tickets(driver, read) => self.due_tickets_read(&driver, *read),
            Completion::Stray(effects) => effects.into_iter().for_each(|effect| self.perform(None, effect)),
        }
    }

    fn submit(&self, turn: Turn, done: impl FnOnce(Result<Committed, CommitRefusal>) -> Completion + Send + 'static) {
        let store = self.shared.store.clone();
        self.turns.push(Box::pin(async move { done(store.submit(turn).await) }));
    }

    fn now(&self) -> mesh::clock::Now {
        self.shared.clock.now()
    }

    fn next_wake(&self) -> Instant {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let next = [Some(self.next_sweep), timer, self.tickets.again_at()].into_iter().flatten().min();
        let next = next.unwrap_or(self.next_sweep);
        self.hears_until.map_or(next, |until| next.max(until))
    }

    /// A process that was stopped hears what waits before it acts on a deadline that passed meanwhile (SPEC 9.0): the
    /// start of a supply, say, before the end of its reservation.
    fn notice_stall(&mut self) {
        let now = self.now().mono;
        let gap = now.saturating_duration_since(std::mem::replace(&mut self.turned_at, now));
        if gap >= STALLED {
            tracing::warn!(gap_ms = gap.as_millis(), "this process was stopped or starved; it hears what waits first");
            self.hears_until = Some(now + gap.min(LONGEST_HEARING));
        } else if self.hears_until.is_some_and(|until| until <= now) {
            self.hears_until = None;
        }
    }

    /// What is due by now.
    fn ring(&mut self) {
        let now = self.now();
        if self.hears_until.is_some() {
            return;
        }
        while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now.mono) {
            match self.timers.pop() {
                Some(Reverse((at, TimerKey::Point(point)))) => self.timer_rang(point, at, now),
                Some(Reverse((_, TimerKey::Driver(driver)))) => self.driver_timer_fired(&driver, now),
                None => {}
            }
        }
        self.ring_tickets(now.mono);
        if self.next_sweep <= now.mono {
            self.next_sweep = now.mono + self.shared.settings.sweep_every();
            self.sweep(now);
        }
    }
}
