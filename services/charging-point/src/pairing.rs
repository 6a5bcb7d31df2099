//! The link between an engine and its monitor (SPEC 1.4): the same frames, handshake and sealing as to Central, over a
//! Unix socket of mode 0600, whose file is the proof, or on two hosts over TCP with a pairing secret. The monitor
//! listens; the engine keeps trying. Signs of life every 500 ms, three misses, as on every link.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mesh::{
    clock::{Clock, Now},
    link::{Backoff, LinkOwner, SendQueue, send_queue},
    process::{Context, Misuse},
};
use prost::Message;
use proto::link::v1::{FromEngine, FromMonitor, Part};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
};
use tokio_util::sync::CancellationToken;
use wire::{Admit, Event, Link, PairingSecret, Proof};

#[cfg(test)]
mod tests;

/// Messages that may wait for the other end.
const SEND_QUEUE: usize = 32;
/// Connections that have not proven the pairing yet, at once.
const UNPROVEN: usize = 8;
const CONNECT: Duration = Duration::from_secs(3);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// A secret shorter than this could be guessed.
const SHORTEST_SECRET: usize = 20;

/// Where engine and monitor meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairingAddress {
    /// On one host: a path.
    Unix(PathBuf),
    /// On two: `host:port`.
    Tcp(String),
}

impl FromStr for PairingAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let port = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        match port {
            Some((host, _)) if !host.is_empty() && !host.contains('/') => Ok(Self::Tcp(text.to_owned())),
            None if text.contains(':') && !text.contains('/') => {
                Err(format!("{text:?} has no port that is a number; write host:port, or unix:PATH for a path"))
            }
            _ if text.is_empty() => Err("a pairing is met at a path, or at host:port".to_owned()),
            _ => Ok(Self::Unix(text.into())),
        }
    }
}

impl fmt::Display for PairingAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// The secret of a pairing: none on a Unix socket, the text of a file over TCP.
pub fn secret(place: &PairingAddress, file: Option<&Path>) -> anyhow::Result<PairingSecret> {
    let Some(file) = file else {
        return match place {
            PairingAddress::Unix(_) => Ok(PairingSecret::of_local_socket()),
            PairingAddress::Tcp(address) => Err(Misuse::new(format!(
                "a pairing over the network ({address}) needs a secret: put the same one, {SHORTEST_SECRET} characters \
                 or more, in a file on both hosts and name it with --pairing-secret-file"
            ))
            .into()),
        };
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| Misuse::new(format!("the pairing secret {} cannot be read: {error}", file.display())))?;
    let text = zeroize::Zeroizing::new(text);
    if text.trim().len() < SHORTEST_SECRET {
        let why = format!("the pairing secret in {} is shorter than {SHORTEST_SECRET} characters", file.display());
        return Err(Misuse::new(why).into());
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, text.trim().as_bytes());
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    bytes.copy_from_slice(digest.as_ref());
    Ok(PairingSecret::from_bytes(*bytes))
}

/// What the pairing says to either end.
#[derive(Debug)]
pub(crate) enum PairingEvent<M> {
    /// Proven; what is sent there reaches the other end. A second one takes the place of the first.
    Paired(SendQueue),
    Message(Box<M>),
    /// The pairing behind this send queue is over, or could not be made.
    Ended(Option<SendQueue>, String),
}

/// The engine's end: pairs, and pairs again, until the process stops.
pub(crate) async fn seek<I: Send + 'static>(
    ctx: Context,
    place: PairingAddress,
    secret: PairingSecret,
    settings: wire::LinkSettings,
    back: mpsc::Sender<I>,
    wrap: fn(PairingEvent<FromMonitor>) -> I,
) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        let proof = Proof::Pairing(secret.clone());
        let link = Link::initiator(settings, Part::Pairing, "", proof, ctx.clock.mono());
        let (sender, queued) = send_queue(SEND_QUEUE);
        let mut forwarder =
            PairingForwarder { send_queue: sender.clone(), paired: false, secret: None, back: back.clone(), wrap };
        let why = tokio::select! {
            why = meet(&place, link, queued, &mut forwarder, ctx.clock) => why,
            () = ctx.stop.cancelled() => {
                sender.close();
                return Ok(());
            }
        };
        if forwarder.paired {
            backoff.reset();
        }
        if back.send(wrap(PairingEvent::Ended(None, why))).await.is_err() {
            return Ok(());
        }
        let wait = backoff.wait(rand::random());
        if ctx.stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return Ok(());
        }
    }
}

