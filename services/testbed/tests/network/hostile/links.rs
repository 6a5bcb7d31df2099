//! Links that stay alive while the test does something else, and a charging point made of two of them.

use std::time::Duration;

use anyhow::{Context as _, bail};
use prost::Message as _;
use proto::{
    central::v1::ChargingPointState,
    link::v1::{
        AskAnswer, EngineHealth, JournalReport, ListChargingPoints, Part, Progress, Reason, RequestSupply,
        SupplyStarted, Up, down, up,
    },
};
use testbed::{network::Network, operator::fresh_id, peer::LinkPeer};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use wire::{Closed, Event};

use super::{EnrolledIdentity, keyed};

/// Longest wait for an answer.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// An open link with a task that keeps it alive.
pub(super) struct HostileLink {
    orders: mpsc::Sender<(bool, Vec<u8>)>,
    heard: mpsc::UnboundedReceiver<down::Body>,
    next_id: u64,
}

/// How Central answered a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MessageOutcome {
    Answer(Reason),
    Unsupported,
}

impl HostileLink {
    pub(super) fn of(mut peer: LinkPeer) -> Self {
        let (orders, mut given) = mpsc::channel::<(bool, Vec<u8>)>(64);
        let (told, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                // An acknowledgement makes room without an event, so it is looked for.
                let look_again = sleep(Duration::from_millis(if peer.has_room() { 60_000 } else { 1 }));
                let done = tokio::select! {
                    order = given.recv(), if peer.has_room() => match order {
                        Some((true, raw)) => peer.raw(&raw).await,
                        Some((false, plaintext)) => peer.send_bytes(&plaintext).await,
                        None => return,
                    },
                    event = peer.event(Duration::from_secs(600)) => match event {
                        Ok(Event::Message(bytes)) => {
                            let body = proto::link::v1::Down::decode(bytes).ok().and_then(|down| down.body);
                            body.into_iter().for_each(|body| drop(told.send(body)));
                            Ok(())
                        }
                        Ok(Event::Closed(_)) | Err(_) => return,
                        Ok(_) => Ok(()),
                    },
                    () = look_again => Ok(()),
                };
                if done.is_err() {
                    return;
                }
            }
        });
        Self { orders, heard, next_id: 1_000 }
    }

    pub(super) async fn open(network: &Network, keyed: &EnrolledIdentity, part: Part) -> anyhow::Result<Self> {
        Ok(Self::of(keyed.open(network, part).await?))
    }

    pub(super) fn is_open(&self) -> bool {
        !self.orders.is_closed()
    }

    /// Waits until Central has closed the link.
    pub(super) async fn closed(&self, limit: Duration) -> anyhow::Result<()> {
        tokio::time::timeout(limit, self.orders.closed()).await.context("the link is not closed")
    }

    /// Sends these bytes, sealed, as a message.
    pub(super) async fn bytes(&self, plaintext: Vec<u8>) -> anyhow::Result<()> {
        self.orders.send((false, plaintext)).await.context("the link is closed")
    }

    /// Writes these bytes to the socket.
    pub(super) async fn raw(&self, bytes: Vec<u8>) -> anyhow::Result<()> {
        self.orders.send((true, bytes)).await.context("the link is closed")
    }

    pub(super) async fn send(&mut self, body: up::Body) -> anyhow::Result<u64> {
        self.next_id += 1;
        self.bytes(Up { id: self.next_id, body: Some(body) }.encode_to_vec()).await?;
        Ok(self.next_id)
    }

    pub(super) async fn notify(&self, body: up::Body) -> anyhow::Result<()> {
        self.bytes(Up { id: 0, body: Some(body) }.encode_to_vec()).await
    }

    /// Sends a message and waits for Central's answer.
    pub(super) async fn ask(&mut self, body: up::Body) -> anyhow::Result<MessageOutcome> {
        let id = self.send(body).await?;
        self.until(|body| match body {
            down::Body::Answer(answer) if answer.to == id => Some(MessageOutcome::Answer(answer.reason())),
            down::Body::Unsupported(unsupported) if unsupported.to == id => Some(MessageOutcome::Unsupported),
            _ => None,
        })
        .await
    }

    /// The next message that `wanted` accepts; others are skipped.
    pub(super) async fn until<T>(&mut self, mut wanted: impl FnMut(&down::Body) -> Option<T>) -> anyhow::Result<T> {
        let deadline = Instant::now() + ANSWER;
        loop {
            match timeout_at(deadline, self.heard.recv()).await {
                Ok(Some(body)) => {
                    if let Some(found) = wanted(&body) {
                        return Ok(found);
                    }
                }
                Ok(None) => bail!("the link is closed: {}", Closed::Cut),
                Err(_) => bail!("not told within {ANSWER:?}"),
            }
        }
    }
}

