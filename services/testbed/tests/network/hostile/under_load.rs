//! All attacks at the same time do not affect honest charging points and drivers (SPEC 2.4, 4.2).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use proto::{
    central::v1::{ChargingPointState, WatchChargingPointsRequest, charging_point_event::Event},
    link::v1::{Authenticate, EngineHealth, Opened, Part, Progress, StopSupply, up},
};
use testbed::{network::Network, peer::LinkPeer};
use tokio::{
    io::AsyncWriteExt as _,
    runtime::Builder,
    time::{Instant, sleep},
};
use wire::frame;

use super::{
    ATTACKER, EnrolledIdentity, attack_at, framed, keyed,
    links::{HostileLink, HostilePoint, driver, step},
    no_link_lost, opening,
};

/// Pairs of a quiet and a hostile round: other load of the machine affects both rounds of a pair, or only some pairs. An
/// odd number, for the median.
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(2_500);
/// A p99 needs at least so many samples over all rounds.
const ENOUGH: usize = 400;

#[tokio::test(flavor = "multi_thread")]
async fn honest_signs_and_authorisations_go_on_under_attack_spec_2_4() -> anyhow::Result<()> {
    // Two drivers that request as fast as they can, for many samples.
    let unbound = ["--requests-at-once", "10000", "--requests-per-second", "10000"];
    let network = Network::start(&[&["--link-handshake-timeout", "3s"], &unbound[..]].concat()).await?;
    let honest = [network.charging_point("HONEST").await?, network.charging_point("HONEST-2").await?];
    let mut pairs = Vec::new();
    for n in 0..2 {
        let station = HostilePoint::start(&network, &format!("STATION-{n}")).await?;
        pairs.push((station, driver(&network, &format!("driver-{n}")).await?));
    }
    let (victim, cloned) =
        (keyed(&network, Part::Monitor, "VICTIM").await?, HostilePoint::start(&network, "CLONED").await?);
    let disconnected = watch(&network).await?;

    let (going, attempts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let over = Arc::new(AtomicBool::new(false));
    let attackers = {
        let switch = Switch { going: Arc::clone(&going), over: Arc::clone(&over), attempts: Arc::clone(&attempts) };
        let (central, victim, cloned) = (network.central_link, victim.clone(), cloned.keyed.clone());
        // On a thread of their own, so that their computing does not delay measurements here.
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(attack(central, &victim, &cloned, &switch));
        })
    };
    let (mut quiet, mut hostile) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        going.store(false, Ordering::Relaxed);
        quiet.push(authorise(&mut pairs, ROUND).await?);
        going.store(true, Ordering::Relaxed);
        hostile.push(authorise(&mut pairs, ROUND).await?);
    }
    over.store(true, Ordering::Relaxed);
    let joined = tokio::task::spawn_blocking(move || attackers.join()).await?;
    ensure!(joined.is_ok(), "the attack itself panicked");

    let (samples, hostile_samples) = (quiet.iter().map(Vec::len).sum(), hostile.iter().map(Vec::len).sum());
    ensure!([samples, hostile_samples].into_iter().all(|count: usize| count >= ENOUGH), "too few samples");
    let attempts = attempts.load(Ordering::Relaxed);
    let rounds: Vec<_> =
        quiet.iter_mut().zip(&mut hostile).map(|(quiet, hostile)| (p99(quiet), p99(hostile))).collect();
    println!("authorisation p99, quiet and under {attempts} attacks: {rounds:?}, of {samples} and {hostile_samples}");
    let times = slowed_down(&rounds);
    ensure!(attempts > 500, "only {attempts} attacks");
    ensure!(times <= 2.0, "under attack p99 is {times:.2} times the quiet one: {rounds:?}");
    ensure!(disconnected.load(Ordering::Relaxed) == 0, "an honest charging point was shown as DISCONNECTED");
    for id in ["HONEST", "HONEST-2", "STATION-0", "STATION-1"] {
        no_link_lost(&network, id).await?;
    }
    ensure!(!network.central.log().contains("panicked"), "something panicked in Central");
    drop(honest);
    Ok(())
}

/// Measures the time from request to authorisation repeatedly; each session is stopped before the plug-in.
async fn authorise(pairs: &mut [(HostilePoint, HostileLink)], time: Duration) -> anyhow::Result<Vec<Duration>> {
    let until = Instant::now() + time;
    let each = pairs.iter_mut().map(|(station, driver)| async move {
        let mut took = Vec::new();
        while Instant::now() < until {
            let begun = Instant::now();
            let session_id = station.reserve(driver).await?;
            took.push(begun.elapsed());
            driver.send(up::Body::StopSupply(StopSupply { session_id: session_id.clone() })).await?;
            driver.until(|body| step(body, &session_id, Progress::Released)).await?;
        }
        anyhow::Ok(took)
    });
    Ok(futures::future::try_join_all(each).await?.into_iter().flatten().collect())
}