async fn meet<I: Send>(
    place: &PairingAddress,
    link: Link,
    queued: mesh::link::QueuedMessages,
    forwarder: &mut PairingForwarder<FromMonitor, I>,
    clock: Clock,
) -> String {
    let nobody = |error: io::Error| format!("nobody answers at {place}: {error}");
    match place {
        PairingAddress::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => mesh::link::run(stream, link, queued, forwarder, clock).await.to_string(),
            Err(error) => nobody(error),
        },
        PairingAddress::Tcp(address) => match mesh::link::connect(address, CONNECT).await {
            Ok(stream) => mesh::link::run(stream, link, queued, forwarder, clock).await.to_string(),
            Err(error) => nobody(error),
        },
    }
}

/// The monitor's end: binds, then takes whoever proves the pairing; the newest counts.
pub(crate) async fn listen<I: Send + 'static>(
    ctx: &Context,
    place: &PairingAddress,
    secret: PairingSecret,
    settings: wire::LinkSettings,
    back: mpsc::Sender<I>,
    wrap: fn(PairingEvent<FromEngine>) -> I,
) -> anyhow::Result<()> {
    let pairing = Arc::new(PairingListener { secret, settings, clock: ctx.clock, stop: ctx.stop.clone(), back, wrap });
    match place {
        PairingAddress::Unix(path) => {
            if UnixStream::connect(path).await.is_ok() {
                let text = format!("another monitor answers at {}; give another --pairing", path.display());
                return Err(Misuse::new(text).into());
            }
            let listener = mesh::control::private_socket(path).map_err(|error| {
                Misuse::new(format!("cannot make the pairing socket {} (--pairing): {error}", path.display()))
            })?;
            ctx.listening("pairing", path.display())?;
            ctx.spawn("pairing", accept_unix(ctx.clone(), listener, pairing, path.clone()));
        }
        PairingAddress::Tcp(address) => {
            let listener = TcpListener::bind(address).await.map_err(|error| {
                Misuse::new(format!("cannot listen for the engine on {address}: {error}; give another --pairing"))
            })?;
            ctx.listening("pairing", listener.local_addr()?)?;
            ctx.spawn("pairing", accept_tcp(ctx.clone(), listener, pairing));
        }
    }
    Ok(())
}

struct PairingListener<I> {
    secret: PairingSecret,
    settings: wire::LinkSettings,
    clock: Clock,
    stop: CancellationToken,
    back: mpsc::Sender<I>,
    wrap: fn(PairingEvent<FromEngine>) -> I,
}

async fn accept_unix<I: Send + 'static>(
    ctx: Context,
    listener: UnixListener,
    pairing: Arc<PairingListener<I>>,
    path: PathBuf,
) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(UNPROVEN));
    while let Some(accepted) = ctx.stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => pairing.clone().take(stream, &slots),
            Err(error) => cannot_accept(&error).await,
        }
    }
    drop(std::fs::remove_file(path));
    Ok(())
}

async fn accept_tcp<I: Send + 'static>(
    ctx: Context,
    listener: TcpListener,
    pairing: Arc<PairingListener<I>>,
) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(UNPROVEN));
    while let Some(accepted) = ctx.stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                // Only its delay suffers without.
                drop(stream.set_nodelay(true));
                pairing.clone().take(stream, &slots);
            }
            Err(error) => cannot_accept(&error).await,
        }
    }
    Ok(())
}

