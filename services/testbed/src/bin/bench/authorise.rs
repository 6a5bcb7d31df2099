//! Authorisations of drivers while each charging point of a fleet sends one message a second, compared with a program
//! that makes the same hops and commits without any logic. The load is an open loop: each request is due at a set time,
//! and waiting counts.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use proto::{
    link::v1::{Part, Progress, RequestSupply, StopSupply, down, up},
    registry::v1::Kind,
};
use store::{
    Database,
    audit::AuditEntry,
    central::{Committer, CommitterSettings, OnceRow, RowWrite, SCHEMA, Turn, TurnId},
};
use testbed::{
    fleet,
    network::Network,
    operator::fresh_id,
    peer::{LinkPeer, PATIENCE},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    Size, floor,
    load::{self, KeyedPeer},
    measure::{BenchRow, Floor, Spread},
};

/// Drivers, each asking once every `EVERY`.
const DRIVERS: usize = 50;
const EVERY: Duration = Duration::from_secs(2);
const TIME: Duration = Duration::from_secs(20);
/// A message of the floor: what it is, whose, and padding to the size of a sealed one.
const PLAIN: usize = floor::SEALED_BYTES - 16;
const READING: u8 = 0;
const REQUEST: u8 = 1;
const ASKED: u8 = 2;
const STOP: u8 = 3;

pub(crate) async fn row(size: Size) -> anyhow::Result<BenchRow> {
    let count = size.charging_points.max(2 * DRIVERS);
    let network = Network::start(&["--max-unproven-per-address", "4096"]).await?;
    let drivers = load::keyed(&network, Kind::Driver, DRIVERS).await?;
    let _fleet = fleet::start(&network, count, &["--idle-reading-every", "1s", "--plug-in-after", "30s"]).await?;
    let ids: Vec<String> = fleet::list(&network).await?.into_keys().collect();
    let bare = Floor::start("floor-authorise")?;
    let (known, mut ready) = mpsc::channel(count);
    let mut engines = Vec::with_capacity(count);
    for number in 0..count {
        engines.push(tokio::spawn(bare_engine(bare.address, u32::try_from(number)?, known.clone())));
    }
    for _ in 0..count {
        ready.recv().await.context("the floor's engines ended")?;
    }
    let (mut ours, mut floors, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..size.pairs.min(3) {
        let floor_ms = p99(bare_drivers(&bare, count).await?);
        let ours_ms = p99(ask_all(&network, &drivers, &ids).await?);
        floors.push(floor_ms);
        ours.push(ours_ms);
        ratios.push(ours_ms / floor_ms);
    }
    engines.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(BenchRow {
        name: "authorise",
        unit: "ms p99",
        central: Spread::of(ours),
        floor: Some(Spread::of(floors)),
        ratio: Some(Spread::of(ratios)),
        goal: 2.0,
        at_least: false,
        remark: format!("{DRIVERS} drivers, each every {EVERY:?}, beside {count} charging points at 1 Hz"),
    })
}

fn p99(took: Histogram<u64>) -> f64 {
    took.value_at_quantile(0.99) as f64 / 1000.0
}

/// When each driver's turns are: spread over the interval.
fn turns(driver: usize) -> impl Iterator<Item = (usize, Instant)> {
    let begin =
        Instant::now() + EVERY * u32::try_from(driver).unwrap_or_default() / u32::try_from(DRIVERS).unwrap_or(1);
    let turns = usize::try_from(TIME.as_millis() / EVERY.as_millis()).unwrap_or(1);
    (0..turns).map(move |turn| (driver + turn * DRIVERS, begin + EVERY * u32::try_from(turn).unwrap_or_default()))
}

async fn ask_all(network: &Network, drivers: &[KeyedPeer], ids: &[String]) -> anyhow::Result<Histogram<u64>> {
    let each = drivers.iter().enumerate().map(|(number, one)| async move {
        let mut peer = LinkPeer::open(network.central_link, Part::Driver, &one.id, one.central, &one.grant).await?;
        let mut took = Vec::new();
        for (turn, at) in turns(number) {
            peer.idle(at.saturating_duration_since(Instant::now())).await?;
            let charging_point_id = ids.get(turn % ids.len()).context("no charging point")?.clone();
            took.push(authorise(&mut peer, charging_point_id, at).await?);
        }
        anyhow::Ok(took)
    });
    histogram(try_join_all(each).await?)
}

/// One request to its authorisation; then it is taken back, unplugged as it is.
async fn authorise(peer: &mut LinkPeer, charging_point_id: String, at: Instant) -> anyhow::Result<Duration> {
    let request_id = fresh_id();
    let request =
        RequestSupply { request_id: request_id.clone(), charging_point_id, energy_wh: 1_000, highest_price_e4: None };
    peer.send(up::Body::RequestSupply(request)).await?;
    let step = |wanted: Progress| {
        let request_id = request_id.clone();
        move |body: &down::Body| {
            let down::Body::Step(step) = body else { return None };
            let over = matches!(step.progress(), Progress::Refused | Progress::Released);
            (step.request_id == request_id && (step.progress() == wanted || over)).then(|| step.clone())
        }
    };
    let authorised = peer.receive_until(PATIENCE, step(Progress::Authorised)).await?;
    ensure!(authorised.progress() == Progress::Authorised, "refused: {authorised:?}");
    let took = at.elapsed();
    peer.send(up::Body::StopSupply(StopSupply { session_id: authorised.session_id })).await?;
    peer.receive_until(PATIENCE, step(Progress::Released)).await?;
    Ok(took)
}

fn histogram(took: Vec<Vec<Duration>>) -> anyhow::Result<Histogram<u64>> {
    let mut all = Histogram::new(3)?;
    for one in took.into_iter().flatten() {
        all.record(u64::try_from(one.as_micros())?)?;
    }
    Ok(all)
}

/// A message of the floor in the open.
fn plain(kind: u8, engine: u32, driver: u32) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(engine.to_be_bytes());
    bytes.extend(driver.to_be_bytes());
    bytes.resize(PLAIN, 0);
    bytes
}

