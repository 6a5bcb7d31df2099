//! Unsealed frames forged by a man in the middle (SPEC 4.2, 4.3): they cost time, but never a key.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::ensure;
use prost::Message as _;
use proto::{
    central::v1::ChargingPointState,
    link::v1::{Busy, Part, UnknownKey},
};
use testbed::{
    network::{Network, PATIENCE},
    operator::key_no,
    peer::LinkPeer,
    wait::until,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::Instant,
};
use wire::{frame, kind};

use super::{framed, honest, keyed, unharmed};
use crate::support::{linked, reserve};

/// What the man in the middle does with a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgery {
    Pass,
    /// The call is answered by a busy frame.
    Busy(u32),
    /// The handshake is answered by "unknown key".
    UnknownKey,
}

/// A proxy between a peer and Central that forges frames.
struct ManInTheMiddle {
    address: SocketAddr,
    forgery: watch::Sender<Forgery>,
    forged: Arc<Mutex<Vec<Instant>>>,
    passed: Arc<Mutex<Vec<Instant>>>,
    inject: watch::Sender<Vec<u8>>,
}

impl ManInTheMiddle {
    async fn start(central: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (forgery, to_do) = watch::channel(Forgery::Pass);
        let (inject, injected) = watch::channel(Vec::new());
        let (forged, passed) = (Arc::<Mutex<Vec<Instant>>>::default(), Arc::<Mutex<Vec<Instant>>>::default());
        let (in_forged, in_passed) = (Arc::clone(&forged), Arc::clone(&passed));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let now = *to_do.borrow();
                let list = if now == Forgery::Pass { &in_passed } else { &in_forged };
                list.lock().expect("nobody panics with it").push(Instant::now());
                tokio::spawn(serve(stream, central, to_do.clone(), injected.clone()));
            }
        });
        Ok(Self { address, forgery, forged, passed, inject })
    }

    /// Sets what is done with new connections, and closes relayed ones.
    fn set(&self, forgery: Forgery) {
        self.forgery.send_replace(forgery);
    }

    fn forged(&self) -> Vec<Instant> {
        self.forged.lock().expect("nobody panics with it").clone()
    }

    fn passed(&self) -> Vec<Instant> {
        self.passed.lock().expect("nobody panics with it").clone()
    }
}

async fn serve(
    mut near: TcpStream,
    central: SocketAddr,
    mut forgery: watch::Receiver<Forgery>,
    injected: watch::Receiver<Vec<u8>>,
) {
    let _ = near.set_nodelay(true);
    let now = *forgery.borrow_and_update();
    match now {
        Forgery::Pass => {
            let Ok(mut far) = TcpStream::connect(central).await else { return };
            let _ = far.set_nodelay(true);
            tokio::select! {
                _ = pass(&mut near, &mut far, injected) => {}
                _ = forgery.changed() => {}
            }
        }
        Forgery::Busy(retry_after_ms) => {
            let _called = near.read(&mut [0; 16]).await;
            let busy = [vec![1, kind::BUSY], Busy { retry_after_ms }.encode_to_vec()].concat();
            let answer = [vec![frame::NACK, 0], framed(&busy), vec![frame::EOT]].concat();
            let _answered = near.write_all(&answer).await;
            let _closed = near.read(&mut [0; 16]).await;
        }
        Forgery::UnknownKey => {
            let _called = near.read(&mut [0; 16]).await;
            let _answered = near.write_all(&[frame::ACK, 0]).await;
            let _shaken = near.read(&mut [0; 1024]).await;
            let unknown = [vec![1, kind::UNKNOWN_KEY], UnknownKey {}.encode_to_vec()].concat();
            let answer = [framed(&unknown), vec![frame::EOT]].concat();
            let _answered = near.write_all(&answer).await;
            let _closed = near.read(&mut [0; 16]).await;
        }
    }
}

