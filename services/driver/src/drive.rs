//! The driver's one loop: feeds orders, links, files and time to the pure parts, and carries out what they command.

use std::{path::PathBuf, time::Duration};

use futures::FutureExt as _;
use mesh::{
    clock::{Clock, Now},
    link::Backoff,
    process::Context,
};
use prost::Message as _;
use proto::{
    DriverId, Energy,
    enrolment::SecretText,
    link::v1::{Authenticate, Down, KeyGrant, Opened, Reason, Standing, Ticket, Up, down, up},
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use wire::{LinkKey, Proof, PublicKey};

use crate::{
    contact::{Again, Contact, How},
    enrolment::{EnrolSettings, enrol_again},
    file::Wishes,
    link::{Connection, Dial, LinkEvent, LinkNo},
    queue::Queue,
    roam::Roam,
    shelf::{Enrolment, Key, Position, Shelf, ShelfError},
    ticket::TicketText,
    told::Told,
    trip::{self, Command, Confirm, Input, Order, Request, Trips},
    words::Word,
};

/// What a driver needs to drive; every time is a setting.
#[derive(Clone, Debug)]
pub struct Settings {
    pub driver: DriverId,
    /// Central's link addresses, tried in turn.
    pub central: Vec<String>,
    pub life_sign: Duration,
    /// An unanswered message is sent again after this.
    pub repeat: Duration,
    pub retry_min: Duration,
    pub retry_max: Duration,
    pub confirm: Confirm,
    /// From the end of a file's request to the next one.
    pub pause: Duration,
    pub file: Option<PathBuf>,
    /// Requests by chance, with this seed.
    pub roam: Option<u64>,
    /// End when the file is over.
    pub exit_when_done: bool,
}

impl Settings {
    /// With the specification's times.
    pub fn new(driver: DriverId, central: Vec<String>) -> Self {
        Self {
            driver,
            central,
            life_sign: Duration::from_millis(500),
            repeat: Duration::from_secs(5),
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(5),
            confirm: Confirm::Ask,
            pause: Duration::from_secs(4),
            file: None,
            roam: None,
            exit_when_done: false,
        }
    }
}

/// What somebody wants of the loop.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Typed or sent; the answer, where one is waited for, is JSON or a sentence.
    Word(Word, Option<oneshot::Sender<Result<Value, String>>>),
    Request(Request),
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
    shelf: Shelf,
    enrolment: Enrolment,
    key: Option<Key>,
    contact: Contact,
    trips: Trips,
    position: Position,
    queue: Option<Queue>,
    roam: Option<Roam>,
    active: Option<Connection>,
    /// Under a new key, or a further try: takes over once Central has spoken on it.
    next: Option<Connection>,
    last_no: LinkNo,
    dial_at: Option<std::time::Instant>,
    unreachable: Option<String>,
    unintelligible: u64,
    waiting: Vec<Waiting>,
    events: mpsc::Sender<(LinkNo, LinkEvent)>,
    told: mpsc::Sender<(Now, Told)>,
    said_over: bool,
}

