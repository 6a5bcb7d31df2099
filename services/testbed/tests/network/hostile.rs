//! Hostile peers on raw sockets (SPEC 4.1 to 4.4, 4.8, 4.9, 8.2): what they send is refused at the right layer and counted
//! in the audit without repetition, and does not affect honest peers.

mod authenticated;
mod forged;
mod greedy;
mod impossible_values;
mod links;
mod replayed;
mod tls_listeners;
mod unauthenticated;
mod under_load;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use proto::{
    central::v1::ChargingPointState,
    link::v1::{KeyGrant, Opened, Part, down, up},
    registry::v1::{EnrolRequest, Kind},
};
use testbed::{
    network::{Network, PATIENCE},
    operator::{fresh_id, parameters},
    peer::LinkPeer,
    wait::until,
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout_at},
};
use wire::{Link, LinkKey, LinkSettings, Proof, PublicKey, frame};

/// The attackers' address, so that counts by address are separate from those of honest peers at 127.0.0.1.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 1);

/// An enrolled identity with its key, used by a test itself.
#[derive(Clone, Debug)]
struct EnrolledIdentity {
    part: Part,
    id: String,
    central: PublicKey,
    credential: String,
    grant: KeyGrant,
}

impl EnrolledIdentity {
    fn key(&self) -> Proof {
        let key = self.grant.key.as_slice().try_into().map(LinkKey::from_bytes).expect("a key has 32 bytes");
        Proof::Key { responder: self.central, key_no: self.grant.key_no, key }
    }

    fn first_contact(&self) -> Proof {
        Proof::FirstContact { responder: self.central }
    }

    /// An open link as `part`, which may be silent for a minute. Central may only just have started.
    async fn open(&self, network: &Network, part: Part) -> anyhow::Result<LinkPeer> {
        let what = format!("a link of {}", self.id);
        let connected = until(what, PATIENCE, async || {
            let peer = LinkPeer::connect(network.central_link, part, &self.id, self.key()).await;
            peer.map_err(|error| format!("{error:#}"))
        });
        let mut peer = connected.await?;
        peer.send(up::Body::Opened(Opened { life_sign_ms: 20_000, ..Opened::default() })).await?;
        Ok(peer)
    }
}

/// Enrols an id and gets its first key.
async fn keyed(network: &Network, part: Part, id: &str) -> anyhow::Result<EnrolledIdentity> {
    let kind = if part == Part::Driver { Kind::Driver } else { Kind::ChargingPoint };
    let (token, city) = (network.operator.token(1).await?, "Valencia".to_owned());
    let (request_id, id) = (fresh_id(), id.to_owned());
    let request = EnrolRequest { request_id, token, kind: kind.into(), id: id.clone(), city, ..Default::default() };
    let enrolled = network.operator.identities.clone().enrol(request).await?.into_inner();
    let pin = enrolled.pins.first().context("no pins")?;
    let central = PublicKey::from_bytes(pin.as_slice().try_into()?);
    let credential = enrolled.credential;
    let grant = until(format_args!("a key for {id}"), PATIENCE, async || {
        let contact = LinkPeer::first_contact(network.central_link, part, &id, central, &credential).await;
        let (mut peer, mut told) = contact.map_err(|error| format!("{error:#}"))?;
        loop {
            match told {
                down::Body::KeyGrant(grant) => return Ok(grant),
                down::Body::AuthStatus(auth_status) => return Err(format!("{auth_status:?}")),
                _ => told = peer.receive(PATIENCE).await.map_err(|error| format!("{error:#}"))?,
            }
        }
    })
    .await?;
    Ok(EnrolledIdentity { part, id, central, credential, grant })
}

/// Connects to Central from this address of the attacker.
async fn attack_from(from: Ipv4Addr, network: &Network) -> anyhow::Result<TcpStream> {
    attack_at(from, network.central_link).await
}

async fn attack_at(from: Ipv4Addr, address: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    Ok(socket.connect(address).await?)
}

/// `ENQ`, Hello and the first handshake message, as an initiator sends them.
fn opening(part: Part, id: &str, proof: Proof) -> Vec<u8> {
    let now = Instant::now().into_std();
    let (mut link, mut out) = (Link::initiator(LinkSettings::default(), part, id, proof, now), Vec::new());
    link.transmit(&mut out, now);
    link.handle_bytes(&[frame::ACK, 0], now);
    while link.transmit(&mut out, now) {}
    out
}

/// All that Central sends until it closes the connection; an error where it does not within `limit`.
async fn until_closed(stream: &mut TcpStream, limit: Duration) -> anyhow::Result<Vec<u8>> {
    let (deadline, mut said, mut buffer) = (Instant::now() + limit, Vec::new(), [0; 4096]);
    loop {
        match timeout_at(deadline, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return Ok(said),
            Ok(Ok(read)) => said.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            Err(_) => anyhow::bail!("not closed within {limit:?}; it said {said:02x?}"),
        }
    }
}

/// The bodies of the frames in these bytes.
fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut decoder, mut input, mut all) = (frame::Decoder::new(1 << 20), bytes, Vec::new());
    while let Some(token) = decoder.next(&mut input) {
        if token == frame::Token::Frame {
            all.push(decoder.take_body());
        }
    }
    all
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(body, &mut out);
    out
}

/// Starts an honest charging point, which must not be shown as disconnected while attacks go on.
async fn honest(network: &Network) -> anyhow::Result<testbed::network::TestPoint> {
    network.charging_point("HONEST").await
}

/// Checks that Central lives and that no honest peer has lost its link.
async fn unharmed(network: &Network) -> anyhow::Result<()> {
    let shown = network.shown("HONEST").await?;
    let state = shown.state();
    ensure!(state == ChargingPointState::Available, "the honest charging point is shown as {state:?}");
    no_link_lost(network, "HONEST").await
}

/// Checks that no authenticated link has ended.
async fn no_link_lost(network: &Network, id: &str) -> anyhow::Result<()> {
    let mut lost = network.operator.audited("LINK_DOWN", &format!("charging-point/{id}")).await?;
    lost.retain(|entry| !parameters(entry).to_string().contains(r#""key_no":"0""#));
    ensure!(lost.is_empty(), "an honest link was lost: {lost:?}");
    Ok(())
}

/// Restarts Central in order, which writes its counts to the audit, and answers the number of failures of unauthenticated
/// peers at the attacker's network by reason. Each reason has at most one entry a minute.
async fn counted(network: &mut Network) -> anyhow::Result<BTreeMap<String, u64>> {
    network.central.signal(Signal::SIGTERM)?;
    let code = network.central.exit_code(PATIENCE).await?;
    ensure!(code == 0, "Central ended with {code}");
    ensure!(!network.central.log().contains("panicked"), "something panicked in Central");
    network.restart_central().await?;
    let entries = network.operator.audited("UNAUTHENTICATED_REFUSED", "link").await?;
    let mut counts: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    for entry in entries {
        let parameters: serde_json::Value = parameters(&entry);
        if parameters["from"] != serde_json::json!("127.66.0.0/24") {
            continue;
        }
        let count: u64 = parameters["count"].as_str().context("no count")?.parse()?;
        let (sum, number) = counts.entry(entry.outcome).or_default();
        (*sum, *number) = (*sum + count, *number + 1);
    }
    ensure!(counts.values().all(|(_, entries)| *entries <= 3), "failures are counted, not listed: {counts:?}");
    Ok(counts.into_iter().map(|(reason, (count, _))| (reason, count)).collect())
}