async fn cannot_accept(error: &io::Error) {
    tracing::warn!(%error, "cannot accept the engine");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

impl<I: Send + 'static> PairingListener<I> {
    /// Strangers beyond the bound are cut off: the engine tries again.
    fn take<S>(self: Arc<Self>, stream: S, slots: &Arc<Semaphore>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(slot) = slots.clone().try_acquire_owned() else { return };
        tokio::spawn(async move {
            let link = Link::responder(self.settings, self.clock.mono());
            let (sender, queued) = send_queue(SEND_QUEUE);
            let forwarder = PairingForwarder {
                send_queue: sender.clone(),
                paired: false,
                secret: Some(self.secret.clone()),
                back: self.back.clone(),
                wrap: self.wrap,
            };
            let mut connection = PairingConnection { forwarder, slot: Some(slot) };
            let why = {
                let mut running = std::pin::pin!(mesh::link::run(stream, link, queued, &mut connection, self.clock));
                tokio::select! {
                    why = &mut running => why,
                    () = self.stop.cancelled() => {
                        sender.close();
                        running.await
                    }
                }
            };
            if connection.forwarder.paired {
                drop(self.back.send((self.wrap)(PairingEvent::Ended(Some(sender), why.to_string()))).await);
            }
        });
    }
}

/// Forwards what happens on one end of the pairing. An initiator is paired when the link opens; a responder when the first
/// message has opened, because the handshake's first message could be replayed.
struct PairingForwarder<M, I> {
    send_queue: SendQueue,
    paired: bool,
    /// The responder's.
    secret: Option<PairingSecret>,
    back: mpsc::Sender<I>,
    wrap: fn(PairingEvent<M>) -> I,
}

impl<M: Message + Default + Send, I: Send> PairingForwarder<M, I> {
    async fn hear(&mut self, heard: PairingEvent<M>, link: &mut Link, now: Now) {
        if self.back.send((self.wrap)(heard)).await.is_err() {
            link.close(now.mono);
        }
    }

    async fn pair(&mut self, link: &mut Link, now: Now) {
        if !self.paired {
            self.paired = true;
            let send_queue = self.send_queue.clone();
            self.hear(PairingEvent::Paired(send_queue), link, now).await;
        }
    }

    async fn message(&mut self, bytes: Bytes, link: &mut Link, now: Now) {
        self.pair(link, now).await;
        match M::decode(bytes) {
            Ok(message) => self.hear(PairingEvent::Message(Box::new(message)), link, now).await,
            Err(error) => tracing::warn!(%error, "a message of the pairing is not one"),
        }
    }
}

impl<M: Message + Default + Send, I: Send> LinkOwner for PairingForwarder<M, I> {
    async fn handle(&mut self, event: Event, link: &mut Link, now: Now) {
        match event {
            Event::Hello(hello) => match &self.secret {
                Some(secret) if hello.part == Part::Pairing => link.admit(Admit::Pairing(secret), now.mono),
                Some(_) | None => link.admit(Admit::UnknownKey, now.mono),
            },
            Event::Open if self.secret.is_none() => self.pair(link, now).await,
            Event::Message(bytes) => self.message(bytes, link, now).await,
            Event::Unintelligible(what) => tracing::warn!(%what, "the pairing's other end cannot be read"),
            Event::Open | Event::Busy { .. } | Event::UnknownKey | Event::Closed(_) => {}
        }
    }
}

/// A connection to the monitor, which holds a place among the unproven until it has proven the pairing.
struct PairingConnection<M, I> {
    forwarder: PairingForwarder<M, I>,
    slot: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl<M: Message + Default + Send, I: Send> LinkOwner for PairingConnection<M, I> {
    async fn handle(&mut self, event: Event, link: &mut Link, now: Now) {
        self.forwarder.handle(event, link, now).await;
        if self.forwarder.paired {
            self.slot = None;
        }
    }
}

/// To the other end, if it takes it: what is said is said again at the next change, or has a deadline.
pub(crate) fn tell(send_queue: &SendQueue, message: &impl Message) {
    if let Err(error) = send_queue.try_send(message.encode_to_vec().into()) {
        tracing::debug!(%error, "a message of the pairing was dropped");
    }
}