impl Drive {
    pub(crate) fn new(
        settings: Settings,
        shelf: Shelf,
        enrolment: Enrolment,
        clock: Clock,
        events: mpsc::Sender<(LinkNo, LinkEvent)>,
        told: mpsc::Sender<(Now, Told)>,
    ) -> Result<Self, ShelfError> {
        let now = clock.now();
        let key = shelf.key()?;
        let position = shelf.position()?;
        let stored: Vec<_> = shelf.tickets()?.into_iter().map(|t| (t.session, t.corrections.len())).collect();
        let rules = trip::Settings { repeat: settings.repeat, confirm: settings.confirm };
        // Message ids of one driver must differ over restarts for a while: the clock sees to that.
        let first_id = u64::try_from(now.wall_ms).unwrap_or(1) << 16;
        Ok(Self {
            trips: Trips::new(rules, position.requests.clone(), stored, first_id),
            contact: Contact::new(Backoff::new(settings.retry_min, settings.retry_max), key.is_some()),
            roam: settings.roam.map(|seed| Roam::new(seed, settings.pause, now.mono)),
            settings,
            clock,
            shelf,
            enrolment,
            key,
            position,
            queue: None,
            active: None,
            next: None,
            last_no: 0,
            dial_at: Some(now.mono),
            unreachable: None,
            unintelligible: 0,
            waiting: Vec::new(),
            events,
            told,
            said_over: false,
        })
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
                () = sleep_until(self.clock, due) => self.timeout(),
            }
        }
        self.farewell(&mut events).await;
        Ok(())
    }

    fn due(&self) -> Option<std::time::Instant> {
        let roam = self.roam.as_ref().filter(|_| self.reachable()).and_then(|r| r.due(self.trips.requests().count()));
        [self.trips.poll_timeout(), self.queue.as_ref().and_then(Queue::due), self.dial_at, roam]
            .into_iter()
            .flatten()
            .chain(self.waiting.iter().map(|w| w.until))
            .min()
    }

    fn timeout(&mut self) {
        let now = self.clock.now();
        self.trips.handle(Input::Timeout, now);
        let (late, waiting) = self.waiting.drain(..).partition::<Vec<_>, _>(|w| w.until <= now.mono);
        self.waiting = waiting;
        for waiting in late {
            let why = self.unreachable.as_deref().unwrap_or("it gave no answer");
            drop(waiting.answer.send(Err(format!("cannot reach Central: {why}"))));
        }
        if self.dial_at.is_some_and(|at| at <= now.mono) {
            self.dial_at = None;
            self.dial();
        }
        if let Some(wish) = self.queue.as_mut().and_then(|q| q.next(now.mono)) {
            let request = new_request(wish.charging_point, wish.energy, Some(wish.line));
            self.trips.handle(Input::Order(Order::Request(request)), now);
        }
        let idle = self.trips.requests().count();
        if self.reachable() && self.roam.as_mut().is_some_and(|r| r.look(idle, now.mono)) {
            self.trips.handle(Input::Order(Order::ListChargingPoints), now);
        }
    }

    fn reachable(&self) -> bool {
        self.active.as_ref().is_some_and(|c| c.proven && c.how == How::Key)
    }

    // ---- Links

    fn dial(&mut self) {
        let how = self.contact.how();
        let pins = &self.enrolment.pins;
        let turn = self.contact.turn();
        let address = self.settings.central.get(turn.checked_rem(self.settings.central.len()).unwrap_or(0)).cloned();
        let pin = pins.get((turn / self.settings.central.len().max(1)).checked_rem(pins.len()).unwrap_or(0));
        let responder = pin.and_then(|pin| public_key(pin));
        let (Some(address), Some(responder)) = (address, responder) else { return };
        let key = self.key.as_ref().filter(|_| how == How::Key);
        let (key_no, proof) = match key.and_then(|k| k.bytes().map(|bytes| (k.key_no, LinkKey::from_bytes(bytes)))) {
            Some((key_no, key)) => (key_no, Proof::Key { responder, key_no, key }),
            None => (0, Proof::FirstContact { responder }),
        };
        self.last_no += 1;
        let dial = Dial {
            no: self.last_no,
            address,
            driver: self.settings.driver.clone(),
            how: if key_no == 0 { How::FirstContact } else { How::Key },
            key_no,
            proof,
            life_sign: self.settings.life_sign,
        };
        let connection = Connection::dial(dial, self.clock, self.events.clone());
        let place = if self.active.is_some() { &mut self.next } else { &mut self.active };
        if let Some(before) = place.replace(connection) {
            before.close();
        }
    }

    async fn link_event(&mut self, no: LinkNo, event: LinkEvent) -> anyhow::Result<()> {
        let now = self.clock.now();
        let Some(connection) = [&mut self.active, &mut self.next].into_iter().flatten().find(|c| c.no == no) else {
            return Ok(()); // a link that was given up: its last words are Central's to repeat
        };
        match event {
            LinkEvent::Open => {
                connection.open = true;
                let greeting = match connection.how {
                    How::FirstContact => up::Body::Authenticate(Authenticate {
                        credential: self.enrolment.credential.expose().as_bytes().to_vec(),
                    }),
                    How::Key => up::Body::Opened(Opened {
                        highest_epoch: 0,
                        life_sign_ms: u32::try_from(self.settings.life_sign.as_millis()).unwrap_or(u32::MAX),
                        software: concat!("chargemesh-driver ", env!("CARGO_PKG_VERSION")).to_owned(),
                        meter_wh: 0,
                    }),
                };
                connection.send(&Up { id: GREETING, body: Some(greeting) });
            }
            LinkEvent::Message(bytes) => match Down::decode(bytes) {
                Ok(down) => self.message(no, down, now).await?,
                Err(error) => tracing::warn!(%error, "Central sent what is no message"),
            },
            LinkEvent::Busy(retry_after) => {
                let again = self.contact.busy(retry_after, rand::random());
                self.again(again, now);
                self.cannot_reach("Central is overloaded").await;
            }
            LinkEvent::UnknownKey => {
                let again = self.contact.unknown_key(rand::random());
                self.again(again, now);
            }
            LinkEvent::Unintelligible => {
                self.unintelligible += 1;
                self.tell(Told::Unintelligible { count: self.unintelligible }).await;
            }
            LinkEvent::Closed(why) => self.closed(no, &why, now).await,
        }
        Ok(())
    }

    async fn closed(&mut self, no: LinkNo, why: &str, now: Now) {
        if self.active.as_ref().is_some_and(|c| c.no == no) {
            self.active = self.next.take();
            self.trips.handle(Input::LinkLost, now);
            if self.active.as_ref().is_some_and(|c| c.proven) {
                self.trips.handle(Input::LinkOpen, now);
            }
            self.cannot_reach(why).await;
        } else {
            self.next = None;
        }
        if self.dial_at.is_none() {
            let again = self.contact.lost(rand::random());
            self.again(again, now);
        }
    }

    fn again(&mut self, again: Again, now: Now) {
        self.dial_at = match again {
            Again::After(wait) => Some(now.mono + wait),
            // Checked again in an hour: by then a person has been told, and readmitted the driver or not.
            Again::WhenTold => Some(now.mono + Duration::from_secs(3600)),
        };
    }

    async fn cannot_reach(&mut self, why: &str) {
        if self.unreachable.as_deref() != Some(why) {
            self.unreachable = Some(why.to_owned());
            self.tell(Told::CannotReachCentral { detail: why.to_owned() }).await;
        }
    }

    async fn message(&mut self, no: LinkNo, down: Down, now: Now) -> anyhow::Result<()> {
        match &down.body {
            Some(down::Body::KeyGrant(grant)) => {
                self.prove(no, now).await;
                return Ok(self.granted(no, grant, now)?);
            }
            Some(down::Body::Standing(standing)) => return self.stands(no, standing, now).await,
            Some(down::Body::Answer(answer)) if answer.to == GREETING => {
                if answer.reason() != Reason::Unspecified {
                    let (reason, detail) = (answer.reason, answer.detail.clone());
                    let standing = Standing { reason, detail, retry_after_ms: 5000, ..Standing::default() };
                    return self.stands(no, &standing, now).await;
                }
            }
            Some(_) | None => {}
        }
        self.prove(no, now).await;
        self.trips.handle(Input::Down(Box::new(down)), now);
        Ok(())
    }

    /// Central has spoken under the key: only now the link is the driver's, and the one before it is closed (SPEC 4.6).
    async fn prove(&mut self, no: LinkNo, now: Now) {
        if self.next.as_ref().is_some_and(|c| c.no == no)
            && let Some(before) = std::mem::replace(&mut self.active, self.next.take())
        {
            before.close();
            self.trips.handle(Input::LinkLost, now);
        }
        let Some(active) = self.active.as_mut().filter(|c| c.no == no && c.how == How::Key && !c.proven) else { return };
        active.proven = true;
        let told = Told::LinkUp { address: active.address.clone(), key_no: active.key_no };
        self.contact.proven();
        self.unreachable = None;
        self.trips.handle(Input::LinkOpen, now);
        self.tell(told).await;
    }

    fn granted(&mut self, no: LinkNo, grant: &KeyGrant, now: Now) -> Result<(), ShelfError> {
        if self.key.as_ref().is_some_and(|key| key.key_no == grant.key_no) {
            return Ok(());
        }
        let key = Key::new(grant);
        if key.bytes().is_none() {
            tracing::warn!("Central granted a key that is none");
            return Ok(());
        }
        self.shelf.keep_key(&key)?;
        self.key = Some(key);
        let pins: Vec<String> = grant.pins.iter().filter(|pin| pin.len() == 32).map(hex::encode).collect();
        if !pins.is_empty() && pins != self.enrolment.pins {
            self.enrolment.pins = pins;
            self.shelf.keep_enrolment(&self.enrolment)?;
        }
        let again = self.contact.granted();
        self.again(again, now);
        // A first contact has done its work; a rotation keeps its link until the new one is proven.
        for place in [&mut self.active, &mut self.next] {
            if let Some(first) = place.take_if(|c| c.no == no && c.how == How::FirstContact) {
                first.close();
            }
        }
        Ok(())
    }

    async fn stands(&mut self, no: LinkNo, standing: &Standing, now: Now) -> anyhow::Result<()> {
        let words = standing.reason().in_words();
        let detail =
            if standing.detail.is_empty() { words.to_owned() } else { format!("{words} ({})", standing.detail) };
        self.unreachable = Some(detail.clone());
        self.tell(Told::Standing { reason: standing.reason().code(), detail }).await;
        if self.key.take().is_some() {
            self.shelf.forget_key()?;
        }
        let again = self.contact.standing(standing, rand::random());
        self.again(again, now);
        for place in [&mut self.active, &mut self.next] {
            if let Some(connection) = place.take_if(|c| c.no == no) {
                connection.close();
            }
        }
        self.trips.handle(Input::LinkLost, now);
        Ok(())
    }

    // ---- Commands of the pure part

    async fn carry_out(&mut self) -> anyhow::Result<()> {
        while let Some(command) = self.trips.next_command() {
            match command {
                Command::Send(up) => {
                    if let Some(active) = self.active.as_ref().filter(|c| c.proven) {
                        active.send(&up);
                    }
                }
                Command::Keep(requests) => self.keep(requests)?,
                Command::Store(ticket) => self.store(ticket).await,
                Command::Tell(told) => {
                    self.answer_waiting(&told);
                    self.roamed(&told);
                    self.tell(told).await;
                }
            }
        }
        Ok(())
    }

    /// A request that is gone from the list is over, and so is its line: both in one file, replaced as a whole.
    fn keep(&mut self, requests: Vec<Request>) -> Result<(), ShelfError> {
        let now = self.clock.mono();
        let before = std::mem::replace(&mut self.position.requests, requests);
        for line in before.iter().filter_map(|r| r.line) {
            if !self.position.requests.iter().any(|r| r.line == Some(line)) {
                self.position.done = self.position.done.max(line);
                if let Some(queue) = &mut self.queue {
                    queue.over(line, now);
                }
            }
        }
        if before.len() > self.position.requests.len()
            && let Some(roam) = &mut self.roam
        {
            roam.over(now);
        }
        self.shelf.keep_position(&self.position)
    }

    async fn store(&mut self, ticket: Ticket) {
        let text = TicketText::from(ticket.clone());
        match self.shelf.keep_ticket(&text) {
            Ok(()) => self.trips.handle(Input::Stored(Box::new(ticket)), self.clock.now()),
            Err(error) => {
                self.trips.not_stored(&ticket);
                let text = format!("a ticket waits at Central: {error}");
                self.tell(Told::Hint { text }).await;
            }
        }
    }

    async fn tell(&mut self, told: Told) {
        let now = self.clock.now();
        if matches!(told, Told::Running(_)) {
            // The next value says more: nothing waits for a slow screen.
            drop(self.told.try_send((now, told)));
        } else {
            drop(self.told.send((now, told)).await);
        }
    }

    fn answer_waiting(&mut self, told: &Told) {
        let offers = matches!(told, Told::Offers { .. });
        if !offers && !matches!(told, Told::History { .. }) {
            return;
        }
        let (answered, waiting) = self.waiting.drain(..).partition::<Vec<_>, _>(|w| w.offers == offers);
        self.waiting = waiting;
        for waiting in answered {
            drop(waiting.answer.send(Ok(json!(told))));
        }
    }

    fn roamed(&mut self, told: &Told) {
        let Told::Offers { offers } = told else { return };
        let now = self.clock.now();
        let free: Vec<&str> = offers.iter().map(|o| o.id.as_str()).collect();
        let Some((id, energy)) = self.roam.as_mut().and_then(|r| r.choose(&free, now.mono)) else { return };
        if let Ok(charging_point) = id.parse() {
            let request = new_request(charging_point, energy, None);
            self.trips.handle(Input::Order(Order::Request(request)), now);
        }
    }

    // ---- Orders

    /// Whether to end.
    async fn asked(&mut self, ask: Ask) -> anyhow::Result<bool> {
        let now = self.clock.now();
        let (word, answer) = match ask {
            Ask::Request(request) => {
                self.trips.handle(Input::Order(Order::Request(request)), now);
                return Ok(false);
            }
            Ask::Word(word, answer) => (word, answer),
        };
        let done = match word {
            Word::Request { charging_point, energy } => {
                let request = new_request(charging_point, energy, None);
                let id = request.id.clone();
                self.trips.handle(Input::Order(Order::Request(request)), now);
                Ok(json!({ "request_id": id }))
            }
            Word::Order(order @ (Order::ListChargingPoints | Order::ListHistory(_))) => {
                let offers = order == Order::ListChargingPoints;
                self.trips.handle(Input::Order(order), now);
                if !self.reachable() {
                    let why = self.unreachable.clone().unwrap_or_else(|| "not linked yet".to_owned());
                    Err(format!("cannot reach Central: {why}"))
                } else if let Some(answer) = answer {
                    self.waiting.push(Waiting { offers, answer, until: now.mono + ANSWER_WITHIN });
                    return Ok(false);
                } else {
                    return Ok(false);
                }
            }
            Word::Order(order) => {
                self.trips.handle(Input::Order(order), now);
                self.word_of_the_pure_part().await?
            }
            Word::Load(path) => match self.load(path.into(), false).await {
                Ok(()) => Ok(self.status()),
                Err(error) => Err(format!("{error:#}")),
            },
            Word::Authenticate => {
                let again = self.contact.told();
                self.again(again, now);
                Ok(Value::Null)
            }
            Word::Enrol(token) => self.enrol(token, now).await,
            Word::Tickets => self.shelf.tickets().map(|t| json!({ "tickets": t })).map_err(|e| e.to_string()),
            Word::Status => Ok(self.status()),
            Word::Help => Ok(json!({ "help": crate::words::HELP })),
            Word::Quit => return Ok(true),
        };
        match (answer, done) {
            (Some(answer), done) => drop(answer.send(done)),
            (None, Err(text)) => self.tell(Told::Hint { text }).await,
            (None, Ok(_)) => {}
        }
        Ok(false)
    }

    /// One try; the links wait for it, which a driver who is not enrolled has none of.
    async fn enrol(&mut self, token: SecretText, now: Now) -> Result<Value, String> {
        let settings = EnrolSettings { registry: self.enrolment.registry.clone(), token };
        let enrolled = enrol_again(&settings, &self.settings.driver, &self.shelf).await;
        let mut enrolled = enrolled.map_err(|error| error.to_string())?;
        if enrolled.pins.is_empty() {
            // Registry has not met Central since it started: the keys known so far still hold.
            enrolled.pins = std::mem::take(&mut self.enrolment.pins);
        }
        self.enrolment = enrolled;
        self.key = None;
        self.shelf.forget_key().map_err(|error| error.to_string())?;
        for connection in [self.active.take(), self.next.take()].into_iter().flatten() {
            connection.close();
        }
        self.trips.handle(Input::LinkLost, now);
        self.contact = Contact::new(Backoff::new(self.settings.retry_min, self.settings.retry_max), false);
        self.dial_at = Some(now.mono);
        self.tell(Told::Enrolled { driver: self.settings.driver.to_string() }).await;
        Ok(json!({ "enrolled": self.settings.driver }))
    }

    /// What was ordered may be nonsense now (nothing to stop): a hint is its refusal.
    async fn word_of_the_pure_part(&mut self) -> anyhow::Result<Result<Value, String>> {
        let mut refusal = None;
        let mut rest = Vec::new();
        while let Some(command) = self.trips.next_command() {
            if let Command::Tell(Told::Hint { text }) = &command {
                refusal = Some(text.clone());
            }
            rest.push(command);
        }
        for command in rest {
            match command {
                Command::Send(up) => {
                    if let Some(active) = self.active.as_ref().filter(|c| c.proven) {
                        active.send(&up);
                    }
                }
                Command::Keep(requests) => self.keep(requests)?,
                Command::Store(ticket) => self.store(ticket).await,
                Command::Tell(told) => self.tell(told).await,
            }
        }
        Ok(refusal.map_or(Ok(Value::Null), Err))
    }

    pub(crate) fn status(&self) -> Value {
        let (done, all) = self.queue.as_ref().map_or((0, 0), Queue::progress);
        json!({
            "driver": self.settings.driver,
            "linked": self.reachable(),
            "trouble": self.unreachable,
            "key_no": self.key.as_ref().map(|k| k.key_no),
            "unintelligible": self.unintelligible,
            "requests": self.trips.requests().collect::<Vec<_>>(),
            "supplies": self.trips.running().collect::<Vec<_>>(),
            "to_confirm": self.trips.confirms().map(|c| &c.session_id).collect::<Vec<_>>(),
            "file": self.position.file,
            "file_done": done,
            "file_requests": all,
            "bad_lines": self.queue.as_ref().map_or(0, |q| q.wishes().bad.len()),
        })
    }

    // ---- The file

    /// `resume`: goes on after the last line that is over, if it is the same file as before the restart.
    async fn load(&mut self, path: PathBuf, resume: bool) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(&path).map_err(|error| {
            mesh::process::Misuse::new(format!("cannot read the file of requests {}: {error}", path.display()))
        })?;
        let path = std::path::absolute(&path).unwrap_or(path);
        if !resume || self.position.file.as_ref() != Some(&path) {
            self.position.done = 0;
            for request in &mut self.position.requests {
                request.line = None;
            }
            self.position.file = Some(path);
            self.shelf.keep_position(&self.position)?;
        }
        let wishes = Wishes::parse(&text);
        for bad in &wishes.bad {
            self.tell(Told::BadLine { line: bad.line, detail: bad.why.clone() }).await;
        }
        let in_flight = self.position.requests.iter().find_map(|r| r.line);
        self.said_over = false;
        self.queue =
            Some(Queue::new(wishes, self.position.done, in_flight, self.settings.pause, self.clock.mono()));
        Ok(())
    }

    async fn is_done(&mut self) -> bool {
        let Some(queue) = self.queue.as_ref().filter(|q| q.is_over()) else { return false };
        let (requests, bad_lines) = (queue.wishes().good.len() as u64, queue.wishes().bad.len() as u64);
        if !std::mem::replace(&mut self.said_over, true) {
            self.tell(Told::FileOver { requests, bad_lines }).await;
        }
        self.settings.exit_when_done && self.trips.requests().next().is_none()
    }

    /// Links are closed in order, with what was last said, but not for ever.
    async fn farewell(&mut self, events: &mut mpsc::Receiver<(LinkNo, LinkEvent)>) {
        let mut left = 0;
        for connection in [self.active.take(), self.next.take()].into_iter().flatten() {
            connection.close();
            left += usize::from(connection.open);
        }
        let closed = async {
            while left > 0 {
                match events.recv().await {
                    Some((_, LinkEvent::Closed(_))) => left -= 1,
                    Some(_) => {}
                    None => break,
                }
            }
        };
        drop(tokio::time::timeout(Duration::from_secs(2), closed).await);
    }
}

/// Of the one message that opens a link; ids of other messages are far above.
const GREETING: u64 = 1;

pub(crate) fn new_request(
    charging_point: proto::ChargingPointId,
    energy: Energy,
    line: Option<u64>,
) -> Request {
    Request { id: hex::encode(rand::random::<[u8; 16]>()), charging_point, energy, line, session: None }
}

fn public_key(pin: &str) -> Option<PublicKey> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(pin, &mut bytes).ok().map(|()| PublicKey::from_bytes(bytes))
}

async fn sleep_until(clock: Clock, at: Option<std::time::Instant>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().boxed().await,
    }
}