/// The p99 of hostile rounds divided by that of quiet rounds: the median of all pairs.
fn slowed_down(rounds: &[(Duration, Duration)]) -> f64 {
    let mut times: Vec<f64> =
        rounds.iter().map(|(quiet, hostile)| hostile.as_secs_f64() / quiet.as_secs_f64()).collect();
    times.sort_unstable_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::INFINITY)
}

fn p99(took: &mut [Duration]) -> Duration {
    took.sort_unstable();
    took.get(took.len() * 99 / 100).copied().unwrap_or_default()
}

/// Counts how often an honest charging point is shown as DISCONNECTED from now on.
async fn watch(network: &Network) -> anyhow::Result<Arc<AtomicU64>> {
    let mut stream =
        network.operator.charging_points.clone().watch(WatchChargingPointsRequest::default()).await?.into_inner();
    while !matches!(stream.message().await?.context("the stream ended")?.event, Some(Event::Synchronised(_))) {}
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok(Some(event)) = stream.message().await {
            if let Some(Event::Changed(cp)) = event.event
                && (cp.id.starts_with("HONEST") || cp.id.starts_with("STATION"))
                && cp.state() == ChargingPointState::Disconnected
            {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    Ok(seen)
}

/// Switches the attacks on and off.
struct Switch {
    going: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    attempts: Arc<AtomicU64>,
}

impl Switch {
    /// Waits for the next attempt; false when the test is over.
    async fn turn(&self, pause: Duration) -> bool {
        sleep(pause).await;
        while !self.going.load(Ordering::Relaxed) && !self.over.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(20)).await;
        }
        self.attempts.fetch_add(1, Ordering::Relaxed);
        !self.over.load(Ordering::Relaxed)
    }
}

async fn attack(central: std::net::SocketAddr, victim: &EnrolledIdentity, cloned: &EnrolledIdentity, switch: &Switch) {
    let ms = Duration::from_millis;
    let connect = || attack_at(ATTACKER, central);
    let whole = opening(Part::Monitor, "VICTIM", victim.key());
    let garbage = async {
        while switch.turn(ms(10)).await {
            let mut noise = vec![frame::ENQ];
            noise.extend((0..2_000).map(|_| rand::random::<u8>()));
            if let Ok(mut stream) = connect().await {
                let _ = stream.write_all(&noise).await;
            }
        }
    };
    // Several hundred connections that are held open.
    let unfinished = async {
        let mut held = std::collections::VecDeque::new();
        while switch.turn(ms(8)).await {
            if let Ok(mut stream) = connect().await {
                let _ = stream.write_all(&whole).await;
                held.push_back(stream);
            }
            if held.len() > 400 {
                held.pop_front();
            }
        }
    };
    let unknown = async {
        let nobody = opening(Part::Engine, "NOBODY", victim.key());
        while switch.turn(ms(15)).await {
            if let Ok(mut stream) = connect().await {
                let _ = stream.write_all(&nobody).await;
            }
        }
    };
    let guesses = async {
        while switch.turn(ms(20)).await {
            let Ok(stream) = connect().await else { continue };
            if let Ok(mut peer) = LinkPeer::over(stream, Part::Monitor, "VICTIM", victim.first_contact()).await {
                let credential = b"a guess".to_vec();
                let _ = peer.send(up::Body::Authenticate(Authenticate { credential })).await;
                let _ = peer.receive(Duration::from_secs(1)).await;
            }
        }
    };
    let endless = async {
        while switch.turn(ms(200)).await {
            if let Ok(mut stream) = connect().await {
                let _ = stream.write_all(&[&[frame::ENQ, frame::STX][..], &vec![b'a'; 1 << 20]].concat()).await;
            }
        }
    };
    // Authenticated links with noise and with frames of other links.
    let spliced = async {
        let foreign: Vec<u8> =
            (0..=255).flat_map(|n| framed(&[&[n, wire::kind::SEALED][..], &[7; 60]].concat())).collect();
        while switch.turn(ms(100)).await {
            let Ok(stream) = connect().await else { continue };
            if let Ok(mut peer) = LinkPeer::over(stream, Part::Monitor, "VICTIM", victim.key()).await {
                let _ = peer.send(up::Body::Opened(Opened::default())).await;
                for _ in 0..20 {
                    let _ = peer.raw(&foreign).await;
                    let _ = peer.send_bytes(b"\xff\xff\xff").await;
                    let _ = peer.idle(ms(10)).await;
                }
            }
        }
    };
    // A cloned key that takes over the link again and again.
    let clone = async {
        while switch.turn(ms(50)).await {
            let Ok(stream) = connect().await else { continue };
            if let Ok(mut peer) = LinkPeer::over(stream, Part::Monitor, "CLONED", cloned.key()).await {
                let _ = peer.send(up::Body::Opened(Opened::default())).await;
                for healthy in [false, true, false] {
                    let detail = "x".repeat(10_000);
                    let _ = peer.notify(up::Body::EngineHealth(EngineHealth { healthy, detail })).await;
                }
            }
        }
    };
    tokio::join!(garbage, unfinished, unknown, guesses, endless, spliced, clone);
}