fn sealed(mut message: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let aad = ring::aead::Aad::from([0; 11]);
    floor::key().seal_in_place_append_tag(floor::nonce(), aad, &mut message).ok().context("seal")?;
    Ok(message)
}

/// Kind, engine and driver of the next message.
async fn next(from: &mut OwnedReadHalf) -> anyhow::Result<(u8, u32, u32)> {
    let mut bytes = [0; floor::SEALED_BYTES];
    from.read_exact(&mut bytes).await?;
    let aad = ring::aead::Aad::from([0; 11]);
    let message = floor::key().open_in_place(floor::nonce(), aad, &mut bytes).ok().context("open")?;
    let (kind, rest) = message.split_first().context("empty")?;
    let number = |at: usize| rest.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    Ok((*kind, number(0).context("short")?, number(4).context("short")?))
}

/// Says a reading a second, and yes to whatever is asked. Tells `known` once the floor has heard of it.
async fn bare_engine(address: std::net::SocketAddr, number: u32, known: mpsc::Sender<()>) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.into_split();
    let (sender, mut waiting) = mpsc::channel(16);
    let answers = async move {
        next(&mut from).await?;
        known.send(()).await?;
        while let Ok((kind, engine, driver)) = next(&mut from).await {
            if kind == READING {
                continue;
            }
            if sender.send(plain(kind, engine, driver)).await.is_err() {
                break;
            }
        }
        anyhow::Ok(())
    };
    let says = async move {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            let message = tokio::select! {
                _ = every.tick() => plain(READING, number, 0),
                Some(answer) = waiting.recv() => answer,
                else => return anyhow::Ok(()),
            };
            to.write_all(&sealed(message)?).await?;
        }
    };
    futures::future::try_join(answers, says).await?;
    Ok(())
}

async fn bare_drivers(floor: &Floor, engines: usize) -> anyhow::Result<Histogram<u64>> {
    let each = (0..DRIVERS).map(|number| async move {
        let stream = TcpStream::connect(floor.address).await?;
        stream.set_nodelay(true)?;
        let (mut from, mut to) = stream.into_split();
        let mut took = Vec::new();
        for (turn, at) in turns(number) {
            sleep_until(at).await;
            let (engine, driver) = (u32::try_from(turn % engines)?, u32::try_from(number)?);
            to.write_all(&sealed(plain(REQUEST, engine, driver))?).await?;
            next(&mut from).await?;
            took.push(at.elapsed());
            to.write_all(&sealed(plain(STOP, engine, driver))?).await?;
            next(&mut from).await?;
        }
        anyhow::Ok(took)
    });
    histogram(try_join_all(each).await?)
}

