//! The rows of DESIGN 9 that need one Central.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use proto::{
    central::v1::{OrderRequest, Selector, selector::Which},
    link::v1::Part,
    registry::v1::Kind,
};
use testbed::{
    fleet,
    network::Network,
    operator::{fresh_id, key_no},
    peer::LinkPeer,
    wait::until,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    Size, authorise, durable, floor,
    load::{self, KeyedPeer},
    measure::{BenchRow, Floor, Spread, cpu, resident},
    overload,
};

pub(crate) const NAMES: &[&str] =
    &["sealed-message", "idle-memory", "authorise", "reconnect", "central-killed", "rotate", "durable", "overload"];

/// Links in the rows that drive Central from this process.
const LINKS: usize = 200;

pub(crate) async fn run(name: &str, size: Size) -> anyhow::Result<BenchRow> {
    match name {
        "sealed-message" => sealed_message(size).await,
        "idle-memory" => idle_memory(size).await,
        "reconnect" => reconnect(size).await,
        "central-killed" => central_killed(size).await,
        "rotate" => rotate(size).await,
        "authorise" => authorise::row(size).await,
        "durable" => durable::row(size).await,
        "overload" => overload::row(size).await,
        other => bail!("no row {other:?}"),
    }
}

/// CPU of Central per sealed message, against epoll, read, open, ACK.
async fn sealed_message(size: Size) -> anyhow::Result<BenchRow> {
    const EVERY: Duration = Duration::from_millis(20);
    const TIME: Duration = Duration::from_secs(4);
    const SETTLE: Duration = Duration::from_secs(1);
    let network = Network::start(&["--max-unproven-per-address", "4096"]).await?;
    let keyed = load::keyed(&network, Kind::ChargingPoint, LINKS).await?;
    let floor = Floor::start("floor-sealed")?;
    let mut streams = Vec::new();
    for _ in 0..LINKS {
        let stream = TcpStream::connect(floor.address).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let central_pid = network.central.pid().context("Central does not run")?;
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..size.pairs {
        let before = cpu(floor.pid())?;
        let said = say_bare(&mut streams, EVERY, TIME).await?;
        let floor_us = per(cpu(floor.pid())? - before, said);
        // Opened again for each pair, since they send no signs of life while the floor is measured.
        let mut peers = open_all(&network, &keyed).await?;
        // Opening links costs CPU and writes to the disk, which must not count for messages.
        load::say(&mut peers, EVERY, SETTLE).await?;
        let before = cpu(central_pid)?;
        let said = load::say(&mut peers, EVERY, TIME).await?;
        let central_us = per(cpu(central_pid)? - before, said);
        ours.push(central_us);
        bare.push(floor_us);
        ratios.push(central_us / floor_us);
    }
    Ok(BenchRow {
        name: "sealed-message",
        unit: "us CPU a message",
        central: Spread::of(ours),
        floor: Some(Spread::of(bare)),
        ratio: Some(Spread::of(ratios)),
        goal: 2.0,
        at_least: false,
        remark: format!("{LINKS} monitors, each an EngineHealth every {EVERY:?}"),
    })
}

async fn open_all(network: &Network, keyed: &[KeyedPeer]) -> anyhow::Result<Vec<LinkPeer>> {
    let mut peers = Vec::with_capacity(keyed.len());
    for one in keyed {
        peers.push(LinkPeer::open(network.central_link, Part::Monitor, &one.id, one.central, &one.grant).await?);
    }
    Ok(peers)
}

async fn say_bare(streams: &mut [TcpStream], every: Duration, time: Duration) -> anyhow::Result<u64> {
    let message = floor::sealed_message();
    let until = Instant::now() + time;
    let each = streams.iter_mut().map(|stream| {
        let message = &message;
        async move {
            let (mut said, mut acks) = (0, [0; 64]);
            while Instant::now() < until {
                stream.write_all(message).await?;
                said += 1;
                let next = Instant::now() + every;
                while let Ok(read) = tokio::time::timeout_at(next, stream.read(&mut acks)).await {
                    anyhow::ensure!(read? > 0, "the floor closed");
                }
            }
            anyhow::Ok(said)
        }
    });
    Ok(futures::future::try_join_all(each).await?.into_iter().sum())
}

fn per(cpu: Duration, said: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / said.max(1) as f64
}

/// Resident memory per idle charging point (both links), against two echo connections.
async fn idle_memory(size: Size) -> anyhow::Result<BenchRow> {
    let count = size.charging_points;
    let floor = Floor::start("floor-echo")?;
    let before = resident(floor.pid())?;
    let mut streams = Vec::new();
    for _ in 0..2 * count {
        let mut stream = TcpStream::connect(floor.address).await?;
        stream.write_all(b"hello").await?;
        stream.read_exact(&mut [0; 5]).await?;
        streams.push(stream);
    }
    let bare = (resident(floor.pid())? - before) as f64 / count as f64 / 1024.0;
    drop(streams);

    let network = Network::start(&["--max-unproven-per-address", "4096"]).await?;
    let pid = network.central.pid().context("Central does not run")?;
    let before = resident(pid)?;
    let _fleet = fleet::start(&network, count, &[]).await?;
    sleep(Duration::from_secs(3)).await;
    let ours = resident(pid)?.saturating_sub(before) as f64 / count as f64 / 1024.0;
    Ok(BenchRow {
        name: "idle-memory",
        unit: "KiB a charging point",
        central: Spread::of(vec![ours]),
        floor: Some(Spread::of(vec![bare])),
        ratio: Some(Spread::of(vec![ours / bare])),
        goal: 2.0,
        at_least: false,
        remark: format!(
            "{count} charging points; the second goal is 20 KiB: {}",
            if ours <= 20.0 { "met" } else { "missed" }
        ),
    })
}

/// Reconnects with a key per CPU second of the responder, against a bare NKpsk0 responder.
async fn reconnect(size: Size) -> anyhow::Result<BenchRow> {
    const TIME: Duration = Duration::from_secs(4);
    let network = Network::start(&["--max-unproven-per-address", "4096", "--handshakes-per-second", "100000"]).await?;
    let keyed = load::keyed(&network, Kind::ChargingPoint, 32).await?;
    let floor = Floor::start("floor-handshake")?;
    let pid = network.central.pid().context("Central does not run")?;
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..size.pairs {
        let before = cpu(floor.pid())?;
        let done = bare_handshakes(floor.address, keyed.len(), TIME).await?;
        let floor_rate = done as f64 / (cpu(floor.pid())? - before).as_secs_f64();
        let before = cpu(pid)?;
        let done = reconnects(network.central_link, &keyed, TIME).await?;
        let rate = done as f64 / (cpu(pid)? - before).as_secs_f64();
        ours.push(rate);
        bare.push(floor_rate);
        ratios.push(rate / floor_rate);
    }
    Ok(BenchRow {
        name: "reconnect",
        unit: "a CPU second",
        central: Spread::of(ours),
        floor: Some(Spread::of(bare)),
        ratio: Some(Spread::of(ratios)),
        goal: 0.6,
        at_least: true,
        remark: "each closes its last link and opens the next, proven by a sealed message".into(),
    })
}

async fn reconnects(address: SocketAddr, keyed: &[KeyedPeer], time: Duration) -> anyhow::Result<u64> {
    let until = Instant::now() + time;
    let each = keyed.iter().map(|one| async move {
        let mut done = 0;
        while Instant::now() < until {
            LinkPeer::open(address, Part::Engine, &one.id, one.central, &one.grant).await?;
            done += 1;
        }
        anyhow::Ok(done)
    });
    Ok(futures::future::try_join_all(each).await?.into_iter().sum())
}

async fn bare_handshakes(address: SocketAddr, at_once: usize, time: Duration) -> anyhow::Result<u64> {
    let until = Instant::now() + time;
    let each = (0..at_once).map(|_| async move {
        let mut done = 0;
        while Instant::now() < until {
            bare_handshake(address).await?;
            done += 1;
        }
        anyhow::Ok(done)
    });
    Ok(futures::future::try_join_all(each).await?.into_iter().sum())
}

async fn bare_handshake(address: SocketAddr) -> anyhow::Result<()> {
    let builder = snow::Builder::new(floor::PATTERN.parse()?);
    let public = wire::StaticKey::from_bytes(floor::STATIC).public();
    let mut noise = builder.remote_public_key(public.as_bytes())?.psk(0, &floor::PSK)?.build_initiator()?;
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = [0; 256];
    let length = noise.write_message(&[], &mut buffer)?;
    stream.write_u16(u16::try_from(length)?).await?;
    stream.write_all(buffer.get(..length).unwrap_or_default()).await?;
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    noise.read_message(&message, &mut buffer)?;
    Ok(())
}

/// From the restart of a killed Central until 99 % of a fleet are AVAILABLE, against as many bare handshakes.
async fn central_killed(size: Size) -> anyhow::Result<BenchRow> {
    let count = size.charging_points;
    let mut network = Network::start(&["--max-unproven-per-address", "4096"]).await?;
    let _fleet = fleet::start(&network, count, &[]).await?;
    let floor = Floor::start("floor-handshake")?;
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..size.pairs.min(3) {
        let started = Instant::now();
        let mut left = 2 * count;
        while left > 0 {
            let batch = left.min(64);
            let all = (0..batch).map(|_| bare_handshake(floor.address));
            futures::future::try_join_all(all).await?;
            left -= batch;
        }
        let floor_s = started.elapsed().as_secs_f64();
        let started = Instant::now();
        network.central.restart()?;
        fleet::until_available(&network, count, count * 99 / 100).await?;
        let central_s = started.elapsed().as_secs_f64();
        ours.push(central_s);
        bare.push(floor_s);
        ratios.push(central_s / floor_s);
    }
    Ok(BenchRow {
        name: "central-killed",
        unit: "s",
        central: Spread::of(ours),
        floor: Some(Spread::of(bare)),
        ratio: Some(Spread::of(ratios)),
        goal: 1.3,
        at_least: false,
        remark: format!(
            "{count} charging points, with their back-off; the floor does {} handshakes, 64 at once",
            2 * count
        ),
    })
}

/// Readings lost while the keys of a whole fleet rotate, each charging point sending one a second.
async fn rotate(size: Size) -> anyhow::Result<BenchRow> {
    let count = size.charging_points;
    let network = Network::start(&["--max-unproven-per-address", "4096"]).await?;
    let _fleet = fleet::start(&network, count, &["--idle-reading-every", "1s"]).await?;
    let before = fleet::list(&network).await?;
    let request = OrderRequest {
        request_id: fresh_id(),
        selector: Some(Selector { which: Some(Which::All(true)) }),
        expected: Some(u32::try_from(count)?),
        reason: "bench".into(),
    };
    let started = Instant::now();
    network.operator.charging_points.clone().rotate(request).await?;
    let after = until("every key to be a new one", Duration::from_secs(300), async || {
        let now = fleet::list(&network).await.map_err(|error| format!("{error:#}"))?;
        let old = now.values().filter(|cp| before.get(&cp.id).is_some_and(|was| key_no(was) >= key_no(cp))).count();
        if old == 0 { Ok(now) } else { Err(format!("{old} old keys")) }
    })
    .await?;
    let took = started.elapsed();
    sleep(Duration::from_secs(3)).await;
    let last = fleet::list(&network).await?;
    let lost: u64 = last.values().filter_map(|cp| cp.telemetry.as_ref()).map(|t| t.gaps + t.unreadable).sum();
    let readings: u64 = last.values().filter_map(|cp| cp.telemetry.as_ref()).map(|t| t.readings).sum();
    Ok(BenchRow {
        name: "rotate",
        unit: "readings lost",
        central: Spread::of(vec![lost as f64]),
        floor: None,
        ratio: None,
        goal: 0.0,
        at_least: false,
        remark: format!("{} keys in {took:.1?}, {readings} readings meanwhile", after.len()),
    })
}