/// A charging point whose engine and monitor send what the test wants.
pub(super) struct HostilePoint {
    pub(super) keyed: EnrolledIdentity,
    pub(super) monitor: HostileLink,
    pub(super) engine: HostileLink,
}

impl HostilePoint {
    /// Enrols it, opens both links, and waits until it is AVAILABLE.
    pub(super) async fn start(network: &Network, id: &str) -> anyhow::Result<Self> {
        let keyed = keyed(network, Part::Monitor, id).await?;
        let engine = engine(network, &keyed).await?;
        let monitor = monitor(network, &keyed).await?;
        network.until_state(id, ChargingPointState::Available).await?;
        Ok(Self { keyed, monitor, engine })
    }

    /// Has it reserved for a driver; answers the session.
    pub(super) async fn reserve(&mut self, driver: &mut HostileLink) -> anyhow::Result<String> {
        let (request_id, charging_point_id) = (fresh_id(), self.keyed.id.clone());
        driver
            .send(up::Body::RequestSupply(RequestSupply {
                request_id,
                charging_point_id,
                energy_wh: 0,
                ..Default::default()
            }))
            .await?;
        let asked = |body: &down::Body| match body {
            down::Body::Ask(ask) => Some(ask.session_id.clone()),
            _ => None,
        };
        let session_id = self.engine.until(asked).await?;
        let accepted = AskAnswer { session_id: session_id.clone(), accepted: true, detail: String::new() };
        self.engine.send(up::Body::AskAnswer(accepted)).await?;
        driver.until(|body| step(body, &session_id, Progress::Authorised)).await?;
        Ok(session_id)
    }

    /// Starts a supply at this meter value.
    pub(super) async fn supply(&mut self, driver: &mut HostileLink, meter_start_wh: u64) -> anyhow::Result<String> {
        let session_id = self.reserve(driver).await?;
        let started = SupplyStarted { session_id: session_id.clone(), meter_start_wh, at_ms: 0 };
        self.engine.ask(up::Body::SupplyStarted(started)).await?;
        Ok(session_id)
    }
}

/// Opens the link of a monitor that reports a healthy engine.
pub(super) async fn monitor(network: &Network, keyed: &EnrolledIdentity) -> anyhow::Result<HostileLink> {
    let link = HostileLink::open(network, keyed, Part::Monitor).await?;
    link.notify(up::Body::EngineHealth(EngineHealth { healthy: true, detail: String::new() })).await?;
    Ok(link)
}

/// Opens the link of an engine without sessions.
pub(super) async fn engine(network: &Network, keyed: &EnrolledIdentity) -> anyhow::Result<HostileLink> {
    let mut link = HostileLink::open(network, keyed, Part::Engine).await?;
    link.send(up::Body::JournalReport(JournalReport::default())).await?;
    Ok(link)
}

/// Opens the link of a driver, and waits until Central answers on it.
pub(super) async fn driver(network: &Network, id: &str) -> anyhow::Result<HostileLink> {
    let keyed = keyed(network, Part::Driver, id).await?;
    let mut link = HostileLink::open(network, &keyed, Part::Driver).await?;
    link.send(up::Body::ListChargingPoints(ListChargingPoints {})).await?;
    link.until(|body| matches!(body, down::Body::ChargingPoints(_)).then_some(())).await?;
    Ok(link)
}

pub(super) fn step(body: &down::Body, session: &str, progress: Progress) -> Option<Reason> {
    match body {
        down::Body::Step(step) if step.session_id == session && step.progress() == progress => Some(step.reason()),
        _ => None,
    }
}
