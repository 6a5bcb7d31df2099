//! What lies between the processes of a network, so that it can be cut while everybody lives (SPEC 9, *network cut*): with
//! `--chaos` or `--drills` each charging point and each driver has a line of its own to Central and Registry, and those
//! two have one between them. A line is a relay in this process for each address at its far end.
//!
//! Knows nothing of what it carries. No line holds more than one piece of a connection in each direction: whoever is not
//! read is held back, as by TCP itself.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

use super::supervisor::{is_central, is_charging_point};

const PIECE: usize = 8192;
/// Where no connection can be taken at all: too many files are open.
const TAKE_AGAIN: Duration = Duration::from_millis(100);

/// What a line does to what it carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ProxyMode {
    #[default]
    Open,
    /// Its connections are closed, and new ones at once.
    Cut,
    /// Half-open: connections stay, and nothing comes through either way, not even that an end has closed.
    Silent,
}

type ByName = BTreeMap<String, watch::Sender<ProxyMode>>;

/// Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct FaultProxy {
    /// Nothing where everybody calls the other directly.
    by_name: Option<Arc<Mutex<ByName>>>,
}

impl FaultProxy {
    pub(crate) fn new(relayed: bool) -> Self {
        Self { by_name: relayed.then(Arc::default) }
    }

    /// Where this process has to call to reach `far`.
    pub(crate) async fn to(&self, far: SocketAddr, process: &str) -> io::Result<SocketAddr> {
        let Some(lines) = &self.by_name else { return Ok(far) };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let near = listener.local_addr()?;
        let condition = locked(lines).entry(line_of(process).to_owned()).or_default().subscribe();
        tokio::spawn(relay(listener, far, condition));
        Ok(near)
    }

    /// Of the line that this process is at; where that is Central, of every line.
    pub(crate) fn set(&self, process: &str, condition: ProxyMode) -> Result<(), String> {
        let Some(lines) = &self.by_name else {
            return Err("the lines of this network cannot be cut: start it with --drills".to_owned());
        };
        let lines = locked(lines);
        if is_central(process) {
            for line in lines.values() {
                line.send_replace(condition);
            }
            return Ok(());
        }
        let line = lines.get(line_of(process)).ok_or_else(|| format!("there is no line of a process {process:?}"))?;
        line.send_replace(condition);
        Ok(())
    }

    /// A process that has left: its relays end.
    pub(crate) fn forget(&self, process: &str) {
        if let Some(lines) = &self.by_name {
            locked(lines).remove(line_of(process));
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both processes of a charging point are at one line; Central's own is the one to Registry.
fn line_of(process: &str) -> &str {
    match process.rsplit_once('/') {
        Some((point, _)) if is_charging_point(process) => point,
        _ if is_central(process) => "registry",
        _ => process,
    }
}

/// Until the line is forgotten.
async fn relay(listener: TcpListener, far: SocketAddr, mut condition: watch::Receiver<ProxyMode>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            changed = condition.changed() => if changed.is_err() { return },
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => drop(connections.spawn(carry(near, far, condition.clone()))),
                Err(_) => tokio::time::sleep(TAKE_AGAIN).await,
            },
        }
    }
}

/// Carries one connection to its end, or until the line is cut.
async fn carry(near: TcpStream, far: SocketAddr, condition: watch::Receiver<ProxyMode>) {
    let mut cut = condition.clone();
    tokio::select! {
        biased;
        _ = cut.wait_for(|now| *now == ProxyMode::Cut) => {}
        _ = join(near, far, condition) => {}
    }
}

