//! Loads: peers in this process, or a fleet in one of its own.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use proto::{
    central::v1::{ChargingPoint, ListChargingPointsRequest},
    link::v1::{EngineHealth, KeyGrant, Part, State, down, up},
    registry::v1::{EnrolRequest, Kind},
};
use testbed::{
    network::Network,
    operator::fresh_id,
    peer::{PATIENCE, Peer},
    process::{Process, Recipe},
    wait::until,
};
use wire::PublicKey;

/// A monitor that has been granted its key.
#[derive(Clone, Debug)]
pub(crate) struct Keyed {
    pub(crate) id: String,
    pub(crate) central: PublicKey,
    pub(crate) grant: KeyGrant,
}

/// Enrols `count` charging points and takes a key for each.
pub(crate) async fn keyed(network: &Network, count: usize) -> anyhow::Result<Vec<Keyed>> {
    let token = network.operator.token(u32::try_from(count)?).await?;
    let mut all = Vec::with_capacity(count);
    for number in 0..count {
        let id = format!("BENCH-{number}");
        let request = EnrolRequest {
            request_id: fresh_id(),
            token: token.clone(),
            kind: Kind::ChargingPoint.into(),
            id: id.clone(),
            city: "Valencia".into(),
            ..Default::default()
        };
        let enrolled = network.operator.identities.clone().enrol(request).await?.into_inner();
        let pin = enrolled.pins.first().context("no pins")?;
        let central = PublicKey::from_bytes(pin.as_slice().try_into().context("a pin has 32 bytes")?);
        let grant = grant(network, &id, central, &enrolled.credential).await?;
        all.push(Keyed { id, central, grant });
    }
    Ok(all)
}

async fn grant(network: &Network, id: &str, central: PublicKey, credential: &str) -> anyhow::Result<KeyGrant> {
    until(format_args!("a key for {id}"), Duration::from_secs(30), async || {
        let contact = Peer::first_contact(network.central_link, Part::Monitor, id, central, credential).await;
        let (mut peer, first) = contact.map_err(|error| format!("{error:#}"))?;
        if let down::Body::KeyGrant(grant) = first {
            return Ok(grant);
        }
        peer.told_until(PATIENCE, granted).await.map_err(|error| format!("{error:#} after {first:?}"))
    })
    .await
}

fn granted(body: &down::Body) -> Option<KeyGrant> {
    if let down::Body::KeyGrant(grant) = body { Some(grant.clone()) } else { None }
}

/// Each keeps saying `EngineHealth` at the rate until the time is over. Answers how many.
pub(crate) async fn say(peers: &mut [Peer], every: Duration, time: Duration) -> anyhow::Result<u64> {
    let until = tokio::time::Instant::now() + time;
    let each = peers.iter_mut().map(|peer| async move {
        let mut said = 0;
        while tokio::time::Instant::now() < until {
            peer.hint(up::Body::EngineHealth(EngineHealth { healthy: true, detail: String::new() })).await?;
            said += 1;
            peer.idle(every).await?;
        }
        anyhow::Ok(said)
    });
    Ok(futures::future::try_join_all(each).await?.into_iter().sum())
}

/// `chargemesh fleet` with `count` charging points, waited for until all are AVAILABLE.
pub(crate) async fn start(network: &Network, count: usize, more: &[&str]) -> anyhow::Result<Process> {
    let file = network.path("fleet.token");
    std::fs::write(&file, network.operator.token(u32::try_from(count)?).await?)?;
    let mut args: Vec<String> = [
        "fleet",
        "--count",
        &count.to_string(),
        "--token-file",
        &file.display().to_string(),
        "--data",
        &network.path("fleet").display().to_string(),
        "--central",
        &network.central_link.to_string(),
        "--registry",
        &network.registry_https.to_string(),
        "--unattended",
    ]
    .map(str::to_owned)
    .into();
    args.extend(more.iter().map(|&word| word.to_owned()));
    let fleet = Process::start(Recipe {
        name: "fleet".into(),
        args,
        env: Vec::new(),
        under: Vec::new(),
        folder: network.path("logs"),
    })?;
    until_available(network, count, count).await?;
    Ok(fleet)
}

/// Until so many of `count` are AVAILABLE.
pub(crate) async fn until_available(network: &Network, count: usize, wanted: usize) -> anyhow::Result<()> {
    let limit = Duration::from_secs(300);
    until(format_args!("{wanted} of {count} charging points to be available"), limit, async || {
        let all = list(network).await.map_err(|error| format!("{error:#}"))?;
        let available =
            all.values().filter(|cp| cp.view.as_ref().is_some_and(|view| view.state() == State::Available)).count();
        if available >= wanted { Ok(()) } else { Err(format!("{available}")) }
    })
    .await
}

/// All that Central shows, by id.
pub(crate) async fn list(network: &Network) -> anyhow::Result<BTreeMap<String, ChargingPoint>> {
    let request = ListChargingPointsRequest { page_size: 10_000, ..Default::default() };
    let answer = network.operator.charging_points.clone().list(request).await?.into_inner();
    Ok(answer.charging_points.into_iter().map(|cp| (cp.id.clone(), cp)).collect())
}
