//! A peer of Central on a link, controlled by the test: it uses the real `wire` but no code of charging points or drivers.
//!
//! The test decides what it sends: like an engine, like a cloned one, or what no correct peer would send.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use prost::Message as _;
use proto::link::v1::{Authenticate, Down, KeyGrant, Opened, Part, Up, down, up};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use wire::{Event, Link, LinkKey, LinkSettings, Proof, PublicKey};

/// Longest wait for an answer on a link.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How many of the bytes that a peer sends are kept.
const RECORDED: usize = 16 * 1024;

/// One open link.
#[derive(Debug)]
pub struct LinkPeer {
    stream: TcpStream,
    link: Link,
    out: Vec<u8>,
    sent: Vec<u8>,
    next_id: u64,
    life_sign: Duration,
}

impl LinkPeer {
    /// Connects and completes the handshake; sends no message yet.
    pub async fn connect(address: SocketAddr, part: Part, id: &str, proof: Proof) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        Self::over(stream, part, id, proof).await
    }

    /// Completes the handshake on an existing connection.
    pub async fn over(stream: TcpStream, part: Part, id: &str, proof: Proof) -> anyhow::Result<Self> {
        stream.set_nodelay(true)?;
        let settings = LinkSettings::default();
        let link = Link::initiator(settings, part, id, proof, now());
        let (out, sent) = (Vec::new(), Vec::new());
        let mut peer = Self { stream, link, out, sent, next_id: 1, life_sign: settings.life_sign };
        match peer.event(PATIENCE).await? {
            Event::Open => Ok(peer),
            other => bail!("{id} did not get an open link but {other:?}"),
        }
    }

    /// First contact: authenticates inside the channel; answers Central's first message.
    pub async fn first_contact(
        address: SocketAddr,
        part: Part,
        id: &str,
        central: PublicKey,
        credential: &str,
    ) -> anyhow::Result<(Self, down::Body)> {
        let mut peer = Self::connect(address, part, id, Proof::FirstContact { responder: central }).await?;
        peer.send(up::Body::Authenticate(Authenticate { credential: credential.as_bytes().to_vec() })).await?;
        let answer = peer.receive(PATIENCE).await?;
        Ok((peer, answer))
    }

    /// Opens a link with a granted key and sends Opened.
    pub async fn open(
        address: SocketAddr,
        part: Part,
        id: &str,
        central: PublicKey,
        grant: &KeyGrant,
    ) -> anyhow::Result<Self> {
        let key = LinkKey::from_bytes(grant.key.as_slice().try_into().context("a key has 32 bytes")?);
        let proof = Proof::Key { responder: central, key_no: grant.key_no, key };
        let mut peer = Self::connect(address, part, id, proof).await?;
        let life_sign_ms = u32::try_from(peer.life_sign.as_millis())?;
        peer.send(up::Body::Opened(Opened { life_sign_ms, software: "testbed".into(), ..Opened::default() })).await?;
        Ok(peer)
    }

    /// Sends a message without waiting; answers the id that Central's answer will name.
    pub async fn send(&mut self, body: up::Body) -> anyhow::Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        self.link.send(&Up { id, body: Some(body) }.encode_to_vec(), now())?;
        self.flush().await?;
        Ok(id)
    }

    /// Sends a message that expects no answer.
    pub async fn notify(&mut self, body: up::Body) -> anyhow::Result<()> {
        self.link.send(&Up { id: 0, body: Some(body) }.encode_to_vec(), now())?;
        self.flush().await
    }

    /// Sends these bytes, sealed, as a message.
    pub async fn send_bytes(&mut self, plaintext: &[u8]) -> anyhow::Result<()> {
        self.link.send(plaintext, now())?;
        self.flush().await
    }

    /// The next message from Central that has a body.
    pub async fn receive(&mut self, limit: Duration) -> anyhow::Result<down::Body> {
        loop {
            match self.event(limit).await? {
                Event::Message(bytes) => match Down::decode(bytes)?.body {
                    Some(body) => return Ok(body),
                    None => continue,
                },
                other => bail!("expected a message, got {other:?}"),
            }
        }
    }

    /// The next message that `wanted` accepts; others are skipped.
    pub async fn receive_until<T>(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&down::Body) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let body = self.receive(deadline.saturating_duration_since(Instant::now())).await?;
            if let Some(found) = wanted(&body) {
                return Ok(found);
            }
        }
    }

    /// The next event of the link, from bytes or from time.
    pub async fn event(&mut self, limit: Duration) -> anyhow::Result<Event> {
        let deadline = Instant::now() + limit;
        let mut buffer = [0; 4096];
        loop {
            if let Some(event) = self.link.poll_event() {
                self.flush().await?;
                return Ok(event);
            }
            self.flush().await?;
            let wake = self.link.poll_timeout().map_or(deadline, |at| deadline.min(Instant::from_std(at)));
            match timeout_at(wake, self.stream.read(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) => self.link.handle_end(),
                Ok(Ok(read)) => self.link.handle_bytes(buffer.get(..read).unwrap_or_default(), now()),
                Err(_) if wake < deadline => self.link.handle_timeout(now()),
                Err(_) => bail!("nothing within {limit:?}"),
            }
        }
    }

    /// Keeps the link alive and ignores messages, until the link ends or the time is over.
    pub async fn idle(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            match self.event(left).await {
                Ok(Event::Closed(why)) => bail!("closed: {why}"),
                Ok(_) => {}
                Err(_) => return Ok(()),
            }
        }
    }

    /// Whether a message can be sent now, or Central has to acknowledge earlier ones first.
    pub fn has_room(&self) -> bool {
        self.link.ready()
    }

    /// The socket, for bytes that no link would send.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Sends bytes that no link would send, without ending the link.
    pub async fn raw(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The first bytes that this end has sent, as an eavesdropper records them.
    pub fn sent_bytes(&self) -> &[u8] {
        &self.sent
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        while self.link.transmit(&mut self.out, now()) {
            let room = RECORDED.saturating_sub(self.sent.len()).min(self.out.len());
            self.sent.extend_from_slice(self.out.get(..room).unwrap_or_default());
            self.stream.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