type Ways = Arc<Mutex<HashMap<u32, mpsc::Sender<Vec<u8>>>>>;

/// A driver's message goes to the engine, its yes to the disk, and the answer to the driver.
pub(crate) fn floor() -> anyhow::Result<()> {
    let listener = floor::announce()?;
    listener.set_nonblocking(true)?;
    floor::runtime()?.block_on(async move {
        let folder = tempfile::tempdir()?;
        let url = format!("sqlite:{}", folder.path().join("floor.db").display());
        Database::migrate(&url, SCHEMA).await?;
        let database = Database::open(&url, SCHEMA).await?;
        let committer = Committer::start(&database, "floor", CommitterSettings::default())?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (engines, drivers) = (Ways::default(), Ways::default());
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (from, to) = stream.into_split();
            let (sender, waiting) = mpsc::channel(64);
            tokio::spawn(write_all(to, waiting));
            let rest = (engines.clone(), drivers.clone(), committer.clone());
            tokio::spawn(async move {
                let _ = serve(from, sender, rest).await;
            });
        }
    })
}

async fn write_all(mut to: OwnedWriteHalf, mut waiting: mpsc::Receiver<Vec<u8>>) -> anyhow::Result<()> {
    while let Some(message) = waiting.recv().await {
        to.write_all(&sealed(message)?).await?;
    }
    Ok(())
}

async fn serve(
    mut from: OwnedReadHalf,
    own: mpsc::Sender<Vec<u8>>,
    (engines, drivers, committer): (Ways, Ways, Committer),
) -> anyhow::Result<()> {
    let way = |ways: &Ways, to: u32| ways.lock().unwrap_or_else(PoisonError::into_inner).get(&to).cloned();
    loop {
        let (kind, engine, driver) = next(&mut from).await?;
        match kind {
            READING => {
                engines.lock().unwrap_or_else(PoisonError::into_inner).insert(engine, own.clone());
                // Its acknowledgement.
                own.send(plain(READING, engine, driver)).await?;
            }
            REQUEST => {
                drivers.lock().unwrap_or_else(PoisonError::into_inner).insert(driver, own.clone());
                let engine_way = way(&engines, engine).context("no such engine")?;
                engine_way.send(plain(ASKED, engine, driver)).await?;
            }
            _ => {
                let (committer, to) = (committer.clone(), way(&drivers, driver).context("no such driver")?);
                tokio::spawn(async move {
                    committer.submit(commit(kind, engine, driver)).await?;
                    to.send(plain(kind, engine, driver)).await?;
                    anyhow::Ok(())
                });
            }
        }
    }
}

/// Rows as an authorisation, or its end, writes them.
fn commit(kind: u8, engine: u32, driver: u32) -> Turn {
    let entry = |action: &str| {
        RowWrite::Audit(AuditEntry {
            at_ms: 1_700_000_000_000,
            actor: format!("driver/driver-{driver}"),
            address: "127.0.0.1:50000".into(),
            action: action.into(),
            object: format!("charging-point/BENCH-{engine}"),
            parameters: r#"{"request":"0123456789"}"#.into(),
            outcome: "DONE".into(),
        })
    };
    let writes = if kind == ASKED {
        let once = OnceRow {
            caller: format!("driver/driver-{driver}"),
            request_id: fresh_id(),
            method: "RequestSupply".into(),
            digest: "00".repeat(32),
            answer: "00".repeat(48),
            nonce: None,
            at_ms: 1_700_000_000_000,
        };
        vec![RowWrite::Once(once), entry("SUPPLY_REQUESTED"), entry("SUPPLY_AUTHORISED")]
    } else {
        vec![entry("SUPPLY_RELEASED")]
    };
    Turn { id: TurnId::random(), name: "floor", guard: None, writes }
}
