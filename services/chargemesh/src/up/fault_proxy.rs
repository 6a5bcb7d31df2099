//! A TCP proxy between the processes of a network, so that connections can be cut or silenced while both ends live (SPEC
//! 9, *network cut*). With `--chaos` or `--drills` each charging point and each driver has a line of its own to Central
//! and Registry, and these two have one between them. A line is a listener in this process for each address it leads to.
//!
//! It does not know the protocol, and buffers one read of each direction: a receiver that does not read slows its sender
//! down, as TCP itself does.

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
/// The pause after a failed accept, such as with too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What a line does with its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ProxyMode {
    #[default]
    Open,
    /// Closes them, and new ones at once.
    Cut,
    /// Keeps them open but passes nothing on in either direction, not even that an end has closed.
    Silent,
}

type ByName = BTreeMap<String, watch::Sender<ProxyMode>>;

/// Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct FaultProxy {
    /// `None` where processes connect to each other directly.
    by_name: Option<Arc<Mutex<ByName>>>,
}

impl FaultProxy {
    pub(crate) fn new(relayed: bool) -> Self {
        Self { by_name: relayed.then(Arc::default) }
    }

    /// The address at which `process` reaches `far`.
    pub(crate) async fn to(&self, far: SocketAddr, process: &str) -> io::Result<SocketAddr> {
        let Some(lines) = &self.by_name else { return Ok(far) };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let near = listener.local_addr()?;
        let mode = locked(lines).entry(line_of(process).to_owned()).or_default().subscribe();
        tokio::spawn(relay(listener, far, mode));
        Ok(near)
    }

    /// Sets the mode of the line of this process; for Central, that of every line.
    pub(crate) fn set(&self, process: &str, mode: ProxyMode) -> Result<(), String> {
        let Some(lines) = &self.by_name else {
            return Err("connections of this network cannot be cut: start it with --drills".to_owned());
        };
        let lines = locked(lines);
        if is_central(process) {
            for line in lines.values() {
                line.send_replace(mode);
            }
            return Ok(());
        }
        let line = lines.get(line_of(process)).ok_or_else(|| format!("process {process:?} has no connections here"))?;
        line.send_replace(mode);
        Ok(())
    }

    /// Closes the line of a process that was removed.
    pub(crate) fn forget(&self, process: &str) {
        if let Some(lines) = &self.by_name {
            locked(lines).remove(line_of(process));
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of its line: engine and monitor share their charging point's, Central shares Registry's.
fn line_of(process: &str) -> &str {
    match process.rsplit_once('/') {
        Some((point, _)) if is_charging_point(process) => point,
        _ if is_central(process) => "registry",
        _ => process,
    }
}

/// Accepts connections until the line is removed.
async fn relay(listener: TcpListener, far: SocketAddr, mut mode: watch::Receiver<ProxyMode>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => drop(connections.spawn(carry(near, far, mode.clone()))),
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            },
        }
    }
}

/// Relays one connection until it ends or the line is cut.
async fn carry(near: TcpStream, far: SocketAddr, mode: watch::Receiver<ProxyMode>) {
    let mut cut = mode.clone();
    tokio::select! {
        biased;
        _ = cut.wait_for(|now| *now == ProxyMode::Cut) => {}
        _ = join(near, far, mode) => {}
    }
}

async fn join(mut near: TcpStream, far: SocketAddr, mut mode: watch::Receiver<ProxyMode>) -> io::Result<()> {
    if *mode.borrow() == ProxyMode::Silent {
        // A client that connects now gets no answer, and has to find that out by a timeout.
        let mut nowhere = tokio::io::sink();
        tokio::select! {
            swallowed = tokio::io::copy(&mut near, &mut nowhere) => return swallowed.map(drop),
            _ = mode.wait_for(|now| *now != ProxyMode::Silent) => return Ok(()),
        }
    }
    let far = TcpStream::connect(far).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::try_join!(pass(near_in, far_out, mode.clone()), pass(far_in, near_out, mode))?;
    Ok(())
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<ProxyMode>) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut gap = false;
    loop {
        let read = from.read(&mut buffer).await;
        if *mode.borrow() == ProxyMode::Silent {
            gap = true;
            if !matches!(read, Ok(1..)) {
                let _forgotten = mode.wait_for(|now| *now != ProxyMode::Silent).await;
            }
            continue;
        }
        if gap {
            // A TCP stream has no gaps: after lost bytes a real connection would be reset.
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

    /// Answers each byte with itself.
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
    async fn a_cut_line_closes_its_connections_and_new_ones_until_it_is_open_again_spec_9() {
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
        assert!(matches!(whole.read(&mut [0]).await, Ok(0) | Err(_)), "Central's cut closes every line");
        lines.set("central", ProxyMode::Open).unwrap();
        assert!(says(&mut TcpStream::connect(near).await.unwrap(), "again").await.unwrap());
    }

    #[tokio::test]
    async fn a_silent_line_keeps_its_connections_and_passes_nothing_on_until_it_is_open_again_spec_9() {
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
        assert!(says(&mut kept, "bytes were lost").await.is_err());
        assert!(says(&mut late, "never connected to the far end").await.is_err());
        assert!(says(&mut idle, "no bytes were lost").await.unwrap());
    }

    #[tokio::test]
    async fn without_chaos_and_drills_processes_connect_directly() {
        let (proxy, far) = (FaultProxy::new(false), SocketAddr::from(([127, 0, 0, 1], 7400)));
        assert_eq!(proxy.to(far, "CP-1/monitor").await.unwrap(), far);
        assert!(proxy.set("CP-1/monitor", ProxyMode::Cut).unwrap_err().contains("--drills"));
    }

    #[tokio::test]
    async fn a_removed_process_has_no_line() {
        let proxy = FaultProxy::new(true);
        let near = proxy.to(echo().await, "CP-1/monitor").await.unwrap();
        let mut open = TcpStream::connect(near).await.unwrap();
        assert!(says(&mut open, "hello").await.unwrap());
        proxy.forget("CP-1/monitor");
        assert!(matches!(open.read(&mut [0]).await, Ok(0) | Err(_)));
        assert!(proxy.set("CP-1/engine", ProxyMode::Cut).unwrap_err().contains("CP-1/engine"));
    }
}