async fn join(mut near: TcpStream, far: SocketAddr, mut condition: watch::Receiver<ProxyMode>) -> io::Result<()> {
    if *condition.borrow() == ProxyMode::Silent {
        // Who connects now reaches nobody, and finds that out by himself.
        let mut nowhere = tokio::io::sink();
        tokio::select! {
            swallowed = tokio::io::copy(&mut near, &mut nowhere) => return swallowed.map(drop),
            _ = condition.wait_for(|now| *now != ProxyMode::Silent) => return Ok(()),
        }
    }
    let far = TcpStream::connect(far).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::try_join!(pass(near_in, far_out, condition.clone()), pass(far_in, near_out, condition))?;
    Ok(())
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut condition: watch::Receiver<ProxyMode>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut gap = false;
    loop {
        let read = from.read(&mut buffer).await;
        if *condition.borrow() == ProxyMode::Silent {
            gap = true;
            if !matches!(read, Ok(1..)) {
                let _forgotten = condition.wait_for(|now| *now != ProxyMode::Silent).await;
            }
            continue;
        }
        if gap {
            // No stream has gaps: an end that has given up resets it at the first piece that reaches it again.
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        match read? {
            0 => return to.shutdown().await,
            read => to.write_all(buffer.get(..read).unwrap_or_default()).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What says back what it is told.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    async fn says(stream: &mut TcpStream, text: &str) -> io::Result<bool> {
        stream.write_all(text.as_bytes()).await?;
        let mut heard = vec![0; text.len()];
        stream.read_exact(&mut heard).await?;
        Ok(heard == text.as_bytes())
    }

    #[tokio::test]
    async fn a_line_that_is_cut_closes_what_it_carried_and_whoever_calls_until_it_is_mended_spec_9() {
        let lines = FaultProxy::new(true);
        let near = lines.to(echo().await, "CP-1/monitor").await.unwrap();
        let other = lines.to(echo().await, "driver/D-1").await.unwrap();
        let (mut cut, mut whole) = (TcpStream::connect(near).await.unwrap(), TcpStream::connect(other).await.unwrap());
        assert!(says(&mut cut, "hello").await.unwrap() && says(&mut whole, "hello").await.unwrap());

        lines.set("CP-1/engine", ProxyMode::Cut).unwrap();
        assert!(matches!(cut.read(&mut [0]).await, Ok(0) | Err(_)));
        let mut late = TcpStream::connect(near).await.unwrap();
        assert!(matches!(late.read(&mut [0]).await, Ok(0) | Err(_)));
        assert!(says(&mut whole, "nobody else's").await.unwrap());

        lines.set("central", ProxyMode::Cut).unwrap();
        assert!(matches!(whole.read(&mut [0]).await, Ok(0) | Err(_)), "Central is at every line");
        lines.set("central", ProxyMode::Open).unwrap();
        assert!(says(&mut TcpStream::connect(near).await.unwrap(), "again").await.unwrap());
    }

    #[tokio::test]
    async fn a_silent_line_keeps_its_connections_open_and_carries_nothing_until_it_is_mended_spec_9() {
        let lines = FaultProxy::new(true);
        let near = lines.to(echo().await, "registry").await.unwrap();
        let mut kept = TcpStream::connect(near).await.unwrap();
        let mut idle = TcpStream::connect(near).await.unwrap();
        assert!(says(&mut kept, "hello").await.unwrap() && says(&mut idle, "hello").await.unwrap());

        lines.set("registry", ProxyMode::Silent).unwrap();
        let mut late = TcpStream::connect(near).await.unwrap();
        for stream in [&mut kept, &mut late] {
            let heard = tokio::time::timeout(Duration::from_millis(200), says(stream, "lost"));
            assert!(heard.await.is_err(), "neither an answer nor an end");
        }

        lines.set("registry", ProxyMode::Open).unwrap();
        assert!(says(&mut kept, "no stream has gaps").await.is_err());
        assert!(says(&mut late, "nor was this one ever joined").await.is_err());
        assert!(says(&mut idle, "what lost nothing goes on").await.unwrap());
    }

    #[tokio::test]
    async fn without_chaos_and_drills_everybody_calls_the_other_directly() {
        let (proxy, far) = (FaultProxy::new(false), SocketAddr::from(([127, 0, 0, 1], 7400)));
        assert_eq!(proxy.to(far, "CP-1/monitor").await.unwrap(), far);
        assert!(proxy.set("CP-1/monitor", ProxyMode::Cut).unwrap_err().contains("--drills"));
    }

    #[tokio::test]
    async fn a_part_that_has_left_has_no_line() {
        let proxy = FaultProxy::new(true);
        let near = proxy.to(echo().await, "CP-1/monitor").await.unwrap();
        let mut open = TcpStream::connect(near).await.unwrap();
        assert!(says(&mut open, "hello").await.unwrap());
        proxy.forget("CP-1/monitor");
        assert!(matches!(open.read(&mut [0]).await, Ok(0) | Err(_)));
        assert!(proxy.set("CP-1/engine", ProxyMode::Cut).unwrap_err().contains("CP-1/engine"));
    }
}
