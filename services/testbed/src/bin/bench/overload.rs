//! Twice as many handshakes as Central accepts: it answers new connections with busy, its memory does not grow with them,
//! and it accepts connections again as soon as the load ends.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use proto::{link::v1::Part, registry::v1::Kind};
use testbed::{network::Network, peer::LinkPeer, wait::until};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    Size,
    load::{self, KeyedPeer},
    measure::{BenchRow, Spread, resident},
};

/// Handshakes per second that this Central accepts.
const TAKES: u32 = 400;
const PEERS: usize = 200;
const TIME: Duration = Duration::from_secs(6);

#[derive(Default)]
struct OpenCounts {
    opened: AtomicU64,
    refused: AtomicU64,
}

pub(crate) async fn row(size: Size) -> anyhow::Result<BenchRow> {
    let takes = TAKES.to_string();
    let network = Network::start(&["--max-unproven-per-address", "4096", "--handshakes-per-second", &takes]).await?;
    let keyed = load::keyed(&network, Kind::ChargingPoint, PEERS).await?;
    let pid = network.central.pid().context("Central does not run")?;
    let (mut single, mut twice, mut ratios, mut back) = (vec![], vec![], vec![], vec![]);
    let (mut taken, mut busy) = (0, 0);
    // A first storm, not measured, for what the process allocates only once.
    storm(pid, network.central_link, &keyed, TAKES).await?;
    for _ in 0..size.pairs.min(3) {
        let (at_load, _) = storm(pid, network.central_link, &keyed, TAKES).await?;
        let (over, counts) = storm(pid, network.central_link, &keyed, 2 * TAKES).await?;
        taken += counts.opened.load(Ordering::Relaxed);
        busy += counts.refused.load(Ordering::Relaxed);
        let started = Instant::now();
        let one = keyed.first().context("no peer")?;
        until("a newcomer to be taken again", Duration::from_secs(30), async || {
            open(network.central_link, one).await.map_err(|error| format!("{error:#}"))
        })
        .await?;
        back.push(started.elapsed().as_secs_f64());
        single.push(at_load);
        twice.push(over);
        ratios.push(over / at_load);
    }
    Ok(BenchRow {
        name: "overload",
        unit: "MiB at twice the load",
        central: Spread::of(twice),
        floor: Some(Spread::of(single)),
        ratio: Some(Spread::of(ratios)),
        goal: 1.2,
        at_least: false,
        remark: format!(
            "{TAKES} and {} new links a second; at twice {taken} taken, {busy} told to come later; one more taken {} s after",
            2 * TAKES,
            Spread::of(back)
        ),
    })
}

async fn open(address: SocketAddr, one: &KeyedPeer) -> anyhow::Result<()> {
    LinkPeer::open(address, Part::Engine, &one.id, one.central, &one.grant).await.map(drop)
}

/// Opens new links at this rate, in an open loop; answers the largest resident memory of Central in MiB.
async fn storm(
    pid: u32,
    address: SocketAddr,
    keyed: &[KeyedPeer],
    rate: u32,
) -> anyhow::Result<(f64, Arc<OpenCounts>)> {
    let counts = Arc::new(OpenCounts::default());
    let over = Arc::new(AtomicBool::new(false));
    let each = keyed.iter().cloned().map(|one| {
        let (counts, over) = (counts.clone(), over.clone());
        tokio::spawn(async move {
            let mut turn = interval(Duration::from_secs(1) * u32::try_from(PEERS).unwrap_or(1) / rate);
            turn.set_missed_tick_behavior(MissedTickBehavior::Burst);
            // Connections that wait do not delay later ones.
            let mut under_way = JoinSet::new();
            while !over.load(Ordering::Relaxed) {
                turn.tick().await;
                let (one, counts) = (one.clone(), counts.clone());
                under_way.spawn(async move {
                    let taken = open(address, &one).await.is_ok();
                    (if taken { &counts.opened } else { &counts.refused }).fetch_add(1, Ordering::Relaxed);
                });
                while under_way.try_join_next().is_some() {}
            }
            under_way.join_all().await;
        })
    });
    let all: Vec<_> = each.collect();
    let (until, mut most) = (Instant::now() + TIME, 0);
    while Instant::now() < until {
        most = most.max(resident(pid)?);
        sleep(Duration::from_millis(50)).await;
    }
    over.store(true, Ordering::Relaxed);
    for one in all {
        one.await?;
    }
    Ok((most as f64 / 1024.0 / 1024.0, counts))
}