/// Relays both directions, and sends injected bytes to the initiator.
async fn pass(
    near: &mut TcpStream,
    far: &mut TcpStream,
    mut injected: watch::Receiver<Vec<u8>>,
) -> std::io::Result<()> {
    injected.borrow_and_update();
    loop {
        tokio::select! {
            both = copy_bidirectional(near, far) => return both.map(drop),
            changed = injected.changed() => if changed.is_err() { return Ok(()) },
        }
        let bytes = injected.borrow_and_update().clone();
        near.write_all(&bytes).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_busy_frame_costs_no_more_than_the_capped_jittered_wait_spec_4_2() -> anyhow::Result<()> {
    const ASKED: Duration = Duration::from_secs(3);
    let network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let between = ManInTheMiddle::start(network.central_link).await?;
    let point = network.charging_point_at("CP-1", between.address, &[], &[]).await?;
    let (logins, key) = (logins(&network).await?, key_no(&network.shown("CP-1").await?));
    between.set(Forgery::Busy(u32::try_from(ASKED.as_millis())?));
    // One connection of the monitor, one of the engine.
    until("both to be told that Central is busy", PATIENCE, async || match between.forged().len() {
        0 | 1 => Err("not yet".to_owned()),
        _ => Ok(()),
    })
    .await?;
    let passed = between.passed().len();
    between.set(Forgery::Pass);
    network.until_state("CP-1", ChargingPointState::Disconnected).await?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    // The wait is what was asked, up to half as much as jitter, and its own back-off.
    let (told, back) = (between.forged(), between.passed()[passed..].to_vec());
    let waited = back.first().zip(told.first()).map(|(back, told)| back.duration_since(*told)).unwrap_or_default();
    ensure!(waited >= ASKED, "it came back after {waited:?}");
    ensure!(waited < ASKED * 3 / 2 + Duration::from_secs(5), "it waited {waited:?}");
    ensure!(told.len() <= 4, "it did not wait: {} calls", told.len());
    ensure!(logins == super::forged::logins(&network).await? && key == key_no(&network.shown("CP-1").await?));
    drop(point);

    // A link waits at most for a minute and half a minute of jitter, whatever the busy frame asks for.
    let cp = keyed(&network, Part::Monitor, "KNOWN").await?;
    between.set(Forgery::Busy(u32::MAX));
    let told = LinkPeer::connect(between.address, Part::Monitor, "KNOWN", cp.key()).await.map(drop);
    let told = told.expect_err("it was told to wait").to_string();
    ensure!(told.contains("Busy { retry_after: 60s }"), "{told}");
    unharmed(&network).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_unknown_key_costs_at_most_one_first_contact_spec_4_3() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let between = ManInTheMiddle::start(network.central_link).await?;
    let point = network.charging_point_at("CP-1", between.address, &[], &[]).await?;
    let before = logins(&network).await?;
    between.set(Forgery::UnknownKey);
    until("both to be told that their key is unknown", PATIENCE, async || match between.forged().len() {
        0 | 1 => Err("not yet".to_owned()),
        _ => Ok(()),
    })
    .await?;
    between.set(Forgery::Pass);
    network.until_state("CP-1", ChargingPointState::Available).await?;
    let more = logins(&network).await? - before;
    ensure!(more <= 1, "{more} first contacts");
    // The charging point has recovered by itself and works.
    point.until_monitor("its key", PATIENCE, |status| status["key_state"] == serde_json::json!("ACTIVE")).await?;
    unharmed(&network).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_keeps_its_key_after_a_forged_unknown_key_while_registry_is_away_spec_4_3_9() -> anyhow::Result<()> {
    let mut network = Network::start(&[]).await?;
    let point = honest(&network).await?;
    let between = ManInTheMiddle::start(network.central_link).await?;
    let driver = network.driver_at("ana", between.address, &[]).await?;
    linked(&driver).await?;
    let granted = network.operator.audited("KEY_GRANTED", "driver/ana").await?.len();
    network.registry.kill();
    between.set(Forgery::UnknownKey);
    until("him to be told so more than once", PATIENCE, async || match between.forged().len() {
        0..=2 => Err("not yet".to_owned()),
        _ => Ok(()),
    })
    .await?;
    between.set(Forgery::Pass);
    linked(&driver).await?;
    reserve(&network, &point, &driver, "0.1").await?;
    ensure!(network.operator.audited("KEY_GRANTED", "driver/ana").await?.len() == granted, "he has another key");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_frames_forged_into_an_open_link_change_nothing_spec_4_3() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let between = ManInTheMiddle::start(network.central_link).await?;
    let _cp = network.charging_point_at("CP-1", between.address, &[], &[]).await?;
    let (logins, key) = (logins(&network).await?, key_no(&network.shown("CP-1").await?));
    let passed = between.passed().len();
    let mut bytes = Vec::new();
    for counter in 0..=255 {
        let busy = Busy { retry_after_ms: u32::MAX }.encode_to_vec();
        bytes.extend(framed(&[vec![counter, kind::BUSY], busy].concat()));
        bytes.extend(framed(&[counter, kind::UNKNOWN_KEY]));
    }
    between.inject.send_replace(bytes);
    // Its links are still open: an order reaches it.
    let order = testbed::operator::order(&["CP-1"]);
    network.operator.charging_points.clone().stop(order.clone()).await?;
    network.until_state("CP-1", ChargingPointState::OutOfOrder).await?;
    network.operator.charging_points.clone().resume(testbed::operator::order(&["CP-1"])).await?;
    network.until_state("CP-1", ChargingPointState::Available).await?;
    ensure!(logins == super::forged::logins(&network).await? && key == key_no(&network.shown("CP-1").await?));
    ensure!(between.passed().len() <= passed + 2, "it dials again and again");
    unharmed(&network).await
}

/// The number of first contacts of the charging point.
async fn logins(network: &Network) -> anyhow::Result<usize> {
    Ok(network.operator.audited("LOGIN", "charging-point/CP-1").await?.len())
}
