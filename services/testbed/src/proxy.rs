//! A TCP proxy between a peer and Central that injects the faults of a network.
//!
//! It does not know frames. Its faults can be changed while connections are open, and the first bytes that it relays are
//! kept, so that a test can show that nothing is sent in clear text.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The faults of both directions.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyFaults {
    /// Delay of each read.
    pub delay: Duration,
    /// Reads are written on in pieces of at most so many bytes; 0 leaves them whole.
    pub split: usize,
    /// Probability that a byte is changed.
    pub corrupt: f64,
    /// Probability that a byte is left out.
    pub lose: f64,
    /// Probability that a piece is written twice.
    pub repeat: f64,
    /// Nothing is relayed while the connections stay open, as on a half-open network.
    pub silent: bool,
    /// Open connections are closed, and new ones at once.
    pub cut: bool,
}

impl Default for ProxyFaults {
    fn default() -> Self {
        Self { delay: Duration::ZERO, split: 0, corrupt: 0.0, lose: 0.0, repeat: 0.0, silent: false, cut: false }
    }
}

/// A proxy that runs until dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    faults: watch::Sender<ProxyFaults>,
    shared: Arc<ProxyState>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct ProxyState {
    target: SocketAddr,
    seen: Mutex<Vec<u8>>,
    keep: usize,
    connections: AtomicU64,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and relays to `target`. Keeps the first `keep` bytes that it relays.
    pub async fn start(target: SocketAddr, seed: u64, keep: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (faults, faults_rx) = watch::channel(ProxyFaults::default());
        let shared = Arc::new(ProxyState { target, seen: Mutex::default(), keep, connections: AtomicU64::new(0) });
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, faults_rx, Arc::clone(&shared), seed, stop.clone()));
        Ok(Self { address, faults, shared, stop })
    }

    /// The address that peers connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the faults, of open connections too.
    pub fn set(&self, faults: ProxyFaults) {
        self.faults.send_replace(faults);
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The first bytes that were relayed, of all connections and both directions together.
    pub fn seen(&self) -> Vec<u8> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    faults: watch::Receiver<ProxyFaults>,
    shared: Arc<ProxyState>,
    seed: u64,
    stop: CancellationToken,
) {
    let tasks = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted { Ok((stream, _)) => stream, Err(_) => continue },
        };
        let number = shared.connections.fetch_add(1, Ordering::Relaxed);
        if !faults.borrow().cut {
            tasks.spawn(pass(stream, faults.clone(), Arc::clone(&shared), seed ^ number, stop.clone()));
        }
    }
}

async fn pass(
    near: TcpStream,
    faults: watch::Receiver<ProxyFaults>,
    shared: Arc<ProxyState>,
    seed: u64,
    stop: CancellationToken,
) {
    let Ok(far) = TcpStream::connect(shared.target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let mut cut = faults.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        _ = cut.wait_for(|faults| faults.cut) => {}
        // Links use no half-closed connections, so the end of either direction ends both.
        () = pump(near_in, far_out, faults.clone(), &shared, StdRng::seed_from_u64(seed)) => {}
        () = pump(far_in, near_out, faults, &shared, StdRng::seed_from_u64(!seed)) => {}
    }
}

async fn pump(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    faults: watch::Receiver<ProxyFaults>,
    shared: &ProxyState,
    mut rng: StdRng,
) {
    let mut buffer = vec![0; 8192];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let piece = buffer.get(..read).unwrap_or_default();
        keep(shared, piece);
        let now = faults.borrow().clone();
        if now.silent {
            continue;
        }
        if !now.delay.is_zero() {
            sleep(now.delay).await;
        }
        for part in piece.chunks(if now.split == 0 { read } else { now.split }) {
            let spoiled = spoil(part, &now, &mut rng);
            let times = if now.repeat > 0.0 && rng.random_bool(now.repeat) { 2 } else { 1 };
            for _ in 0..times {
                if to.write_all(&spoiled).await.is_err() {
                    return;
                }
            }
            if now.split != 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

fn keep(shared: &ProxyState, piece: &[u8]) {
    let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let room = shared.keep.saturating_sub(seen.len()).min(piece.len());
    seen.extend_from_slice(piece.get(..room).unwrap_or_default());
}

fn spoil(part: &[u8], faults: &ProxyFaults, rng: &mut StdRng) -> Vec<u8> {
    if faults.corrupt == 0.0 && faults.lose == 0.0 {
        return part.to_vec();
    }
    let mut out = Vec::with_capacity(part.len());
    for &byte in part {
        if faults.lose > 0.0 && rng.random_bool(faults.lose) {
            continue;
        }
        let flip = faults.corrupt > 0.0 && rng.random_bool(faults.corrupt);
        out.push(if flip { byte ^ rng.random_range(1..=255u8) } else { byte });
    }
    out
}
