//! Attacks by unauthenticated peers.

use std::time::Duration;

use anyhow::ensure;
use prost::Message as _;
use proto::link::v1::{Authenticate, Hello, KeyInstalled, Part, Reason, Up, down, up};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use testbed::{network::Network, peer::LinkPeer, wait::until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, interval, timeout},
};
use wire::{Event, LinkKey, Proof, frame, kind};

use super::{
    ATTACKER, EnrolledIdentity, attack_from, counted, framed, frames, honest, keyed, opening, unharmed, until_closed,
};

/// Handshake time limit; shorter than the default of ten seconds, so that the tests are short.
const HANDSHAKE: &[&str] = &["--link-handshake-timeout", "2s"];
/// Time within which a connection must be closed: that of a handshake, and some for closing.
const GONE: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn garbage_of_every_kind_is_refused_and_counted_spec_4_1_8_2() -> anyhow::Result<()> {
    let mut network = Network::start(HANDSHAKE).await?;
    let _post = honest(&network).await?;
    let mut rng = StdRng::seed_from_u64(4);
    let kinds: [fn(&mut StdRng) -> Vec<u8>; 9] = [
        |rng| noise(rng, 2000),
        |rng| [vec![frame::ENQ], noise(rng, 2000)].concat(),
        |_| b"GET / HTTP/1.1\r\nHost: central\r\n\r\n".to_vec(),
        // A malformed Hello, one of another version, one without a part.
        |rng| called(&[vec![1, kind::HELLO], noise(rng, 60)].concat()),
        |_| called(&hello(&Hello { version: 9, part: Part::Monitor.into(), ..Hello::default() })),
        |_| called(&hello(&Hello { version: 1, id: "x".repeat(3000), ..Hello::default() })),
        // Frames that are not allowed before a Hello.
        |rng| called(&[vec![1, kind::HANDSHAKE], noise(rng, 48)].concat()),
        |rng| called(&[vec![1, kind::SEALED], noise(rng, 300)].concat()),
        |rng| called(&[vec![1, rng.random()], Vec::new()].concat()),
    ];
    for round in 0..20 {
        for (number, kind) in kinds.iter().enumerate() {
            let mut stream = attack_from(ATTACKER, &network).await?;
            // Writing may fail because Central has closed the connection.
            let _written = stream.write_all(&kind(&mut rng)).await;
            let said = until_closed(&mut stream, GONE).await.map_err(|why| why.context(format!("{round}/{number}")))?;
            ensure!(frames(&said).is_empty(), "garbage {number} was answered: {said:02x?}");
        }
    }
    unharmed(&network).await?;
    let counted = counted(&mut network).await?;
    let all: u64 = counted.values().sum();
    ensure!((160..=200).contains(&all), "180 were refused, these were counted: {counted:?}");
    ensure!(counted.contains_key("GARBAGE") && counted.get("VERSION") == Some(&20), "{counted:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_and_endless_frames_of_unauthenticated_peers_cost_no_memory_spec_4_1() -> anyhow::Result<()> {
    let network = Network::start(HANDSHAKE).await?;
    let _post = honest(&network).await?;
    let cp = keyed(&network, Part::Monitor, "KNOWN").await?;
    let before = resident(&network)?;
    let endless = async || {
        let mut stream = attack_from(ATTACKER, &network).await?;
        stream.write_all(&[frame::ENQ, frame::STX]).await?;
        let piece = vec![b'a'; 64 * 1024];
        let poured = timeout(GONE, async { while stream.write_all(&piece).await.is_ok() {} }).await;
        ensure!(poured.is_ok(), "an endless frame is still taken after {GONE:?}");
        Ok(0)
    };
    // An unauthenticated channel is open, but allows no larger frames.
    let largest = async || {
        let mut peer = first_contact(&network, &cp).await?;
        peer.send(up::Body::Authenticate(Authenticate { credential: vec![0; 1000] })).await?;
        let half = [&[frame::STX, 4, kind::SEALED][..], &vec![b'a'; 1 << 20]].concat();
        let _cut_short = peer.raw(&half[..1 << 19]).await;
        let mut stream = peer.into_stream();
        until_closed(&mut stream, GONE).await?;
        anyhow::Ok(0)
    };
    let (poured, sent) = (
        futures::future::try_join_all((0..32).map(|_| endless())),
        futures::future::try_join_all((0..64).map(|_| largest())),
    );
    let peak = async {
        let mut peak = before;
        let mut tick = interval(Duration::from_millis(50));
        for _ in 0..60 {
            tick.tick().await;
            peak = peak.max(resident(&network)?);
        }
        Ok(peak)
    };
    let (_, _, peak) = tokio::try_join!(poured, sent, peak)?;
    ensure!(peak < before + 24 * 1024, "{} KiB more than the {before} KiB before", peak - before);
    unharmed(&network).await
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bytes_end_with_the_time_of_a_handshake_spec_4_2() -> anyhow::Result<()> {
    let mut network = Network::start(HANDSHAKE).await?;
    let _post = honest(&network).await?;
    let cp = keyed(&network, Part::Monitor, "KNOWN").await?;
    let slow = async |bytes: Vec<u8>| {
        let (mut read, mut write) = attack_from(ATTACKER, &network).await?.into_split();
        let begun = Instant::now();
        let dribble = async {
            let mut second = interval(Duration::from_secs(1));
            for byte in bytes {
                second.tick().await;
                if write.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        };
        let closed = async { while matches!(read.read(&mut [0; 256]).await, Ok(1..)) {} };
        tokio::select! {
            () = dribble => anyhow::bail!("all was taken"),
            () = closed => ensure!(begun.elapsed() < GONE, "closed after {:?}", begun.elapsed()),
        }
        Ok(())
    };
    let honest_opening = || opening(Part::Monitor, "KNOWN", cp.key());
    let frame_of_a_thousand = || [vec![frame::ENQ, frame::STX], vec![b'a'; 1000]].concat();
    let silent = async || {
        let mut stream = attack_from(ATTACKER, &network).await?;
        until_closed(&mut stream, GONE).await.map(drop)
    };
    tokio::try_join!(
        futures::future::try_join_all((0..20).map(|_| slow(honest_opening()))),
        futures::future::try_join_all((0..20).map(|_| slow(frame_of_a_thousand()))),
        futures::future::try_join_all((0..20).map(|_| silent())),
    )?;
    unharmed(&network).await?;
    let counted = counted(&mut network).await?;
    ensure!(counted.get("UNFINISHED") == Some(&60), "{counted:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_unfinished_handshakes_are_capped_per_address_and_closed_in_time_spec_4_4() -> anyhow::Result<()> {
    const CAP: usize = 100;
    let mut network = Network::start(&["--max-unproven-per-address", "100", "--link-handshake-timeout", "4s"]).await?;
    let _post = honest(&network).await?;
    let cp = keyed(&network, Part::Monitor, "KNOWN").await?;
    let begun = Instant::now();
    let mut held = Vec::new();
    for number in 0..600 {
        let mut stream = attack_from(ATTACKER, &network).await?;
        // Silence, ENQ, a Hello, a whole handshake with a known key, one without a key.
        let whole = match number % 5 {
            0 => Vec::new(),
            1 => vec![frame::ENQ],
            2 => called(&hello(&known_hello(&cp))),
            3 => opening(Part::Monitor, "KNOWN", cp.key()),
            _ => opening(Part::Monitor, "KNOWN", cp.first_contact()),
        };
        let _refused = stream.write_all(&whole).await;
        held.push(stream);
    }
    until("no more than the cap to be held", GONE, async || match open(&mut held) {
        open if open <= CAP => Ok(()),
        open => Err(format!("{open} are open")),
    })
    .await?;
    // An honest peer at the same address still gets in: the oldest unauthenticated connection is closed for it.
    let stream = attack_from(ATTACKER, &network).await?;
    let mut neighbour = LinkPeer::over(stream, Part::Monitor, "KNOWN", cp.key()).await?;
    neighbour.send(up::Body::Opened(proto::link::v1::Opened::default())).await?;
    neighbour.receive(GONE).await?;
    until("all of them to be closed", Duration::from_secs(12), async || match open(&mut held) {
        0 => Ok(()),
        open => Err(format!("{open} are open after {:?}", begun.elapsed())),
    })
    .await?;
    unharmed(&network).await?;
    let counted = counted(&mut network).await?;
    let of = |reason: &str| counted.get(reason).copied().unwrap_or_default();
    ensure!(of("EVICTED") + of("BUSY") >= 500 && of("UNFINISHED") > 0, "{counted:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unauthenticated_channel_carries_nothing_but_a_credential_spec_4_4() -> anyhow::Result<()> {
    let mut network = Network::start(HANDSHAKE).await?;
    let _post = honest(&network).await?;
    let cp = keyed(&network, Part::Monitor, "KNOWN").await?;
    let installed = up::Body::KeyInstalled(KeyInstalled { key_no: cp.grant.key_no });
    let said = [
        Up { id: 1, body: None }.encode_to_vec(),
        b"\xff\xff\xff no protobuf".to_vec(),
        Up { id: 1, body: Some(installed) }.encode_to_vec(),
        Up { id: 1, body: Some(up::Body::Opened(Default::default())) }.encode_to_vec(),
        Up { id: 1, body: Some(up::Body::EngineHealth(Default::default())) }.encode_to_vec(),
    ];
    for message in &said {
        let mut peer = first_contact(&network, &cp).await?;
        peer.send_bytes(message).await?;
        // Signs of life do not keep an unauthenticated channel open.
        until_ended(&mut peer, GONE).await.map_err(|why| why.context(format!("{message:02x?}")))?;
    }
    let mut silent = first_contact(&network, &cp).await?;
    until_ended(&mut silent, GONE).await?;
    ensure!(network.operator.audited("LINK_UP", "charging-point/KNOWN").await?.len() <= 1, "only the first key's");
    unharmed(&network).await?;
    let counted = counted(&mut network).await?;
    ensure!(counted.get("OUT_OF_ORDER") == Some(&5) && counted.get("UNFINISHED") == Some(&1), "{counted:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_credential_a_thousand_times_is_counted_and_locks_no_neighbour_out_spec_4_4_8_2() -> anyhow::Result<()>
{
    const TIMES: usize = 1_000;
    let mut network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let cp = keyed(&network, Part::Monitor, "KNOWN").await?;
    let before = entries(&network).await?;
    let guess = async |number: usize| {
        // Half of them well-formed with another secret, half of them arbitrary.
        let credential = if number.is_multiple_of(2) { spoiled(&cp.credential) } else { format!("password{number}") };
        let mut peer = first_contact(&network, &cp).await?;
        peer.send(up::Body::Authenticate(Authenticate { credential: credential.into_bytes() })).await?;
        let stands = peer.receive_until(GONE, |body| match body {
            down::Body::AuthStatus(auth_status) => Some(auth_status.reason()),
            down::Body::KeyGrant(_) => Some(Reason::Unspecified),
            _ => None,
        });
        stands.await
    };
    let mut reasons = std::collections::BTreeMap::new();
    for batch in 0..TIMES / 20 {
        for reason in futures::future::try_join_all((0..20).map(|n| guess(20 * batch + n))).await? {
            *reasons.entry(reason.code()).or_insert(0) += 1;
        }
    }
    // None was ever issued, so none costs a hash, and none counts against the id that it names.
    ensure!(reasons.get("WRONG_CREDENTIAL") == Some(&TIMES), "each is refused: {reasons:?}");
    let contact = LinkPeer::first_contact(network.central_link, Part::Monitor, "KNOWN", cp.central, &cp.credential);
    ensure!(!matches!(contact.await?.1, down::Body::AuthStatus(_)), "the honest one is refused at its own address");
    unharmed(&network).await?;
    let counted = counted(&mut network).await?;
    let of = |reason: &str| counted.get(reason).copied().unwrap_or_default();
    ensure!(of("WRONG_CREDENTIAL") == TIMES as u64, "{counted:?}");
    let more = entries(&network).await? - before;
    ensure!(more < 60, "the store is filled: {more} entries more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_id_gets_the_same_answer_as_a_wrong_key_spec_4_4() -> anyhow::Result<()> {
    let mut network = Network::start(&[]).await?;
    let _post = honest(&network).await?;
    let (cp, other) = (keyed(&network, Part::Monitor, "KNOWN").await?, keyed(&network, Part::Monitor, "OTHER").await?);
    let key = |central, key_no, key| Proof::Key { responder: central, key_no, key: LinkKey::from_bytes(key) };
    let central = cp.central;
    let elsewhere = wire::PublicKey::from_bytes(wire::StaticKey::from_bytes([5; 32]).public().as_bytes().to_owned());
    let known = cp.grant.key_no;
    let openings = [
        opening(Part::Monitor, "NOBODY", key(central, 1, [9; 32])),
        opening(Part::Monitor, "KNOWN", key(central, known, [9; 32])),
        opening(Part::Monitor, "KNOWN", key(central, 77, [9; 32])),
        // Its key with another id, and as another part.
        opening(Part::Monitor, "KNOWN", other.key()),
        opening(Part::Driver, "KNOWN", cp.key()),
        opening(Part::Monitor, "not an id!", key(central, 1, [9; 32])),
        // The public key of another Central.
        opening(Part::Monitor, "KNOWN", key(elsewhere, known, [9; 32])),
        // An engine has no first contact.
        opening(Part::Engine, "KNOWN", cp.first_contact()),
    ];
    let mut answers = std::collections::BTreeSet::new();
    for bytes in &openings {
        let mut stream = attack_from(ATTACKER, &network).await?;
        stream.write_all(bytes).await?;
        answers.insert(until_closed(&mut stream, GONE).await?);
    }
    ensure!(answers.len() == 1, "they can be told apart: {answers:02x?}");
    let answer = answers.first().map(|answer| frames(answer)).unwrap_or_default();
    ensure!(answer == [[1, kind::UNKNOWN_KEY]], "{answer:02x?}");
    // Inside a channel too, a known and an unknown id get the same answer.
    let mut refusals = std::collections::BTreeSet::new();
    for id in ["KNOWN", "NOBODY"] {
        let stream = attack_from(ATTACKER, &network).await?;
        let mut peer = LinkPeer::over(stream, Part::Monitor, id, cp.first_contact()).await?;
        let credential = b"wrong".to_vec();
        peer.send(up::Body::Authenticate(Authenticate { credential })).await?;
        let mut words = Vec::new();
        while let Ok(body) = peer.receive(GONE).await {
            words.push(format!("{body:?}"));
        }
        refusals.insert(words);
    }
    ensure!(refusals.len() == 1, "they can be told apart: {refusals:?}");
    ensure!(network.operator.audited("LINK_UP", "charging-point/NOBODY").await?.is_empty(), "never created");
    unharmed(&network).await?;
    let counted = counted(&mut network).await?;
    let of = |reason: &str| counted.get(reason).copied().unwrap_or_default();
    ensure!(of("UNKNOWN_KEY") + of("HANDSHAKE_FAILED") == 8, "each is counted once: {counted:?}");
    Ok(())
}

async fn first_contact(network: &Network, cp: &EnrolledIdentity) -> anyhow::Result<LinkPeer> {
    LinkPeer::over(attack_from(ATTACKER, network).await?, cp.part, &cp.id, cp.first_contact()).await
}

async fn until_ended(peer: &mut LinkPeer, limit: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if let Ok(Event::Closed(_)) | Err(_) = peer.event(limit.saturating_sub(begun.elapsed())).await {
            ensure!(begun.elapsed() < limit, "not closed within {limit:?}");
            return Ok(());
        }
    }
    anyhow::bail!("not closed within {limit:?}")
}

/// The number of connections that Central has not closed.
fn open(held: &mut Vec<TcpStream>) -> usize {
    held.retain(|stream| {
        let mut buffer = [0; 512];
        loop {
            match stream.try_read(&mut buffer) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
            }
        }
    });
    held.len()
}

fn noise(rng: &mut StdRng, length: usize) -> Vec<u8> {
    (0..length).map(|_| rng.random()).collect()
}

/// A body as the first frame after ENQ.
fn called(body: &[u8]) -> Vec<u8> {
    [vec![frame::ENQ], framed(body)].concat()
}

fn hello(hello: &Hello) -> Vec<u8> {
    [vec![1, kind::HELLO], hello.encode_to_vec()].concat()
}

fn known_hello(cp: &EnrolledIdentity) -> Hello {
    let pin = cp.central.pin().to_vec();
    Hello { version: 1, part: Part::Monitor.into(), id: cp.id.clone(), key_no: cp.grant.key_no, pin }
}

/// A credential of the same form and tag with another secret.
fn spoiled(credential: &str) -> String {
    let mut parts: Vec<String> = credential.split('.').map(str::to_owned).collect();
    let secret = &mut parts[2];
    *secret = secret.chars().rev().collect();
    parts.join(".")
}

/// Central's resident memory in KiB.
fn resident(network: &Network) -> anyhow::Result<usize> {
    let pid = network.central.pid().unwrap_or_default();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
}

/// The number of audit entries, up to a thousand.
async fn entries(network: &Network) -> anyhow::Result<usize> {
    Ok(network.operator.audited("", "").await?.len())
}
