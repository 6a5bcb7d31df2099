//! The one event loop: asks the provider, feeds the cities, makes orders durable before they are answered, and publishes
//! the state of all cities. It decides nothing.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use mesh::{clock::Clock, health::Component, process::Context};
use proto::weather::v1::WeatherState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::{
    Config,
    cities::{Cities, CityOrder, OrderRefused, SavedCities, WatchSettings},
    convert,
    frost::Temperature,
    key::ApiKey,
    metrics::WeatherMetrics,
    provider::{Provider, ProviderError},
    state_file::StateFile,
};

/// Orders that may wait; a sender of more waits.
const INBOX: usize = 64;
/// How often a key that was refused is looked at again.
const LOOK_AT_KEY: Duration = Duration::from_secs(1);

type Answer = (Arc<str>, Result<Option<Temperature>, ProviderError>);

/// Why an order was not carried out.
#[derive(Debug)]
pub(crate) enum OrderFailed {
    Refused(OrderRefused),
    /// It could not be made durable.
    NotSaved(String),
}

enum Incoming {
    Order(CityOrder, oneshot::Sender<Result<bool, OrderFailed>>),
    /// The cities that charging points are in.
    Follow(BTreeSet<Arc<str>>),
}

/// The other end of the loop. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct WeatherHandle {
    inbox: mpsc::Sender<Incoming>,
    state: watch::Receiver<Arc<WeatherState>>,
}

impl WeatherHandle {
    /// The state of all cities, which changes.
    pub(crate) fn state(&self) -> watch::Receiver<Arc<WeatherState>> {
        self.state.clone()
    }

