//! Recorded bytes of an honest link, sent again (SPEC 4.5, 4.8, 4.9).

use std::time::Duration;

use anyhow::{Context as _, ensure};
use proto::{
    central::v1::ChargingPointState,
    link::v1::{EngineHealth, Part, SetMaintenance, down, up},
};
use testbed::{network::Network, network::PATIENCE, peer::LinkPeer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use wire::{frame, kind};

use super::{
    ATTACKER, attack_from, counted, framed, frames, honest, keyed,
    links::{HostileLink, HostilePoint, MessageOutcome, monitor},
    unharmed, until_closed,
};

/// A charging point may switch its maintenance once a second.
const SWITCHED_EVERY: Duration = Duration::from_millis(1_100);

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_handshake_takes_over_nothing_and_gets_no_message_spec_4_9() -> anyhow::Result<()> {
    let mut network = Network::start(&["--link-handshake-timeout", "2s"]).await?;
    let _post = honest(&network).await?;
    let station = HostilePoint::start(&network, "KNOWN").await?;
    let mut sent_bytes = Vec::new();
    for (part, proof) in [
        (Part::Engine, station.keyed.key()),
        (Part::Monitor, station.keyed.key()),
        (Part::Monitor, station.keyed.first_contact()),
    ] {
        let mut peer = LinkPeer::connect(network.central_link, part, "KNOWN", proof).await?;
        if sent_bytes.len() < 2 {
            peer.send(up::Body::Opened(Default::default())).await?;
        } else {
            let credential = station.keyed.credential.clone().into_bytes();
            peer.send(up::Body::Authenticate(proto::link::v1::Authenticate { credential })).await?;
        }
        peer.receive(PATIENCE).await?;
        sent_bytes.push(peer.sent_bytes().to_vec());
    }
    // The honest engine and monitor have reconnected since the recording.
    let (_monitor, _engine) =
        (monitor(&network, &station.keyed).await?, super::links::engine(&network, &station.keyed).await?);
    network.until_state("KNOWN", ChargingPointState::Available).await?;
    let before = settled(&network).await?;
    let replay = async |bytes: &[u8], step_by_step: bool| {
        let mut stream = attack_from(ATTACKER, &network).await?;
        // All at once, or step by step: the sealed frame comes third, once the channel is open.
        let third = bytes.iter().enumerate().filter(|(_, byte)| **byte == frame::STX).nth(2).map(|(at, _)| at);
        let (opening, sealed) = bytes.split_at(third.context("no third frame")?);
        stream.write_all(opening).await?;
        if step_by_step {
            while !stream_says(&mut stream, frame::ETX).await? {}
        }
        stream.write_all(sealed).await?;
        let said = until_closed(&mut stream, PATIENCE).await?;
        // The replay gets a handshake answer and an acknowledgement, but never a message.
        let told: Vec<u8> = frames(&said).iter().map(|body| body[1]).collect();
        ensure!(told.iter().all(|kind| *kind == kind::HANDSHAKE), "it was told something: {said:02x?}");
        Ok(())
    };
    let replays = sent_bytes.iter().flat_map(|bytes| (0..20).map(|n| replay(bytes, n % 2 == 0)));
    futures::future::try_join_all(replays).await?;
    let after = settled(&network).await?;
    ensure!(after == before, "the replay left {after:?} after {before:?}");
    network.until_state("KNOWN", ChargingPointState::Available).await?;
    unharmed(&network).await?;
    let counted = counted(&mut network).await?;
    let of = |reason: &str| counted.get(reason).copied().unwrap_or_default();
    // A sealed frame before the channel is open is a protocol error.
    ensure!(of("UNINTELLIGIBLE") >= 30 && of("UNINTELLIGIBLE") + of("GARBAGE") == 60, "{counted:?}");
    ensure!(of("UNINTELLIGIBLE") == of("UNFINISHED"), "{counted:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_message_is_handled_once_on_its_link_and_never_on_another_spec_4_5() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let station = HostilePoint::start(&network, "KNOWN").await?;
    let other = HostilePoint::start(&network, "OTHER").await?;

    // The monitor's maintenance messages are recorded.
    let mut peer = station.keyed.open(&network, Part::Monitor).await?;
    let before = frames(peer.sent_bytes()).len();
    for on in [true, false] {
        let id = peer.send(up::Body::SetMaintenance(SetMaintenance { on })).await?;
        until_answered(&mut peer, id).await?;
        // A switch within a second would be refused for its rate, which would hide the refusal of the repetition.
        peer.idle(SWITCHED_EVERY).await?;
    }
    network.until_state("KNOWN", ChargingPointState::Available).await?;
    let sealed: Vec<Vec<u8>> =
        frames(peer.sent_bytes())[before..].iter().filter(|body| body[1] == kind::SEALED).cloned().collect();
    let maintenance = sealed.iter().max_by_key(|body| body.len()).cloned().unwrap_or_default();
    let on = async || network.operator.audited("MAINTENANCE_ON", "charging-point/KNOWN").await;
    ensure!(on().await?.len() == 1, "it was said once");

    // Repeated on its own link: unchanged, and with the counter of the next frame.
    for _ in 0..20 {
        for body in &sealed {
            peer.raw(&framed(body)).await?;
        }
        peer.raw(&framed(&in_the_next_place(&peer, &maintenance))).await?;
        let healthy = EngineHealth { healthy: true, detail: String::new() };
        let id = peer.send(up::Body::EngineHealth(healthy)).await?;
        until_answered(&mut peer, id).await?;
    }
    ensure!(on().await?.len() == 1, "a repeated message was handled again");

    // Repeated on the next link of the same key, and on a link of another charging point.
    let (mut successor, mut elsewhere) =
        (station.keyed.open(&network, Part::Monitor).await?, other.keyed.open(&network, Part::Monitor).await?);
    for peer in [&mut successor, &mut elsewhere] {
        for body in &sealed {
            peer.raw(&framed(body)).await?;
            peer.raw(&framed(&in_the_next_place(peer, body))).await?;
            let healthy = EngineHealth { healthy: true, detail: String::new() };
            let id = peer.send(up::Body::EngineHealth(healthy)).await?;
            until_answered(peer, id).await?;
        }
    }
    let (mut successor, mut elsewhere) = (HostileLink::of(successor), HostileLink::of(elsewhere));
    for id in ["KNOWN", "OTHER"] {
        network.until_shown(id, "unintelligible", PATIENCE, |cp| cp.unintelligible_messages > 0).await?;
    }
    ensure!(on().await?.len() == 1, "a message of another link was handled");
    // Later messages are processed.
    let told = successor.ask(up::Body::SetMaintenance(SetMaintenance { on: true })).await?;
    ensure!(told == MessageOutcome::Answer(Default::default()), "{told:?}");
    ensure!(on().await?.len() == 2);
    let told = elsewhere.ask(up::Body::SetMaintenance(SetMaintenance { on: true })).await?;
    ensure!(told == MessageOutcome::Answer(Default::default()), "{told:?}");
    let audited = network.operator.audited("UNINTELLIGIBLE", "charging-point/OTHER").await?;
    ensure!(audited.len() == 1, "repeats are counted, not repeated: {audited:?}");
    unharmed(&network).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_no_link_of_another_charging_point_spec_4_4() -> anyhow::Result<()> {
    let network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let station = HostilePoint::start(&network, "KNOWN").await?;
    let thief = keyed(&network, Part::Monitor, "THIEF").await?;
    for part in [Part::Monitor, Part::Engine] {
        let refused = LinkPeer::connect(network.central_link, part, "KNOWN", thief.key()).await;
        ensure!(refused.is_err_and(|why| why.to_string().contains("UnknownKey")), "a link under another's key");
    }
    // Its credential gets no key for another id either.
    let (_, told) =
        LinkPeer::first_contact(network.central_link, Part::Monitor, "KNOWN", thief.central, &thief.credential).await?;
    ensure!(!format!("{told:?}").contains("KeyGrant"), "{told:?}");
    ensure!(station.monitor.is_open() && station.engine.is_open());
    ensure!(network.operator.audited("LINK_TAKEN_OVER", "").await?.is_empty());
    unharmed(&network).await
}

/// A body with the counter of this end's next frame.
fn in_the_next_place(peer: &LinkPeer, body: &[u8]) -> Vec<u8> {
    let last = frames(peer.sent_bytes()).last().map(|body| body[0]).unwrap_or_default();
    [&[last.wrapping_add(1)], &body[1..]].concat()
}

async fn until_answered(peer: &mut LinkPeer, id: u64) -> anyhow::Result<()> {
    let answered = |body: &down::Body| match body {
        down::Body::Answer(answer) if answer.to == id => Some(()),
        _ => None,
    };
    peer.receive_until(PATIENCE, answered).await
}

/// Whether this byte is among the next ones.
async fn stream_says(stream: &mut TcpStream, byte: u8) -> anyhow::Result<bool> {
    let mut buffer = [0; 512];
    let read = timeout(PATIENCE, stream.read(&mut buffer)).await??;
    ensure!(read > 0, "it is closed");
    Ok(buffer[..read].contains(&byte))
}

/// Audit entries about links are written a little later than the event.
async fn settled(network: &Network) -> anyhow::Result<Vec<usize>> {
    let mut last = footprints(network).await?;
    loop {
        sleep(Duration::from_secs(1)).await;
        let now = footprints(network).await?;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
}

/// The number of audit entries about links and keys of this charging point.
async fn footprints(network: &Network) -> anyhow::Result<Vec<usize>> {
    let mut all = Vec::new();
    for action in ["LINK_UP", "LINK_DOWN", "LINK_TAKEN_OVER", "LOGIN", "KEY_GRANTED", "KEY_PROVEN"] {
        all.push(network.operator.audited(action, "charging-point/KNOWN").await?.len());
    }
    Ok(all)
}