    /// True where the order changed something.
    pub(crate) async fn order(&self, order: CityOrder) -> Result<bool, OrderFailed> {
        let stopping = || OrderFailed::NotSaved("Weather is stopping".to_owned());
        let (answer, answered) = oneshot::channel();
        self.inbox.send(Incoming::Order(order, answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    pub(crate) async fn follow(&self, cities: BTreeSet<Arc<str>>) {
        // It fails where the process is stopping.
        drop(self.inbox.send(Incoming::Follow(cities)).await);
    }
}

pub(crate) struct WeatherLoop {
    cities: Cities,
    clock: Clock,
    source: Source,
    disk: CitiesOnDisk,
    inbox: mpsc::Receiver<Incoming>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    state: watch::Sender<Arc<WeatherState>>,
    metrics: WeatherMetrics,
}

/// The provider, its key, and how it is doing.
struct Source {
    provider: Arc<dyn Provider>,
    name: &'static str,
    key: Arc<ApiKey>,
    /// The key that the provider refused; nothing in it: none could be read.
    refused_key: Option<Option<Zeroizing<String>>>,
    look_at_key: Instant,
    health: Component,
}

/// The file, and what it holds.
struct CitiesOnDisk {
    file: StateFile,
    saved: SavedCities,
    health: Component,
}

impl CitiesOnDisk {
    /// Writes what is not written yet.
    async fn save(&mut self, saved: SavedCities) -> Result<(), String> {
        if saved != self.saved {
            self.file.write(&saved).await?;
            self.saved = saved;
        }
        Ok(())
    }
}

impl WeatherLoop {
    pub(crate) fn new(
        config: &Config,
        ctx: &Context,
        saved: SavedCities,
        (file, provider, key): (StateFile, Arc<dyn Provider>, Arc<ApiKey>),
    ) -> (Self, WeatherHandle) {
        let settings = WatchSettings {
            every: config.provider.every,
            requests_per_minute: config.provider.requests_per_minute,
            rule: config.frost,
            policy: config.policy,
        };
        let cities = Cities::new(settings, saved.clone(), ctx.clock.now());
        let name = config.provider.provider.name();
        let (state, receiver) = watch::channel(Arc::new(convert::state(&cities, name, ctx.clock.now())));
        let (sender, inbox) = mpsc::channel(INBOX);
        let (look_at_key, health) = (ctx.clock.mono(), ctx.health.component("provider"));
        let running = Self {
            cities,
            clock: ctx.clock,
            source: Source { provider, name, key, refused_key: None, look_at_key, health },
            disk: CitiesOnDisk { file, saved, health: ctx.health.component("data folder") },
            inbox,
            answers: FuturesUnordered::new(),
            state,
            metrics: WeatherMetrics::new(&ctx.metrics),
        };
        (running, WeatherHandle { inbox: sender, state: receiver })
    }

    /// Runs until the process stops.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            self.ask();
            self.save().await;
            self.publish();
            let wake = self.cities.poll_timeout(self.clock.now());
            let wake = wake.unwrap_or_else(|| self.clock.mono() + Duration::from_secs(60));
            tokio::select! {
                () = stop.cancelled() => return,
                Some(answer) = self.answers.next(), if !self.answers.is_empty() => self.answered(answer).await,
                incoming = self.inbox.recv() => match incoming {
                    Some(incoming) => self.take(incoming).await,
                    None => return,
                },
                () = self.clock.sleep_until(self.source.look_at_key), if self.source.refused_key.is_some() => self.look_at_key().await,
                () = self.clock.sleep_until(wake) => {}
            }
            self.cities.end_drills(self.clock.now());
        }
    }

    /// Asks for each city that is due, as far as the budget allows.
    fn ask(&mut self) {
        while let Some(city) = self.cities.next_request(self.clock.now()) {
            let provider = Arc::clone(&self.source.provider);
            self.answers.push(Box::pin(async move {
                let answer = provider.ask(&city).await;
                (city, answer)
            }));
        }
    }

    async fn answered(&mut self, (city, answer): Answer) {
        self.metrics.asked(answer.is_ok());
        if matches!(answer, Err(ProviderError::KeyRefused(_))) && self.source.refused_key.is_none() {
            self.source.refused_key = Some(self.source.key.read().await.ok());
        }
        if let Ok(Some(_)) = answer {
            self.source.refused_key = None;
        }
        self.cities.answered(&city, answer, self.clock.now());
        match &self.cities.trouble {
            Some(trouble) => self.source.health.degraded(trouble.as_ref()),
            None => self.source.health.ready(),
        }
    }

    /// A key that was refused is tried again as soon as it is another one.
    async fn look_at_key(&mut self) {
        self.source.look_at_key = self.clock.mono() + LOOK_AT_KEY;
        let (Some(refused), Ok(now)) = (&self.source.refused_key, self.source.key.read().await) else { return };
        if refused.as_ref() != Some(&now) {
            self.source.refused_key = None;
            self.cities.key_changed(self.clock.now());
        }
    }

    async fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Follow(names) => self.cities.follow(&names, self.clock.now()),
            Incoming::Order(order, answer) => {
                let outcome = self.order(&order).await;
                self.publish();
                // The caller may have gone.
                drop(answer.send(outcome));
            }
        }
    }

    /// In force as soon as it is durable, and not before.
    async fn order(&mut self, order: &CityOrder) -> Result<bool, OrderFailed> {
        let mut next = self.cities.clone();
        let changed = next.order(order, self.clock.now()).map_err(OrderFailed::Refused)?;
        self.disk.save(next.saved()).await.map_err(OrderFailed::NotSaved)?;
        self.cities = next;
        Ok(changed)
    }

    /// What was measured or followed: tried again with the next change where it cannot be written.
    async fn save(&mut self) {
        match self.disk.save(self.cities.saved()).await {
            Ok(()) => self.disk.health.ready(),
            Err(why) => self.disk.health.degraded(why),
        }
    }

    fn publish(&self) {
        let state = convert::state(&self.cities, self.source.name, self.clock.now());
        if **self.state.borrow() != state {
            let state = Arc::new(state);
            self.metrics.show(&state);
            self.state.send_replace(state);
        }
    }
}

impl std::fmt::Debug for WeatherLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WeatherLoop").field("cities", &self.cities).finish_non_exhaustive()
    }
}
